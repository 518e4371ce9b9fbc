"""Virtual time: one heap of events, one generator, one trace. Nothing here knows what is simulated.

Events at the same time happen in the order in which they were asked for, so a seed has one history.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

TRACE_LINES = 200
MAX_EVENTS = 2_000_000
"""Far more than any seed needs."""


class Violation(Exception):
    """Something happened that never may. `kind` names the invariant, `seed` and `at` where to look."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.seed = 0
        self.at = 0.0
        self.trace: list[str] = []

    def __str__(self) -> str:
        lines = [
            f"violation of {self.kind!r} with seed {self.seed} at {self.at:.3f} s: {self.message}",
            f"replay it with: atoll simulate chaos --seed {self.seed} --trace",
            *self.trace,
        ]
        return "\n".join(lines)


class Engine:
    """Time, chance and what happened. `say` takes a format and its arguments: most lines are never read."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0
        self._tell = tell
        self._trace: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=TRACE_LINES)

    def at(self, when: float, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` at a time, not before now."""
        self._asked += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._asked, work, arguments))

    def after(self, delay: float, work: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay, work, *arguments)

    def between(self, span: tuple[float, float]) -> float:
        """A number drawn evenly from (low, high)."""
        return span[0] + (span[1] - span[0]) * self.random.random()

    def run(self, until: Callable[[], bool], end: float = math.inf) -> bool:
        """Lets events happen until a condition holds; whether it did before `end`."""
        heap = self._heap
        last = self.events + MAX_EVENTS
        while not until():
            if self.events > last:
                raise Violation("no busy loop", f"{MAX_EVENTS} events and no end")
            if not heap or heap[0][0] > end:
                return False
            self.now, _, work, arguments = heapq.heappop(heap)
            self.events += 1
            work(*arguments)
        return True

    def say(self, text: str, *arguments: Any) -> None:
        """One line of the trace."""
        if self._tell is not None:
            self._tell(_line(self.now, text, arguments))
        self._trace.append((self.now, text, arguments))

    def trace(self) -> list[str]:
        """The last lines."""
        return [_line(*entry) for entry in self._trace]


def _line(at: float, text: str, arguments: tuple[Any, ...]) -> str:
    return f"{at:9.3f}  " + text.format(*arguments)
