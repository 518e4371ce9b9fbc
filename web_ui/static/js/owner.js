// Your machine: pauses of some hours, leaving, caps, hours, and the rules that pause this node by themselves.
//
// The node checks whatever is written here and answers in its own words. A field that a person has changed keeps
// what was written until it is saved or put back; the others follow the node.

import { command } from "./api.js";
import { byId, el, reconcile, setText } from "./dom.js";
import { bytes } from "./format.js";

/** @typedef {import("../../api").SettingView} SettingView */
/** @typedef {import("../../api").Rule} Rule */
/**
 * @typedef {{name: string, group: "caps" | "hours" | "conditions", label: string, kind: "rate" | "hours" | "text" | "count" | "gigabytes" | "flag", hint: string, unit?: number}} Field
 */

/** @type {Field[]} */
const FIELDS = [
  { name: "up", group: "caps", label: "Send at most", kind: "rate", hint: "such as 20Mbit; empty: no cap" },
  { name: "down", group: "caps", label: "Receive at most", kind: "rate", hint: "such as 50Mbit; empty: no cap" },
  { name: "gb_per_week", group: "caps", label: "Traffic in seven days, GB", kind: "gigabytes", hint: "0: no cap", unit: 1 },
  { name: "state_rate", group: "caps", label: "States and texts, MB per second", kind: "gigabytes", hint: "to peers and from them; 0: no cap", unit: 1e6 },
  { name: "data_cap", group: "caps", label: "Disk for texts, GB", kind: "gigabytes", hint: "0: no cap", unit: 1e9 },
  { name: "connections", group: "caps", label: "Links to other nodes", kind: "count", hint: "1 to 96; with fewer than a large swarm has nodes, its rounds suffer" },
  { name: "threads", group: "caps", label: "Processor threads", kind: "count", hint: "0: chosen for the model" },
  { name: "memory", group: "caps", label: "Memory for training", kind: "text", hint: "such as 4GiB, on the processor; empty: no cap. Below what it needs, it trains with fewer sequences at a time" },
  { name: "device", group: "caps", label: "Device", kind: "text", hint: "auto, cpu, cuda or cuda:N; takes effect at the next start" },
  { name: "train_hours", group: "hours", label: "Train only in these hours", kind: "hours", hint: "such as mon-fri 22:00-07:00, sat-sun; empty: always" },
  { name: "network_hours", group: "hours", label: "Use the network only in these hours", kind: "hours", hint: "in the same way; outside it pauses, too" },
  { name: "pause_on_load", group: "conditions", label: "Rest when other programs use more of the processor than, %", kind: "count", hint: "0: never" },
  { name: "pause_on_gpu", group: "conditions", label: "Rest while another program computes on the GPU that trains", kind: "flag", hint: "" },
  { name: "pause_on_battery", group: "conditions", label: "Rest on battery", kind: "flag", hint: "" },
];
/** What each rule goes by. @type {Record<string, string>} */
const RULES = {
  schedule: "Training hours",
  network_schedule: "Network hours",
  weekly_traffic: "Traffic in a week",
  battery: "Battery",
  other_load: "Other programs",
  other_gpu: "Others on the GPU",
};
const HOUR_S = 3600;
const MORNING = 8; // o'clock: until then "until tomorrow" goes

/** @type {import("../../api").Controls | null} */
let known = null;
/** @type {Set<string>} */
const touched = new Set(); // fields that a person changed and did not save yet

/**
 * Seconds until tomorrow morning, on the clocks of whoever looks at the page.
 * @param {Date} now
 */
export function untilTomorrow(now) {
  const morning = new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1, MORNING);
  return Math.round((morning.getTime() - now.getTime()) / 1000);
}

/** @param {Field} field */
const inputOf = (field) => /** @type {HTMLInputElement} */ (byId(`owner-${field.name}`));

/** @param {string} text */
const answer = (text) => setText(byId("owner-answer"), text);

/**
 * The value of a setting as its field shows it.
 * @param {Field} field
 * @param {SettingView} setting
 */
function shown(field, setting) {
  return field.unit ? String(Number(setting.value) / field.unit) : String(setting.value);
}

