// What a chart shows as a table, for those who can't see it: made when somebody opens it, and kept up while it is open.

import { byId, el } from "./dom.js";

const ROWS = 200; // the newest

/** What each table says when it is open. @type {Map<string, () => {heads: string[], rows: string[][]}>} */
const tables = new Map();

/**
 * `make` says heads and rows, oldest first.
 * @param {string} id of a `details` element in the page
 * @param {() => {heads: string[], rows: string[][]}} make
 */
export function tell(id, make) {
  const details = byId(id);
  details.hidden = false;
  if (!tables.has(id)) details.addEventListener("toggle", () => fill(id));
  tables.set(id, make);
  fill(id);
}

/** @param {string} id */
function fill(id) {
  const details = byId(id);
  const make = tables.get(id);
  if (!details.open || make === undefined) return;
  const { heads, rows } = make();
  const table = details.querySelector("table");
  const head = el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text }))));
  const lines = rows
    .slice(-ROWS)
    .reverse()
    .map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row", text: first }), ...rest.map((text) => el("td", { text }))));
  table.replaceChildren(head, el("tbody", {}, ...lines));
}
