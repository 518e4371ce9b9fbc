// This node: where it is in its round, and what it uses.

import { byId, facts, setText } from "./dom.js";
import { bytes, count, short, shortId, speed } from "./format.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {[string, string, string?]} Fact */

/** @type {Record<string, string>} */
const PHASE = {
  inner: "Training locally",
  averaging: "Averaging with the others",
  waiting: "Waiting",
  paused: "Paused",
  joining: "Joining",
};

// In the order in which a line serves them.
const CLASSES = { rounds: "rounds", state: "files", control: "control", libp2p: "DHT and libp2p" };

/** @param {import("./store.js").Store} store */
export function drawNode({ state }) {
  const { name, step, of } = state.phase;
  const bar = byId("phase");
  setText(byId("phase-text"), (PHASE[name] ?? name) + (of > 0 ? `: step ${step} of ${of}` : ""));
  bar.max = Math.max(1, of);
  bar.value = of > 0 ? step : 0;
  const { upload_bps: up, download_bps: down } = state.traffic;
  const classes = Object.values(state.traffic.classes);
  const sent = classes.reduce((sum, each) => sum + each.sent_bytes, 0);
  const received = classes.reduce((sum, each) => sum + each.received_bytes, 0);
  const { upload_cap_bps: upCap, download_cap_bps: downCap } = state.traffic;
  const hot = state.temperature_c;
  /** @type {Array<Fact | null>} */
  const rows = [
    ["Device", state.device],
    ["Model", `${count(state.parameters)} parameters`],
    ["Memory", bytes(state.memory_bytes), "daemon and trainer together"],
    ["Disk", `${bytes(state.disk.used_bytes)}, ${bytes(state.disk.free_bytes)} free`, "the data dir, and what is free beside it"],
    hot === null ? null : ["Temperature", `${hot.toFixed(0)} °C`, "the hottest sensor of this machine"],
    ["Network", `↑ ${bytes(sent)}  ↓ ${bytes(received)}`, "since the daemon started: rounds, files, control, DHT and libp2p"],
    ["Line", `↑ ${speed(up)}  ↓ ${speed(down)}`, "what it carried while something was under way"],
    upCap || downCap ? ["Caps", `↑ ${speed(upCap ?? 0)}  ↓ ${speed(downCap ?? 0)}`, "the most that you allow"] : null,
    ...week(state.traffic.classes),
    ["Version", `${state.version} · ${short(state.digest)}${state.certified ? "" : " (provisional)"}`, state.digest],
    ["Tokens", account(state.token_account), "trained on by this node, and what became of them"],
    state.privacy === null ? null : ["Privacy", privacy(state.privacy), "a bound on what each contribution may tell, and what all of them told"],
    ["Node id", shortId(state.node_id), state.node_id],
  ];
  facts(byId("node-facts"), /** @type {Array<Fact>} */ (rows.filter((row) => row !== null)));
}

/**
 * @param {State["traffic"]["classes"]} classes
 * @returns {Array<Fact>}
 */
function week(classes) {
  return Object.entries(CLASSES)
    .filter(([kind]) => classes[kind])
    .map(([kind, name]) => {
      const { week_sent_bytes: sent, week_received_bytes: received } = classes[kind];
      return [`Week: ${name}`, `↑ ${bytes(sent)}  ↓ ${bytes(received)}`, "in the last seven days"];
    });
}

/** @param {State["token_account"]} tokens */
function account(tokens) {
  const kinds = /** @type {const} */ (["carried", "orphaned", "expired", "lost"]);
  const rest = kinds.filter((kind) => tokens[kind] > 0);
  const parts = [`${count(tokens.accepted)} of ${count(tokens.produced)} accepted`];
  return parts.concat(rest.map((kind) => `${count(tokens[kind])} ${kind}`)).join(", ");
}

/** @param {NonNullable<State["privacy"]>} told */
function privacy({ clip, noise, contributions, epsilon, delta }) {
  const bound = clip === null ? "no bound" : `length at most ${clip}`;
  const spent = epsilon === null ? "no ε" : `ε ${epsilon.toPrecision(3)} at δ ${delta} after ${contributions}`;
  return noise > 0 ? `${bound}, noise ${noise}; ${spent}` : bound;
}

/** @param {import("./store.js").Store} store */
export function drawFooter({ state }) {
  setText(byId("swarm-name"), state.swarm_name);
  setText(byId("node-name"), state.label ? `${state.name} (${state.label})` : state.name);
  setText(byId("software"), state.software);
}
