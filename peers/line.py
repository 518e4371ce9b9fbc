"""This node's line: what goes over it by class, how fast it is, and how much of it may be taken.

One object for all links, lanes and file streams of a node. They tell it what they send and read; it counts
(for people), measures (meter.py, for the plans' shares) and paces (shaper.py). It knows no sockets.

Classes: `rounds` are frames with a payload, `state` is files (checkpoints, texts, commits), `control` all
other frames. What the libp2p process says by itself (DHT, pings, handshakes) does not come through here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from atoll.peers.meter import HEADROOM, Download, Upload
from atoll.peers.shaper import Rank, Shaper

FRAMING = 1.06
"""Bytes on the wire for one that is counted here: libp2p's and TLS's records, TCP, IP, acknowledgements."""
PATIENCE_S = 5.0
"""What a slice of a file waits for the bulk of rounds."""
REPORT_S = 0.1
"""A receiver tells how much has come so often: the sender's windows are ten times as long."""


class Kind(StrEnum):
    """Class of traffic, the first one first where there is a cap."""

    CONTROL = "control"
    ROUNDS = "rounds"
    STATE = "state"


@dataclass(frozen=True)
class Caps:
    """Bits per second on the wire, each way; 0: no cap."""

    up_bps: float = 0.0
    down_bps: float = 0.0


class Line:
    """Counts, meters and caps of one node."""

    def __init__(self, caps: Caps | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.caps = caps or Caps()
        self.up = Shaper(self.caps.up_bps / 8 / FRAMING, clock)
        self.down = Shaper(self.caps.down_bps / 8 / FRAMING, clock)
        self.sent: Counter[Kind] = Counter()
        """Bytes of each class since the start,"""
        self.received: Counter[Kind] = Counter()
        """and those that came."""
        self.over_lanes = 0
        """Those of them, both ways, that went over direct lanes and not through the libp2p process."""
        self.clock = clock
        self.upload = Upload()
        self.download = Download()

    def limit(self, caps: Caps) -> None:
        """Other caps from now on, also for what is under way."""
        self.caps = caps
        self.up.limit(caps.up_bps / 8 / FRAMING)
        self.down.limit(caps.down_bps / 8 / FRAMING)

    @property
    def upload_bps(self) -> int:
        """What receivers took of late, bits per second of payload; 0: not known yet."""
        return _bounded(self.upload.bps, self.caps.up_bps)

    @property
    def download_bps(self) -> int:
        """What came of late while something came; 0: not known yet."""
        return _bounded(self.download.bps, self.caps.down_bps)

    @property
    def likely_download_bps(self) -> int:
        """What may be asked of the download: others may not have sent as fast as the line would take."""
        return _bounded(HEADROOM * self.download.bps, self.caps.down_bps)

    async def send_state(self, size_bytes: int) -> None:
        """Returns when so many bytes of a file may be written; they are counted."""
        await _patiently(self.up, size_bytes)
        self.sent[Kind.STATE] += size_bytes

    async def read_state(self, size_bytes: int) -> None:
        """So many bytes of a file were read; returns when more may be."""
        self.received[Kind.STATE] += size_bytes
        await _patiently(self.down, size_bytes)


async def _patiently(shaper: Shaper, size_bytes: int) -> None:
    """After the bulk of rounds, but not for ever: whoever fetches the file must see that it goes on."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await shaper.take(size_bytes, shaper.turn(Rank.STATE))
    except TimeoutError:
        await shaper.take(size_bytes, shaper.turn(Rank.LATE))


def _bounded(bps: float, cap_bps: float) -> int:
    return int(min(bps, cap_bps / FRAMING) if cap_bps else bps)


class LinkUse:
    """What one link sends and reads. `report` tells the peer how many more bulk bytes have come from it."""

    def __init__(self, line: Line, report: Callable[[int], None]) -> None:
        self.line = line
        self._report = report
        self._unreported = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def sent_control(self, size_bytes: int) -> None:
        """Of a control frame: counted, never paced."""
        self.line.sent[Kind.CONTROL] += size_bytes
        self.line.up.spend(size_bytes)

    def read_control(self, size_bytes: int) -> None:
        self.line.received[Kind.CONTROL] += size_bytes
        self.line.down.spend(size_bytes)

    def moved_bulk(self, sent: int, received: int) -> None:
        """Bytes of frames with a payload, either way; whoever sends or reads them paces itself."""
        now = self.line.clock()
        if sent:
            self.line.sent[Kind.ROUNDS] += sent
            self.line.upload.sent(self, sent, now)
        if received:
            self.line.received[Kind.ROUNDS] += received
            self.line.download.came(received, now)
            self._unreported += received
            if self._timer is None and not self._closed:
                self._timer = asyncio.get_running_loop().call_later(REPORT_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        size, self._unreported = self._unreported, 0
        self._report(size)

    def confirmed(self, size_bytes: int) -> None:
        """The peer says that so many more bulk bytes have come."""
        self.line.upload.confirmed(self, size_bytes, self.line.clock())

    def settled(self) -> None:
        """The peer has acknowledged all frames."""
        self.line.upload.all_came(self, self.line.clock())

    def close(self) -> None:
        """The link has ended."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.line.upload.gone(self, self.line.clock())
