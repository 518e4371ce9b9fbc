// This node: where it is in its round, and what it uses.

import { byId, facts, setText } from "./dom.js";
import { bytes, count, short, shortId, speed } from "./format.js";

const PHASE = {
  inner: "Training locally",
  averaging: "Averaging with the others",
  waiting: "Waiting",
  paused: "Paused",
  joining: "Joining",
};

// In the order in which a line serves them.
const CLASSES = { rounds: "rounds", state: "files", control: "control", libp2p: "DHT and libp2p" };

export function drawNode(state) {
  const { name, step, of } = state.phase;
  const bar = byId("phase");
  setText(byId("phase-text"), (PHASE[name] ?? name) + (of > 0 ? `: step ${step} of ${of}` : ""));
  bar.max = Math.max(1, of);
  bar.value = of > 0 ? step : 0;
  const { sent_bytes: sent, received_bytes: received, upload_bps: up, download_bps: down } = state.traffic;
  facts(byId("node-facts"), [
    ["Device", state.device],
    ["Model", `${count(state.parameters)} parameters`],
    ["Memory", bytes(state.memory_bytes), "daemon and trainer together"],
    ["Network", `↑ ${bytes(sent)}  ↓ ${bytes(received)}`, "since the daemon started"],
    ["Line", `↑ ${speed(up)}  ↓ ${speed(down)}`, "what it carried while something was under way"],
    ...week(state.traffic.classes),
    ["Version", `${state.version} · ${short(state.digest)}${state.certified ? "" : " (provisional)"}`, state.digest],
    ["Tokens", account(state.token_account), "trained on by this node, and what became of them"],
    ["Node id", shortId(state.node_id), state.node_id],
    ["Swarm id", short(state.swarm_id), state.swarm_id],
    ["Organiser", state.organiser, "fingerprint of the key that signs the manifest"],
  ]);
}

function week(classes) {
  return Object.entries(CLASSES).filter(([kind]) => classes[kind]).map(([kind, name]) => {
    const { week_sent_bytes: sent, week_received_bytes: received } = classes[kind];
    return [`Week: ${name}`, `↑ ${bytes(sent)}  ↓ ${bytes(received)}`, "in the last seven days"];
  });
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
