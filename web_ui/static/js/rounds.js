// The table of rounds, and the report of the chosen one (the newest, until a person chooses).

import { byId, el, facts, reconcile, setText } from "./dom.js";
import { bytes, clock, count, duration, loss, NONE, short, shortId } from "./format.js";

/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./store.js").Report} Report */

/** @type {Record<string, string>} */
const OUTCOME_SIGN = { certified: "●", provisional: "◐", aborted: "✕" };
const SHOWN = 100;
const NAMED = 12; // of a list of peers; the strip shows all
/** @type {string | null} */
let chosen = null;
/** Revisions that the rows show. @type {WeakMap<HTMLElement, number>} */
const filled = new WeakMap();

/** @param {string | null} key */
export function chooseRound(key) {
  chosen = key;
}

/**
 * The round whose report is shown, or undefined while there is none.
 * @param {Store} store
 */
export function chosenRound({ rounds }) {
  return rounds.find((round) => round.key === chosen) ?? rounds.at(-1);
}

/** @param {() => void} redraw */
export function bindRounds(redraw) {
  byId("rounds").addEventListener("click", (/** @type {MouseEvent} */ event) => {
    const row = /** @type {HTMLElement} */ (event.target).closest("tbody tr");
    if (!row) return;
    chooseRound(/** @type {HTMLElement} */ (row).dataset.key ?? null);
    redraw();
  });
}

/** @type {Array<((round: Report) => string) | null>} */
const COLUMNS = [
  (round) => clock(round.time),
  null, // the outcome, with its colour
  (round) => `${round.contributed.length}/${round.planned.length}`,
  (round) => loss(round.val_loss),
  (round) => loss(round.loss),
  (round) => duration(round.duration_s),
];

/** @param {Store} store */
export function drawRounds(store) {
  const { rounds } = store;
  const shown = chosenRound(store);
  byId("rounds-empty").hidden = rounds.length > 0;
  byId("rounds").hidden = rounds.length === 0;
  const newest = rounds.slice(-SHOWN).reverse();
  if (shown && !newest.includes(shown)) newest.push(shown);
  reconcile(byId("rounds").tBodies[0], newest, (round) => round.key, makeRow, (row, round) => {
    const mark = round === shown ? "chosen" : "";
    if (row.className !== mark) {
      row.className = mark;
      row.cells[0].firstChild.setAttribute("aria-pressed", String(round === shown));
    }
    if (filled.get(row) === round.revision) return;
    filled.set(row, round.revision);
    setText(row.cells[0].firstChild, String(round.version));
    COLUMNS.forEach((text, index) => text && setText(row.cells[index + 1], text(round)));
    row.cells[2].className = `outcome ${round.outcome}`;
    setText(row.cells[2], `${OUTCOME_SIGN[round.outcome] ?? "?"} ${round.outcome}`);
  });
  drawReport(store, shown);
}

/** @param {Report} round */
function makeRow(round) {
  const button = el("button", { type: "button", "aria-controls": "report", "aria-pressed": "false" });
  button.setAttribute("aria-label", `Report of round ${round.version}`);
  return el("tr", {}, el("td", {}, button), ...COLUMNS.map((_, index) => el("td", { class: index > 2 ? "num" : "" })));
}

/**
 * @param {Store} store
 * @param {Report | undefined} round
 */
function drawReport({ peers, ids }, round) {
  byId("report-empty").hidden = round !== undefined;
  if (round === undefined) return;
  // Isolates (U+2068, U+2069) keep a name's writing direction to itself, also within a list in one line.
  /** @param {number} place */
  const name = (place) => `\u2068${peers.get(ids[place])?.name ?? shortId(ids[place])}\u2069`;
  /** @param {Array<number>} places */
  const who = (places) => {
    const rest = places.length - NAMED;
    return places.slice(0, NAMED).map(name).join(", ") + (rest > 0 ? ` and ${rest} more` : "") || "nobody";
  };
  setText(byId("report-title"), `Round ${round.version}`);
  const line = byId("report-outcome");
  line.className = `outcome-line outcome ${round.outcome}`;
  setText(line, `${OUTCOME_SIGN[round.outcome] ?? "?"} ${round.outcome}${round.reason ? ": " + round.reason : ""}`);
  const spread = round.loss_min === null ? null : `${loss(round.loss_min)} to ${loss(round.loss_max)}`;
  /** @type {Array<[string, string | null, string?]>} */
  const rows = [
    ["Planned", `${round.planned.length}: ${who(round.planned)}`],
    ["Arrived", `${round.contributed.length}/${round.planned.length}: ${who(round.contributed)}`],
    ["Received only", round.received.length ? who(round.received) : null],
    ["Late", round.late.length ? who(round.late) : null],
    ["Rejected", round.rejected.map((each) => `${name(each.peer)} (${each.reason})`).join(", ") || null],
    ["Missing", round.missing.length ? who(round.missing) : null],
    ["Leader", `\u2068${round.leader}\u2069`],
    ["Tokens", count(round.tokens)],
    ["Traffic", `↑ ${bytes(round.bytes_sent)}  ↓ ${bytes(round.bytes_received)}`],
    ["Members' losses", spread, "in their last inner phases, as they say"],
    ["Mean cosine", round.cosine === null ? null : round.cosine.toFixed(3), "how far contributions agree with their mean"],
    ["Outer rate", String(round.outer_lr)],
    ["Codec", round.codec, round.codec_reason],
    ["Groups", round.groups > 1 ? String(round.groups) : null, "averaged among themselves first"],
    ["Digest", short(round.digest), round.digest],
  ];
  facts(byId("report-facts"), /** @type {Array<[string, string, string?]>} */ (rows.filter(([, value]) => value !== null)));
  drawPhases(round);
}

/** @param {Report} round */
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
