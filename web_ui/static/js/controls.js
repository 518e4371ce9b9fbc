// Pause, resume, finish. The node decides; its refusal is shown in its own words.

import { command } from "./api.js";
import { byId, setText } from "./dom.js";

const DONE = {
  pause: "Pausing.",
  resume: "Resuming.",
  finish: "Finishing: this round still gets your update, then the node pauses.",
};
const NAMES = Object.keys(DONE);

export function bindControls() {
  for (const name of NAMES) byId(name).addEventListener("click", () => send(name));
}

async function send(name) {
  for (const each of NAMES) byId(each).disabled = true;
  setText(byId("control-answer"), (await command(name)) ?? DONE[name]);
  for (const each of NAMES) byId(each).disabled = false;
}

export function drawControls(state) {
  const focused = NAMES.includes(document.activeElement?.id);
  byId("pause").hidden = byId("finish").hidden = state.paused;
  byId("resume").hidden = !state.paused;
  // The button that had the focus may just have gone: keep the keyboard in its place.
  if (focused && document.activeElement.hidden) byId(state.paused ? "resume" : "pause").focus();
}
