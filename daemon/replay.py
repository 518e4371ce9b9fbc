"""A node that is played from a recorded log of events: the same page, with nothing behind it.

A recording is the `events.jsonl` of a data dir with the snapshots that lie beside it; a single file may hold
both. Lines are checked one by one, and what is damaged or has the wrong form is counted and left out; the
rest may still say anything, so it is given the form that the page expects (`web_ui.shapes`) and nothing more
is believed. Reports of rounds come back as after a restart; the state is what the last snapshot said, with
what events have told since; figures over time are those of all snapshots so far.

Gaps between events are divided by the speed, and none lasts longer than `MAX_GAP_S` here: nodes sleep for
days. What can fail: reading (`AtollError`). Commands are refused with the code `replay`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import SNAPSHOT, Ring, older_than, snapshots_beside
from atoll.daemon.history import COMMITTED, History
from atoll.daemon.replayed_figures import ReplayedFigures
from atoll.web_ui.interface import CommandError
from atoll.web_ui.round_types import Rounds
from atoll.web_ui.shapes import empty, fields, fit
from atoll.web_ui.state_types import Peer, State

MAX_FILE_BYTES = 64 << 20
MAX_LINE_BYTES = 1 << 20
MAX_TEXT = 2000
MAX_GAP_S = 5.0
MAX_TIME_S = 253_402_300_800.0
"""The year 10,000."""
_LOGS = ("events.jsonl", "events.1.jsonl")
"""Names that the logs of a data dir have, the newest first."""
_OF_ANOTHER_PAGE = frozenset({"number", "public"})
"""Fields that say how a page got a state, and not what it was."""
BREATH = 100
"""Records without a gap, after which others get their turn."""


@dataclass(frozen=True)
class Recording:
    """Records in the order in which they were written, and how many lines could not be used."""

    name: str
    records: Sequence[Mapping[str, Any]]
    damaged: int


def read_recording(path: Path) -> Recording:
    """The recording in a file, and beside it. Raises AtollError where there is none."""
    records, damaged = _read(path)
    if not records:
        raise _unusable(f"There is no event in {path}.")
    if path.name in _LOGS:
        # Snapshots are rotated apart: those of this file's time may lie in either of theirs.
        newest = snapshots_beside(path)
        beside = [_read(each) for each in (older_than(newest), newest) if each.exists()]
        snapshots = _of_its_time([each for found, _ in beside for each in found], records, path.name)
        records = list(merge(records, snapshots, key=lambda record: float(record["time"])))
        damaged += sum(lost for _, lost in beside)
    return Recording(path.name, records, damaged)


def _of_its_time(
    snapshots: list[dict[str, Any]], events: list[dict[str, Any]], name: str
) -> list[dict[str, Any]]:
    """From the last whole one before the first event on; beyond the last event only in the newest file."""
    begin = float(events[0]["time"])
    whole = [n for n, each in enumerate(snapshots) if each.get("whole") is True and each["time"] <= begin]
    end = math.inf if name == _LOGS[0] else max(float(each["time"]) for each in events)
    return [each for each in snapshots[whole[-1] if whole else 0 :] if each["time"] <= end]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records in one file, and how many lines are damaged. Raises AtollError."""
    records, damaged = [], 0
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES >> 20} MiB"
            raise _unusable(f"{path} is larger than {limit}, more than any log of events.")
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                record = _record(line) if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES else None
                if record is not None:
                    records.append(record)
                elif line.strip():
                    damaged += 1
    except OSError as error:
        raise _unusable(f"{path} can't be read: {error.strerror}.") from error
    return records, damaged


def _unusable(message: str) -> AtollError:
    return AtollError(Exit.USAGE, "recording", message, "Give the events.jsonl of a data dir.")


