// Pause, resume, finish. The node decides; its refusal is shown in its own words.

import { command } from "./api.js";
import { byId, setText } from "./dom.js";

const DONE = {
  pause: "Pausing.",
  resume: "Resuming.",
  finish: "Finishing: this round still gets your update, then the node pauses.",
};
const NAMES = /** @type {Array<keyof typeof DONE>} */ (Object.keys(DONE));

export function bindControls() {
  for (const name of NAMES) byId(name).addEventListener("click", () => send(name));
}

/** @param {keyof typeof DONE} name */
async function send(name) {
  for (const each of NAMES) byId(each).disabled = true;
  setText(byId("control-answer"), (await command(name)).refusal ?? DONE[name]);
  for (const each of NAMES) byId(each).disabled = false;
}

/** @param {import("./store.js").Store} store */
export function drawControls({ state }) {
  const focus = /** @type {HTMLElement | null} */ (document.activeElement);
  const focused = NAMES.some((name) => name === focus?.id);
  for (const id of ["pause", "finish", "pause-for"]) byId(id).hidden = state.paused;
  byId("resume").hidden = !state.paused;
  // The button that had the focus may just have gone: keep the keyboard in its place.
  if (focused && focus?.hidden) byId(state.paused ? "resume" : "pause").focus();
}
