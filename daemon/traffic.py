"""What went over this node's line by class, since the start and in the last seven days.

The classes of peers/line.py, and a fourth: `libp2p` is what the libp2p process moved beyond the frames and
files that were given to it (DHT, handshakes, pings, encryption, and what it relays for others), known where
the kernel counts a process' reads and writes (Linux). TCP's and IP's own bytes are in none.

Owns traffic.json: a row for each class and day (UTC), seven days of them. Damaged, or of another time, it is
begun anew; a disk that refuses is told once, and it is tried again a minute later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.storage import files
from atoll.peers.line import Kind, Line

DAYS = 7
LOOK_S = 10.0
SAVE_EVERY = 6
_DAY_S = 86_400
LIBP2P = "libp2p"
CLASSES = (Kind.ROUNDS.value, Kind.STATE.value, Kind.CONTROL.value, LIBP2P)

Moved = tuple[int, int]
"""Bytes sent, bytes received."""


def moved_by(pid: int) -> Moved | None:
    """What a process has written and read by now, sockets included; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().split()
        counts = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
        return counts["wchar:"], counts["rchar:"]
    except (OSError, ValueError, KeyError):
        return None


class TrafficBook:
    """Counts of one node. `line` and `process_id` (of p2pd) are looked at, never changed."""

    def __init__(
        self,
        path: Path,
        line: Line,
        process_id: Callable[[], int],
        events: Events,
        clock: Callable[[], float] = time.time,
        moved: Callable[[int], Moved | None] = moved_by,
    ) -> None:
        self._path = path
        self._line = line
        self._process_id = process_id
        self._events = events
        self._clock = clock
        self._moved = moved
        self._days = _read(path)
        self._start: Counter[tuple[str, int]] = Counter()  # class and way (0: sent) since the start
        self._seen: dict[str, Moved] = {}
        self._process = (0, (0, 0))
        self._refused = False

    def look(self) -> None:
        """Books what has moved since it last looked."""
        line = self._line
        for kind in Kind:
            self._book(kind.value, (line.sent[kind], line.received[kind]))
        # Whatever comes or goes is written and read once each way: to the network and to this process.
        given = sum(line.sent.values()) + sum(line.received.values()) - line.over_lanes
        pid = self._process_id()
        moved = self._moved(pid)
        if moved is not None:
            before, base = self._process
            if pid != before:
                base = (given, given) if before else (0, 0)
            self._process = pid, base
            known = self._seen.get(LIBP2P, (0, 0)) if pid == before else (0, 0)
            self._seen[LIBP2P] = known
            own = tuple(max(k, m - (given - b)) for k, m, b in zip(known, moved, base, strict=True))
            self._book(LIBP2P, (own[0], own[1]))

    def _book(self, name: str, now: Moved) -> None:
        before = self._seen.get(name, (0, 0))
        self._seen[name] = now
        today = self._today()
        # Days of another time (a clock that was wrong) would never leave.
        self._days = {day: rows for day, rows in self._days.items() if today - DAYS < day <= today}
        row = self._days.setdefault(today, {}).setdefault(name, [0, 0])
        for way in (0, 1):
            row[way] += now[way] - before[way]
            self._start[name, way] += now[way] - before[way]

    def _today(self) -> int:
        return int(self._clock() // _DAY_S)

    def summary(self) -> dict[str, dict[str, int]]:
        """For each class: bytes sent and received since the start, and in the last seven days."""
        self.look()
        week = Counter[tuple[str, int]]()
        for rows in self._days.values():
            for name, row in rows.items():
                week.update({(name, 0): row[0], (name, 1): row[1]})
        return {
            name: {
                "sent_bytes": self._start[name, 0],
                "received_bytes": self._start[name, 1],
                "week_sent_bytes": week[name, 0],
                "week_received_bytes": week[name, 1],
            }
            for name in CLASSES
        }

    def days(self) -> dict[int, int]:
        """Bytes of all classes, both ways, in the last seven days, by day since 1970 (UTC)."""
        self.look()
        return {day: sum(map(sum, rows.values())) for day, rows in self._days.items()}

    async def keep(self) -> None:
        """Looks and saves. Runs until cancelled."""
        while True:
            for _ in range(SAVE_EVERY):
                await asyncio.sleep(LOOK_S)
                self.look()
            await self.save()

    async def save(self) -> None:
        """Writes what is known; a disk that refuses is an event."""
        self.look()
        rows = {str(day): rows for day, rows in self._days.items()}
        try:
            await asyncio.to_thread(files.write_json, self._path, {"days": rows})
            self._refused = False
        except AtollError as error:
            if not self._refused:
                self._events.emit("disk", f"The traffic counts were not written: {error.sentence()}")
            self._refused = True


def _read(path: Path) -> dict[int, dict[str, list[int]]]:
    """The days on disk; nothing where they are not what was written."""
    try:
        found: Any = files.read_json(path)
        days = found["days"] if isinstance(found, dict) else {}
        return {
            int(day): {name: [int(row[0]), int(row[1])] for name, row in rows.items() if name in CLASSES}
            for day, rows in list(days.items())[: DAYS + 1]
        }
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return {}
