// A box to try the model in: the node writes on from a prompt with the present outer parameters, beside its training.

import { command } from "./api.js";
import { byId, setText } from "./dom.js";
import { duration } from "./format.js";

let busy = false;

/** @param {import("./store.js").Store} store */
export function drawSample({ state }) {
  byId("sample").hidden = !state.swarm?.can_write;
  byId("sample-go").disabled = busy || state.version === 0;
  if (state.version === 0) setText(byId("sample-answer"), "The model can be tried after the first round.");
}

export function bindSample() {
  byId("sample-form").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (busy) return;
    busy = byId("sample-go").disabled = true;
    setText(byId("sample-answer"), "It writes: that takes some seconds, for training goes first.");
    const given = { prompt: byId("sample-prompt").value, temperature: Number(byId("sample-heat").value) };
    const { answer, refusal } = await command("sample", given);
    busy = byId("sample-go").disabled = false;
    if (refusal === null) {
      setText(byId("sample-text"), answer.text);
      setText(byId("sample-answer"), `Version ${answer.version}, ${duration(answer.took_s)}.`);
    } else setText(byId("sample-answer"), refusal);
    byId("sample-text").hidden = refusal !== null;
  });
  byId("sample-heat").addEventListener("input", () => setText(byId("sample-heat-now"), byId("sample-heat").value));
}
