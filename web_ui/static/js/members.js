// Members of a private swarm: who is in, who asks to be, which tickets run. Whoever may admit does it from here, by the
// same commands as in a terminal. Names and labels are hostile input.

import { command } from "./api.js";
import { byId, el, nameNode, reconcile, setText } from "./dom.js";
import { ago, duration, NONE } from "./format.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {NonNullable<State["organisation"]>} Organisation */
/** @typedef {Organisation["members"][number]} Member */

/** @param {import("./store.js").Store} store */
export function drawMembers({ state }) {
  const { organisation } = state;
  byId("members-panel").hidden = organisation === null;
  if (organisation === null) return;
  const { members, pending, tickets, count, may_admit: may } = organisation;
  setText(byId("members-count"), `${count} in`);
  setText(
    byId("members-how"),
    organisation.admission === "approve" ? "Each newcomer waits for an organiser or admin to approve it." : "Whoever has a ticket gets in.",
  );
  reconcile(byId("members").tBodies[0], members, (member) => member.node, makeMember, (row, member) => fillMember(row, member, may, state));
  reconcile(
    byId("members-pending"),
    pending,
    (one) => one.node,
    (one) => {
      const item = el("li", {}, nameNode(one.name), " ", el("span", { class: "tag" }, nameNode(one.label || one.role)), " ", el("span", { class: "quiet" }), " ");
      if (may) item.append(button("Approve", one.name, () => send("approve", { node: one.node })));
      return item;
    },
    (item, one) => setText(item.querySelector(".quiet"), `asked ${ago(state.time - one.asked_unix_s)} to be ${one.role === "observer" ? "an observer" : "a member"}`),
  );
  byId("members-pending-box").hidden = pending.length === 0;
  reconcile(
    byId("members-tickets"),
    tickets,
    (ticket) => `${ticket.made_s} ${ticket.expires_s} ${ticket.label}`,
    (ticket) => el("li", {}, nameNode(ticket.label || "no label"), " ", el("span", { class: "quiet" })),
    (item, ticket) => setText(item.querySelector(".quiet"), `used ${ticket.uses ? `${ticket.used}/${ticket.uses}` : `${ticket.used} times`}, ends in ${duration(ticket.expires_s - state.time)}`),
  );
  byId("members-tickets-box").hidden = tickets.length === 0;
}

function makeMember() {
  return el("tr", {}, el("th", { scope: "row" }), ...Array.from({ length: 5 }, () => el("td")));
}

/**
 * @param {HTMLTableRowElement} row
 * @param {Member} member
 * @param {boolean} may
 * @param {State} state
 */
function fillMember(row, member, may, state) {
  const shown = `${member.name}\n${member.label}`;
  if (row.dataset.shown !== shown) {
    row.dataset.shown = shown;
    row.cells[0].replaceChildren(nameNode(member.name));
    if (member.label) row.cells[0].append(" ", el("span", { class: "tag" }, nameNode(member.label)));
    row.cells[0].title = member.node;
  }
  setText(row.cells[1], member.role || `out: ${member.reason}`);
  setText(row.cells[2], member.since_unix_s ? new Date(1000 * member.since_unix_s).toISOString().slice(0, 10) : NONE);
  setText(row.cells[3], member.ends_in_s ? `in ${duration(member.ends_in_s)}` : NONE);
  setText(row.cells[4], member.admitted_by || NONE);
  const revocable = may && member.role !== "" && member.role !== "owner" && member.node !== state.node_id;
  if (revocable === row.cells[5].hasChildNodes()) return;
  row.cells[5].replaceChildren();
  if (revocable) row.cells[5].append(button("Revoke", member.name, () => askAndRevoke(member)));
}

/**
 * @param {string} text
 * @param {string} name whom it is about, for those who don't see the row
 * @param {() => void} act
 */
function button(text, name, act) {
  const made = el("button", { type: "button", text, "aria-label": `${text} ${name}` });
  made.addEventListener("click", act);
  return made;
}

/** @param {Member} member */
function askAndRevoke(member) {
  if (confirm(`Revoke ${member.name}? It is cut off everywhere, and stays out until it is approved again.`)) void send("revoke", { node: member.node });
}

/**
 * @param {string} name
 * @param {object} given
 */
async function send(name, given) {
  const { answer, refusal } = await command(name, given);
  setText(byId("members-answer"), refusal ?? answer.sentence);
}
