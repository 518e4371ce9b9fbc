// The loss by round: the swarm's (validation loss of the outer parameters) and mine (training).
//
// uPlot draws; this module says what. The rounds table holds the same figures as text, the line below sums them up.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { byId, setText } from "./dom.js";
import { loss } from "./format.js";

const HEIGHT_PX = 240;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let plot = null;
let log = false;
let data = null;

/** Columns of the chart: versions, validation loss, training loss. Aborted rounds made no version. */
export function columns(state) {
  const rounds = state.rounds.filter((round) => round.outcome !== "aborted");
  const rows = rounds.map((round) => [round.version, round.val_loss, round.loss]);
  if (rounds[0]?.version === 1 && state.val_loss_before !== null) rows.unshift([0, state.val_loss_before, null]);
  return [0, 1, 2].map((index) => rows.map((row) => row[index]));
}

export function drawLoss(state) {
  data = columns(state);
  const empty = data[0].length < 2;
  byId("loss-empty").hidden = !empty;
  byId("loss-chart").hidden = byId("loss-scale").hidden = empty;
  setText(byId("loss-summary"), empty ? "" : summary(data));
  if (empty) return;
  if (plot === null) make();
  else plot.setData(data);
}

function summary([versions, values]) {
  const points = values.map((value, index) => [versions[index], value]).filter(([, value]) => value !== null);
  if (points.length === 0) return "No validation loss has been measured yet.";
  const best = points.reduce((low, point) => (point[1] < low[1] ? point : low));
  const [[firstAt, first], [lastAt, last]] = [points[0], points.at(-1)];
  return (
    `Validation loss went from ${loss(first)} at round ${firstAt} to ${loss(last)} at round ${lastAt}; ` +
    `the lowest was ${loss(best[1])} at round ${best[0]}. Nats per byte.`
  );
}

function make() {
  plot?.destroy();
  const box = byId("loss-chart");
  const axis = { stroke: () => css("--quiet"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const series = (label, colour, more) => ({
    label, stroke: () => css(colour), spanGaps: true, value: (plotted, value, index) => loss(value ?? latest(plotted, index)), ...more,
  });
  plot = new uPlot(
    {
      width: box.clientWidth,
      height: HEIGHT_PX,
      scales: { x: { time: false }, y: log ? { distr: 3, range: (_, low, high) => [low * 0.96, high * 1.04] } : {} },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000], size: 30 },
        { ...axis, size: 48, ...(log ? { splits: logTicks, filter: (_, ticks) => ticks, values: (_, ticks) => ticks } : {}) },
      ],
      series: [
        { label: "Round", value: (plotted, value) => value ?? plotted.data[0].at(-1) },
        series("Swarm, validation", "--sea", { width: 2.25, points: { show: data[0].length < 30, size: 5, fill: () => css("--sea") } }),
        series("Mine, training", "--coral", { width: 1.5, dash: [5, 4], points: { show: false } }),
      ],
      cursor: { drag: { x: false, y: false }, y: false },
    },
    data,
    box,
  );
}

/** What the legend shows of a series while no round is pointed at. */
const latest = (plotted, index) => plotted.data[index].findLast((value) => value !== null);

/** Five ticks in equal ratios: on a log scale a loss rarely crosses a power of ten. */
function logTicks(_, __, low, high) {
  const ticks = [0, 1, 2, 3, 4].map((step) => Number((low * (high / low) ** (step / 4)).toPrecision(2)));
  return [...new Set(ticks)];
}

byId("loss-scale").addEventListener("click", () => {
  log = !log;
  byId("loss-scale").setAttribute("aria-pressed", String(log));
  make();
});
new ResizeObserver(([entry]) => {
  if (plot !== null && entry.contentRect.width > 0) plot.setSize({ width: entry.contentRect.width, height: HEIGHT_PX });
}).observe(byId("loss-chart"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot !== null && make());
