// How this node is connected: a verdict for each part of the way, with what to do where one is not good.

import { byId, el, reconcile, setText } from "./dom.js";

/** @type {Record<string, string>} */
const SIGN = { ok: "✓", degraded: "!", blocked: "✕", unknown: "?" };

/** @param {import("./store.js").Store} store */
export function drawConnection({ state }) {
  const good = state.connection.filter((each) => each.verdict === "ok").length;
  setText(byId("connection-sum"), `${good}/${state.connection.length} ok`);
  reconcile(
    byId("connection"),
    state.connection,
    (each) => each.check,
    (each) => el("li", {}, el("span", { class: "sign" }), el("b", { text: each.check }), el("span"), el("span", { class: "quiet" })),
    (item, each) => {
      item.className = each.verdict in SIGN ? each.verdict : "unknown";
      setText(item.children[0], SIGN[each.verdict] ?? "?");
      setText(item.children[2], `${each.verdict}: ${each.text}`);
      setText(item.children[3], each.fix);
    },
  );
}
