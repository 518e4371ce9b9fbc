"""The rules by which a round begins without those who are still training.

all      when a quorum is ready and the grace has passed, which adapts: the median of recent arrivals (seconds
         after the first one) plus 3 · 1.4826 · MAD, so nobody guesses a time-out
dbw      when as many are ready as learn most per second: dynamic backup workers (2102.06280)
period   so many seconds after the commit before, with whoever is ready then: FedFix (2206.10189)
window   so many seconds after the first one is ready, or 15 % of a phase if that is more: arrivals are
         soon taken in, and those that come at about the same time together (2401.09135)
"""

from __future__ import annotations

from collections.abc import Sequence

ALL, DBW, PERIOD, WINDOW = "all", "dbw", "period", "window"
DOORS = (ALL, DBW, PERIOD, WINDOW)
WINDOW_PART = 0.15
"""Of a phase. With phases by speed most arrive within it, hardly staler than in a synchronous round."""


def best_quorum(phases_s: Sequence[float], exchange_s: float) -> int:
    """Dynamic backup workers (2102.06280, section 4): the k with the most contributions per second, k / T_k.

    `phases_s`: how long the inner phase of each node takes, where that is known; T_k is the k-th shortest and
    `exchange_s`, seconds that the averaging takes. The greatest of equally good ones; 0 without phases.
    """
    ordered = sorted(phases_s)
    rates = [(k / max(phase + exchange_s, 1e-9), k) for k, phase in enumerate(ordered, 1)]
    return max(rates, default=(0.0, 0))[1]
