"""What the state of a node was, written beside its log of events now and then, so that it can be replayed.

A record says what changed since the one before:

    {"kind": "snapshot", "whole": false, "state": {key: value}, "peers": [those that changed], "gone": [ids]}

and some are whole: the first of a start and of a file, and one in `WHOLE_EVERY`. Reports of rounds are events
and not repeated here, nor is what only this moment needs (addresses that are dialled). A record is kept under
`MAX_BYTES` by leaving peers out: a replay then knows fewer of a big swarm, but the file (snapshots.jsonl, of
which events.py knows the rest) still holds hours of it, and days of a small one. There is one at most every
`EVERY_S` seconds, one when a round has ended, and one when the node begins or ceases to take part (paused,
blocked, stopping): these at least `AFTER_ROUND_S` apart.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from atoll.daemon.events import Events
from atoll.web_ui.changes import differences

EVERY_S = 30.0
LOOK_S = 1.0
AFTER_ROUND_S = 2.0
WHOLE_EVERY = 40
MAX_BYTES = 32 * 1024
_TAKING_PART = frozenset({"training", "averaging", "waiting"})
"""States that follow each other in every round."""
_LEFT_OUT = frozenset({"sequence", "time", "peers", "rounds_revision", "bootstrap", "api"})


class StateLog:
    """Of one node. `state`: its snapshot; `word`: the state in it; `clock`: seconds that only grow."""

    def __init__(
        self,
        state: Callable[[], Mapping[str, Any]],
        word: Callable[[], str],
        events: Events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._word = word
        self._events = events
        self._clock = clock
        self._at = -EVERY_S
        self._doing = ""
        self._part = -1
        self._count = 0
        self._parts: dict[str, str] = {}
        self._peers: dict[str, str] = {}

    async def keep(self) -> None:
        """Writes a record when the last one is old, or tells something else. Runs until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Writes a record where one is due."""
        age = self._clock() - self._at
        if age >= EVERY_S or (age >= AFTER_ROUND_S and self._doing != _doing(self._word())):
            self.write()

    def round_ended(self) -> None:
        """Writes one, unless rounds end faster than anybody would look."""
        if self._clock() - self._at >= AFTER_ROUND_S:
            self.write()

    def write(self) -> None:
        """Writes a record."""
        self._at = self._clock()
        whole = self._part != self._events.snapshots.part or self._count % WHOLE_EVERY == 0
        if whole:
            self._part, self._count = self._events.snapshots.part, 0
            self._parts, self._peers = {}, {}
        self._count += 1
        state = self._state()
        self._doing = _doing(str(state["state"]))
        parts = {key: _text(value) for key, value in state.items() if key not in _LEFT_OUT}
        changed = {key: state[key] for key in differences(self._parts, parts)[0]}
        self._parts = parts
        room = MAX_BYTES - sum(len(parts[key]) for key in changed)
        peers, gone = self._changed_peers(state["peers"], room)
        self._events.note_snapshot({"whole": whole, "state": changed, "peers": peers, "gone": gone})

    def _changed_peers(
        self, peers: list[Mapping[str, Any]], room_bytes: int
    ) -> tuple[list[Mapping[str, Any]], list[str]]:
        """Those that changed, as far as they find room: this node first, then those that are known."""
        by_id = {str(peer["id"]): peer for peer in peers}
        texts = {id: _text(peer) for id, peer in by_id.items()}
        ids, gone = differences(self._peers, texts)
        for id in gone:
            del self._peers[id]
        found = []
        for id in sorted(ids, key=lambda id: (not by_id[id]["self"], id not in self._peers)):
            if len(texts[id]) <= room_bytes:
                room_bytes -= len(texts[id])
                self._peers[id] = texts[id]
                found.append(by_id[id])
        return found, gone


def _doing(word: str) -> str:
    return "taking part" if word in _TAKING_PART else word


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
