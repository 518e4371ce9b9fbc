// The line to the node: the snapshot by GET, then what changes as it is pushed.
//
// A change that does not follow what is known, a stream that opens (again), or silence for too long: each has the
// snapshot fetched anew, at most twice a second and once at a time. When the line breaks, what was seen stays.

import { ask } from "./api.js";
import { listen } from "./source.js";
import { Store } from "./store.js";

/** @typedef {import("../../api").Event} NodeEvent */
/** @typedef {"live" | "polling" | "lost" | "signed-out"} Line  polling: the node answers, and gives no stream */
/**
 * @typedef {object} Handlers
 * @property {(store: Store, touched: import("./store.js").Touched) => void} onState
 * @property {(events: Array<NodeEvent>) => void} onEvents newest last
 * @property {() => void} onReset events were lost
 * @property {(line: Line) => void} onLine
 */

const FETCH_GAP_MS = 500;
const RETRY_MS = 2000;
const FIRST_MS = 400; // the stream opens before that, and the first fetch follows it
const SILENCE_MS = 35000; // the node says something every ten seconds
const BACKLOG = 200;
const FULL_MS = 5000; // where there is no stream to be had, the node is asked so often, and less often with time
const FULL_MOST_MS = 60000;

export class Feed {
  store = new Store();
  /** @type {Handlers} */
  #handlers;
  #source;
  #open = false; // the stream
  #stale = true; // a fetch is due: changes say nothing until then
  /** @type {Array<import("./store.js").Change>} */
  #waiting = []; // changes that came during a fetch
  #sequence = -1; // of the newest event seen
  #heardAt = performance.now();
  #fetching = false;
  #again = false; // asked for while a fetch was under way
  #fetchedAt = -FETCH_GAP_MS;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #due = Infinity; // when the timer ends
  #reopening = false; // a try is due
  #closed = 0; // how often the stream was refused since it last opened

  /** @param {Handlers} handlers */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#source = listen((message) => this.#hear(message));
    setInterval(() => performance.now() - this.#heardAt > SILENCE_MS && this.refresh(), SILENCE_MS / 4);
    this.#fetchSoon(performance.now() + FIRST_MS);
  }

  /** Ask for the snapshot soon. Calls in quick succession become one. */
  refresh(gap = FETCH_GAP_MS) {
    this.#stale = true;
    if (this.#fetching) this.#again = true;
    else this.#fetchSoon(Math.max(performance.now(), this.#fetchedAt + gap));
  }

  /** @param {number} due */
  #fetchSoon(due) {
    if (due >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = setTimeout(() => this.#fetch(), due - performance.now());
  }

  async #fetch() {
    this.#due = Infinity;
    this.#fetching = true;
    this.#again = false;
    this.#fetchedAt = performance.now();
    this.#waiting = [];
    const ok = await this.#all();
    this.#fetching = false;
    if (!ok) {
      this.#fetchSoon(performance.now() + RETRY_MS);
      return;
    }
    this.#stale = this.#waiting.some((change) => this.store.apply(change) === undefined);
    this.#heardAt = performance.now();
    this.#handlers.onState(this.store, null);
    this.#handlers.onLine(this.#open ? "live" : "polling");
    if (this.#stale || this.#again) this.refresh();
    // The node answers and gives no stream: too many pages watch it. It is not asked for one all the time.
    if (this.#closed === 0 || this.#reopening) return;
    this.#reopening = true;
    setTimeout(() => this.#reopen(), Math.min(FULL_MOST_MS, FULL_MS * 2 ** (this.#closed - 1)));
  }

  #reopen() {
    this.#reopening = false;
    if (this.#open) return;
    this.#source.open();
    this.refresh();
  }

  /** Snapshot, reports and events that are not known yet; whether they could be had. */
  async #all() {
    const { status, answer: state } = await ask("/api/v1/state");
    if (state === null) {
      this.#handlers.onLine(status === 401 ? "signed-out" : "lost");
      return false;
    }
    this.store.replace(state);
    while (this.store.revision < state.rounds_revision) {
      const { answer: page } = await ask(`/api/v1/rounds?after=${this.store.revision}`);
      if (page === null) return false;
      if (!this.store.takeRounds(page)) break;
    }
    const first = this.#sequence < 0;
    const after = first ? Math.max(0, state.sequence - BACKLOG) : this.#sequence;
    const { answer: log } = await ask(`/api/v1/log?after=${after}`);
    if (log === null) return false;
    if (log.gap && !first) this.#reset(0);
    this.#take(log.events);
    this.#sequence = Math.max(this.#sequence, log.last);
    return true;
  }

  /** @param {import("./source.js").Message} message */
  #hear({ kind, data }) {
    if (kind === "open") {
      this.#open = true;
      this.#closed = 0;
      this.refresh(0);
    } else if (kind === "error" || kind === "closed") {
      this.#open = false;
      if (kind === "closed") this.#closed += 1;
      if (this.#closed < 2) this.#handlers.onLine("lost");
      if (this.#closed < 2) this.refresh(); // finds out why
    } else {
      this.#heardAt = performance.now();
      this.#news(kind, kind === "resync" ? null : JSON.parse(data));
    }
  }

  /**
   * @param {string} kind
   * @param {any} news
   */
  #news(kind, news) {
    if (kind === "message") this.#take([news]);
    else if (kind === "reset") this.#reset(news.sequence);
    else if (kind === "resync") this.refresh();
    else if (this.#fetching) this.#waiting.push(news);
    else if (!this.#stale) {
      const touched = this.store.apply(news);
      if (touched === undefined) this.refresh();
      else this.#handlers.onState(this.store, touched);
    }
  }

  /** @param {Array<NodeEvent>} events */
  #take(events) {
    const fresh = events.filter((event) => event.sequence > this.#sequence);
    if (fresh.length === 0) return;
    this.#sequence = fresh[fresh.length - 1].sequence;
    this.#handlers.onEvents(fresh);
  }

  /** @param {number} sequence */
  #reset(sequence) {
    this.#sequence = sequence;
    this.#handlers.onReset();
  }
}
