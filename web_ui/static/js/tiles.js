// The four figures. Each has its unit and window beside it.

import { byId, setText } from "./dom.js";
import { count, loss, NONE, percent } from "./format.js";

/** @param {string} name @param {string} figure @param {string} more */
function tile(name, figure, more) {
  setText(byId(`tile-${name}`), figure);
  setText(byId(`tile-${name}-more`), more);
}

/** @param {import("./store.js").Store} store */
export function drawTiles({ state }) {
  tile("loss", loss(state.val_loss), lossMore(state));
  tile("speed", count(state.swarm_tokens_per_s), `at this moment, each node over its last inner phase; this one ${count(state.tokens_per_s)}`);
  const known = state.peers.length;
  const level = state.peers.filter((peer) => peer.version === state.version).length;
  const relayed = state.peers.filter((peer) => peer.way === "relay").length;
  const alone = known <= 1 ? "only this node so far" : `at version ${state.version}`;
  tile("peers", `${level}/${known}`, alone + (relayed ? `, ${relayed} over a relay` : ""));
  tile(
    "share",
    percent(state.accepted_tokens, state.swarm_accepted_tokens),
    state.swarm_accepted_tokens > 0
      ? `${count(state.accepted_tokens)} of ${count(state.swarm_accepted_tokens)} tokens since the start`
      : "after the first accepted round",
  );
}

/** @param {import("./store.js").State} state */
function lossMore(state) {
  if (state.val_loss === null) {
    return state.loss === null ? "after the first round" : `training ${loss(state.loss)}, my last inner phase`;
  }
  const before = state.val_loss_before === null ? NONE : loss(state.val_loss_before);
  const whose = state.val_loss_version === state.version ? "" : `of round ${state.val_loss_version}; `;
  return `${whose}${before} at the start; training ${loss(state.loss)}`;
}
