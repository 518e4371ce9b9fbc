"""How long to wait: from what recent rounds took, so that nobody has to rank time-outs.

Median and MAD (median absolute deviation, times 1.4826 to compare with a standard deviation) of the last
arrivals; a wait ends a few deviations above, between a floor and a cap. While little is known the cap holds.
When a wait ended with somebody missing it was perhaps too short: each time the next one is doubled, and
halved again for each that was long enough.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

HISTORY = 64
ENOUGH = 4
"""Arrivals from which something is known."""
NORMAL_MAD = 1.4826


class Pace:
    """Arrival times (s) of one kind of thing; `margin` medians and `deviations` MADs are waited for."""

    def __init__(self, floor_s: float, cap_s: float, margin: float = 1.0, deviations: float = 3.0) -> None:
        self._floor = floor_s
        self._cap = cap_s
        self._margin = margin
        self._deviations = deviations
        self._arrivals: deque[float] = deque(maxlen=HISTORY)
        self._factor = 1.0

    def saw(self, arrivals: Iterable[float], complete: bool = True) -> None:
        """Notes arrivals, in seconds since the wait began, and whether everybody came."""
        self._arrivals.extend(arrivals)
        factor = self._factor / 2 if complete else self._factor * 2
        self._factor = min(max(1.0, factor), self._cap / self._floor)

    def patience_s(self) -> float:
        """How long to wait next time."""
        if len(self._arrivals) < ENOUGH:
            return self._cap
        median = statistics.median(self._arrivals)
        mad = statistics.median(abs(arrival - median) for arrival in self._arrivals)
        wait = self._margin * median + self._deviations * NORMAL_MAD * mad
        return min(self._cap, self._factor * max(self._floor, wait))
