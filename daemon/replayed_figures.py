"""The history of figures of a recorded node, made anew while its recording is played.

Each snapshot is a sample, as those were that the node took every ten seconds. Where a recording has no
snapshots, rounds tell a part of it: losses, and what was trained and moved since the round before. Owns an
SQLite base in memory, which answers as that of a running node does; it is filled when somebody asks, so that
nobody pays for a history that is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.daemon.figures import Figures
from atoll.daemon.storage.series import Sample, Series, answer
from atoll.web_ui.shapes import finite

MAX_WAITING = 1000
"""Samples that wait to be asked for."""


class ReplayedFigures:
    """Those of one recording."""

    def __init__(self) -> None:
        self._series = Series(Path(":memory:"))
        self._figures = Figures()
        self._waiting: list[Sample] = []
        self._snapshots = False
        self._round_at: float | None = None

    def snapshot(self, at: float, state: Mapping[str, Any]) -> None:
        """What the state was; `at` in Unix seconds."""
        self._snapshots = True
        self._note(at, self._figures.of(state, at))

    def round(self, at: float, report: Mapping[str, Any]) -> None:
        """A round ended."""
        before, self._round_at = self._round_at, at
        found = {"loss": finite(report["loss"])}
        if before is not None and at > before:
            span = at - before
            rates = {"swarm_tokens_per_s": 1, "sent_bps": 8, "received_bps": 8}
            counts = (finite(report[name]) for name in ("tokens", "bytes_sent", "bytes_received"))
            found |= {
                name: unit * count / span
                for (name, unit), count in zip(rates.items(), counts, strict=True)
                if count is not None
            }
        self._only_known(at, found)

    def measured(self, at: float, val_loss: float) -> None:
        """A validation loss became known."""
        self._only_known(at, {"val_loss": val_loss})

    def read(self, name: str | None, since: float, until: float, points: int) -> dict[str, Any]:
        """What the API answers. Raises AtollError."""
        self._write()
        return answer(self._series, name, since, until, points)

    def _only_known(self, at: float, found: Mapping[str, float | None]) -> None:
        if not self._snapshots:  # they say all of this, and more
            self._note(at, {name: value for name, value in found.items() if value is not None})

    def _note(self, at: float, figures: Mapping[str, float]) -> None:
        self._waiting.append((at, figures))
        if len(self._waiting) >= MAX_WAITING:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._series.add(self._waiting)
            self._waiting = []
