// Wires the line to the node with what is drawn. Every module draws one concern and keeps no copy of the state.

import { Feed } from "./api.js";
import { byId, setText } from "./dom.js";
import { ago } from "./format.js";
import { drawAlerts, drawJoining } from "./alerts.js";
import { bindControls, drawControls } from "./controls.js";
import { addEvent, clearEvents } from "./events.js";
import { bindHistory } from "./history.js";
import { drawLoss } from "./loss.js";
import { drawNode, drawFooter } from "./node.js";
import { drawPeers } from "./peers.js";
import { bindRounds, chosenRound, chooseRound, drawRounds } from "./rounds.js";
import { drawSentence } from "./sentence.js";
import { bindStrip, drawStrip } from "./strip.js";
import { drawTiles } from "./tiles.js";

const LINK_TEXT = { live: "live", lost: "reconnecting", "signed-out": "signed out" };
let state = null;
let stateAt = 0; // performance.now() when the last snapshot came
let link = "connecting";

function draw() {
  if (state === null) return;
  document.body.dataset.state = state.state;
  document.title = `${state.sentence.split(":")[0]} · ${state.swarm_name} · Atoll`;
  drawSentence(state);
  drawControls(state);
  drawAlerts(state);
  drawJoining(state);
  drawTiles(state);
  drawLoss(state);
  drawNode(state);
  drawPeers(state);
  drawRounds(state);
  drawStrip(state, chosenRound(state));
  drawFooter(state);
  drawAge();
}

function drawAge() {
  const age = (performance.now() - stateAt) / 1000;
  const notice = byId("notice");
  notice.hidden = link === "live" || link === "connecting";
  if (link === "signed-out") {
    setText(notice, "Signed out. Open the link that the node printed, or run `atoll status` (with the node's --data-dir) for a fresh one.");
  } else if (link === "lost") {
    const last = state === null ? "Nothing has been received yet." : `What you see is from ${ago(age)}.`;
    setText(notice, `The node does not answer. ${last} Trying again every 2 s.`);
  }
  setText(byId("link-text"), link === "live" ? `live · ${ago(age)}` : (LINK_TEXT[link] ?? link));
}

function setLink(next) {
  link = next;
  document.body.dataset.link = next;
  drawAge();
}

bindControls();
bindHistory();
bindRounds(draw);
bindStrip((key) => {
  chooseRound(key);
  draw();
});
setInterval(drawAge, 1000);
new Feed({
  onState(next) {
    state = next;
    stateAt = performance.now();
    draw();
  },
  onEvent: addEvent,
  onReset: clearEvents,
  onLink: setLink,
});
