// What this swarm trains and how: its manifest. On the organiser's machine the panel says so.

import { byId, facts, setText } from "./dom.js";
import { bytes, short } from "./format.js";

/** @param {import("./store.js").Store} store */
export function drawSwarm({ state }) {
  const { swarm } = state;
  byId("swarm").hidden = swarm === null;
  if (swarm === null) return;
  setText(byId("swarm-role"), swarm.organiser_here ? "You organise it: its key is on this machine." : "");
  /** @type {Array<[string, string, string?] | null>} */
  const rows = [
    ["Mode", swarm.mode, "docs/modes.md explains each"],
    ["Model", swarm.model],
    ["Text", swarm.data ? `${swarm.data}${swarm.data_bytes ? `, ${bytes(swarm.data_bytes)}` : ""}` : "each node's own"],
    ["Round", `${swarm.inner_steps} inner steps of ${swarm.batch} sequences`],
    swarm.fragments > 1 ? ["Fragments", String(swarm.fragments), "that take turns"] : null,
    ["Inner optimizer", `${swarm.optimizer}, learning rate ${swarm.inner_lr}`],
    ["Outer optimizer", `Nesterov ${swarm.outer_momentum}, learning rate ${swarm.outer_lr || "by contributors"}`],
    ["Codecs", `${swarm.codec} to owners, ${swarm.result_codec} back`],
    ["Begins with", `${swarm.min_peers} ${swarm.min_peers === 1 ? "node" : "nodes"}`],
    ["Manifest", `version ${swarm.manifest_version}`],
    ["Swarm id", short(state.swarm_id), state.swarm_id],
    ["Organiser", state.organiser, "fingerprint of the key that signs the manifest"],
  ];
  facts(byId("swarm-facts"), /** @type {Array<[string, string, string?]>} */ (rows.filter((row) => row !== null)));
}