def _record(line: bytes) -> dict[str, Any] | None:
    """One line, if it is a record: time, kind and text are what they should be."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    at, kind, text = found.get("time"), found.get("kind"), found.get("text")
    timely = isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at < MAX_TIME_S
    if not (timely and isinstance(kind, str) and 0 < len(kind) <= 64 and isinstance(text, str)):
        return None
    return {**found, "text": text[:MAX_TEXT]}


class ReplayNode:
    """Plays a recording. Implements the web room's `Node`.

    `clock`: seconds that only grow; `sleep`: waits for so many of them.
    """

    def __init__(
        self,
        recording: Recording,
        speed: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._recording = recording
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._started = float(recording.records[0]["time"])
        self._at, self._played_at = self._started, clock()
        self._log = Ring()
        self.history = History(self._started)
        self._state: dict[str, Any] = {**empty(State), "state": "starting", "since": self._started}
        self._peers: dict[str, dict[str, Any]] = {}
        self._figures = ReplayedFigures()
        self.ended = False

    # ---- playing

    async def play(self) -> None:
        """Plays the recording from its begin to its end, once."""
        for count, record in enumerate(self._recording.records, 1):
            gap = min(max(0.0, float(record["time"]) - self._at) / self._speed, MAX_GAP_S)
            if gap > 0 or count % BREATH == 0:
                await self._sleep(gap)
            self._at, self._played_at = float(record["time"]), self._clock()
            self._apply(record)
        self.ended = True
        self._log.add(self._at, "replay", f"The recording {self._recording.name} ends here.")

    def _apply(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == SNAPSHOT:
            self._take_snapshot(record)
            self._figures.snapshot(self._at, self.state())
            self._log.changed()
            return
        revision = self.history.revision
        self.history.restore([record])
        if kind == "round":
            self._state["version"] = max(self._state["version"], self._newest_version())
            if revision < self.history.revision:
                self._figures.round(self._at, self.history.rounds[-1])
        elif kind == "validation":
            self._measured(record.get("version"), record.get("val_loss"))
        if not self._state["sentence"] or not self._peers:  # no snapshot has said more
            self._state["sentence"] = f"Replaying: {record['text']}"
        self._log.add(self._at, kind, record["text"])

    def _take_snapshot(self, record: Mapping[str, Any]) -> None:
        """Takes over what a snapshot says, field by field."""
        state, kinds = record.get("state"), fields(State)
        for name, value in (state if isinstance(state, dict) else {}).items():
            if name in kinds and name not in _OF_ANOTHER_PAGE:
                self._state[name] = fit(value, kinds[name])
        if record.get("whole") is True:
            self._peers = {}
        for peer in fit(record.get("peers"), list[Peer]):
            self._peers[peer["id"]] = peer
        for id in fit(record.get("gone"), list[str]):
            self._peers.pop(id, None)
        for link in self._state["chain"]:
            self.history.made(link["version"], link["digest"])

    def _newest_version(self) -> int:
        done = (r for r in reversed(self.history.rounds) if r["outcome"] in COMMITTED)
        return int(fit(next(done, {"version": 0})["version"], int))

    def _measured(self, version: Any, loss: Any) -> None:
        version, loss = fit(version, int), fit(loss, float | None)
        if loss is None:
            return
        self._figures.measured(self._at, loss)
        if version == 0:
            self._state["val_loss_before"] = loss
        elif version >= (self._state["val_loss_version"] or 0):
            self._state["val_loss"], self._state["val_loss_version"] = loss, version

    # ---- what the page sees

    def state(self) -> Mapping[str, Any]:
        since_record = 0.0 if self.ended else (self._clock() - self._played_at) * self._speed
        return {
            **self._state,
            "sequence": self._log.last,
            "time": self._at + (since_record if math.isfinite(since_record) else 0.0),
            "started": self._started,
            "software": f"{self._state['software'] or 'atoll'}, replayed from {self._recording.name}",
            "peers": list(self._peers.values()),
            "rounds_revision": self.history.revision,
        }

    def rounds(self, after: int, limit: int) -> Mapping[str, Any]:
        found: dict[str, Any] = fit(self.history.page(after, limit), Rounds)
        return found

    def events(self) -> Ring:
        return self._log

    async def command(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        raise CommandError("replay", "This is a recording: there is no node to command.", "Just watch it.")

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        return self._figures.read(name, since, until, points)

    def health(self) -> tuple[bool, str]:
        return False, "replay"

    def metrics(self) -> str:
        return "# A recording has no metrics.\n"
