// The heat strip: a cell per peer per round, the newest round on the right.
//
// A full cell contributed; every other kind has its own letter and border, so that no colour stands alone. The
// table shows as many rounds as fit; it is drawn anew only when something in it changed.

import { byId, el, nameNode } from "./dom.js";
import { shortId } from "./format.js";
import { keyOf, OUTCOME_SIGN } from "./rounds.js";

const KINDS = {
  contributed: ["", "contributed"],
  received: ["R", "received only"],
  late: ["L", "late"],
  rejected: ["X", "rejected"],
  missing: ["–", "missing"],
  void: ["", "round aborted"],
  absent: ["", "not planned"],
};
const CELL_PX = 18;
const NAMES_PX = 150;
const MAX_COLUMNS = 120;
const MAX_ROWS = 64;
let drawn = "";
let again = () => {};

/** What a peer was to a round: one of the keys of `KINDS`. */
export function kindOf(round, id) {
  if (round.rejected.some((each) => each.peer === id)) return "rejected";
  if (round.contributed.includes(id)) return "contributed";
  if (round.late.includes(id)) return "late";
  if (round.received.includes(id)) return "received";
  if (round.missing.includes(id)) return "missing";
  if (!round.planned.includes(id)) return "absent";
  return round.outcome === "aborted" ? "void" : "missing"; // without a result there was nothing to miss
}

export function bindStrip(choose) {
  byId("strip-legend").append(
    ...Object.entries(KINDS)
      .filter(([kind]) => kind !== "absent")
      .map(([kind, [letter, text]]) =>
        el("li", {}, el("span", { class: `cell ${kind}`, text: letter, "aria-hidden": "true" }), text),
      ),
  );
  byId("strip").addEventListener("click", (event) => {
    const cell = event.target.closest("td.cell");
    if (cell) choose(cell.dataset.round);
  });
  new ResizeObserver(() => again()).observe(byId("strip-box"));
}

export function drawStrip(state, chosen) {
  again = () => drawStrip(state, chosen);
  byId("strip-empty").hidden = state.rounds.length > 0;
  byId("strip-box").hidden = state.rounds.length === 0;
  const width = byId("strip-box").clientWidth || 600;
  const columns = Math.min(MAX_COLUMNS, Math.max(8, Math.floor((width - NAMES_PX) / CELL_PX)));
  const rounds = state.rounds.slice(-columns);
  const rows = rowsOf(state.peers, rounds);
  const signature = JSON.stringify([rounds.map(keyOf), rows, chosen && keyOf(chosen)]);
  if (signature === drawn) return;
  drawn = signature;
  byId("strip").replaceChildren(makeHead(rounds), makeBody(rows, rounds, chosen), makeFoot(rounds));
}

// Known peers first, this node on top; then those who took part but are gone.
function rowsOf(peers, rounds) {
  const rows = [...peers]
    .sort((a, b) => b.self - a.self || a.name.localeCompare(b.name))
    .map(({ id, name, self }) => ({ id, name, mine: self }));
  const known = new Set(rows.map((row) => row.id));
  for (const id of new Set(rounds.flatMap((round) => [...round.planned, ...round.contributed]))) {
    if (!known.has(id)) rows.push({ id, name: shortId(id), mine: false });
  }
  return rows.slice(0, MAX_ROWS);
}

function makeHead(rounds) {
  const cells = rounds.map((round) =>
    // Every fifth number is written; the others are there for who cannot see where a column stands.
    el("th", { scope: "col" }, el("span", { class: round.version % 5 ? "unseen" : "", text: String(round.version) })),
  );
  return el("thead", {}, el("tr", {}, el("td", {}, el("span", { class: "unseen", text: "Peer" })), ...cells));
}

function makeBody(rows, rounds, chosen) {
  return el("tbody", {}, ...rows.map((row) => {
    const cells = rounds.map((round) => {
      const kind = kindOf(round, row.id);
      const [letter, text] = KINDS[kind];
      const chosenClass = round === chosen ? " chosen" : "";
      const cell = el("td", { class: `cell ${kind}${chosenClass}`, title: `Round ${round.version}, ${row.name}: ${text}` });
      cell.dataset.round = keyOf(round);
      if (letter) cell.append(el("span", { text: letter, "aria-hidden": "true" }));
      cell.append(el("span", { class: "unseen", text }));
      return cell;
    });
    return el("tr", { class: row.mine ? "mine" : "" }, el("th", { scope: "row", title: row.id }, nameNode(row.name)), ...cells);
  }));
}

function makeFoot(rounds) {
  const cells = rounds.map((round) =>
    el("td", { title: `Round ${round.version}: ${round.outcome}`, class: `outcome ${round.outcome}` },
      el("span", { text: OUTCOME_SIGN[round.outcome] ?? "?", "aria-hidden": "true" }),
      el("span", { class: "unseen", text: round.outcome })),
  );
  return el("tfoot", {}, el("tr", {}, el("th", { scope: "row", text: "outcome" }), ...cells));
}
