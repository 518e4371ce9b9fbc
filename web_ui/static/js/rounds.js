// The table of rounds, and the report of the chosen one (the newest, until a person chooses).

import { byId, el, facts, reconcile, setText } from "./dom.js";
import { bytes, clock, count, duration, loss, NONE, short, shortId } from "./format.js";

export const OUTCOME_SIGN = { certified: "●", provisional: "◐", aborted: "✕" };
// A round that was aborted and the one that took its place have the same version, but not the same time.
export const keyOf = (round) => `${round.version}@${round.time}`;
let chosen = null;

export function chooseRound(key) {
  chosen = key;
}

/** The round whose report is shown, or undefined while there is none. */
export function chosenRound(state) {
  return state.rounds.find((round) => keyOf(round) === chosen) ?? state.rounds.at(-1);
}

export function bindRounds(redraw) {
  byId("rounds").addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    chooseRound(row.dataset.key);
    redraw();
  });
}

const COLUMNS = [
  (round) => clock(round.time),
  null, // the outcome, with its colour
  (round) => `${round.contributed.length}/${round.planned.length}`,
  (round) => loss(round.val_loss),
  (round) => loss(round.loss),
  (round) => duration(round.duration_s),
];

export function drawRounds(state) {
  const shown = chosenRound(state);
  byId("rounds-empty").hidden = state.rounds.length > 0;
  byId("rounds").hidden = state.rounds.length === 0;
  reconcile(byId("rounds").tBodies[0], [...state.rounds].reverse(), keyOf, makeRow, (row, round) => {
    row.className = round === shown ? "chosen" : "";
    row.cells[0].firstChild.setAttribute("aria-pressed", String(round === shown));
    setText(row.cells[0].firstChild, String(round.version));
    COLUMNS.forEach((text, index) => text && setText(row.cells[index + 1], text(round)));
    row.cells[2].className = `outcome ${round.outcome}`;
    setText(row.cells[2], `${OUTCOME_SIGN[round.outcome] ?? "?"} ${round.outcome}`);
  });
  drawReport(state, shown);
}

function makeRow(round) {
  const button = el("button", { type: "button", "aria-controls": "report" });
  button.setAttribute("aria-label", `Report of round ${round.version}`);
  return el("tr", {}, el("td", {}, button), ...COLUMNS.map((_, index) => el("td", { class: index > 2 ? "num" : "" })));
}

function drawReport(state, round) {
  byId("report-empty").hidden = round !== undefined;
  if (round === undefined) return;
  const names = new Map(state.peers.map((peer) => [peer.id, peer.name]));
  // Isolates (U+2068, U+2069) keep a name's writing direction to itself, also within a list in one line.
  const who = (ids) => ids.map((id) => `\u2068${names.get(id) ?? shortId(id)}\u2069`).join(", ") || "nobody";
  const part = (ids) => `${ids.length}/${round.planned.length}: ${who(ids)}`;
  setText(byId("report-title"), `Round ${round.version}`);
  const line = byId("report-outcome");
  line.className = `outcome-line outcome ${round.outcome}`;
  line.style.whiteSpace = "normal";
  setText(line, `${OUTCOME_SIGN[round.outcome] ?? "?"} ${round.outcome}${round.reason ? ": " + round.reason : ""}`);
  const rows = [
    ["Planned", `${round.planned.length}: ${who(round.planned)}`],
    ["Arrived", part(round.contributed)],
    ["Received only", round.received.length ? who(round.received) : null],
    ["Late", round.late.length ? who(round.late) : null],
    ["Rejected", round.rejected.map((each) => `${who([each.peer])} (${each.reason})`).join(", ") || null],
    ["Missing", round.missing.length ? who(round.missing) : null],
    ["Leader", round.leader],
    ["Tokens", count(round.tokens)],
    ["Traffic", `↑ ${bytes(round.bytes_sent)}  ↓ ${bytes(round.bytes_received)}`],
    ["Outer rate", String(round.outer_lr)],
    ["Codec", round.codec, round.codec_reason],
    ["Groups", round.groups > 1 ? String(round.groups) : null, "averaged among themselves first"],
    ["Digest", short(round.digest), round.digest],
  ];
  facts(byId("report-facts"), rows.filter(([, value]) => value !== null));
  drawPhases(round);
}

function drawPhases(round) {
  const phases = Object.entries(round.phases);
  const most = Math.max(...phases.map(([, seconds]) => seconds), 1e-9);
  reconcile(
    byId("report-phases"),
    phases,
    ([name]) => name,
    () => el("div", {}, el("span"), el("span", { class: "track" }, el("span", { class: "fill" })), el("span")),
    (row, [name, seconds]) => {
      setText(row.children[0], name.replace(/_s$/, ""));
      row.children[1].firstChild.style.width = `${(100 * seconds) / most}%`;
      setText(row.children[2], seconds > 0 ? duration(seconds) : NONE);
    },
  );
}
