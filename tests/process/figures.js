// Every text with a digit in it that a page shows, and what it should be, made of what the commands print.
//
// `shown()` walks the page: texts, fields and bars, each under the nearest id above it, in order. `expected()` makes
// the same from `--json` alone, with the page's own words for numbers (format.js) and nothing else of the page. A text
// that nobody thought of is in the first and not in the second, so a new figure fails until it is compared.

// Places whose digits are not the node's: when this browser heard of it, what may be chosen, hints, and what is typed.
const NOT_FIGURES = /^(link-text|history-span|pause-for|owner|owner-.+-more|sample-.+)$/;
const NUMBER = /\d/;

/** @param {Element} from */
function shown(from = document.body) {
  const found = {};
  const add = (node, text) => {
    const place = node.closest("[id]")?.id ?? "nowhere";
    if (NUMBER.test(text) && !NOT_FIGURES.test(place)) (found[place] ??= []).push(text.trim());
  };
  const walker = document.createTreeWalker(from, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.nodeType === Node.TEXT_NODE) {
      if (node.parentElement.checkVisibility()) add(node.parentElement, node.textContent);
    } else if (node.matches("input, textarea, progress") && node.checkVisibility()) {
      const value = node.type === "checkbox" ? Number(node.checked) : node.value;
      add(node, node.matches("progress") ? `${node.value}/${node.max}` : String(value));
    }
  }
  return found;
}

/** Open every table of a chart; the histories are asked for anew, so that all are of one moment. */
function openAll() {
  for (const each of document.querySelectorAll("details")) each.open = true;
  document.getElementById("history-span").dispatchEvent(new Event("change"));
}

/** The report of each round, and what the strip says of each cell, found as a person would. */
function walk() {
  const reports = [], cells = [];
  const strip = document.getElementById("strip");
  const press = (key) => strip.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  const rows = document.querySelectorAll("#strip-table tbody tr").length;
  const oldestFirst = [...document.querySelectorAll("#rounds tbody tr")].reverse();
  for (const row of oldestFirst) {
    row.querySelector("button").click();
    reports.push(shown(document.getElementById("report")));
  }
  strip.dispatchEvent(new Event("focus")); // at the newest, which is chosen
  for (let n = 1; n < oldestFirst.length; n += 1) press("ArrowLeft");
  for (let n = 1; n < rows; n += 1) press("ArrowUp");
  for (let column = 0; column < oldestFirst.length; column += 1) {
    for (let row = 0; row < rows; row += 1) {
      cells.push(document.getElementById("strip-line").textContent);
      press("ArrowDown");
    }
    for (let row = 1; row < rows; row += 1) press("ArrowUp");
    press("ArrowRight");
  }
  return { reports, cells };
}

