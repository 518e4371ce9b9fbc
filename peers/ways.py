"""The two ways of a link's bulk frames, the libp2p stream and the direct lane: which one is faster. Sans-IO.

Only what was measured decides. A frame's time runs from when it began to be sent, or from the acknowledgement
before it on the same way where that was later, to its own: so frames that follow each other closely tell the
throughput, whatever the round trip. Both ways are acknowledged alike. The lane is preferred where it is about
as fast, because it costs a third of the CPU; the way that is not used is tried again now and then.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

TRIAL_FRAMES = 2
TRIAL_EVERY_S = 30.0
"""The way that is not used gets so many frames, so often."""
MAX_LANE_PAUSES, MAX_LIBP2P_PAUSES = 10.0, 100.0
"""A slow way is tried more rarely, up to these factors."""
WARM_FRAMES = 8
"""The first frames on a lane are not counted: TCP is still finding out what the line takes."""
FIRST_TRIAL_FRAMES = 32
"""A way that was never measured is tried after so many frames of the other one."""
MARGIN = 1.5
"""libp2p has to be so many times faster to be preferred."""
_KEEP, _KEEP_STALE = 0.95, 0.25
"""What was measured before counts for so much beside one more frame: less where it is older than STALE_S."""
STALE_S = 10.0
_MIN_BYTES = 16 * 1024
"""Smaller frames tell about round trips, not about throughput."""


class Way(enum.Enum):
    LIBP2P = "libp2p"
    LANE = "lane"


@dataclass
class _Measured:
    frames: int = 0
    size_bytes: float = 0.0
    took_s: float = 0.0
    last_at: float = -math.inf

    @property
    def rate_bps(self) -> float:
        return 8 * self.size_bytes / self.took_s if self.took_s > 0 else 0.0


class Ways:
    """What each way reached, and which one the next frame takes."""

    def __init__(self) -> None:
        self._measured = {way: _Measured() for way in Way}
        self._sent: dict[int, tuple[Way, int, float]] = {}
        self._trial = 0
        self._tried_at = -math.inf

    def rate_bps(self, way: Way) -> float:
        """Bits per second of recent frames; 0.0 while nothing is known."""
        return self._measured[way].rate_bps

    @property
    def preferred(self) -> Way:
        """The lane, unless libp2p measured faster."""
        lane, libp2p = (self._measured[way].rate_bps for way in (Way.LANE, Way.LIBP2P))
        return Way.LIBP2P if lane and libp2p > MARGIN * lane else Way.LANE

    def choose(self, now: float) -> Way:
        """The way of the next frame, where the lane is up."""
        preferred = self.preferred
        other = Way.LIBP2P if preferred is Way.LANE else Way.LANE
        if self._trial:
            self._trial -= 1
            return other
        known = self._measured[other].frames > 0
        enough = known or self._measured[preferred].frames >= FIRST_TRIAL_FRAMES
        if enough and now - max(self._tried_at, self._measured[other].last_at) >= self._pause_s(other):
            self._tried_at = now
            self._trial = TRIAL_FRAMES - 1
            return other
        return preferred

    def _pause_s(self, other: Way) -> float:
        """Between trials: the slower a way was, the more a trial costs.

        libp2p is tried the more rarely: on a lossy line a trial may take seconds, in the middle of a round.
        """
        slow = self._measured[other].rate_bps
        ratio = max(self._measured[self.preferred].rate_bps / slow, 1.0) if slow else 1.0
        if other is Way.LANE:
            return TRIAL_EVERY_S * min(ratio, MAX_LANE_PAUSES)
        return TRIAL_EVERY_S * min(ratio * ratio, MAX_LIBP2P_PAUSES)

    def began(self, number: int, way: Way, size_bytes: int, now: float) -> None:
        """The first bytes of a frame go; again where it has to be sent again."""
        self._sent[number] = (way, size_bytes, now)

    def acknowledged(self, number: int, now: float) -> None:
        """The peer has the frame."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return
        way, size_bytes, began = sent
        measured = self._measured[way]
        took_s = now - max(began, measured.last_at)
        keep = _KEEP if now - measured.last_at < STALE_S else _KEEP_STALE
        measured.last_at = now
        if size_bytes >= _MIN_BYTES:
            measured.frames += 1
        if size_bytes >= _MIN_BYTES and (way is Way.LIBP2P or measured.frames > WARM_FRAMES):
            measured.size_bytes = keep * measured.size_bytes + size_bytes
            measured.took_s = keep * measured.took_s + max(took_s, 1e-6)
