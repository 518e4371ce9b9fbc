// The loss by round: the swarm's (validation loss of the outer parameters), mine (training), and between what least
// and greatest the members' training losses lay.
//
// The rounds table holds the same figures as text, the line below sums them up.

import { byId, setText } from "./dom.js";
import { axis, Chart, css } from "./chart.js";
import { loss } from "./format.js";

/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./store.js").Report} Report */

let log = false;
/** @type {Chart | null} */
let chart = null;
/** @type {Store | null} */
let drawn = null;

/**
 * Columns of the chart: versions, the greatest and least of all that was said, validation loss, training loss,
 * and where provisional rounds are marked. Aborted rounds made no version.
 * @param {Array<Report>} reports
 * @param {number | null} before
 * @returns {Array<Array<number | null>>}
 */
export function columns(reports, before) {
  const rounds = reports.filter((round) => round.outcome !== "aborted");
  /** @param {Report} round */
  const mark = (round) => (round.outcome === "provisional" ? (round.val_loss ?? round.loss) : null);
  const rows = rounds.map((round) => [round.version, round.loss_max, round.loss_min, round.val_loss, round.loss, mark(round)]);
  if (rounds[0]?.version === 1 && before !== null) rows.unshift([0, null, null, before, null, null]);
  return [0, 1, 2, 3, 4, 5].map((index) => rows.map((row) => row[index]));
}

/** @param {Store} store */
export function drawLoss(store) {
  drawn = store;
  const data = columns(store.rounds, store.state.val_loss_before);
  const empty = data[0].length < 2;
  byId("loss-empty").hidden = !empty;
  byId("loss-chart").hidden = byId("loss-scale").hidden = empty;
  setText(byId("loss-summary"), empty ? "" : summary(data));
  if (empty) return;
  chart ??= new Chart(byId("loss-chart"), 320);
  const few = data[0].length < 30;
  chart.show(`${log} ${few}`, data, () => options(data, few));
}

/** @param {Array<Array<number | null>>} data */
function summary([versions, , , values]) {
  const points = /** @type {Array<[number, number]>} */ (
    values.map((value, index) => [versions[index], value]).filter(([, value]) => value !== null)
  );
  if (points.length === 0) return "No validation loss has been measured yet.";
  const best = points.reduce((low, point) => (point[1] < low[1] ? point : low));
  const [[firstAt, first], [lastAt, last]] = [points[0], points[points.length - 1]];
  return (
    `Validation loss went from ${loss(first)} at round ${firstAt} to ${loss(last)} at round ${lastAt}; ` +
    `the lowest was ${loss(best[1])} at round ${best[0]}. Nats per byte.`
  );
}

/**
 * @param {Array<Array<number | null>>} data
 * @param {boolean} few
 * @returns {Partial<import("./chart.js").Options>}
 */
function options(data, few) {
  /** @param {string} label @param {Partial<import("./chart.js").Series>} more */
  const series = (label, more) => ({
    label,
    spanGaps: true,
    points: { show: false },
    /** @param {any} plotted @param {number | null} value @param {number} index */
    value: (plotted, value, index) => loss(value ?? latest(plotted, index)),
    ...more,
  });
  return {
    scales: {
      x: { time: false },
      y: log ? { distr: 3, range: (_, low, high) => [low * 0.96, high * 1.04] } : {},
    },
    axes: [
      axis({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000], size: 30 }),
      axis({ size: 48, ...(log ? { splits: logTicks, filter: (_, ticks) => ticks, values: (_, ticks) => ticks } : {}) }),
    ],
    bands: [{ series: [1, 2], fill: () => css("--coral-soft") }],
    series: [
      { label: "Round", value: (plotted, value) => value ?? plotted.data[0].at(-1) },
      series("All training, greatest", { width: 0 }),
      series("least", { width: 0 }),
      series("Swarm, validation", { stroke: () => css("--sea"), width: 2.25, points: { show: few, size: 5, fill: () => css("--sea") } }),
      series("Mine, training", { stroke: () => css("--coral"), width: 1.5, dash: [5, 4] }),
      {
        label: "Provisional",
        width: 0,
        stroke: () => css("--amber"),
        points: { show: true, size: 9, width: 2, stroke: () => css("--amber"), fill: () => css("--surface") },
        value: (_, value) => (value === null ? "no" : "yes"),
      },
    ],
  };
}

/**
 * What the legend shows of a series while no round is pointed at.
 * @param {{data: Array<Array<number | null>>}} plotted
 * @param {number} index
 */
const latest = (plotted, index) => plotted.data[index].findLast((value) => value !== null) ?? null;

/**
 * Five ticks in equal ratios: on a log scale a loss rarely crosses a power of ten.
 * @param {unknown} _
 * @param {number} __
 * @param {number} low
 * @param {number} high
 */
function logTicks(_, __, low, high) {
  const ticks = [0, 1, 2, 3, 4].map((step) => Number((low * (high / low) ** (step / 4)).toPrecision(2)));
  return [...new Set(ticks)];
}

byId("loss-scale").addEventListener("click", () => {
  log = !log;
  byId("loss-scale").setAttribute("aria-pressed", String(log));
  if (drawn !== null) drawLoss(drawn);
});
