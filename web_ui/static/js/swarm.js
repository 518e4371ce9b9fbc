// What this swarm trains and how: its manifest. On the organiser's machine the panel says so.

import { byId, el, facts, reconcile, setText } from "./dom.js";
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
  byId("swarm-amendments").hidden = swarm.amendments.length === 0;
  reconcile(byId("swarm-amendments"), swarm.amendments, (each) => each.version, () => el("li"), (item, each) => setText(item, told(each)));
}

/** @param {NonNullable<import("./store.js").State["swarm"]>["amendments"][number]} amendment */
function told({ version, from_round: round, in_force: inForce, note, changes }) {
  const values = changes.map(({ field, before, after }) => (before || after ? `${field} ${before} → ${after}` : field)).join(", ");
  return `Version ${version}, from round ${round} on${inForce ? "" : " (not yet in force)"}: ${values}.${note ? ` ${note}` : ""}`;
}
