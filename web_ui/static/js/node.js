// This node: where it is in its round, and what it uses.

import { byId, facts, setText } from "./dom.js";
import { bytes, count, short, shortId } from "./format.js";

const PHASE = {
  inner: "Training locally",
  averaging: "Averaging with the others",
  waiting: "Waiting",
  paused: "Paused",
  joining: "Joining",
};

export function drawNode(state) {
  const { name, step, of } = state.phase;
  const bar = byId("phase");
  setText(byId("phase-text"), (PHASE[name] ?? name) + (of > 0 ? `: step ${step} of ${of}` : ""));
  bar.max = Math.max(1, of);
  bar.value = of > 0 ? step : 0;
  const { sent_bytes: sent, received_bytes: received } = state.traffic;
  facts(byId("node-facts"), [
    ["Device", state.device],
    ["Model", `${count(state.parameters)} parameters`],
    ["Memory", bytes(state.memory_bytes), "daemon and trainer together"],
    ["Network", `↑ ${bytes(sent)}  ↓ ${bytes(received)}`, "since the daemon started"],
    ["Version", `${state.version} · ${short(state.digest)}${state.certified ? "" : " (provisional)"}`, state.digest],
    ["Tokens", account(state.token_account), "trained on by this node, and what became of them"],
    ["Node id", shortId(state.node_id), state.node_id],
    ["Swarm id", short(state.swarm_id), state.swarm_id],
    ["Organiser", state.organiser, "fingerprint of the key that signs the manifest"],
  ]);
}

function account(tokens) {
  const rest = ["carried", "orphaned", "expired", "lost"].filter((kind) => tokens[kind] > 0);
  const parts = [`${count(tokens.accepted)} of ${count(tokens.produced)} accepted`];
  return parts.concat(rest.map((kind) => `${count(tokens[kind])} ${kind}`)).join(", ");
}

export function drawFooter(state) {
  setText(byId("swarm-name"), state.swarm_name);
  setText(byId("node-name"), state.label ? `${state.name} (${state.label})` : state.name);
  setText(byId("software"), state.software);
}
