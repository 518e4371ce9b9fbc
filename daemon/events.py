"""What happened: an append-only log of events, in memory for pages and on disk for later.

The ring holds the newest RING events for the API; events.jsonl in the data dir holds them across restarts,
and snapshots.jsonl beside it what the state was (state_log.py). Snapshots are many times larger and must not
push events out, so each file is rotated by itself, once at MAX_FILE_BYTES: they never fill a disk. A write
that fails is told once (by the alert of whoever asks `failed`), and never stops the node.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RING = 2000
MAX_FILE_BYTES = 16 << 20
SNAPSHOT = "snapshot"
_TAIL = 1 << 20
"""Surely has a whole line."""
_ON_DISK_ONLY = "round"
"""Of what events tell: reports of rounds, which have an answer of their own."""

log = logging.getLogger("atoll")


class Ring:
    """The newest events in memory, for those who wait for them. `last`: sequence of the one before them."""

    def __init__(self, last: int = 0) -> None:
        self._ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self._news = asyncio.Event()
        self._moved = asyncio.Event()
        self.changes = 0
        self.last = last

    def add(self, time_s: float, kind: str, text: str, **more: Any) -> dict[str, Any]:
        """Adds an event with the next sequence, and returns it."""
        self.last += 1
        event = {"sequence": self.last, "time": round(time_s, 3), "kind": kind, "text": text, **more}
        self._ring.append(event)
        self._news.set()
        self._news = asyncio.Event()
        self.changed()
        return event

    def changed(self) -> None:
        """Tells pages that the state is worth reading again."""
        self.changes += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def since(self, sequence: int) -> tuple[list[dict[str, Any]], bool]:
        """Events after `sequence`, and whether older ones of them are no longer here."""
        events = [event for event in self._ring if event["sequence"] > sequence]
        oldest = self._ring[0]["sequence"] if self._ring else self.last + 1
        return events, sequence + 1 < oldest and sequence != self.last

    async def wait(self, sequence: int) -> None:
        """Returns when an event newer than `sequence` exists."""
        while self.last <= sequence:
            await self._news.wait()

    async def wait_change(self, seen: int) -> None:
        """Returns when there were more than `seen` changes."""
        while self.changes <= seen:
            await self._moved.wait()


class LogFile:
    """Lines of JSON in a file that is rotated once. `part` grows when a new file begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_bytes = path.stat().st_size if path.exists() else 0
        self.failed: str | None = None
        self.part = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line. What keeps it from that is in `failed` until it works again."""
        line = json.dumps(record, default=str) + "\n"
        try:
            if self._file_bytes + len(line) > MAX_FILE_BYTES:
                self._path.replace(older_than(self._path))
                self._file_bytes = 0
                self.part += 1
            with self._path.open("a") as file:
                file.write(line)
            self._file_bytes += len(line)
            self.failed = None
        except OSError as error:
            self.failed = f"{self._path} can't be written: {error.strerror}"


class Events(Ring):
    """The event log of one node. Every event has sequence, time (unix s), kind, text, and more by kind.

    `snapshots`: the file beside it for records of kind `snapshot`, which are no events.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        super().__init__(_last_sequence(path))
        self._file = LogFile(path)
        self._clock = clock
        self.snapshots = LogFile(snapshots_beside(path))

    @property
    def failed(self) -> str | None:
        """Why what was to be written last is not on disk."""
        return self._file.failed or self.snapshots.failed

    def emit(self, kind: str, text: str, record: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Adds an event; `text` is a sentence for people. `record`: what only the log on disk holds."""
        event = {**self.add(self._clock(), kind, text, **more), **(record or {})}
        log.info("%s", text, extra={"event": event})
        self._file.append(event)

    def note_snapshot(self, record: Mapping[str, Any]) -> None:
        """Writes what the state is into the file of snapshots, and nowhere else."""
        head = {"sequence": self.last, "time": round(self._clock(), 3), "kind": SNAPSHOT, "text": ""}
        self.snapshots.append({**head, **record})

    def restore(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Puts the events of a log before those in the ring, for pages that know a part of them already."""
        before = self._ring[0]["sequence"] if self._ring else self.last + 1
        for event in reversed(past):
            if len(self._ring) == RING:
                break
            if _is_event(event) and event["sequence"] < before:
                before = event["sequence"]
                self._ring.appendleft({key: x for key, x in event.items() if key != _ON_DISK_ONLY})


def snapshots_beside(events: Path) -> Path:
    """The file of snapshots that belongs to a log of events."""
    return events.with_name("snapshots.jsonl")


def older_than(path: Path) -> Path:
    """The file that a log was before it was rotated."""
    return path.with_suffix(".1.jsonl")


def _is_event(found: Mapping[str, Any]) -> bool:
    kinds = {"sequence": int, "time": int | float, "kind": str, "text": str}
    return all(isinstance(found.get(name), kind) for name, kind in kinds.items())


def _last_sequence(path: Path) -> int:
    """Sequence of the last whole line of a log; 0 where there is none."""
    for event in reversed(read_log(path, _TAIL, snapshots=True)):
        if isinstance(event.get("sequence"), int):
            return int(event["sequence"])
    return 0


def read_log(path: Path, tail_bytes: int, snapshots: bool = False) -> list[dict[str, Any]]:
    """The events in the last `tail_bytes` of a log, with the file before it where that reaches so far.

    Damaged lines are left out, and by default snapshots, which older software kept among the events.
    """
    newest = _tail(path, tail_bytes)
    older = _tail(older_than(path), tail_bytes - len(newest))
    events = []
    for line in [*older.splitlines(), *newest.splitlines()]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and (snapshots or event.get("kind") != SNAPSHOT):
            events.append(event)
    return events


def _tail(path: Path, size_bytes: int) -> bytes:
    """The end of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size_bytes))
            return file.read(size_bytes)
    except OSError:
        return b""
