// The newest events, latest first, of all kinds or of one, and with a word in them.

import { byId, el, setText } from "./dom.js";
import { clock, onPage } from "./format.js";

const KEPT = 200;
/** @type {Set<string>} */
const kinds = new Set();

/** @param {Array<import("./feed.js").NodeEvent>} events newest last */
export function addEvents(events) {
  const list = byId("events");
  for (const event of events.slice(-KEPT)) {
    const item = el(
      "li",
      {},
      el("time", { text: clock(event.time), datetime: new Date(event.time * 1000).toISOString() }),
      el("span", { class: "kind", text: event.kind }),
      el("span", { class: "text", text: onPage(event.text) }),
    );
    item.dataset.kind = event.kind;
    item.hidden = !fits(item);
    list.prepend(item);
    // The moment that all the work is for; a round that did without it must not leave the old one standing.
    if (event.kind === "accepted" || event.kind === "left-out") setText(byId("accepted"), event.text);
    offer(event.kind);
  }
  while (list.children.length > KEPT) list.lastElementChild.remove();
  tell();
}

/** Some events were lost on the way: begin a new list rather than show one with a hole. */
export function clearEvents() {
  byId("events").replaceChildren();
  tell();
}

/** A kind that is new can be chosen from now on. @param {string} kind */
function offer(kind) {
  if (kinds.has(kind) || kinds.size >= 64) return;
  kinds.add(kind);
  byId("events-kind").append(el("option", { value: kind, text: kind }));
}

/** @param {HTMLElement} item */
function fits(item) {
  const [kind, word] = [byId("events-kind").value, byId("events-word").value.trim().toLowerCase()];
  return (kind === "" || item.dataset.kind === kind) && (item.textContent ?? "").toLowerCase().includes(word);
}

function tell() {
  const items = /** @type {Array<HTMLElement>} */ ([...byId("events").children]);
  const shown = items.filter((item) => !item.hidden).length;
  byId("events-empty").hidden = shown > 0;
  setText(byId("events-empty"), items.length ? "None of the events is so." : "What happens from now on is listed here.");
}

export function bindEvents() {
  const filter = () => {
    for (const item of byId("events").children) item.hidden = !fits(item);
    tell();
  };
  byId("events-kind").addEventListener("change", filter);
  byId("events-word").addEventListener("input", filter);
}
