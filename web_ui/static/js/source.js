// Where events come from: a stream that all tabs share, or where the browser has no shared workers one of our own.

const STREAM = "/api/v1/events?changes=1";
const KINDS = ["message", "change", "reset", "resync"];

/** @typedef {{kind: string, data: string}} Message  `kind`: one of KINDS, or open, error, closed */
/** @typedef {{open: () => void}} Source */

/**
 * Begin to listen. `hear` is told every message; after `closed`, `open()` tries anew.
 * @param {(message: Message) => void} hear
 * @returns {Source}
 */
export function listen(hear) {
  return typeof SharedWorker === "undefined" ? own(hear) : shared(hear);
}

/**
 * @param {(message: Message) => void} hear
 * @returns {Source}
 */
function shared(hear) {
  /** @type {MessagePort} */
  let port;
  /** @type {Source | null} */
  let instead = null;
  const connect = () => {
    const worker = new SharedWorker("/static/js/worker.js", { type: "module", name: "atoll" });
    port = worker.port;
    port.onmessage = ({ data }) => hear(data);
    // A browser may have them and refuse them.
    worker.onerror = () => (instead ??= own(hear));
  };
  connect();
  addEventListener("pagehide", () => port.postMessage("bye"));
  // A page that the browser had kept comes back without its place in the worker.
  addEventListener("pageshow", ({ persisted }) => persisted && connect());
  return { open: () => (instead === null ? port.postMessage("open") : instead.open()) };
}

/** One stream of events of this page or worker, which can be closed and opened again. */
export class Stream {
  #hear;
  /** @type {EventSource | null} */
  #source = null;

  /** @param {(message: Message) => void} hear */
  constructor(hear) {
    this.#hear = hear;
  }

  get live() {
    return this.#source?.readyState === EventSource.OPEN;
  }

  /** Harmless where it is open, or about to be. */
  open() {
    if (this.#source !== null) return;
    const source = new EventSource(STREAM);
    this.#source = source;
    source.onopen = () => this.#hear({ kind: "open", data: "" });
    source.onerror = () => {
      // The browser tries again by itself, unless it was refused.
      const closed = source.readyState === EventSource.CLOSED;
      if (closed) this.#source = null;
      this.#hear({ kind: closed ? "closed" : "error", data: "" });
    };
    for (const kind of KINDS) source.addEventListener(kind, (event) => this.#hear({ kind, data: event.data }));
  }

  close() {
    this.#source?.close();
    this.#source = null;
  }
}

/**
 * @param {(message: Message) => void} hear
 * @returns {Source}
 */
function own(hear) {
  const stream = new Stream(hear);
  stream.open();
  return stream;
}
