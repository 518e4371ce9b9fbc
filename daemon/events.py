"""What happened: an append-only log of events, in memory for pages and on disk for later.

The ring holds the newest RING events for the API; events.jsonl in the data dir holds them across restarts,
rotated once at MAX_FILE_BYTES, so it never fills a disk. A write that fails is told once (by the alert of
whoever asks `failed`), and never stops the node.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

RING = 2000
MAX_FILE_BYTES = 16 << 20
_TAIL = 64 * 1024

log = logging.getLogger("atoll")


class Events:
    """The event log of one node. Every event has sequence, time (unix s), kind, text, and more by kind."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self._news = asyncio.Event()
        self.failed: str | None = None
        self.last = _last_sequence(path)
        self._file_bytes = path.stat().st_size if path.exists() else 0

    def emit(self, kind: str, text: str, **more: Any) -> None:
        """Adds an event; `text` is a sentence for people."""
        self.last += 1
        event = {"sequence": self.last, "time": round(self._clock(), 3), "kind": kind, "text": text, **more}
        self._ring.append(event)
        self._news.set()
        self._news = asyncio.Event()
        if kind != "state":
            log.info("%s", text, extra={"event": event})
            self._append(event)

    def changed(self) -> None:
        """Tells pages that the state is worth fetching again; not kept on disk."""
        if not self._ring or self._ring[-1]["kind"] != "state":
            self.emit("state", "")
        else:
            # One pending hint is enough: give it a new number instead of filling the ring.
            self._ring.pop()
            self.emit("state", "")

    def since(self, sequence: int) -> tuple[list[dict[str, Any]], bool]:
        """Events after `sequence`, and whether older ones of them are no longer here."""
        events = [event for event in self._ring if event["sequence"] > sequence]
        oldest = self._ring[0]["sequence"] if self._ring else self.last + 1
        return events, sequence + 1 < oldest and sequence != self.last

    async def wait(self, sequence: int) -> None:
        """Returns when an event newer than `sequence` exists."""
        while self.last <= sequence:
            await self._news.wait()

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, default=str) + "\n"
        try:
            if self._file_bytes + len(line) > MAX_FILE_BYTES:
                self._path.replace(self._path.with_suffix(".1.jsonl"))
                self._file_bytes = 0
            with self._path.open("a") as file:
                file.write(line)
            self._file_bytes += len(line)
            self.failed = None
        except OSError as error:
            self.failed = f"{self._path} can't be written: {error.strerror}"


def _last_sequence(path: Path) -> int:
    """Sequence of the last whole line of a log; 0 where there is none."""
    for event in reversed(read_log(path, _TAIL)):
        if isinstance(event.get("sequence"), int):
            return int(event["sequence"])
    return 0


def read_log(path: Path, tail_bytes: int) -> list[dict[str, Any]]:
    """The events in the last `tail_bytes` of a log; damaged lines are left out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - tail_bytes))
            lines = file.read().splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
