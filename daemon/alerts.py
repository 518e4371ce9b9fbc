"""Alerts: what a person should know until it is over. Each has a code, since when, what, and the fix.

`check` looks at the facts of the moment; an alert that is raised again keeps its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from atoll.daemon.events import Events
from atoll.peers.roster import RosterEntry
from atoll.protocol import forks

FRUITLESS = 5
"""Rounds without a commit after which a person should know."""


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

    def check(
        self,
        chain: forks.Chain,
        training: bool,
        peers: Iterable[RosterEntry],
        refused: Mapping[bytes, str],
        relayed: bool = False,
        fruitless: int = 0,
    ) -> None:
        """Raises and clears what follows from the facts.

        `relayed`: all links run over relays; `fruitless`: rounds since the last one that brought a commit.
        """
        entries = list(peers)
        self._set(
            training and not entries,
            "training_alone",
            "No other node is connected: this one trains alone.",
            "Nothing has to be done; others join with a ticket.",
        )
        self._set(
            any(entry.chain and forks.compare(chain, entry.chain).fork for entry in entries),
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
            relayed,
            "relay_only",
            "All links of this node run over relays: updates go slowly, and it averages nothing for others.",
            "Forward its port on your router, or open it in the firewall.",
        )
        self._set(
            fruitless >= FRUITLESS,
            "no_round",
            f"The last {fruitless} rounds brought no commit.",
            "`atoll rounds` says why of each; the node goes on trying.",
        )
        why = "; ".join(sorted(set(refused.values())))
        self._set(
            bool(refused),
            "peers_refused",
            f"{len(refused)} nodes were refused: {why}.",
            "Use the same version, swarm and text everywhere.",
        )
