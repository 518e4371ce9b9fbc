// The heat strip: a cell per peer per round, the newest round on the right, on one canvas.
//
// A full cell contributed; every other kind has a pattern of its own, so that no colour stands alone. A click, or the
// arrow keys, choose a cell: the line below says what it is, and the round's report is shown. The table below counts
// the same for those who can't see it. Drawn anew only when a round, a peer or the choice changed; a new round
// moves what is there and adds a column.

import { css } from "./chart.js";
import { byId, el, nameNode, reconcile, setText } from "./dom.js";
import { shortId } from "./format.js";
import { chosenRound } from "./rounds.js";
import { paintCell, palette } from "./strip_cells.js";

/** @typedef {import("./store.js").Store} Store */
/** @typedef {{id: string, place: number, name: string, mine: boolean}} Row */

/** @type {Record<string, string>} */
export const KINDS = {
  contributed: "contributed",
  received: "received only",
  late: "late",
  rejected: "rejected",
  missing: "missing",
  void: "round aborted",
  absent: "not planned",
};
const HEAD_PX = 16; // numbers of rounds
const MAX_ROWS = 256;
/** @type {(key: string) => void} */
let choose = () => {};
/** @type {Store | null} */
let drawn = null;
/** @type {Array<Row>} */
let rows = [];
/** @type {{key: string, columns: Array<string>, cell: {width: number, height: number}} | null} */
let picture = null;
let cursor = { row: 0, column: 0 };

/** How large a cell is: the fewer there are, the larger. @param {number} rounds @param {number} width @param {number} peers */
function sizes(rounds, width, peers) {
  const fit = Math.floor(width / Math.max(1, rounds));
  return { width: Math.max(4, Math.min(18, fit)), height: peers <= 30 ? 18 : peers <= 70 ? 10 : 5 };
}

// Known peers first, this node on top; then those who took part but are gone.
/** @param {Store} store @returns {Array<Row>} */
function rowsOf(store) {
  const found = [...store.state.peers]
    .sort((a, b) => Number(b.self) - Number(a.self) || (a.name < b.name ? -1 : 1))
    .map(({ id, name, self }) => ({ id, place: store.placeOf(id), name, mine: self }));
  const known = new Set(found.map((row) => row.place));
  for (const round of store.rounds) {
    for (const place of round.cells.keys()) {
      if (known.has(place)) continue;
      known.add(place);
      found.push({ id: store.ids[place], place, name: shortId(store.ids[place]), mine: false });
    }
  }
  return found.slice(0, MAX_ROWS);
}

/**
 * @param {Store} store
 */
export function drawStrip(store) {
  drawn = store;
  const { rounds } = store;
  byId("strip-empty").hidden = rounds.length > 0;
  byId("strip-box").hidden = byId("strip-line").hidden = byId("strip-more").hidden = rounds.length === 0;
  if (rounds.length === 0) return;
  rows = rowsOf(store);
  paint(store);
  drawNames();
  drawTable(store);
  tell();
}

/** @param {Store} store */
function paint(store) {
  const { rounds } = store;
  const canvas = /** @type {HTMLCanvasElement} */ (byId("strip"));
  const cell = sizes(rounds.length, byId("strip-scroll").clientWidth || 600, rows.length);
  const columns = rounds.map((round) => `${round.key} ${round.outcome}`);
  const chosen = rounds.indexOf(/** @type {any} */ (chosenRound(store)));
  const scale = devicePixelRatio || 1;
  const key = JSON.stringify([rows.map((row) => row.place), cell, chosen === rounds.length - 1 ? "newest" : columns[chosen], css("--ink"), scale]);
  const before = picture;
  picture = { key, columns, cell };
  const context = canvas.getContext("2d");
  if (context === null) return;
  const [width, height] = [columns.length * cell.width, HEAD_PX + rows.length * cell.height];
  // As many columns as before, moved by some: what stays is copied.
  const by = before !== null && before.key === key && before.columns.length === columns.length ? columns.indexOf(before.columns[columns.length - 1]) : -1;
  const gone = by < 0 ? 0 : columns.length - 1 - by;
  const kept = by >= 0 && before !== null && before.columns.slice(gone).every((each, index) => each === columns[index]);
  let from = 0;
  if (kept && gone === 0) return;
  if (kept && chosen === rounds.length - 1) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "copy";
    context.drawImage(canvas, -gone * cell.width * scale, 0);
    context.globalCompositeOperation = "source-over";
    from = columns.length - gone - 1; // the one that was the newest loses its frame
  } else {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, HEAD_PX);
  context.clearRect(from * cell.width, HEAD_PX, width, height);
  const colours = palette();
  for (let column = from; column < rounds.length; column += 1) {
    const [round, x] = [rounds[column], column * cell.width];
    rows.forEach((row, index) => paintCell(context, round.cells.get(row.place) ?? "absent", x, HEAD_PX + index * cell.height, cell, colours));
    if (column === chosen) {
      context.strokeStyle = colours.ink;
      context.lineWidth = 1.5;
      context.strokeRect(x + 0.75, HEAD_PX + 0.75, cell.width - 1.5, height - HEAD_PX - 1.5);
    }
  }
  // Numbers are wider than columns, so all are written anew.
  const every = 5 * Math.max(1, Math.ceil(8 / cell.width));
  context.fillStyle = colours.quiet;
  context.font = "10px system-ui, sans-serif";
  context.textAlign = "center";
  rounds.forEach((round, column) => {
    if (round.version % every === 0) context.fillText(String(round.version), (column + 0.5) * cell.width, 10);
  });
  if (by < 0 || gone > 0) byId("strip-scroll").scrollLeft = width;
}

