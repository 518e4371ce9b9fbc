"""How long contributions usually are, chunk by chunk: one that is many times longer is not taken.

And results, fragment by fragment, beside a node's own contribution.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

TIMES = 10.0
"""Of the recent median: far more than an honest node's phase differs from another's."""
RECENT = 8
"""Rounds in which this node owned the chunk."""


class Norms:
    """Of the chunks that this node averages. A chunk that it has not owned before has no limit yet."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}

    def limit(self, chunk: int) -> float | None:
        """The longest contribution to a chunk that is taken; None: not known yet."""
        recent = self._recent.get(chunk)
        median = statistics.median(recent) if recent else 0.0
        return TIMES * median if median > 0 else None

    def saw(self, chunk: int, lengths: Sequence[float]) -> None:
        """The lengths of the contributions of one round."""
        if lengths:
            self._recent.setdefault(chunk, deque(maxlen=RECENT)).append(statistics.median(lengths))
