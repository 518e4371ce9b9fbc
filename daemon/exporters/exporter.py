"""One sink on a thread of its own: samples wait in a bounded queue, and whatever goes wrong is told once.

`offer` never waits and never raises. When the queue is full the oldest sample is lost: what is newest is what
people look at. A sink that fails is made anew at the next sample after `RETRY_S`; the first failure of a row
is told, as is how many samples were lost once it works again. `close` writes what waits, for `CLOSE_S` at
most; a disk that still hangs then is left to the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from atoll.daemon.exporters.samples import Sample

MAX_WAITING = 1000
CLOSE_S = 5.0
RETRY_S = 60.0


class Sink(Protocol):
    """Where samples go. All methods are called on one thread; each may block, and may raise anything."""

    def write(self, sample: Sample) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Exporter:
    """`name`: of the sink, for people. `make`: opens it; called on the thread, again after a failure.

    `tell`: takes a sentence, in the loop in which the exporter was made. `clock`: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._make = make
        self._tell = tell
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._waiting: deque[Sample] = deque()
        self._lost = 0
        self._closing = False
        self._wake = threading.Condition()
        self._sink: Sink | None = None
        self._retry_at: float | None = None
        threading.Thread(target=self._run, name=f"export {name}", daemon=True).start()

    def offer(self, sample: Sample) -> None:
        """Takes a sample."""
        with self._wake:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(sample)
            self._wake.notify()

    async def close(self) -> None:
        """Writes what waits and ends the thread, or leaves it behind when it hangs. Harmless twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()
        except TimeoutError:
            self._tell(f"{self._name} did not take its last figures within {CLOSE_S:g} s.")

    # ---- on the thread

    def _run(self) -> None:
        try:
            while (samples := self._next()) is not None:
                self._write(samples)
            self._end_sink()
        finally:
            self._in_loop(self._ended.set)

    def _next(self) -> list[Sample] | None:
        """All that waits, as soon as something does; None at the end."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            samples = list(self._waiting)
            self._waiting.clear()
        return samples or None

    def _write(self, samples: list[Sample]) -> None:
        if self._retry_at is not None and self._clock() < self._retry_at:
            self._lost += len(samples)
            return
        try:
            if self._sink is None:
                self._sink = self._make()
            for sample in samples:
                self._sink.write(sample)
            self._sink.flush()
        except Exception as error:  # noqa: BLE001  a foreign library on a foreign disk: it may raise anything
            self._failed(error, len(samples))
            return
        if self._retry_at is not None:
            lost, self._retry_at, self._lost = self._lost, None, 0
            self._say(f"{self._name} is written again; {lost} samples were lost.")

    def _failed(self, error: Exception, lost: int) -> None:
        first = self._retry_at is None
        self._lost += lost
        self._retry_at = self._clock() + RETRY_S
        self._end_sink()
        if first:
            why = f"{type(error).__name__}: {error}"[:300]
            self._say(f"{self._name} can't be written ({why}). Training goes on; it is tried again.")

    def _end_sink(self) -> None:
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        except Exception as error:  # noqa: BLE001  the same; what it could not write was told, or is told now
            if self._retry_at is None:
                self._say(f"{self._name} was not closed in order ({type(error).__name__}: {error})."[:400])

    def _say(self, text: str) -> None:
        self._in_loop(self._tell, text)

    def _in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        # The loop may have ended before a disk that hung: then nobody is there to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)