/**
 * What a person wrote, as the node wants it.
 * @param {Field} field
 */
function written(field) {
  const input = inputOf(field);
  if (field.kind === "flag") return input.checked;
  const text = input.value.trim();
  if (["rate", "hours", "text"].includes(field.kind)) return text;
  const number = Number(text === "" ? "0" : text);
  return field.unit && field.unit > 1 ? Math.round(number * field.unit) : number;
}

/** Make what is inside the panel, once. */
export function bindOwner() {
  byId("finish").after(pauses());
  byId("owner").append(form(), el("h3", { text: "Rules" }), el("ul", { id: "owner-rules", class: "owner-rules" }), leaving());
}

function pauses() {
  /** @type {Array<[string, () => number]>} */
  const choices = [
    ["1 hour", () => HOUR_S],
    ["4 hours", () => 4 * HOUR_S],
    ["Until tomorrow, 8:00", () => untilTomorrow(new Date())],
  ];
  const buttons = choices.map(([text, seconds]) => {
    const button = el("button", { type: "button", text });
    button.addEventListener("click", () => pauseFor(seconds(), text, group));
    return button;
  });
  const group = el("div", { id: "pause-for", class: "owner-buttons", role: "group", "aria-labelledby": "owner-pause-title" });
  group.hidden = true;
  group.append(el("span", { id: "owner-pause-title", class: "quiet", text: "Pause for" }), ...buttons);
  return group;
}

/**
 * The buttons are beside that of the pause without an end, and the answer is where its answer is.
 * @param {number} seconds
 * @param {string} text
 * @param {HTMLElement} group
 */
async function pauseFor(seconds, text, group) {
  for (const button of group.querySelectorAll("button")) button.disabled = true;
  setText(byId("control-answer"), (await command("pause", { for_s: seconds })).refusal ?? `Paused: ${text.toLowerCase()}.`);
  for (const button of group.querySelectorAll("button")) button.disabled = false;
}

/** A node that has left answers nobody, so it asks first. */
function leaving() {
  const ask = el("button", { type: "button", id: "owner-leave", class: "ends", "aria-expanded": "false", "aria-controls": "owner-sure", text: "Leave the swarm" });
  const stay = el("button", { type: "button", text: "Stay" });
  const go = el("button", { type: "button", class: "ends", text: "Yes, leave" });
  const sure = el("div", { id: "owner-sure", class: "owner-buttons", role: "group", "aria-labelledby": "owner-sure-text" });
  sure.append(el("span", { id: "owner-sure-text", text: "The daemon saves its state, says goodbye and ends. In a terminal, atoll run starts it again. Leave?" }), go, stay);
  sure.hidden = true;
  const show = (/** @type {boolean} */ open) => {
    sure.hidden = !open;
    ask.setAttribute("aria-expanded", String(open));
    (open ? stay : ask).focus();
  };
  ask.addEventListener("click", () => show(sure.hidden));
  stay.addEventListener("click", () => show(false));
  go.addEventListener("click", async () => {
    await send("leave", {}, "It leaves: it saves its state and says goodbye.");
    show(false);
  });
  return el("div", { class: "owner-leave" }, ask, sure);
}

function form() {
  const save = el("button", { type: "submit", class: "primary", text: "Save" });
  const back = el("button", { type: "button", text: "Put back" });
  const whole = el("form", { class: "owner-form", novalidate: "" });
  whole.append(...FIELDS.map(row));
  whole.append(el("div", { class: "owner-buttons" }, save, back), el("p", { id: "owner-answer", class: "answer", role: "status" }));
  whole.addEventListener("submit", async (event) => {
    event.preventDefault();
    await store();
  });
  back.addEventListener("click", () => {
    touched.clear();
    blame(null, "");
    fill();
    answer("");
  });
  return whole;
}

/** @param {Field} field */
function row(field) {
  const id = `owner-${field.name}`;
  const kind = { flag: "checkbox", count: "number", gigabytes: "number", rate: "text", hours: "text", text: "text" }[field.kind];
  const input = el("input", { id, type: kind, "aria-describedby": `${id}-more ${id}-wrong`, autocomplete: "off", spellcheck: "false" });
  if (kind === "number") {
    input.setAttribute("min", "0");
    input.setAttribute("step", field.kind === "count" ? "1" : "any");
  }
  input.addEventListener("input", () => touched.add(field.name));
  return el("div", { class: `owner-field ${field.kind}` }, el("label", { for: id, text: field.label }), input, el("p", { id: `${id}-more`, class: "quiet" }), el("p", { id: `${id}-wrong`, class: "wrong", role: "alert" }));
}

