"""A cap for everything that this node sends, or reads, on all links together: who may go next, and when.

The rate is a token bucket (pacing.py) with a burst that a home router's queue does not notice. Bulk goes in
slices and waits for its turn; the frame that began first goes first, so frames end one after another and
whoever waits behind one on its own link waits for one frame, not for all of them. Control frames are counted
and never wait: bulk makes up for them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from atoll.peers.pacing import RateCap

BURST_BYTES = 32 * 1024
"""What may go above the rate, together with one slice."""
TIMER_S = 0.002
"""Timers are late by about so much: a fast line has to catch up with more than BURST_BYTES."""
SLICE_S = 0.01
MIN_SLICE_BYTES, MAX_SLICE_BYTES = 4 * 1024, 32 * 1024


class Rank(IntEnum):
    """Who goes first."""

    LATE = 0
    """A file that has waited long."""
    ROUNDS = 1
    STATE = 2


@dataclass(frozen=True, order=True)
class Turn:
    """A place in the queue: of one rank, whoever came first."""

    rank: Rank
    number: int


class Shaper:
    """At most `bytes_per_s`; 0: no cap, and nothing ever waits. For one event loop."""

    def __init__(self, bytes_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cap = RateCap(bytes_per_s, max(BURST_BYTES, TIMER_S * bytes_per_s))
        self._clock = clock
        self._numbers = itertools.count()
        self._waiting: list[tuple[Turn, int, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, bytes_per_s: float) -> None:
        """Another rate from now on; whoever waits goes on at it. What was spent too early is forgiven."""
        self._cap = RateCap(bytes_per_s, max(BURST_BYTES, TIMER_S * bytes_per_s))
        if self._timer is not None:
            self._timer.cancel()
            self._next()

    @property
    def active(self) -> bool:
        return bool(self._cap.bytes_per_s)

    def slice_bytes(self, otherwise: int) -> int:
        """How much is to be taken at once; without a cap `otherwise`."""
        if not self.active:
            return otherwise
        return int(min(max(MIN_SLICE_BYTES, SLICE_S * self._cap.bytes_per_s), MAX_SLICE_BYTES))

    def turn(self, rank: Rank = Rank.ROUNDS) -> Turn:
        """A place in the queue, for one frame or one file."""
        return Turn(rank, next(self._numbers))

    def spend(self, size_bytes: int) -> None:
        """What does not wait is counted."""
        self._cap.spend(size_bytes, self._clock())

    @property
    def wait_s(self) -> float:
        """How long until something may go; 0.0: now."""
        return max(0.0, self._cap.ready_at() - self._clock())

    async def take(self, size_bytes: int, turn: Turn) -> None:
        """Returns when so many bytes may go; they are counted."""
        if not self.active:
            return
        if not self._waiting and not self.wait_s:
            self.spend(size_bytes)
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._numbers), size_bytes, ready))
        self._look_again()
        await ready

    def _look_again(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self.wait_s, self._next)

    def _next(self) -> None:
        self._timer = None
        while self._waiting and not self.wait_s:
            _, _, size_bytes, ready = heapq.heappop(self._waiting)
            if not ready.done():  # else whoever waited was cancelled
                self.spend(size_bytes)
                ready.set_result(None)
        self._look_again()
