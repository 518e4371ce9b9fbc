// Wires the line to the node with what is drawn. Every module draws one concern and keeps no copy of the state;
// it is called when what it shows has changed.

import { byId, setText } from "./dom.js";
import { ago } from "./format.js";
import { Feed } from "./feed.js";
import { drawAlerts, drawJoining } from "./alerts.js";
import { drawConnection } from "./connection.js";
import { bindControls, drawControls } from "./controls.js";
import { addEvents, bindEvents, clearEvents } from "./events.js";
import { bindHistory, followHistory } from "./history.js";
import { drawLoss } from "./loss.js";
import { drawMembers } from "./members.js";
import { drawNode, drawFooter } from "./node.js";
import { bindOwner, drawOwner } from "./owner.js";
import { bindPeers, drawPeers } from "./peers.js";
import { bindRounds, chooseRound, drawRounds } from "./rounds.js";
import { bindSample, drawSample } from "./sample.js";
import { drawSentence } from "./sentence.js";
import { bindStrip, drawStrip } from "./strip.js";
import { drawSwarm } from "./swarm.js";
import { drawTiles } from "./tiles.js";

/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./store.js").Touched} Touched */

/** What is drawn when which part of the state has changed. @type {Array<[(store: Store, touched: Touched) => void, string[]]>} */
const DRAWS = [
  [drawHead, ["state", "sentence", "swarm_name", "public"]],
  [drawSentence, ["sentence", "state", "since"]],
  [drawControls, ["paused"]],
  [drawAlerts, ["alerts"]],
  [drawJoining, ["checklist", "bootstrap"]],
  [drawConnection, ["connection"]],
  [drawTiles, ["val_loss", "val_loss_version", "val_loss_before", "loss", "swarm_tokens_per_s", "tokens_per_s", "version", "peers", "accepted_tokens", "swarm_accepted_tokens"]],
  [drawLoss, ["rounds", "val_loss_before"]],
  [drawNode, ["phase", "traffic", "device", "parameters", "memory_bytes", "disk", "temperature_c", "version", "digest", "certified", "token_account", "privacy"]],
  [drawOwner, ["controls", "traffic"]],
  [followHistory, ["time", "traffic"]],
  [drawSwarm, ["swarm", "swarm_id", "organiser"]],
  [drawSample, ["swarm", "version"]],
  [drawMembers, ["organisation"]],
  [drawPeers, ["peers", "swarm_accepted_tokens"]],
  [drawRounds, ["rounds"]],
  [drawStrip, ["rounds"]],
  [drawFooter, ["swarm_name", "name", "label", "software"]],
];
const LINE_TEXT = { connecting: "connecting", live: "live", polling: "asking now and then", lost: "reconnecting", "signed-out": "signed out" };
/** @type {Store | null} */
let shown = null;
let heardAt = 0; // performance.now() when the last news came
/** @type {import("./feed.js").Line | "connecting"} */
let line = "connecting";
let missed = false; // something changed while nobody looked

/** @type {(store: Store, touched: Touched) => void} */
function draw(store, touched) {
  for (const [part, keys] of DRAWS) {
    if (touched === null || keys.some((key) => touched.keys.has(key))) part(store, touched);
  }
}

const redraw = () => shown && draw(shown, null);

/** @param {Store} store */
function drawHead({ state }) {
  document.body.dataset.state = state.state;
  document.body.toggleAttribute("data-public", state.public === true); // hides what is of class `owner`
  document.title = `${state.sentence.split(":")[0]} · ${state.swarm_name} · Atoll`;
}

function drawAge() {
  const age = (performance.now() - heardAt) / 1000;
  const notice = byId("notice");
  notice.hidden = line === "live" || line === "connecting" || line === "polling";
  if (line === "signed-out") {
    setText(notice, "Signed out. Open the link that the node printed, or run `atoll status` (with the node's --data-dir) for a fresh one.");
  } else if (line === "lost") {
    const last = shown === null ? "Nothing has been received yet." : `What you see is from ${ago(age)}.`;
    setText(notice, `The node does not answer. ${last} Trying again every 2 s.`);
  }
  setText(byId("link-text"), line === "live" || line === "polling" ? `${LINE_TEXT[line]} · ${ago(age)}` : LINE_TEXT[line]);
}

bindControls();
bindEvents();
bindOwner();
bindPeers(redraw);
bindRounds(redraw);
bindSample();
bindStrip((key) => {
  chooseRound(key);
  redraw();
});
setInterval(drawAge, 1000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !missed) return;
  missed = false;
  redraw();
});
new Feed({
  onState(store, touched) {
    const first = shown === null;
    shown = store;
    heardAt = performance.now();
    if (document.hidden) missed = true;
    else draw(store, touched);
    if (first && !store.state.public) bindHistory(); // a public page has none
    drawAge();
  },
  onEvents: addEvents,
  onReset: clearEvents,
  onLine(next) {
    line = next;
    document.body.dataset.link = next;
    drawAge();
  },
});