/**
 * Say what is wrong with a field at that field, and nothing at the others.
 * @param {Field | null} wrong
 * @param {string} text
 */
function blame(wrong, text) {
  for (const field of FIELDS) {
    setText(byId(`owner-${field.name}-wrong`), field === wrong ? text : "");
    inputOf(field).toggleAttribute("aria-invalid", field === wrong);
  }
  if (wrong) inputOf(wrong).focus();
}

/** Send what was changed; a refusal leaves it in the fields. */
async function store() {
  const changed = FIELDS.filter((field) => touched.has(field.name));
  if (changed.length === 0) {
    answer("Nothing was changed.");
    return;
  }
  const wrong = changed.find((field) => !inputOf(field).checkValidity());
  blame(wrong ?? null, "This is no number of 0 or more.");
  if (wrong) {
    answer("Nothing was changed.");
    return;
  }
  const values = Object.fromEntries(changed.map((field) => [field.name, written(field)]));
  const refusal = await send("set", values);
  if (refusal === null) {
    for (const field of changed) touched.delete(field.name);
    return;
  }
  // The node names settings; a person sees labels.
  const refused = changed.find((field) => refusal.startsWith(`Setting ${field.name} `));
  if (!refused) return;
  blame(refused, refusal.replace(/^Setting \w+ (\(given\) )?is/, `${refused.label}:`));
  answer("Nothing was changed.");
}

/**
 * Carry out a command and say what became of it, in the node's words where there are no others; the refusal, or null.
 * @param {string} name
 * @param {Object<string, unknown>} values
 * @param {string} [done]
 */
async function send(name, values, done) {
  const buttons = byId("owner").querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  const { answer: said, refusal } = await command(name, values);
  for (const button of buttons) button.disabled = false;
  answer(refusal ?? done ?? said.sentence);
  return refusal;
}

/** Let the fields that nobody changes follow the node. */
function fill() {
  if (known === null) return;
  for (const field of FIELDS) {
    const setting = known[field.group][field.name];
    if (setting === undefined) continue; // a public page, or a recording of another release
    const input = inputOf(field);
    if (!touched.has(field.name)) {
      if (field.kind === "flag") input.checked = setting.value === true;
      else if (input.value !== shown(field, setting)) input.value = shown(field, setting);
    }
    const passing = setting.lasting ? "" : `The ${setting.origin} gives it: a change here lasts until the next start.`;
    input.title = setting.doc;
    setText(byId(`owner-${field.name}-more`), [field.hint, passing].filter(Boolean).join(". "));
  }
}

/** @param {Rule} rule */
function standing(rule) {
  if (!rule.watched) return ["not set up", "○"];
  if (rule.overridden) return ["set aside by you", "◐"];
  return rule.active ? ["pauses it now", "●"] : ["set up, not pausing now", "◌"];
}

/** @param {import("./store.js").Store} store */
export function drawOwner({ state }) {
  known = state.controls;
  fill();
  const week = Object.values(state.traffic.classes).reduce((sum, each) => sum + each.week_sent_bytes + each.week_received_bytes, 0);
  reconcile(
    byId("owner-rules"),
    known.rules,
    (rule) => rule.code,
    () => el("li", {}, el("span", { class: "sign", "aria-hidden": "true" }), el("b"), el("span"), el("span")),
    (item, rule) => {
      const [word, sign] = standing(rule);
      item.className = rule.active && !rule.overridden ? "active" : rule.watched ? "watched" : "off";
      item.title = rule.code;
      setText(item.children[0], sign);
      setText(item.children[1], RULES[rule.code] ?? rule.code);
      setText(item.children[2], word);
      setText(item.children[3], rule.text + (rule.code === "weekly_traffic" ? ` It moved ${bytes(week)}.` : ""));
    },
  );
}
