// The line to the node: the snapshot by GET, what changes by server-sent events, commands by POST.
//
// Any event says that the snapshot changed; it is fetched again, at most twice a second and once at a time. When
// the line breaks, the browser's EventSource comes back by itself with the last id it saw; where it gave up (the
// node refused), the feed starts anew after a pause. The last snapshot stays with whoever drew it.

const FETCH_GAP_MS = 500;
const POLL_MS = 15000; // ages and speeds move on even when nothing happens; also finds a line that died in silence
const RETRY_MS = 2000;
const BACKLOG = 200;
const TIMEOUT_MS = 10000;

export class Feed {
  #handlers;
  #source = null;
  #sequence = 0; // of the newest event seen
  #fetching = false;
  #wanted = false;
  #fetchedAt = 0;
  #fetchOk = false;
  #timer = null;

  /** `handlers`: onState(state), onEvent(event), onReset(), onLink("live" | "lost" | "signed-out"). */
  constructor(handlers) {
    this.#handlers = handlers;
    setInterval(() => this.refresh(), POLL_MS);
    this.refresh();
  }

  /** Ask for the snapshot soon. Calls in quick succession become one. */
  refresh() {
    this.#wanted = true;
    if (this.#fetching || this.#timer !== null) return;
    const pause = Math.max(0, this.#fetchedAt + FETCH_GAP_MS - performance.now());
    this.#timer = setTimeout(() => this.#fetch(), pause);
  }

  async #fetch() {
    this.#timer = null;
    this.#wanted = false;
    this.#fetching = true;
    this.#fetchedAt = performance.now();
    let state = null;
    let status = 0;
    try {
      const reply = await fetch("/api/v1/state", { signal: AbortSignal.timeout(TIMEOUT_MS) });
      status = reply.status;
      if (reply.ok) state = await reply.json();
    } catch (error) {
      // The network or the node is gone; the link says so below. Anything else is a bug of ours.
      if (!(error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError)) throw error;
    } finally {
      this.#fetching = false;
    }
    this.#fetchOk = state !== null;
    if (state === null) {
      this.#handlers.onLink(status === 401 ? "signed-out" : "lost");
      setTimeout(() => this.refresh(), RETRY_MS);
      return;
    }
    this.#handlers.onState(state);
    if (this.#source === null) this.#listen(state.sequence);
    else this.#tellLink();
    if (this.#wanted) this.refresh();
  }

  #listen(sequence) {
    const since = this.#sequence || Math.max(0, sequence - BACKLOG);
    const source = new EventSource(`/api/v1/events?since=${since}`);
    this.#source = source;
    source.onopen = () => {
      this.#tellLink();
      this.refresh();
    };
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.sequence <= this.#sequence) return;
      this.#sequence = event.sequence;
      if (event.kind !== "state") this.#handlers.onEvent(event);
      this.refresh();
    };
    source.addEventListener("reset", (message) => {
      this.#sequence = JSON.parse(message.data).sequence;
      this.#handlers.onReset();
      this.refresh();
    });
    source.onerror = () => {
      this.#handlers.onLink("lost");
      if (source.readyState === EventSource.CLOSED) this.#source = null; // refused: the next fetch begins anew
      this.refresh();
    };
  }

  #tellLink() {
    const live = this.#fetchOk && this.#source?.readyState === EventSource.OPEN;
    this.#handlers.onLink(live ? "live" : "lost");
  }
}

/** Carry out a command. Returns null, or the sentence that says why not. */
export async function command(name, args = {}) {
  try {
    const reply = await fetch(`/api/v1/commands/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(args),
      signal: AbortSignal.timeout(35000),
    });
    if (reply.ok) return null;
    const { error } = await reply.json();
    return `${error.message} ${error.fix}`;
  } catch (error) {
    if (error instanceof TypeError || error instanceof DOMException || error instanceof SyntaxError) {
      return "The node did not answer. Try again when the page is connected.";
    }
    throw error;
  }
}
