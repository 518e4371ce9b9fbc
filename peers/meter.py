"""How fast this node's line is, from the traffic that it carries anyway. Sans-IO: time comes in.

One number each way for all links together: the line, not a link, is what a node shares out. Bytes are counted
over time in which something was under way, in windows of about WINDOW_S or up to the end of what was under
way; what is too short or too little to say anything waits for more. The estimate is the speed that a quarter
of the newest bytes went faster than. So it is made by bytes, not by time: one slow receiver that is waited
for at the end of each round adds time and few bytes, and does not drag it down. Old windows go when new ones
come, WINDOWS of them; while nothing is under way nothing is learned and nothing forgotten.

Upload is what receivers say that has come (`Upload`): what was written went into buffers, of the libp2p
process and of the kernel, and says little. Download is what came (`Download`); it shows a line only as fast
as others sent to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

WINDOW_S = 1.0
WINDOWS = 32
"""At least so many seconds of traffic under load are remembered."""
UPPER = 0.25
"""Of the newest bytes, the part that went faster than the estimate."""
MIN_BYTES = 64 * 1024
MIN_S = 0.05
"""Less than either says nothing about a line: a window goes on until it has both."""
SILENCE_S = 5.0
"""A receiver that confirms nothing for so long is not waited for: what it lacks is no longer under way."""
GAP_S = 1.0
"""A pause of the incoming bytes that is longer ends the time that counts."""
HEADROOM = 2.0
"""A download was never faster than others sent: so many times what was seen may be asked of it."""


class Meter:
    """Speed in one direction. Between `began` and `ended` something is under way."""

    def __init__(self) -> None:
        self._windows: deque[tuple[float, int]] = deque(maxlen=WINDOWS)  # seconds, bytes
        self._since: float | None = None
        self._seconds = 0.0  # of the open window, up to `_since`
        self._bytes = 0
        self._follows = False  # the open window began when the last one was full

    @property
    def running(self) -> bool:
        return self._since is not None

    @property
    def bps(self) -> float:
        """Bits per second; 0.0: not known yet."""
        left = UPPER * sum(size for _, size in self._windows)
        for rate, size in sorted(((8 * size / s, size) for s, size in self._windows), reverse=True):
            left -= size
            if left <= 0:
                return rate
        return 0.0

    def began(self, now: float) -> None:
        """From now on something is under way; nothing changes where it was before."""
        if self._since is None:
            self._since, self._follows = now, False

    def moved(self, size_bytes: int, now: float) -> None:
        """So many bytes have gone all the way."""
        if self._since is None:
            return
        self._bytes += size_bytes
        if self._seconds + now - self._since >= WINDOW_S and self._bytes >= MIN_BYTES:
            self._add(now)
            self._close()
            self._since, self._follows = now, True

    def ended(self, now: float) -> None:
        """Nothing is under way any more."""
        if self._since is None:
            return
        self._add(now)
        self._since = None
        if self._follows and self._seconds < MIN_S:
            # Bytes of several links that came at once: the first of them filled the last window.
            seconds, size = self._windows.pop()
            self._seconds, self._bytes = self._seconds + seconds, self._bytes + size
            self._close()
        elif self._seconds >= MIN_S and self._bytes >= MIN_BYTES:
            self._close()
        elif self._seconds >= WINDOW_S:
            self._seconds, self._bytes = 0.0, 0  # somebody was waited for, and next to nothing came

    def _add(self, now: float) -> None:
        assert self._since is not None
        self._seconds += max(0.0, now - self._since)

    def _close(self) -> None:
        self._windows.append((self._seconds, self._bytes))
        self._seconds, self._bytes = 0.0, 0


class Upload:
    """What this node has sent on each of its links, and what of it has come."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._under_way: dict[Hashable, tuple[int, float]] = {}  # bytes, when it last confirmed some

    @property
    def bps(self) -> float:
        return self._meter.bps

    def sent(self, link: Hashable, size_bytes: int, now: float) -> None:
        """Bytes were given to a link."""
        self._forget_silent(now)
        self._meter.began(now)
        waiting, since = self._under_way.get(link, (0, now))
        self._under_way[link] = waiting + size_bytes, since

    def confirmed(self, link: Hashable, size_bytes: int, now: float) -> None:
        """The other end has these more bytes; what it confirms and was not sent counts for nothing."""
        waiting, _ = self._under_way.pop(link, (0, now))
        size_bytes = min(size_bytes, waiting)
        self._meter.moved(size_bytes, now)
        if waiting > size_bytes:
            self._under_way[link] = waiting - size_bytes, now
        self._forget_silent(now)

    def all_came(self, link: Hashable, now: float) -> None:
        """The other end has everything, as it says in another way."""
        self.confirmed(link, self._under_way.get(link, (0, now))[0], now)

    def gone(self, link: Hashable, now: float) -> None:
        """A link has ended."""
        self._under_way.pop(link, None)
        self._forget_silent(now)

    def _forget_silent(self, now: float) -> None:
        silent = [link for link, (_, since) in self._under_way.items() if now - since > SILENCE_S]
        for link in silent:
            del self._under_way[link]
        if not self._under_way:
            self._meter.ended(now)


class Download:
    """What comes as bulk, from all links."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._last = 0.0

    @property
    def bps(self) -> float:
        """As it was seen."""
        return self._meter.bps

    def came(self, size_bytes: int, now: float) -> None:
        """Bytes of a bulk frame were read."""
        if self._meter.running and now - self._last > GAP_S:
            self._meter.ended(self._last)
        if self._meter.running:
            self._meter.moved(size_bytes, now)
        else:
            self._meter.began(now)  # the first bytes took a time that nobody knows
        self._last = now