/** Names stand beside the rows where they fit. */
function drawNames() {
  const high = (picture?.cell.height ?? 0) >= 14;
  byId("strip-names").hidden = !high;
  reconcile(byId("strip-names"), high ? rows : [], (row) => row.id, (row) => el("li", { title: row.id }, nameNode(row.name)), (item, row) => {
    item.className = row.mine ? "mine" : "";
    setText(item.firstChild, row.name);
  });
}

/** @param {Store} store */
function drawTable({ rounds }) {
  if (!byId("strip-more").open) return;
  const kinds = Object.keys(KINDS).filter((kind) => kind !== "absent");
  reconcile(byId("strip-table").tBodies[0], rows, (row) => row.id, () => el("tr", {}, el("th", { scope: "row" }), ...kinds.map(() => el("td", { class: "num" }))), (line, row) => {
    if (line.cells[0].dataset.name !== row.name) {
      line.cells[0].dataset.name = row.name;
      line.cells[0].replaceChildren(nameNode(row.name));
    }
    kinds.forEach((kind, index) => setText(line.cells[index + 1], String(rounds.filter((round) => round.cells.get(row.place) === kind).length)));
  });
}

/** Say what the cell under the cursor is. */
function tell() {
  if (drawn === null || rows.length === 0) return;
  const { rounds } = drawn;
  cursor.row = Math.max(0, Math.min(rows.length - 1, cursor.row));
  const round = rounds[cursor.column] ?? rounds[rounds.length - 1];
  const row = rows[cursor.row];
  const kind = KINDS[round.cells.get(row.place) ?? "absent"];
  setText(byId("strip-line"), `Round ${round.version}, \u2068${row.name}\u2069: ${kind}; the round was ${round.outcome}.`);
}

/** @param {MouseEvent} event */
function under(event) {
  const box = byId("strip").getBoundingClientRect();
  const { width, height } = picture?.cell ?? { width: 1, height: 1 };
  const column = Math.floor((event.clientX - box.left) / width);
  return { column, row: Math.floor((event.clientY - box.top - HEAD_PX) / height) };
}

function chooseUnderCursor() {
  const round = drawn?.rounds[cursor.column];
  if (round) choose(round.key);
  tell();
}

/** @type {Record<string, [number, number]>} */
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {(key: string) => void} chooser is told the key of a round */
export function bindStrip(chooser) {
  choose = chooser;
  const canvas = byId("strip");
  canvas.addEventListener("mousemove", (/** @type {MouseEvent} */ event) => {
    cursor = under(event);
    tell();
  });
  canvas.addEventListener("click", (/** @type {MouseEvent} */ event) => {
    cursor = under(event);
    chooseUnderCursor();
  });
  canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const by = KEYS[event.key];
    if (!by || drawn === null) return;
    event.preventDefault();
    cursor.column = Math.max(0, Math.min(drawn.rounds.length - 1, cursor.column + by[0]));
    cursor.row += by[1];
    chooseUnderCursor();
  });
  canvas.addEventListener("focus", () => {
    if (drawn !== null) cursor.column = drawn.rounds.indexOf(/** @type {any} */ (chosenRound(drawn)));
    tell();
  });
  byId("strip-more").addEventListener("toggle", () => drawn !== null && drawTable(drawn));
  new ResizeObserver(() => drawn !== null && paint(drawn)).observe(byId("strip-scroll"));
  byId("strip-legend").append(
    ...Object.entries(KINDS).map(([kind, text]) => {
      const sample = el("canvas", { width: 32, height: 32, class: "sample", "aria-hidden": "true" });
      sample.dataset.kind = kind;
      return el("li", {}, sample, text);
    }),
  );
  drawLegend();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawLegend();
    if (drawn !== null) drawStrip(drawn);
  });
}

function drawLegend() {
  const colours = palette();
  for (const sample of byId("strip-legend").querySelectorAll("canvas")) {
    const context = sample.getContext("2d");
    context.setTransform(2, 0, 0, 2, 0, 0);
    context.clearRect(0, 0, 16, 16);
    paintCell(context, sample.dataset.kind, 0, 0, { width: 16, height: 16 }, colours);
  }
}
