// The newest events, latest first.

import { byId, el } from "./dom.js";
import { clock } from "./format.js";

const KEPT = 200;

export function addEvent(event) {
  const list = byId("events");
  list.prepend(
    el(
      "li",
      {},
      el("time", { text: clock(event.time), datetime: new Date(event.time * 1000).toISOString() }),
      el("span", { class: "kind", text: event.kind }),
      el("span", { class: "text", text: event.text }),
    ),
  );
  while (list.children.length > KEPT) list.lastElementChild.remove();
  byId("events-empty").hidden = true;
}

/** Some events were lost on the way: begin a new list rather than show one with a hole. */
export function clearEvents() {
  byId("events").replaceChildren();
  byId("events-empty").hidden = false;
}
