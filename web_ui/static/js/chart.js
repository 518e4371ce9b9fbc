// One chart of uPlot: as wide as its box, in the colours of the theme, made anew only when what it shows is another.

import uPlot from "../vendor/uplot/uPlot.esm.js";

/** @typedef {import("../vendor/uplot/uPlot.esm.js").Options} Options */
/** @typedef {import("../vendor/uplot/uPlot.esm.js").Axis} Axis */
/** @typedef {import("../vendor/uplot/uPlot.esm.js").Series} Series */
/** @typedef {Array<Array<number | null>>} Columns */

/** @param {string} name */
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * @param {Axis} more
 * @returns {Axis}
 */
export const axis = (more) => ({
  stroke: () => css("--quiet"),
  grid: { stroke: () => css("--line"), width: 1 },
  ticks: { show: false },
  font: "12px system-ui, sans-serif",
  ...more,
});

export class Chart {
  #box;
  #height;
  /** @type {uPlot | null} */
  #plot = null;
  #kind = "";

  /**
   * @param {HTMLElement} box
   * @param {number} height pixels
   */
  constructor(box, height) {
    this.#box = box;
    this.#height = height;
    new ResizeObserver(([entry]) => {
      if (entry.contentRect.width > 0) this.#plot?.setSize({ width: entry.contentRect.width, height });
    }).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot?.redraw(false));
  }

  /**
   * Show these columns; a chart of another `kind` is made anew from `options()`.
   * @param {string} kind
   * @param {Columns} columns
   * @param {() => Partial<Options>} options
   * @param {{min: number, max: number}} [span] of the first column
   */
  show(kind, columns, options, span) {
    const data = /** @type {any} */ (columns);
    if (this.#plot === null || kind !== this.#kind) {
      this.#plot?.destroy();
      this.#kind = kind;
      const cursor = { drag: { x: false, y: false }, y: false };
      const all = /** @type {Options} */ ({ width: this.#box.clientWidth, height: this.#height, cursor, ...options() });
      this.#plot = new uPlot(all, data, this.#box);
    } else this.#plot.setData(data, span === undefined);
    if (span !== undefined) this.#plot.setScale("x", span);
  }
}
