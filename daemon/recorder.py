"""Writes a node's figures to its history every few seconds, and reads them back for pages and plots.

Owns one thread, on which SQLite does its work, so that a slow disk never holds up the loop. Figures wait in
memory while the disk refuses, a bounded number of them; that is told once, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.storage.series import Sample, Series, answer

SAMPLE_S = 10.0
WRITE_EVERY = 3
"""Samples that are written at once."""
MAX_WAITING = 360
"""Samples that wait for a disk: an hour."""
T = TypeVar("T")


class Recorder:
    """History of one node in the file at `path`. `figures`: those of the moment, by name.

    `sampled`: is told of each sample, too.
    """

    def __init__(
        self,
        path: Path,
        figures: Callable[[], Mapping[str, float]],
        events: Events,
        clock: Callable[[], float] = time.time,
        sampled: Callable[[float, Mapping[str, float]], None] = lambda at, figures: None,
    ) -> None:
        self._path = path
        self._figures = figures
        self._events = events
        self._clock = clock
        self._sampled = sampled
        self._series: Series | None = None
        self._thread = ThreadPoolExecutor(1, "history")
        self._waiting: deque[Sample] = deque(maxlen=MAX_WAITING)
        self._refused = False

    def sample(self) -> None:
        """Notes the figures of the moment."""
        sample = self._clock(), dict(self._figures())
        self._waiting.append(sample)
        self._sampled(*sample)

    async def keep(self) -> None:
        """Samples and writes. Runs until cancelled."""
        while True:
            for _ in range(WRITE_EVERY):
                self.sample()
                await asyncio.sleep(SAMPLE_S)
            await self.write()

    async def write(self) -> None:
        """Writes what waits; a disk that refuses is an event."""
        samples = list(self._waiting)
        try:
            await self._on_thread(lambda series: series.add(samples))
        except AtollError as error:
            if not self._refused:
                self._events.emit("disk", f"The history was not written: {error.sentence()}")
            self._refused = True
            return
        self._refused = False
        written = {id(sample) for sample in samples}
        while self._waiting and id(self._waiting[0]) in written:
            self._waiting.popleft()

    async def read(self, name: str | None, since: float, until: float, points: int) -> dict[str, Any]:
        """What the API answers: one figure in buckets, or without a name which figures there are.

        Raises AtollError.
        """
        await self.write()
        return await self._on_thread(lambda series: answer(series, name, since, until, points))

    async def close(self) -> None:
        """Writes what waits, and gives file and thread back."""
        await self.write()
        with contextlib.suppress(AtollError):  # it could not be opened, which was told
            await self._on_thread(lambda series: series.close())
        await asyncio.to_thread(self._thread.shutdown, True)

    def _on_thread(self, work: Callable[[Series], T]) -> asyncio.Future[T]:
        def run() -> T:
            if self._series is None:
                self._series = Series(self._path)
            return work(self._series)

        return asyncio.get_running_loop().run_in_executor(self._thread, run)
