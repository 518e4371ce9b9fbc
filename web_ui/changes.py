"""The node's snapshot and what changed in it, encoded once for all who watch.

A snapshot has a number; what turns it into the next one is a change:

    {"base": 7, "number": 8, "time": …, "set": {key: value}, "peers": […], "gone": [ids], "rounds": Rounds}

`set` has the top-level keys of the state that are different, `peers` the peers that are, whole; `rounds` has
what is new in the reports, and is left out where nothing is. Whoever holds number `base` applies a change and
holds `number`; whoever does not fetches `GET /api/v1/state` again. So a watcher costs the node a write,
however many peers the swarm has, and two snapshots a second are made at the most.

Parts are compared as the text that they become: a node may hand out the same objects again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from atoll.web_ui.interface import Source
from atoll.web_ui.replies import encode_json

GAP_S = 0.5
IDLE_S = 10.0
"""A change at least so often: speeds and ages move on where nothing happens, and watchers know the line."""
KEPT = 64
"""Changes that a slow watcher may be behind."""
ROUNDS_AT_ONCE = 100

_log = logging.getLogger(__name__)


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Keys whose text is new or another than before, in the order of `now`; and those that are gone."""
    return [key for key, text in now.items() if before.get(key) != text], [
        key for key in before if key not in now
    ]


class Snapshots:
    """Snapshots of one node, or of what is public of it. `clock`: monotonic seconds."""

    def __init__(
        self,
        node: Source,
        *,
        gap_s: float = GAP_S,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._gap_s = gap_s
        self._idle_s = idle_s
        self._clock = clock
        self._at = -float("inf")
        self._time = 0.0
        self._parts: dict[str, str] = {}
        self._peers: dict[str, str] = {}
        self._rounds = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._news = asyncio.Event()
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self.number = 0

    def whole(self) -> bytes:
        """The present snapshot as JSON: a `State` with its number."""
        self._look()
        parts = [f'"{key}":{text}' for key, text in self._parts.items()]
        peers = ",".join(self._peers.values())
        head = f'"number":{self.number},"time":{encode_json(self._time)},"peers":[{peers}]'
        return _utf8("{" + ",".join([head, *parts]) + "}")

    def after(self, number: int) -> list[bytes] | None:
        """The changes since a snapshot, oldest first; None where they are not all kept."""
        if number == self.number:
            return []
        found = [encoded for made, encoded in self._kept if made > number]
        whole = number < self.number and len(found) == self.number - number
        return found if whole else None

    async def wait(self, number: int) -> None:
        """Return when there is a newer snapshot. Cancelling it is harmless."""
        while self.number <= number:
            await self._news.wait()

    # ---- while somebody watches

    def watched(self) -> None:
        """One more watcher, whatever this raises: changes are looked for until it has `left`."""
        self._watchers += 1
        if self._task is None:
            self._look()
            self._task = asyncio.create_task(self._keep(), name="snapshots")

    def left(self) -> None:
        """One watcher less."""
        self._watchers -= 1
        if self._watchers == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception:  # noqa: BLE001  whatever keeps the node from telling its state may pass
                _log.exception(
                    "the snapshot could not be had; those who watch get none for %g s", self._idle_s
                )
                await asyncio.sleep(self._idle_s)

    async def _follow(self) -> None:
        log = self._node.events()
        while True:
            seen = log.changes
            await asyncio.sleep(max(0.0, self._at + self._gap_s - self._clock()))
            self._look()
            waiting = asyncio.ensure_future(log.wait_change(seen))
            try:
                await asyncio.wait((waiting,), timeout=self._idle_s)
                if waiting.done():
                    waiting.result()
            finally:
                waiting.cancel()

    def _look(self) -> None:
        """Take a snapshot unless the last one is still fresh, and note what changed."""
        now = self._clock()
        if now - self._at < self._gap_s:
            return
        self._at = now
        state = dict(self._node.state())
        self._time = float(state.pop("time"))
        peers = {str(peer["id"]): encode_json(peer) for peer in state.pop("peers")}
        parts = {key: encode_json(value) for key, value in state.items()}
        changed = [f'"{key}":{parts[key]}' for key in differences(self._parts, parts)[0]]
        ids, gone = differences(self._peers, peers)
        revision = int(state["rounds_revision"])
        rounds = self._new_rounds(revision)
        self._parts, self._peers, self._rounds = parts, peers, revision
        base, self.number = self.number, self.number + 1
        self._kept.append(
            (
                self.number,
                _utf8(
                    f'event: change\ndata: {{"base":{base},"number":{self.number},'
                    f'"time":{encode_json(self._time)},"set":{{{",".join(changed)}}},'
                    f'"peers":[{",".join(peers[id] for id in ids)}],"gone":{encode_json(gone)}{rounds}}}\n\n'
                ),
            )
        )
        self._news.set()
        self._news = asyncio.Event()

    def _new_rounds(self, revision: int) -> str:
        # Of the first snapshot nobody has a base, and many reports at once are better fetched in pages.
        if not self._parts or not 0 < revision - self._rounds <= ROUNDS_AT_ONCE:
            return ""
        found: Any = self._node.rounds(self._rounds, ROUNDS_AT_ONCE)
        return f',"rounds":{encode_json(found)}'


def _utf8(text: str) -> bytes:
    # A lone surrogate from a hostile name has no UTF-8 form; it is replaced, not allowed to fail the answer.
    return text.encode("utf-8", "replace")
