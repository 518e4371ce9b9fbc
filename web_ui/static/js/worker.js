// One stream of events for all tabs of a browser: it allows six connections to a host, and each stream takes one.
//
// Tabs connect, and are told what the stream says: `open`, `error` (closed: it will not come back by itself), and
// each event with its kind. It keeps nothing: a tab that joins asks the node for the state.

import { Stream } from "./source.js";

/** @type {Set<MessagePort>} */
const ports = new Set();
const stream = new Stream((message) => {
  for (const port of ports) port.postMessage(message);
});

globalThis.addEventListener("connect", (event) => {
  const port = /** @type {MessageEvent} */ (event).ports[0];
  ports.add(port);
  port.onmessage = ({ data }) => {
    if (data === "open") stream.open();
    if (data !== "bye") return;
    ports.delete(port);
    if (ports.size === 0) stream.close();
  };
  if (stream.live) port.postMessage({ kind: "open", data: "" });
  else stream.open();
});
