// This node over hours or weeks: tokens per second stacked on the others', the network below its caps, and one figure
// of choice as the mean of each stretch in the band between its least and greatest.
//
// The node keeps the history and joins it to as many stretches as a chart is wide; this module asks for it when a
// person chooses, and twice a minute after that. What each chart shows is said in the line below it, too.

import { ask } from "./api.js";
import { axis, Chart, css } from "./chart.js";
import { byId, el, setText } from "./dom.js";
import { bytes, clock, count, duration, loss, NONE, speed } from "./format.js";
import { tell } from "./table.js";

/** @typedef {import("../../api").History} History */
/** @typedef {import("./chart.js").Columns} Columns */
/** @typedef {(value: number) => string} Say */

const HEIGHT_PX = 200;
const EVERY_MS = 30000;
const FIRST_MS = 3000;
const LEAST_S = 60; // of time on an axis
/** What people may choose: the node's name for it, ours, and how a value is said. @type {Array<[string, string, Say]>} */
const FIGURES = [
  ["loss", "My training loss", loss],
  ["val_loss", "Validation loss", loss],
  ["tokens_per_s", "Tokens per second", count],
  ["swarm_tokens_per_s", "Tokens per second, swarm", count],
  ["peers", "Nodes", (value) => String(Math.round(value))],
  ["sent_bps", "Sent", speed],
  ["received_bps", "Received", speed],
  ["memory_bytes", "Memory", bytes],
  ["loop_lag_s", "Delay of the event loop", duration],
];
/** @type {Array<[number, string]>} */
const SPANS = [[3600, "last hour"], [86400, "last day"], [2592000, "last 30 days"]];
/** @type {Record<string, Chart>} */
const charts = {};
/** @type {Set<string>} */
let names = new Set();
let asked = 0; // the newest question: an answer to an older one is late
/** @type {{up: number | null, down: number | null}} */
let caps = { up: null, down: null };
let now = 0; // by the node's clock: that of a recording stands where it is played, and a node's may be off

/** @param {Say} say @param {number | null} value */
const sayOr = (say, value) => (value === null ? NONE : say(value));
/** @param {string} id */
const chart = (id) => (charts[id] ??= new Chart(byId(id), HEIGHT_PX));

/** Ask the node and draw; what can't be had leaves the last picture. */
export async function refresh() {
  const number = ++asked;
  const span = Number(byId("history-span").value);
  const until = now;
  const points = Math.max(60, Math.min(600, Math.round(byId("history-chart").parentElement.clientWidth / 2)));
  /** @param {string} name @returns {Promise<History>} */
  const get = async (name) => {
    if (!names.has(name)) return { name, bucket_s: 1, buckets: [] };
    const path = `/api/v1/history?name=${name}&since=${Math.max(0, until - span)}&until=${until}&points=${points}`;
    return (await ask(path)).answer;
  };
  const wanted = ["tokens_per_s", "swarm_tokens_per_s", "sent_bps", "received_bps", byId("history-figure").value];
  const found = await Promise.all(wanted.map(get));
  if (number !== asked || found.some((each) => each === null)) return;
  // A young node's charts begin with its figures, not with hours before it was there.
  const begun = Math.min(...found.flatMap((each) => each.buckets.slice(0, 1).map((bucket) => bucket.start)));
  const view = { span, min: Math.max(until - span, Math.min(begun, until - LEAST_S)), max: until };
  drawTokens(found[0], found[1], view);
  drawNetwork(found[2], found[3], view);
  drawFigure(found[4], view);
}

/** @typedef {{span: number, min: number, max: number}} View */

/**
 * Several histories on one axis of time, a column each; null where one has nothing, and a gap where none has.
 * @param {Array<History>} found
 * @param {Array<"min" | "max" | "mean">} [of]
 * @returns {Columns}
 */
export function columns(found, of = found.map(() => "mean")) {
  const rows = new Map();
  found.forEach(({ buckets }, index) => {
    for (const bucket of buckets) {
      if (!rows.has(bucket.start)) rows.set(bucket.start, found.map(() => null));
      rows.get(bucket.start)[index] = bucket[of[index]];
    }
  });
  const width = Math.max(...found.map((each) => each.bucket_s));
  /** @type {Array<Array<number | null>>} */
  const lines = [];
  for (const start of [...rows.keys()].sort((a, b) => a - b)) {
    const last = lines.at(-1);
    if (last && start - /** @type {number} */ (last[0]) > 2 * width) lines.push([/** @type {number} */ (last[0]) + width, ...found.map(() => null)]);
    lines.push([start, ...rows.get(start)]);
  }
  return [...found, null].map((_, index) => lines.map((line) => line[index]));
}

/**
 * @param {string} id
 * @param {Columns} data
 * @param {View} view
 * @param {Say} say
 * @param {Array<Partial<import("./chart.js").Series>>} series
 * @param {Partial<import("./chart.js").Options>} [more]
 */
