// The table of peers, sortable by every column. Names and labels are hostile input.

import { byId, el, nameNode, reconcile, setText } from "./dom.js";
import { ago, count, millis, NONE, short } from "./format.js";

const head = (peers) => peers.reduce((most, peer) => Math.max(most, peer.version), 0);
const path = (peer) => (peer.self ? "this node" : peer.direct === null ? NONE : peer.direct ? "direct" : "relay");
// [title, value to sort by, text, numeric, hint]
const COLUMNS = [
  ["Name", (peer) => peer.name, null, false],
  ["State", (peer) => peer.state, (peer) => peer.state, false],
  ["Version", (peer) => peer.version, (peer) => `${peer.version} · ${short(peer.digest)}`, true],
  ["Lag", (peer, top) => top - peer.version, (peer, top) => (top > peer.version ? `${top - peer.version} behind` : "level"), true],
  ["Path", path, path, false],
  ["RTT", (peer) => peer.rtt_ms ?? Infinity, (peer) => millis(peer.rtt_ms), true, "last round trip"],
  ["Tokens/s", (peer) => peer.tokens_per_s, (peer) => count(peer.tokens_per_s), true, "mean over its last inner phase"],
  ["Accepted", (peer) => peer.accepted_tokens, (peer) => count(peer.accepted_tokens), true, "tokens in accepted updates since it joined"],
  ["Seen", (peer) => peer.last_seen_s, (peer) => (peer.self ? NONE : ago(peer.last_seen_s)), true, "age of its last signed record"],
];
let sortBy = -1; // -1: this node first, then by name
let down = false;
let drawn = null;

export function drawPeers(state) {
  drawn = state;
  const table = byId("peers");
  if (!table.tHead.rows[0].cells.length) makeHead(table.tHead.rows[0]);
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    const order = index !== sortBy ? "none" : down ? "descending" : "ascending";
    cell.setAttribute("aria-sort", order);
    setText(cell.firstChild, COLUMNS[index][0] + (index === sortBy ? (down ? " ↓" : " ↑") : ""));
  });
  const top = head(state.peers);
  reconcile(table.tBodies[0], sorted(state.peers, top), (peer) => peer.id, makeRow, (row, peer) => fillRow(row, peer, top));
  byId("peers-empty").hidden = state.peers.some((peer) => !peer.self);
}

function makeHead(row) {
  COLUMNS.forEach(([title, , , numeric, hint], index) => {
    const button = el("button", { type: "button", text: title, title: hint });
    button.addEventListener("click", () => {
      down = sortBy === index ? !down : false;
      sortBy = index;
      drawPeers(drawn);
    });
    row.append(el("th", { scope: "col", class: numeric ? "num" : "" }, button));
  });
}

function sorted(peers, top) {
  const byName = (a, b) => b.self - a.self || a.name.localeCompare(b.name);
  if (sortBy < 0) return [...peers].sort(byName);
  const value = COLUMNS[sortBy][1];
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const sign = down ? -1 : 1;
  return [...peers].sort((a, b) => sign * compare(value(a, top), value(b, top)) || byName(a, b));
}

function makeRow() {
  return el("tr", {}, el("th", { scope: "row" }), ...COLUMNS.slice(1).map(([, , , num]) => el("td", { class: num ? "num" : "" })));
}

function fillRow(row, peer, top) {
  const shown = peer.label ? `${peer.name}\n${peer.label}` : peer.name;
  if (row.cells[0].dataset.shown !== shown) {
    row.cells[0].dataset.shown = shown;
    row.cells[0].replaceChildren(nameNode(peer.name));
    if (peer.label) row.cells[0].append(" ", el("span", { class: "tag" }, nameNode(peer.label)));
    row.cells[0].title = peer.id;
  }
  COLUMNS.slice(1).forEach(([, , text], index) => setText(row.cells[index + 1], text(peer, top)));
}
