"""History of a node in figures: what they were over minutes and years, in one SQLite file of bounded size.

A figure is written into buckets of several lengths at once, each with its count, least, greatest and sum; the
finer the buckets, the sooner they are forgotten. So a year has as many rows as an hour, any span is answered
from a few hundred of them, and a short spike is still seen in the greatest of a long bucket.

`Series` belongs to one thread. A file that SQLite can't read is moved aside, and history begins anew: figures
are for people, and nothing else depends on them.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.daemon.errors import AtollError, Exit

LEVELS = ((10, 6 * 3600), (60, 3 * 86_400), (600, 30 * 86_400), (21_600, 730 * 86_400))
"""Seconds of a bucket, and for how long it is kept."""
MAX_NAMES = 64
"""Different figures that one file holds; with all levels, some 14,000 rows each."""
MAX_POINTS = 2000
"""Buckets in one answer."""
_BUSY_S = 5.0

_TABLE = """
CREATE TABLE IF NOT EXISTS buckets (
    name TEXT NOT NULL, length INTEGER NOT NULL, start INTEGER NOT NULL,
    count INTEGER NOT NULL, least REAL NOT NULL, greatest REAL NOT NULL, total REAL NOT NULL,
    PRIMARY KEY (name, length, start)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO buckets VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO UPDATE SET
    count = count + 1, least = min(least, excluded.least),
    greatest = max(greatest, excluded.greatest), total = total + excluded.total
"""
_READ = """
SELECT start / ? * ? AS at, sum(count), min(least), max(greatest), sum(total) FROM buckets
WHERE name = ? AND length = ? AND start >= ? AND start < ? GROUP BY at ORDER BY at
"""


@dataclass(frozen=True)
class Bucket:
    """What a figure was from `start` (Unix seconds) on, for the length of the answer's buckets."""

    start: int
    count: int
    least: float
    greatest: float
    mean: float


Sample = tuple[float, Mapping[str, float]]
"""When (Unix seconds), and figures by name."""


class Series:
    """The file at `path`. Raises AtollError where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tidied = -math.inf
        try:
            self._base = self._open()
        except sqlite3.DatabaseError:
            self._move_aside()
            self._base = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            base = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise _refused(self._path, error) from error
        try:
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = NORMAL")
            base.execute(_TABLE)
            base.execute("SELECT count(*) FROM buckets WHERE name = ''").fetchone()
            base.commit()
        except sqlite3.OperationalError as error:
            base.close()
            raise _refused(self._path, error) from error
        except sqlite3.DatabaseError:
            base.close()
            raise
        return base

    def _move_aside(self) -> None:
        """What can't be read is kept, once, for whoever wants to look."""
        try:
            self._path.replace(self._path.with_suffix(".damaged"))
            for rest in ("-wal", "-shm"):
                self._path.with_name(self._path.name + rest).unlink(missing_ok=True)
        except OSError as error:
            raise _refused(self._path, error) from error

    def close(self) -> None:
        self._base.close()

    def add(self, samples: Iterable[Sample]) -> None:
        """Writes samples, all or none of them; what is not finite is left out."""
        samples = list(samples)
        rows = [
            (name, length, int(at // length) * length, value, value, value)
            for at, figures in samples
            for name, value in figures.items()
            if math.isfinite(value)
            for length, _ in LEVELS
        ]
        newest = max((at for at, _ in samples), default=-math.inf)
        try:
            with self._base:
                known = {name for (name,) in self._base.execute("SELECT DISTINCT name FROM buckets")}
                room = MAX_NAMES - len(known)
                new = list(dict.fromkeys(row[0] for row in rows if row[0] not in known))[: max(0, room)]
                self._base.executemany(_ADD, [row for row in rows if row[0] in known or row[0] in new])
                if newest - self._tidied >= LEVELS[0][1] / 6:
                    self._forget(newest)
                    self._tidied = newest
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error

    def _forget(self, now: float) -> None:
        for length, kept in LEVELS:
            # Of a clock that was wrong, too: what lies far ahead would never leave.
            self._base.execute(
                "DELETE FROM buckets WHERE length = ? AND (start < ? OR start > ?)",
                (length, now - kept, now + 86_400),
            )

    def names(self) -> list[str]:
        """The figures that there is history of."""
        try:
            return [name for (name,) in self._base.execute("SELECT DISTINCT name FROM buckets ORDER BY name")]
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error

    def read(self, name: str, since: float, until: float, points: int) -> tuple[int, Sequence[Bucket]]:
        """Seconds of a bucket, and at most `points` of them from `since` to `until` (Unix seconds).

        From the finest buckets that reach back so far and are not more than asked for, joined where they are
        still too many.
        """
        points = min(max(1, points), MAX_POINTS)
        newest = self._newest(name, until)
        length = next((length for length, kept in LEVELS if since >= newest - kept), LEVELS[-1][0])
        # From one bucket's start to another's there may be one more than fits between.
        join = max(1, math.ceil((until - since) / length / max(1, points - 1)))
        width = length * join
        first = int(since // width) * width
        try:
            rows = self._base.execute(_READ, (width, width, name, length, first, until)).fetchall()
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error
        return width, [
            Bucket(at, count, least, greatest, total / count) for at, count, least, greatest, total in rows
        ][:points]

    def _newest(self, name: str, until: float) -> float:
        """When the finest buckets end: what is older than they are kept is only in coarser ones."""
        try:
            found = self._base.execute("SELECT max(start) FROM buckets WHERE name = ?", (name,)).fetchone()[0]
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error
        return min(until, found) if found is not None else until


def answer(series: Series, name: str | None, since: float, until: float, points: int) -> dict[str, Any]:
    """As the API says it: one figure in buckets, or without a name which figures there are."""
    if name is None:
        return {"names": series.names()}
    width, buckets = series.read(name, since, until, points)
    return {
        "name": name,
        "bucket_s": width,
        "buckets": [
            {"start": b.start, "count": b.count, "min": b.least, "max": b.greatest, "mean": b.mean}
            for b in buckets
        ],
    }


def _refused(path: Path, error: Exception) -> AtollError:
    return AtollError(
        Exit.TEMPORARY,
        "disk",
        f"History in {path.name} can't be written or read: {error}.",
        "Free some space, or move the file away; nothing else depends on it.",
    )
