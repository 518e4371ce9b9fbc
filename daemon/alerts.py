"""Alerts: what a person should know until it is over. Each has a code, since when, what, and the fix.

`check` looks at the facts of the moment; an alert that is raised again keeps its beginning. Measures waver,
so what was raised at a threshold is over only well beyond it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll import __version__
from atoll.daemon.events import Events
from atoll.daemon.status import duration, size
from atoll.daemon.ticket_book import MadeTicket
from atoll.peers.links import Spoken
from atoll.peers.roster import RosterEntry
from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST, forks
from atoll.protocol.standing import WORDS

FRUITLESS = 5
"""Rounds without a commit after which a person should know."""
NAMED_REASONS = 3
"""For which others leave this node out, the most frequent ones."""
NAMED_VERSIONS = 3
"""Kinds of other releases that an alert names, the most frequent ones."""

MAX_SKEW_S, SKEW_OFF_S = 30.0, 20.0
"""Of this machine's clock to the median of the others': an alert from the first on, over below the second."""
DISK_OFF_PART = 1.2
"""Of the free bytes that are needed: with more than so much of them the alert is over."""


def disk_is_low(free_bytes: int | None, needed_bytes: int, was_low: bool) -> bool:
    """Whether a disk is, or still is, too full; one that does not tell is not."""
    return free_bytes is not None and free_bytes < needed_bytes * (DISK_OFF_PART if was_low else 1.0)


def clock_is_off(skew_s: float | None, was_off: bool) -> bool:
    """Whether this clock is, or still is, too far from the others'; unknown is not."""
    return skew_s is not None and abs(skew_s) >= (SKEW_OFF_S if was_off else MAX_SKEW_S)


@dataclass(frozen=True)
class Circumstances:
    """Facts of the moment.

    `refused`: why, by peer; `incompatible`: those of them with which this node has no protocol version in
    common; `relayed`: all links run over relays; `fruitless`: rounds since the last one with a commit;
    `free_bytes` on the disk of the data dir, None where it does not tell; `skew_s`: how far ahead the others'
    clocks are; `tickets`: those made here that end soon and are not used up, at the Unix time `now_s`;
    `quarantined_by`: the coded reasons of the peers that leave out what this node contributes.
    """

    chain: forks.Chain = ()
    training: bool = False
    peers: Iterable[RosterEntry] = ()
    refused: Mapping[bytes, str] = field(default_factory=dict)
    incompatible: Mapping[bytes, Spoken] = field(default_factory=dict)
    relayed: bool = False
    fruitless: int = 0
    loss_is_bad: bool = False
    free_bytes: int | None = None
    needed_bytes: int = 0
    skew_s: float | None = None
    tickets: Sequence[MadeTicket] = ()
    now_s: float = 0.0
    quarantined_by: Sequence[str] = ()


