// What a person should know now: alerts, and while joining the checklist with the addresses being dialled.

import { byId, el, reconcile, setText } from "./dom.js";
import { clock, onPage } from "./format.js";

/** @param {import("./store.js").Store} store */
export function drawAlerts({ state }) {
  byId("alerts").hidden = state.alerts.length === 0;
  reconcile(
    byId("alert-list"),
    state.alerts,
    (alert) => alert.code,
    () => el("li", {}, el("span", { class: "sign", text: "!" }), el("p"), el("p", { class: "fix" })),
    (item, alert) => {
      item.title = alert.code;
      setText(item.children[1], `${onPage(alert.text)} (since ${clock(alert.since)})`);
      setText(item.children[2], onPage(alert.fix));
    },
  );
}

/** @param {import("./store.js").Store} store */
export function drawJoining({ state }) {
  const open = state.checklist.length > 0 || state.bootstrap.some((each) => each.state !== "connected");
  byId("joining").hidden = !open;
  setText(
    byId("joining-title"),
    state.checklist.length > 0 ? "On the way to the first accepted round" : "Addresses where others are found",
  );
  reconcile(
    byId("checklist"),
    state.checklist,
    (item) => item.step,
    () => el("li", {}, el("span"), el("span", { class: "quiet" })),
    (row, item) => {
      row.className = item.done ? "done" : "";
      setText(row.children[0], item.step + (item.done ? " (done)" : ""));
      setText(row.children[1], item.detail);
    },
  );
  reconcile(
    byId("bootstrap"),
    state.bootstrap,
    (item) => item.address,
    () => el("li", {}, el("span", { class: "state" }), el("span", { class: "code" }), el("span", { class: "quiet" })),
    (row, item) => {
      setText(row.children[0], item.state);
      setText(row.children[1], item.address);
      setText(row.children[2], item.cause ?? "");
    },
  );
}
