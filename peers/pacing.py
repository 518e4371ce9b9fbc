"""Pacing: so many bytes a second on average, so that a joiner does not crowd out rounds. Sans-IO.

A token bucket kept as one number, the time at which the next bytes may go (virtual scheduling: ITU-T I.371,
GCRA). Whoever asks in time goes at once, however large the unit; what it spent is then waited for.
"""

from __future__ import annotations

import math


class RateCap:
    """At most `bytes_per_s`, and one unit and `burst_bytes` more in any stretch of time; 0: no cap.

    The burst is what a late timer may catch up with: without one, each wait's lateness is lost.
    """

    def __init__(self, bytes_per_s: float = 0.0, burst_bytes: float = 0.0) -> None:
        self.bytes_per_s = bytes_per_s
        self._burst_s = burst_bytes / bytes_per_s if bytes_per_s else 0.0
        self._free_at = -math.inf

    def change(self, bytes_per_s: float) -> None:
        """Another rate from now on, also for whoever waits; what was spent before is forgotten."""
        self.bytes_per_s, self._burst_s, self._free_at = bytes_per_s, 0.0, -math.inf

    def ready_at(self) -> float:
        """When the next bytes may go; in the past: at once."""
        return self._free_at

    def spend(self, size_bytes: int, now: float) -> None:
        """`size_bytes` go at `now`."""
        if self.bytes_per_s:
            self._free_at = max(self._free_at, now - self._burst_s) + size_bytes / self.bytes_per_s

    def refund(self, size_bytes: int) -> None:
        """Bytes that were spent did not go after all; time that has passed meanwhile is no credit."""
        if self.bytes_per_s:
            self._free_at -= size_bytes / self.bytes_per_s