class Alerts:
    """The alerts of one node, by code."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._on: dict[str, dict[str, Any]] = {}

    def all(self) -> list[dict[str, Any]]:
        return list(self._on.values())

    def raise_(self, code: str, text: str, fix: str) -> None:
        """Raises an alert, or renews its text."""
        if code not in self._on:
            self._events.emit("alert", text, code=code)
        since = self._on.get(code, {}).get("since", time.time())
        self._on[code] = {"code": code, "since": since, "text": text, "fix": fix}

    def clear(self, code: str) -> None:
        """It is over."""
        if self._on.pop(code, None) is not None:
            self._events.emit("alert-over", f"Over: {code}.", code=code)

    def _set(self, on: bool, code: str, text: str, fix: str) -> None:
        if on:
            self.raise_(code, text, fix)
        else:
            self.clear(code)

    def check(self, facts: Circumstances) -> None:
        """Raises and clears what follows from the facts."""
        entries = list(facts.peers)
        self._set(
            facts.training and not entries,
            "training_alone",
            "No other node is connected: this one trains alone.",
            "Nothing has to be done; others join with a ticket.",
        )
        self._set(
            any(entry.chain and forks.compare(facts.chain, entry.chain).fork for entry in entries),
            "fork_suspected",
            "The nodes hold two different histories.",
            "They settle it by themselves: what a majority holds stays, then what has more tokens.",
        )
        self._set(
            self._events.failed is not None,
            "events_not_saved",
            f"Events are not kept on disk: {self._events.failed}.",
            "Free some disk space.",
        )
        self._set(
            facts.relayed,
            "relay_only",
            "All links of this node run over relays: updates go slowly, and it averages nothing for others.",
            "Forward its port on your router, or open it in the firewall.",
        )
        self._set(
            facts.fruitless >= FRUITLESS,
            "no_round",
            f"The last {facts.fruitless} rounds brought no commit.",
            "`atoll rounds` says why of each; the node goes on trying.",
        )
        self._set(
            facts.loss_is_bad,
            "loss_not_finite",
            "This node's loss is not finite: what it learned since the last commit was given up.",
            "If it comes back: the learning rate is too high, or memory or device are faulty.",
        )
        free = facts.free_bytes
        self._set(
            disk_is_low(free, facts.needed_bytes, "disk_low" in self._on),
            "disk_low",
            f"{size(free or 0)} are free where the data dir is; {size(facts.needed_bytes)} keep it safe.",
            "Free some disk space, or bound the text with --data-cap.",
        )
        skew = facts.skew_s or 0.0
        self._set(
            clock_is_off(facts.skew_s, "clock_skew" in self._on),
            "clock_skew",
            f"The clock here is {duration(abs(skew))} {'behind' if skew > 0 else 'ahead of'} the others'.",
            "Set it, best by NTP: records in the DHT expire by the clock.",
        )
        self._set(bool(facts.tickets), "ticket_expires", *_tickets(facts.tickets, facts.now_s))
        self._set(bool(facts.incompatible), "versions_incompatible", *_versions(facts.incompatible.values()))
        self._set(
            bool(facts.quarantined_by), "quarantined", *_quarantined(facts.quarantined_by, len(entries))
        )
        refused = {peer: why for peer, why in facts.refused.items() if peer not in facts.incompatible}
        why = "; ".join(sorted(set(refused.values())))
        self._set(
            bool(refused),
            "peers_refused",
            f"{len(refused)} nodes were refused: {why}.",
            "Use the same swarm and text everywhere.",
        )


def _quarantined(reasons: Sequence[str], peers: int) -> tuple[str, str]:
    """What those say who leave this node out, and the fix; newer reasons have no words here."""
    counted = Counter(reasons).most_common(NAMED_REASONS)
    why = "; ".join(f"{number} say {WORDS.get(reason, 'something newer')}" for reason, number in counted)
    text = (
        f"{len(reasons)} of {peers} other nodes leave out what this one contributes: {why}. "
        "It goes on to get every result."
    )
    return text, (
        "Check its text, its device's memory and its clock, and that it runs an unchanged release; they take "
        "it in again by themselves after some rounds of good conduct."
    )


def _tickets(ending: Sequence[MadeTicket], now_s: float) -> tuple[str, str]:
    """What is to be said of tickets that end, the next one by name, and what to do."""
    if not ending:
        return "", ""
    first = min(ending, key=lambda ticket: ticket.expires_s)
    whose = f"The ticket for {first.label}" if first.label else "A ticket without a label"
    more = f", {len(ending) - 1} more soon after" if len(ending) > 1 else ""
    uses = "and is not used up" if first.uses else "for whoever has it"
    text = f"{whose} ends in {duration(first.expires_s - now_s)} {uses}{more}."
    return text, "Make another with `atoll ticket` for whoever has not joined; who has joined needs none."


def _versions(others: Collection[Spoken]) -> tuple[str, str]:
    """Who speaks which protocol, and what to do."""
    counted = Counter(others).most_common(NAMED_VERSIONS)
    kinds = ", ".join(f"{number} with {_range(each)}" for each, number in counted)
    mine = _range(Spoken(PROTOCOL_LOWEST, PROTOCOL_HIGHEST, f"atoll {__version__}"))
    text = (
        f"{len(others)} nodes have no protocol version in common with this one: {kinds}; here it is {mine}."
    )
    newer = any(each.lowest > PROTOCOL_HIGHEST for each in others)
    older = any(each.highest < PROTOCOL_LOWEST for each in others)
    whom = (
        "this node and those that are older" if newer and older else "this node" if newer else "those nodes"
    )
    return text, f"Update {whom}: all nodes of a swarm need a protocol version in common."


def _range(spoken: Spoken) -> str:
    software = f" ({spoken.software})" if spoken.software else ""
    return f"{spoken.lowest} to {spoken.highest}{software}"
