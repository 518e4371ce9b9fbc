// The table of peers, sortable by every column and searched by name, label or id. Names and labels are hostile input.

import { byId, el, nameNode, reconcile, setText } from "./dom.js";
import { ago, count, millis, NONE, percent, short } from "./format.js";

/** @typedef {import("./store.js").Peer} Peer */
/** @typedef {import("./store.js").Store} Store */
/** What a row is drawn from, beside its peer. @typedef {{top: number, now: number, all: number}} Around */
/** @typedef {string | number | boolean | null} Value */
/**
 * @typedef {object} Column
 * @property {string} title
 * @property {(peer: Peer, around: Around) => Value} value to sort by
 * @property {(peer: Peer, around: Around) => string} [text]
 * @property {boolean} [numeric]
 * @property {string} [hint]
 */

/** @param {Peer} peer */
const path = (peer) => (peer.self ? "this node" : (peer.way ?? NONE));
/** @type {Array<Column>} */
const COLUMNS = [
  { title: "Name", value: (peer) => peer.name },
  { title: "State", value: (peer) => peer.state, text: (peer) => (peer.quarantine ? `${peer.state}; in quarantine here: ${peer.quarantine}` : peer.state) },
  { title: "Version", value: (peer) => peer.version, text: (peer) => `${peer.version} · ${short(peer.digest)}`, numeric: true },
  {
    title: "Lag",
    value: (peer, { top }) => top - peer.version,
    text: (peer, { top }) => (top > peer.version ? `${top - peer.version} behind` : "level"),
    numeric: true,
  },
  { title: "Path", value: path, text: path },
  { title: "RTT", value: (peer) => peer.rtt_ms ?? Infinity, text: (peer) => millis(peer.rtt_ms), numeric: true, hint: "last round trip" },
  {
    title: "Tokens/s",
    value: (peer) => peer.tokens_per_s,
    text: (peer) => count(peer.tokens_per_s),
    numeric: true,
    hint: "mean over its last inner phase",
  },
  {
    title: "Share",
    value: (peer) => peer.accepted_tokens,
    text: (peer, { all }) => percent(peer.accepted_tokens, all),
    numeric: true,
    hint: "of the tokens in accepted updates since the run's start",
  },
  { title: "Software", value: (peer) => peer.software, text: (peer) => peer.software.replace(/^atoll /, "") || NONE },
  {
    title: "Seen",
    value: (peer) => -peer.last_seen,
    text: (peer, { now }) => (peer.self ? NONE : ago(now - peer.last_seen)),
    numeric: true,
    hint: "since its last frame, to ten seconds",
  },
];
let sortBy = -1; // -1: this node first, then by name
let down = false;
let wanted = "";
let drawnTop = -1;
let drawnAll = -1;

/** @param {() => void} redraw */
export function bindPeers(redraw) {
  COLUMNS.forEach(({ title, numeric, hint }, index) => {
    const button = el("button", { type: "button", text: title, title: hint });
    button.addEventListener("click", () => {
      down = sortBy === index ? !down : false;
      sortBy = index;
      redraw();
    });
    byId("peers").tHead.rows[0].append(el("th", { scope: "col", class: numeric ? "num" : "" }, button));
  });
  byId("peers-search").addEventListener("input", () => {
    wanted = byId("peers-search").value.trim().toLowerCase();
    redraw();
  });
}

/**
 * @param {Store} store
 * @param {import("./store.js").Touched} touched
 */
export function drawPeers({ state }, touched) {
  const table = byId("peers");
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    const order = index !== sortBy ? "none" : down ? "descending" : "ascending";
    if (cell.getAttribute("aria-sort") !== order) cell.setAttribute("aria-sort", order);
    setText(cell.firstChild, COLUMNS[index].title + (index === sortBy ? (down ? " ↓" : " ↑") : ""));
  });
  const top = state.peers.reduce((most, peer) => Math.max(most, peer.version), 0);
  const around = { top, now: state.time, all: state.swarm_accepted_tokens };
  const found = sorted(state.peers.filter(fits), around);
  // Only rows that can have changed are filled: all of them where what they are compared with has.
  const all = touched === null || top !== drawnTop || around.all !== drawnAll;
  [drawnTop, drawnAll] = [top, around.all];
  reconcile(table.tBodies[0], found, (peer) => peer.id, makeRow, (row, peer) => {
    if (all || touched.peers.has(peer.id) || !row.dataset.filled) fillRow(row, peer, around);
  });
  byId("peers-empty").hidden = state.peers.some((peer) => !peer.self);
  setText(byId("peers-count"), wanted ? `${found.length}/${state.peers.length} found` : `${state.peers.length} with this one`);
}

/** @param {Peer} peer */
const fits = (peer) => !wanted || `${peer.name}\n${peer.label ?? ""}\n${peer.id}`.toLowerCase().includes(wanted);

/**
 * @param {Array<Peer>} peers
 * @param {Around} around
 */
function sorted(peers, around) {
  /** @param {Peer} a @param {Peer} b */
  const byName = (a, b) => Number(b.self) - Number(a.self) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  if (sortBy < 0) return peers.sort(byName);
  const { value } = COLUMNS[sortBy];
  /** @param {Value} a @param {Value} b */
  const compare = (a, b) => (/** @type {any} */ (a) < /** @type {any} */ (b) ? -1 : a === b ? 0 : 1);
  const sign = down ? -1 : 1;
  return peers.sort((a, b) => sign * compare(value(a, around), value(b, around)) || byName(a, b));
}

function makeRow() {
  return el("tr", {}, el("th", { scope: "row" }), ...COLUMNS.slice(1).map(({ numeric }) => el("td", { class: numeric ? "num" : "" })));
}

/**
 * @param {HTMLTableRowElement} row
 * @param {Peer} peer
 * @param {Around} around
 */
function fillRow(row, peer, around) {
  row.dataset.filled = "1";
  const shown = peer.label ? `${peer.name}\n${peer.label}` : peer.name;
  if (row.cells[0].dataset.shown !== shown) {
    row.cells[0].dataset.shown = shown;
    row.cells[0].replaceChildren(nameNode(peer.name));
    if (peer.label) row.cells[0].append(" ", el("span", { class: "tag" }, nameNode(peer.label)));
    row.cells[0].title = peer.id;
  }
  COLUMNS.slice(1).forEach(({ text }, index) => text && setText(row.cells[index + 1], text(peer, around)));
}
