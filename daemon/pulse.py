"""The pulse of the event loop and of the clock: what held the daemon up, and for how long.

A loop that stands still answers nobody: peers take the node for dead after ten seconds. A thread notices a
beat that is missing and looks where the loop is stuck; when it goes on, that is told. The wall clock is
compared with the monotonic one: a jump (a suspended laptop, a corrected clock) makes announcements expire
early or late, so whoever depends on it is told. Owns one thread, which ends with `close`.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Awaitable, Callable

BEAT_S = 0.1
STALL_S = 2.0
JUMP_S = 5.0
FRAMES = 3
"""Innermost places that are told."""


class Pulse:
    """`beats` runs in the loop; times are those of the clocks given. `lag_s`: how late the loop came back."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        stalled: Callable[[float, str], None],
        jumped: Callable[[float], None],
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._stalled = stalled
        self._jumped = jumped
        self.lag_s = 0.0
        self._last = monotonic()
        self._offset = wall() - monotonic()
        self._where = ""
        self._loop_thread = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """The loop is alive. Tells of a stall that has just ended, and of a clock that jumped."""
        now, offset = self._monotonic(), self._wall() - self._monotonic()
        silent, where = now - self._last, self._where
        self._last, self._where = now, ""
        jump, self._offset = offset - self._offset, offset
        if silent >= STALL_S:
            self._stalled(silent, where)
        if abs(jump) >= JUMP_S:
            self._jumped(jump)

    async def beats(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Beats, and measures how late the loop comes back. Runs until cancelled."""
        while True:
            before = self._monotonic()
            await sleep(BEAT_S)
            self.beat()
            self.lag_s = max(0.98 * self.lag_s, self._monotonic() - before - BEAT_S)

    def look(self) -> None:
        """Notes where the loop is, once it has been silent for too long. Called by the thread."""
        if self._where or self._monotonic() - self._last < STALL_S:
            return
        frame = sys._current_frames().get(self._loop_thread)
        places = traceback.extract_stack(frame)[-FRAMES:] if frame is not None else []
        self._where = " < ".join(_place(place) for place in places[::-1])

    def _watch(self) -> None:
        while not self._over.wait(STALL_S / 4):
            self.look()

    def close(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.name} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
