// The one sentence, as the node made it, and a quieter echo of it for screen readers.

import { byId, setText } from "./dom.js";
import { clock, duration } from "./format.js";

const LIVE_GAP_MS = 15000;
let spokenAt = -Infinity;
let spokenState = "";

export function drawSentence(state) {
  // "Training: round 42, …" — the word before the colon carries the colour of the state.
  const colon = state.sentence.indexOf(":");
  const head = colon > 0 && colon < 24 ? colon + 1 : 0;
  setText(byId("sentence-state"), state.sentence.slice(0, head));
  setText(byId("sentence-rest"), state.sentence.slice(head));
  setText(byId("sentence-meta"), `In this state for ${duration(state.since_s)}, as of ${clock(state.time)}.`);
  // Steps change all the time: spoken at once is only a new state, all else every quarter of a minute.
  if (state.state !== spokenState || performance.now() - spokenAt > LIVE_GAP_MS) {
    spokenAt = performance.now();
    spokenState = state.state;
    setText(byId("sentence-live"), state.sentence);
  }
}
