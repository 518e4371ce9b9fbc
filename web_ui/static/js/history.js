// One figure of this node over hours or weeks: the mean of each stretch, in the band between its least and greatest.
//
// The node keeps the history and joins it to as many stretches as the chart is wide; this module asks for it when a
// person chooses, and twice a minute after that. What the chart shows is said in the line below it, too.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { byId, el, setText } from "./dom.js";
import { bytes, clock, count, duration, loss, speed } from "./format.js";

const HEIGHT_PX = 200;
const EVERY_MS = 30000;
const TIMEOUT_MS = 10000;
/** What people may choose: the node's name for it, ours, and how a value is said. */
const FIGURES = [
  ["tokens_per_s", "Tokens per second", count],
  ["swarm_tokens_per_s", "Tokens per second, swarm", count],
  ["loss", "My training loss", loss],
  ["val_loss", "Validation loss", loss],
  ["peers", "Nodes", (value) => String(Math.round(value))],
  ["sent_bps", "Sent", speed],
  ["received_bps", "Received", speed],
  ["memory_bytes", "Memory", bytes],
  ["loop_lag_s", "Delay of the event loop", duration],
];
const SPANS = [[3600, "last hour"], [86400, "last day"], [2592000, "last 30 days"]];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let plot = null;
let drawn = ""; // figure and span of the present chart
let asked = 0; // the newest question: an answer to an older one is late

const chosen = () => ({ name: byId("history-figure").value, span: Number(byId("history-span").value) });

async function ask(path) {
  const reply = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  return reply.ok ? await reply.json() : null;
}

/** Ask the node and draw; what can't be had leaves the last picture. */
export async function refresh() {
  const number = ++asked;
  const { name, span } = chosen();
  if (!name) return;
  const until = Date.now() / 1000;
  const points = Math.max(60, Math.min(600, Math.round(byId("history-chart").parentElement.clientWidth / 2)));
  try {
    const found = await ask(`/api/v1/history?name=${name}&since=${until - span}&until=${until}&points=${points}`);
    if (found !== null && number === asked) draw(found, span, until);
  } catch (error) {
    // The node is away; the page says so elsewhere. Anything else is a bug of ours.
    if (!(error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError)) throw error;
  }
}

/** Columns of the chart: times, greatest, least, mean; a gap where nothing was written. */
export function columns(buckets, width) {
  const rows = [];
  for (const bucket of buckets) {
    const last = rows.at(-1);
    if (last && bucket.start - last[0] > 2 * width) rows.push([last[0] + width, null, null, null]);
    rows.push([bucket.start, bucket.max, bucket.min, bucket.mean]);
  }
  return [0, 1, 2, 3].map((index) => rows.map((row) => row[index]));
}

function draw(found, span, until) {
  const [, title, say] = FIGURES.find(([name]) => name === found.name);
  const empty = found.buckets.length === 0;
  byId("history-empty").hidden = !empty;
  byId("history-chart").hidden = empty;
  const least = Math.min(...found.buckets.map((bucket) => bucket.min));
  const greatest = Math.max(...found.buckets.map((bucket) => bucket.max));
  setText(
    byId("history-summary"),
    empty ? "" : `${title}: ${say(found.buckets.at(-1).mean)} now, between ${say(least)} and ${say(greatest)}; a point is ${duration(found.bucket_s)}.`,
  );
  if (empty) return;
  const data = columns(found.buckets, found.bucket_s);
  const wanted = `${found.name} ${span}`;
  if (plot === null || drawn !== wanted) make(data, title, say, span);
  else plot.setData(data, false);
  plot.setScale("x", { min: until - span, max: until });
  drawn = wanted;
}

function make(data, title, say, span) {
  plot?.destroy();
  const box = byId("history-chart");
  const axis = { stroke: () => css("--quiet"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const edge = (label) => ({ label, width: 0, points: { show: false }, value: (_, value) => say(value) });
  const when = (at) => (span > 86400 ? new Date(at * 1000).toLocaleDateString([], { day: "numeric", month: "short" }) : clock(at).slice(0, 5));
  plot = new uPlot(
    {
      width: box.clientWidth,
      height: HEIGHT_PX,
      scales: { x: { time: true } },
      axes: [{ ...axis, size: 30, values: (_, ticks) => ticks.map(when) }, { ...axis, size: 76, values: (_, ticks) => ticks.map(say) }],
      bands: [{ series: [1, 2], fill: () => css("--sea-soft") }],
      series: [
        { label: "At", value: (_, value) => (value === null ? "–" : clock(value)) },
        edge("Greatest"),
        edge("Least"),
        { label: title, stroke: () => css("--sea"), width: 1.75, points: { show: data[0].length < 3 }, value: (_, value) => say(value) },
      ],
      cursor: { drag: { x: false, y: false }, y: false },
    },
    data,
    box,
  );
}

/** Fill the choices with what this node has a history of, then begin. */
export async function bindHistory() {
  byId("history-span").replaceChildren(...SPANS.map(([seconds, text]) => el("option", { value: seconds, text })));
  for (const id of ["history-figure", "history-span"]) byId(id).addEventListener("change", refresh);
  new ResizeObserver(([entry]) => {
    if (plot !== null && entry.contentRect.width > 0) plot.setSize({ width: entry.contentRect.width, height: HEIGHT_PX });
  }).observe(byId("history-chart"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw(false));
  await offer();
  setInterval(offer, EVERY_MS);
}

/** A figure that is new in the history can be chosen from now on. */
async function offer() {
  try {
    const found = await ask("/api/v1/history");
    const select = byId("history-figure");
    const names = FIGURES.filter(([name]) => found?.names?.includes(name));
    if (names.length !== select.children.length) {
      const before = select.value;
      select.replaceChildren(...names.map(([name, text]) => el("option", { value: name, text })));
      if (names.some(([name]) => name === before)) select.value = before;
    }
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError)) throw error;
  }
  await refresh();
}