function show(id, data, view, say, series, more = {}) {
  const empty = data[0].length === 0;
  byId(`${id}-empty`).hidden = !empty;
  byId(`${id}-chart`).hidden = empty;
  if (empty) {
    setText(byId(`${id}-summary`), "");
    return false;
  }
  /** @param {number} at */
  const when = (at) =>
    view.span > 86400 ? new Date(at * 1000).toLocaleDateString([], { day: "numeric", month: "short" }) : clock(at).slice(0, 5);
  tell(`${id}-more`, () => ({
    heads: ["Time", ...series.map((each) => String(each.label))],
    rows: data[0].map((at, index) => [
      new Date(1000 * Number(at)).toLocaleString(),
      ...data.slice(1).map((column) => sayOr(say, column[index])),
    ]),
  }));
  const single = data[0].length < 3;
  chart(`${id}-chart`).show(`${view.span} ${single} ${series.map((each) => each.label).join()}`, data, () => ({
    scales: { x: { time: true } },
    axes: [axis({ size: 30, values: (_, ticks) => ticks.map(when) }), axis({ size: 76, values: (_, ticks) => ticks.map(say) })],
    series: [
      { label: "At", value: (_, value) => (value === null ? "–" : clock(value)) },
      ...series.map((each) => ({ points: { show: single }, value: (/** @type {any} */ _, /** @type {any} */ value) => sayOr(say, value), ...each })),
    ],
    ...more,
  }), view);
  return true;
}

/** @param {History} mine @param {History} all @param {View} view */
function drawTokens(mine, all, view) {
  const data = columns([all, mine]);
  const filled = show("tokens", data, view, count, [
    { label: "All", stroke: () => css("--sky"), fill: () => css("--sky-soft"), width: 1.5 },
    { label: "Mine", stroke: () => css("--sea"), fill: () => css("--sea-soft"), width: 1.5 },
  ], { scales: { x: { time: true }, y: { range: (_, __, high) => [0, Math.max(1, high) * 1.05] } } });
  const [last, own] = [all.buckets.at(-1), mine.buckets.at(-1)];
  if (filled) setText(byId("tokens-summary"), `All nodes: ${count(last?.mean ?? null)} tokens per second in the newest point, of them mine ${count(own?.mean ?? null)}; a point is the mean of ${duration(all.bucket_s)}.`);
}

/** @param {History} sent @param {History} received @param {View} view */
function drawNetwork(sent, received, view) {
  const data = columns([sent, received]);
  const lines = [];
  for (const [label, cap, colour] of /** @type {const} */ ([["Cap up", caps.up, "--sea"], ["Cap down", caps.down, "--coral"]])) {
    if (cap === null) continue;
    data.push(data[0].map(() => cap));
    lines.push({ label, stroke: () => css(colour), width: 1, dash: [2, 4], points: { show: false } });
  }
  const filled = show("network", data, view, speed, [
    { label: "Sent", stroke: () => css("--sea"), width: 1.75 },
    { label: "Received", stroke: () => css("--coral"), width: 1.75, dash: [5, 4] },
    ...lines,
  ]);
  const most = Math.max(0, ...sent.buckets.map((each) => each.max));
  const cap = caps.up === null ? "no cap" : `cap ${speed(caps.up)}`;
  if (filled) setText(byId("network-summary"), `Sent at most ${speed(most)} in this time to other nodes, files and DHT not counted (${cap}); a point is ${duration(sent.bucket_s)}.`);
}

/** @param {History} found @param {View} view */
function drawFigure(found, view) {
  const [, title, say] = FIGURES.find(([name]) => name === found.name) ?? FIGURES[0];
  const data = columns([found, found, found], ["max", "min", "mean"]);
  const filled = show("history", data, view, say, [
    { label: "Greatest", width: 0, points: { show: false } },
    { label: "Least", width: 0, points: { show: false } },
    { label: title, stroke: () => css("--sea"), width: 1.75 },
  ], { bands: [{ series: [1, 2], fill: () => css("--sea-soft") }] });
  if (!filled) return;
  const least = Math.min(...found.buckets.map((bucket) => bucket.min));
  const greatest = Math.max(...found.buckets.map((bucket) => bucket.max));
  setText(
    byId("history-summary"),
    `${title}: ${say(found.buckets[found.buckets.length - 1].mean)} now, between ${say(least)} and ${say(greatest)}; a point is ${duration(found.bucket_s)}.`,
  );
}

/** The node's time, and the lines of the owner's caps in the chart of the network. @param {import("./store.js").Store} store */
export function followHistory({ state }) {
  now = state.time;
  const { upload_cap_bps: up, download_cap_bps: down } = state.traffic;
  if (up === caps.up && down === caps.down) return;
  caps = { up, down };
  refresh();
}

/** Fill the choices with what this node has a history of, then begin. */
export async function bindHistory() {
  byId("history-span").replaceChildren(...SPANS.map(([seconds, text]) => el("option", { value: seconds, text })));
  for (const id of ["history-figure", "history-span"]) byId(id).addEventListener("change", refresh);
  await keep();
}

/** A node that has just started has no figures yet: it is asked again sooner. */
async function keep() {
  if (!document.hidden) await offer();
  setTimeout(keep, names.size > 0 ? EVERY_MS : FIRST_MS);
}

/** A figure that is new in the history can be chosen from now on. */
async function offer() {
  const { answer } = await ask("/api/v1/history");
  const select = byId("history-figure");
  names = new Set(answer?.names ?? names);
  const known = FIGURES.filter(([name]) => names.has(name));
  if (known.length !== select.children.length) {
    const before = select.value;
    select.replaceChildren(...known.map(([name, text]) => el("option", { value: name, text })));
    if (known.some(([name]) => name === before)) select.value = before;
  }
  await refresh();
}