/** @param {{status: any, peers: any[], rounds: any[], events: any[], history: Record<string, any>}} said */
async function expected({ status, peers, rounds, events, history }) {
  const f = await import("/static/js/format.js");
  const found = {};
  const put = (place, ...texts) => {
    const numbers = texts.flat(Infinity).filter((text) => text && NUMBER.test(text)).map((text) => text.trim());
    if (numbers.length > 0) (found[place] ??= []).push(...numbers);
  };
  const nameOf = (id) => peers.find((peer) => peer.id === id)?.name ?? f.shortId(id);
  const isolated = (name) => `\u2068${name}\u2069`;
  const arrows = (up, down, say) => `↑ ${say(up)}  ↓ ${say(down)}`;

  // Head, sentence, alerts, the way to the first round.
  put("swarm-name", status.swarm_name);
  put("node-name", status.label ? `${status.name} (${status.label})` : status.name);
  const sentence = f.onPage(status.sentence);
  const colon = sentence.indexOf(":") + 1;
  put("sentence-state", sentence.slice(0, colon));
  put("sentence-rest", sentence.slice(colon));
  put("sentence-live", sentence);
  put("sentence-meta", `As of ${f.clock(status.time)}.`);
  put("accepted", events.findLast((event) => event.kind === "accepted")?.text);
  for (const alert of status.alerts) put("alert-list", `${alert.text} (since ${f.clock(alert.since)})`, alert.fix);
  for (const { step, done, detail } of status.checklist) put("checklist", step + (done ? " (done)" : ""), detail);
  if (status.checklist.length > 0 || status.bootstrap.some(({ state }) => state !== "connected"))
    for (const { state, address, cause } of status.bootstrap) put("bootstrap", state, address, cause);

  // The four tiles.
  const level = peers.filter((peer) => peer.version === status.version).length;
  const relayed = peers.filter((peer) => peer.way === "relay").length;
  const [mine, all] = [status.accepted_tokens, status.swarm_accepted_tokens];
  const older = status.val_loss_version === status.version ? "" : `of round ${status.val_loss_version}; `;
  put("tile-loss", f.loss(status.val_loss));
  put("tile-loss-more", `${older}${f.loss(status.val_loss_before)} at the start; training ${f.loss(status.loss)}`);
  put("tile-speed", f.count(status.swarm_tokens_per_s));
  put("tile-speed-more", `at this moment, each node over its last inner phase; this one ${f.count(status.tokens_per_s)}`);
  put("tile-peers", `${level}/${peers.length}`);
  put("tile-peers-more", `at version ${status.version}${relayed ? `, ${relayed} over a relay` : ""}`);
  put("tile-share", f.percent(mine, all));
  put("tile-share-more", `${f.count(mine)} of ${f.count(all)} tokens since the start`);

  // The loss by round: legend and summary.
  const made = rounds.filter((round) => round.outcome !== "aborted");
  const known = made.filter((round) => round.val_loss !== null).map((round) => [round.version, round.val_loss]);
  if (made[0].version === 1 && status.val_loss_before !== null) known.unshift([0, status.val_loss_before]);
  const best = known.reduce((low, point) => (point[1] < low[1] ? point : low));
  const last = (name) => made.findLast((round) => round[name] !== null)?.[name] ?? null;
  put("loss-chart", String(made.at(-1).version), ["loss_max", "loss_min", "val_loss", "loss"].map((name) => f.loss(last(name))));
  put("loss-summary", `Validation loss went from ${f.loss(known[0][1])} at round ${known[0][0]} to ` +
    `${f.loss(known.at(-1)[1])} at round ${known.at(-1)[0]}; the lowest was ${f.loss(best[1])} at round ${best[0]}. Nats per byte.`);

  // This node.
  const privacy = (told) => {
    if (told === null) return "";
    const bound = told.clip === null ? "no bound" : `length at most ${told.clip}`;
    const spent = told.epsilon === null ? "no ε" : `ε ${told.epsilon.toPrecision(3)} at δ ${told.delta} after ${told.contributions}`;
    return told.noise > 0 ? `${bound}, noise ${told.noise}; ${spent}` : bound;
  };
  const { name, step, of } = status.phase;
  const phases = { inner: "Training locally", averaging: "Averaging with the others", waiting: "Waiting", paused: "Paused", joining: "Joining" };
  put("phase-text", of > 0 ? `${phases[name]}: step ${step} of ${of}` : phases[name]);
  put("phase", `${of > 0 ? step : 0}/${Math.max(1, of)}`);
  const { traffic, token_account: tokens } = status;
  const summed = (key) => Object.values(traffic.classes).reduce((sum, each) => sum + each[key], 0);
  const rest = ["carried", "orphaned", "expired", "lost"].filter((kind) => tokens[kind] > 0);
  put("node-facts", [
    status.device,
    `${f.count(status.parameters)} parameters`,
    f.bytes(status.memory_bytes),
    `${f.bytes(status.disk.used_bytes)}, ${f.bytes(status.disk.free_bytes)} free`,
    status.temperature_c === null ? "" : `${status.temperature_c.toFixed(0)} °C`,
    arrows(summed("sent_bytes"), summed("received_bytes"), f.bytes),
    arrows(traffic.upload_bps, traffic.download_bps, f.speed),
    traffic.upload_cap_bps || traffic.download_cap_bps ? arrows(traffic.upload_cap_bps ?? 0, traffic.download_cap_bps ?? 0, f.speed) : "",
    ["rounds", "state", "control", "libp2p"].filter((kind) => traffic.classes[kind]).flatMap((kind) => [
      kind === "libp2p" ? "Week: DHT and libp2p" : "", // the digit of its name
      arrows(traffic.classes[kind].week_sent_bytes, traffic.classes[kind].week_received_bytes, f.bytes),
    ]),
    `${status.version} · ${f.short(status.digest)}${status.certified ? "" : " (provisional)"}`,
    [`${f.count(tokens.accepted)} of ${f.count(tokens.produced)} accepted`, ...rest.map((kind) => `${f.count(tokens[kind])} ${kind}`)].join(", "),
    privacy(status.privacy),
    f.shortId(status.node_id),
  ]);

  // Members of a private swarm.
  if (status.organisation !== null) {
    const { members, pending, tickets, count } = status.organisation;
    put("members-count", `${count} in`);
    for (const one of members) {
      const since = one.since_unix_s ? new Date(1000 * one.since_unix_s).toISOString().slice(0, 10) : "";
      put("members", one.name, one.label, one.role || `out: ${one.reason}`, since, one.ends_in_s ? `in ${f.duration(one.ends_in_s)}` : "", one.admitted_by);
    }
    for (const one of pending) put("members-pending", one.name, one.label || one.role, `asked ${f.ago(status.time - one.asked_unix_s)} to be ${one.role === "observer" ? "an observer" : "a member"}`);
    for (const one of tickets) {
      const used = one.uses ? `${one.used}/${one.uses}` : `${one.used} times`;
      put("members-tickets", one.label || "no label", `used ${used}, ends in ${f.duration(one.expires_s - status.time)}`);
    }
  }

  // The owner's settings and rules.
  const { caps, hours, conditions, rules } = status.controls;
  const units = { data_cap: 1e9, state_rate: 1e6 };
  for (const [setting, { value }] of Object.entries({ ...caps, ...hours, ...conditions })) {
    put(`owner-${setting}`, String(setting in units ? value / units[setting] : Number(value) || typeof value === "boolean" ? Number(value) : value));
  }
  const week = Object.values(traffic.classes).reduce((sum, each) => sum + each.week_sent_bytes + each.week_received_bytes, 0);
  for (const rule of rules) put("owner-rules", rule.text + (rule.code === "weekly_traffic" ? ` It moved ${f.bytes(week)}.` : ""));

  // The strip: a cell per peer and round, all of them and counted.
  const words = { contributed: "contributed", received: "received only", late: "late", rejected: "rejected", missing: "missing", void: "round aborted", absent: "not planned" };
  const kindOf = (round, id) => {
    if (round.rejected.some((each) => each.peer === id)) return "rejected";
    const kind = ["contributed", "late", "received", "missing"].find((each) => round[each].includes(id));
    return kind ?? (!round.planned.includes(id) ? "absent" : round.outcome === "aborted" ? "void" : "missing");
  };
  const sorted = [...peers].sort((a, b) => Number(b.self) - Number(a.self) || (a.name < b.name ? -1 : 1));
  const named = rounds.flatMap((round) => [...round.planned, ...round.missing, ...round.received, ...round.late, ...round.contributed, ...round.rejected.map((each) => each.peer)]);
  const ids = [...new Set([...sorted.map((peer) => peer.id), ...named])];
  const cells = rounds.flatMap((round) => ids.map((id) =>
    `Round ${round.version}, ${isolated(nameOf(id))}: ${words[kindOf(round, id)]}; the round was ${round.outcome}.`));
  put("strip-names", ids.map(nameOf));
  for (const id of ids) {
    put("strip-table", nameOf(id), ["contributed", "received", "late", "rejected", "missing", "void"].map((kind) =>
      String(rounds.filter((round) => kindOf(round, id) === kind).length)));
  }
  put("strip-line", cells[0]);

  // Histories: tables and summaries.
  const table = (place, say, parts) => {
    const starts = [...new Set(parts.flatMap(([name]) => history[name].buckets.map((bucket) => bucket.start)))].sort((a, b) => a - b);
    const width = Math.max(...parts.map(([name]) => history[name].bucket_s));
    const lines = [];
    for (const start of starts) {
      const before = lines.at(-1);
      if (before !== undefined && start - before.at > 2 * width) lines.push({ at: before.at + width, values: [] });
      lines.push({ at: start, values: parts.map(([name, key]) => history[name].buckets.find((bucket) => bucket.start === start)?.[key]) });
    }
    const caps = place === "network-more" ? [traffic.upload_cap_bps, traffic.download_cap_bps].filter((cap) => cap !== null) : [];
    for (const { at, values } of lines.slice(-200).reverse()) {
      put(place, new Date(1000 * at).toLocaleString(), values.map((value) => (value === undefined ? "" : say(value))), caps.map(say));
    }
  };
  table("tokens-more", f.count, [["swarm_tokens_per_s", "mean"], ["tokens_per_s", "mean"]]);
  table("network-more", f.speed, [["sent_bps", "mean"], ["received_bps", "mean"]]);
  table("history-more", f.loss, [["loss", "max"], ["loss", "min"], ["loss", "mean"]]);
  const now = (name) => history[name].buckets.at(-1).mean;
  const stretch = (name) => f.duration(history[name].bucket_s);
  put("tokens-summary", `All nodes: ${f.count(now("swarm_tokens_per_s"))} tokens per second in the newest point, of them mine ${f.count(now("tokens_per_s"))}; a point is the mean of ${stretch("swarm_tokens_per_s")}.`);
  const most = Math.max(0, ...history.sent_bps.buckets.map((bucket) => bucket.max));
  const cap = traffic.upload_cap_bps === null ? "no cap" : `cap ${f.speed(traffic.upload_cap_bps)}`;
  put("network-summary", `Sent at most ${f.speed(most)} in this time to other nodes, files and DHT not counted (${cap}); a point is ${stretch("sent_bps")}.`);
  const [least, greatest] = [Math.min(...history.loss.buckets.map((b) => b.min)), Math.max(...history.loss.buckets.map((b) => b.max))];
  put("history-summary", `My training loss: ${f.loss(now("loss"))} now, between ${f.loss(least)} and ${f.loss(greatest)}; a point is ${stretch("loss")}.`);

  // Peers.
  const top = Math.max(...peers.map((peer) => peer.version));
  put("peers-count", `${peers.length} with this one`);
  for (const peer of sorted) {
    put("peers", peer.name, peer.label, peer.state, `${peer.version} · ${f.short(peer.digest)}`,
      top > peer.version ? `${top - peer.version} behind` : "", f.millis(peer.rtt_ms), f.count(peer.tokens_per_s),
      f.percent(peer.accepted_tokens, all), peer.software.replace(/^atoll /, ""), peer.self ? "" : f.ago(status.time - peer.last_seen));
  }

  // Rounds, the newest first, and the report of each.
  for (const round of [...rounds].reverse()) {
    put("rounds", String(round.version), f.clock(round.time), `${round.contributed.length}/${round.planned.length}`,
      f.loss(round.val_loss), f.loss(round.loss), f.duration(round.duration_s));
  }
  const signs = { certified: "●", provisional: "◐", aborted: "✕" };
  const report = (round) => {
    const kept = { ...found };
    for (const place of Object.keys(found)) delete found[place];
    const who = (list) => list.map((id) => isolated(nameOf(id))).join(", ") || "nobody";
    put("report-title", `Round ${round.version}`);
    put("report-outcome", `${signs[round.outcome]} ${round.outcome}${round.reason ? `: ${round.reason}` : ""}`);
    put("report-facts", [
      `${round.planned.length}: ${who(round.planned)}`,
      `${round.contributed.length}/${round.planned.length}: ${who(round.contributed)}`,
      who(round.received), who(round.late),
      round.rejected.map(({ peer, reason }) => `${isolated(nameOf(peer))} (${reason})`).join(", "),
      who(round.missing), isolated(round.leader), f.count(round.tokens), arrows(round.bytes_sent, round.bytes_received, f.bytes),
      round.loss_min === null ? "" : `${f.loss(round.loss_min)} to ${f.loss(round.loss_max)}`,
      round.cosine === null ? "" : round.cosine.toFixed(3), String(round.outer_lr), round.codec,
      round.groups > 1 ? String(round.groups) : "", f.short(round.digest),
    ]);
    put("report-phases", ["scatter", "reduce", "commit", "apply"].map((leg) => (round.phases[`${leg}_s`] > 0 ? f.duration(round.phases[`${leg}_s`]) : "")));
    const made = { ...found };
    for (const place of Object.keys(found)) delete found[place];
    Object.assign(found, kept);
    return made;
  };
  const reports = rounds.map(report);
  Object.assign(found, reports.at(-1));

  // The rest.
  put("connection-sum", `${status.connection.filter((each) => each.verdict === "ok").length}/${status.connection.length} ok`);
  for (const { check, verdict, text, fix } of status.connection) put("connection", check, `${verdict}: ${text}`, fix);
  for (const event of [...events].reverse()) put("events", f.clock(event.time), event.kind, event.text);
  const { swarm } = status;
  put("swarm-facts", swarm.mode, swarm.model, swarm.data_bytes ? `${swarm.data}, ${f.bytes(swarm.data_bytes)}` : swarm.data,
    `${swarm.inner_steps} inner steps of ${swarm.batch} sequences`, swarm.fragments > 1 ? String(swarm.fragments) : "",
    `${swarm.optimizer}, learning rate ${swarm.inner_lr}`, `Nesterov ${swarm.outer_momentum}, learning rate ${swarm.outer_lr || "by contributors"}`,
    `${swarm.codec} to owners, ${swarm.result_codec} back`, `${swarm.min_peers} ${swarm.min_peers === 1 ? "node" : "nodes"}`,
    `version ${swarm.manifest_version}`, f.short(status.swarm_id), status.organiser);
  for (const { version, from_round, in_force, note, changes } of swarm.amendments) {
    const values = changes.map(({ field, before, after }) => `${field} ${before} → ${after}`).join(", ");
    put("swarm-amendments", `Version ${version}, from round ${from_round} on${in_force ? "" : " (not yet in force)"}: ${values}.${note ? ` ${note}` : ""}`);
  }
  put("software", status.software);
  return { places: found, reports, cells };
}

window.figures = { shown, openAll, walk, expected };
