// How a cell of the heat strip looks: a colour and, where there is room, a shape of its own for each kind.

import { css } from "./chart.js";

/** @typedef {Record<"sea" | "sky" | "amber" | "coral" | "line" | "quiet" | "ink", string>} Colours */

/** The colours of the present theme. @returns {Colours} */
export const palette = () => ({
  sea: css("--sea"),
  sky: css("--sky"),
  amber: css("--amber"),
  coral: css("--coral"),
  line: css("--line"),
  quiet: css("--quiet"),
  ink: css("--ink"),
});

/**
 * Kinds differ in shape as well as in colour: full, lower half, upper half, cross, hollow, striped, dot.
 * @param {CanvasRenderingContext2D} context
 * @param {string} kind
 * @param {number} x
 * @param {number} y
 * @param {{width: number, height: number}} cell
 * @param {Colours} colours
 */
export function paintCell(context, kind, x, y, cell, colours) {
  const gap = cell.width >= 8 && cell.height >= 8 ? 2 : 1;
  const [w, h] = [cell.width - gap, cell.height - gap];
  switch (kind) {
    case "contributed":
      context.fillStyle = colours.sea;
      context.fillRect(x, y, w, h);
      break;
    case "received":
      context.fillStyle = colours.sky;
      context.fillRect(x, y + h / 2, w, h / 2);
      break;
    case "late":
      context.fillStyle = colours.amber;
      context.fillRect(x, y, w, h / 2);
      break;
    case "rejected":
      context.strokeStyle = colours.coral;
      context.lineWidth = Math.max(1, Math.min(w, h) / 6);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + w, y + h);
      context.moveTo(x + w, y);
      context.lineTo(x, y + h);
      context.stroke();
      break;
    case "missing":
      context.strokeStyle = colours.coral;
      context.lineWidth = 1;
      context.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
      break;
    case "void":
      context.fillStyle = colours.line;
      for (let line = 0; line < w; line += 3) context.fillRect(x + line, y, 1, h);
      break;
    default:
      context.fillStyle = colours.line;
      context.fillRect(x + w / 2 - 0.5, y + h / 2 - 0.5, 1, 1);
  }
}
