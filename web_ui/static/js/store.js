// What the page knows of the node: its snapshot and the reports of rounds, kept up with the changes that it pushes.

/** @typedef {import("../../api").State} State */
/** @typedef {import("../../api").Peer} Peer */
/** @typedef {import("../../api").Rounds} Rounds */
/** A report whose peers are places in the store's own list of ids; `cells`: what each was to the round. */
/** @typedef {import("../../api").Round & {key: string, cells: Map<number, string>}} Report */
/**
 * @typedef {{base: number, number: number, time: number, set: Partial<State>, peers: Array<Peer>,
 *   gone: Array<string>, rounds?: Rounds}} Change
 */
/** What an update touched; null stands for everything. */
/** @typedef {{keys: Set<string>, peers: Set<string>} | null} Touched */

const KEPT_ROUNDS = 500;

export class Store {
  /** @type {State} */
  state = /** @type {any} */ (null);
  /** @type {Map<string, Peer>} */
  peers = new Map();
  /** Oldest first. @type {Array<Report>} */
  rounds = [];
  number = 0; // of the snapshot
  revision = 0; // of the reports
  /** @type {Array<string>} */
  ids = [];
  /** @type {Map<string, number>} */
  #places = new Map();
  #run = 0;

  /** @param {State & {number: number}} state */
  replace(state) {
    if (state.started !== this.#run) this.#forgetRounds(state.started);
    this.state = state;
    this.number = state.number;
    this.peers = new Map(state.peers.map((peer) => [peer.id, peer]));
  }

  /**
   * Apply a change.
   * @param {Change} change
   * @returns {Touched | undefined} undefined where the state has to be fetched; what is known touches nothing
   */
  apply(change) {
    if (change.number <= this.number) return { keys: new Set(), peers: new Set() };
    if (change.base !== this.number) return undefined;
    const keys = new Set(["time", ...Object.keys(change.set)]);
    Object.assign(this.state, change.set, { time: change.time });
    for (const peer of change.peers) this.peers.set(peer.id, peer);
    for (const id of change.gone) this.peers.delete(id);
    if (change.peers.length + change.gone.length > 0) {
      this.state.peers = [...this.peers.values()];
      keys.add("peers");
    }
    this.number = change.number;
    if (change.rounds && this.takeRounds(change.rounds)) keys.add("rounds");
    // More reports than a change carries: they have to be fetched.
    if (this.revision < this.state.rounds_revision) return undefined;
    return { keys, peers: new Set([...change.peers.map((peer) => peer.id), ...change.gone]) };
  }

  /**
   * Take reports in; whether there were any.
   * @param {Rounds} page
   */
  takeRounds(page) {
    if (page.run !== this.#run) this.#forgetRounds(page.run);
    const places = page.peers.map((id) => this.placeOf(id));
    for (const each of page.rounds) this.#take(each, places);
    this.revision = Math.max(this.revision, page.revision);
    this.rounds.sort((a, b) => a.time - b.time);
    this.rounds.splice(0, this.rounds.length - KEPT_ROUNDS);
    return page.rounds.length > 0;
  }

  /** @param {string} id */
  placeOf(id) {
    let place = this.#places.get(id);
    if (place === undefined) {
      place = this.ids.push(id) - 1;
      this.#places.set(id, place);
    }
    return place;
  }

  /**
   * @param {import("../../api").Round} round
   * @param {Array<number>} places
   */
  #take(round, places) {
    /** @param {Array<number>} list */
    const own = (list) => list.map((index) => places[index]);
    const taken = {
      ...round,
      planned: own(round.planned),
      contributed: own(round.contributed),
      received: own(round.received),
      late: own(round.late),
      missing: own(round.missing),
      rejected: round.rejected.map((each) => ({ ...each, peer: places[each.peer] })),
      // A round that was aborted and the one that took its place have the same version, but not the same time.
      key: `${round.version}@${round.time}`,
    };
    const report = { ...taken, cells: cellsOf(taken) };
    const index = this.rounds.findLastIndex((each) => each.key === report.key);
    if (index < 0) this.rounds.push(report);
    else this.rounds[index] = report;
  }

  /** @param {number} run */
  #forgetRounds(run) {
    this.#run = run;
    this.rounds = [];
    this.revision = 0;
    this.ids = [];
    this.#places.clear();
  }
}

/**
 * What each peer was to a round: contributed, received, late, rejected, missing, or void in an aborted one.
 * @param {{planned: Array<number>, contributed: Array<number>, received: Array<number>, late: Array<number>,
 *   rejected: Array<{peer: number}>, missing: Array<number>, outcome: string}} round
 * @returns {Map<number, string>}
 */
export function cellsOf(round) {
  const cells = new Map();
  // Later ones win. Without a result there was nothing to miss.
  for (const place of round.planned) cells.set(place, round.outcome === "aborted" ? "void" : "missing");
  for (const place of round.missing) cells.set(place, "missing");
  for (const place of round.received) cells.set(place, "received");
  for (const place of round.late) cells.set(place, "late");
  for (const place of round.contributed) cells.set(place, "contributed");
  for (const each of round.rejected) cells.set(each.peer, "rejected");
  return cells;
}
