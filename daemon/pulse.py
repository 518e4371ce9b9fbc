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
from collections import deque
from collections.abc import Awaitable, Callable

BEAT_S = 0.1
ROUND_BEAT_S = 0.01
"""Rounds are short, and what holds up the loop then holds up others: it is looked at more closely."""
ROUND_BEATS = 2000
"""So many of the last ones in rounds are kept."""
STALL_S = 2.0
JUMP_S = 5.0
FRAMES = 3
"""Innermost places that are told."""


class Pulse:
    """`beats` runs in the loop; times are those of the clocks given. `lag_s`: how late the loop came back.

    `in_round`: whether a round is under way.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        stalled: Callable[[float, str], None],
        jumped: Callable[[float], None],
        in_round: Callable[[], bool] = lambda: False,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._stalled = stalled
        self._jumped = jumped
        self._in_round = in_round
        self.lag_s = 0.0
        self._round_lags_s: deque[float] = deque(maxlen=ROUND_BEATS)
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
            before, in_round = self._monotonic(), self._in_round()
            pause = ROUND_BEAT_S if in_round else BEAT_S
            await sleep(pause)
            self.beat()
            late = self._monotonic() - before - pause
            self.lag_s = max((1 - 0.2 * pause) * self.lag_s, late)
            if in_round:
                self._round_lags_s.append(late)

    @property
    def round_lag_p99_s(self) -> float | None:
        """What 99 of 100 recent delays of the loop in rounds stayed below, seconds; None: not known yet."""
        lags = sorted(self._round_lags_s)
        return lags[int(0.99 * (len(lags) - 1))] if lags else None

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
