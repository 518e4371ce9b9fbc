// The one sentence, as the node made it, and a quieter echo of it for screen readers.

import { byId, setText } from "./dom.js";
import { clock, onPage } from "./format.js";

const LIVE_GAP_MS = 15000;
let spokenAt = -Infinity;
let spokenState = "";

/** @param {import("./store.js").Store} store */
export function drawSentence({ state }) {
  // "Training: round 42, …" — the word before the colon carries the colour of the state.
  const sentence = onPage(state.sentence);
  const colon = sentence.indexOf(":");
  const head = colon > 0 && colon < 40 ? colon + 1 : 0;
  setText(byId("sentence-state"), sentence.slice(0, head));
  setText(byId("sentence-rest"), sentence.slice(head));
  // The sentence itself says since when.
  setText(byId("sentence-meta"), `As of ${clock(state.time)}.`);
  // Steps change all the time: spoken at once is only a new state, all else every quarter of a minute.
  if (state.state !== spokenState || performance.now() - spokenAt > LIVE_GAP_MS) {
    spokenAt = performance.now();
    spokenState = state.state;
    setText(byId("sentence-live"), sentence);
  }
}
