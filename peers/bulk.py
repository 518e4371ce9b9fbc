"""The bulk frames of one link, where both sides offered a lane: numbers, acknowledgements, the choice of way.

A bulk frame has a number, goes over the direct lane or over libp2p, and is acknowledged by a control frame on
the libp2p stream. Frames may come in any order, and in any order relative to control frames: the round
machine keeps what comes before its plan (protocol/round/stash.py), an envelope has a number of its own
(routing.py), and nothing else has a payload. What the lane could not bring goes over libp2p with the same
number, and the receiver hands each number on once: nothing is lost while the link lives, nothing comes twice.

Bounded: a sender keeps what lane.py says until it is acknowledged; a receiver that has MAX_ARRIVED frames to
hand on reads no more of the lane; a number is never further than MAX_AHEAD from the oldest under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from atoll.peers.lane import Bulk, Lane
from atoll.peers.line import Line
from atoll.peers.ways import Way, Ways
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.stripes import MAX_AHEAD, Inbox

MAX_ARRIVED = 4
MAX_ACKED_AT_ONCE = 64
ACKS_IN_A_FRAME = 16
ACK_DELAY_S = 0.002
"""Acknowledgements wait for so many, or so long: each frame on the stream wakes p2pd on both sides."""
ACK_TIMEOUT_S = 120.0
"""A peer that makes no room for so long, while it has frames to acknowledge, is cut off."""


@dataclass(frozen=True)
class Uplink:
    """What the bulk traffic needs of its link."""

    send: Callable[[pb.Frame], None]
    """Queues a control frame."""
    over_libp2p: Callable[[Bulk], None]
    """Queues a bulk frame on the libp2p stream."""
    moved: Callable[[int, int], None]
    """Bytes sent, bytes received, over the lane."""


class BulkTraffic:
    """Bulk frames of one link, both ways."""

    def __init__(
        self, uplink: Uplink, clock: Callable[[], float] = time.monotonic, line: Line | None = None
    ) -> None:
        self.inbox = Inbox()
        self.ways = Ways()
        self.lane = Lane(self.inbox, self, clock, line)
        self.lane_changed = asyncio.Event()
        """Set when the lane has got or lost a connection."""
        self._uplink = uplink
        self._clock = clock
        self._next = 1
        self._unacked: set[int] = set()
        self._space = asyncio.Event()
        self._arrived: deque[tuple[pb.Frame, wire.Payload]] = deque()
        self._come = asyncio.Event()
        self._to_acknowledge: list[int] = []
        self._ack_timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether the peer has acknowledged all frames."""
        return not self._unacked

    # ---- sending

    async def post(self, frame: pb.Frame, payload: wire.Payload, unpacked_size: int = 0) -> Bulk:
        """Sends a frame with a number over the better way. Raises TimeoutError, WireError."""
        size = wire.LENGTH_BYTES + wire.MAX_FRAME_BYTES // 64 + len(payload)
        way = self.ways.choose(self._clock()) if self.lane.open else Way.LIBP2P
        async with asyncio.timeout(ACK_TIMEOUT_S):
            while not self._has_room(way, size) and not self._closed:
                self._space.clear()
                await self._space.wait()
        number = self._next
        head = wire.encode_frame(frame, len(payload), number, unpacked_size)
        self._next += 1
        self._unacked.add(number)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bulk = Bulk(number, head, memoryview(payload), done)
        if way is Way.LANE and self.lane.open:
            self.lane.post(bulk)
        else:
            self._uplink.over_libp2p(bulk)
        return bulk

    def _has_room(self, way: Way, size_bytes: int) -> bool:
        if self._unacked and self._next >= min(self._unacked) + MAX_AHEAD:
            return False
        return way is Way.LIBP2P or not self.lane.open or self.lane.has_room(size_bytes)

    def began_over_libp2p(self, bulk: Bulk) -> None:
        """The first bytes of a numbered frame go over the libp2p stream."""
        self.ways.began(bulk.number, Way.LIBP2P, len(bulk), self._clock())

    def acknowledged(self, message: pb.BulkAck) -> None:
        """What the peer says that it has. Raises WireError."""
        if len(message.numbers) > MAX_ACKED_AT_ONCE:
            raise wire.WireError(f"{len(message.numbers)} numbers acknowledged at once")
        self._unacked.difference_update(message.numbers)
        for number in message.numbers:
            self.ways.acknowledged(number, self._clock())
            self.lane.acknowledged(number)
        self._space.set()

    # ---- receiving

    def first_time(self, frame: pb.Frame) -> bool:
        """Whether a frame that came over libp2p is to be handed on. Raises WireError."""
        if not frame.number:
            return True
        new = self.inbox.first_time(frame.number)
        self._acknowledge(frame.number)
        return new

    def _acknowledge(self, number: int) -> None:
        self._to_acknowledge.append(number)
        if len(self._to_acknowledge) >= ACKS_IN_A_FRAME:
            self._send_acks()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._send_acks)

    def _send_acks(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        numbers, self._to_acknowledge = self._to_acknowledge, []
        if not self._closed:
            self._uplink.send(pb.Frame(bulk_ack=pb.BulkAck(numbers=numbers)))

    async def deliver(self, handle: Callable[[pb.Frame, wire.Payload], Awaitable[None]]) -> None:
        """Hands on what came over the lane, frame by frame, until the traffic is closed."""
        while not self._closed:
            if not self._arrived:
                self._come.clear()
                await self._come.wait()
                continue
            await handle(*self._arrived.popleft())
            if len(self._arrived) < MAX_ARRIVED:
                self.lane.resume()

    def close(self, reason: str) -> None:
        """The link has ended."""
        self._closed = True
        self.lane.close(reason)
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        self._come.set()
        self._space.set()

    # ---- what the lane tells

    def began(self, bulk: Bulk) -> None:
        self.ways.began(bulk.number, Way.LANE, len(bulk), self._clock())

    def arrived(self, number: int, frame: pb.Frame, payload: wire.Payload) -> None:
        self._arrived.append((frame, payload))
        self._acknowledge(number)
        self._come.set()
        if len(self._arrived) >= MAX_ARRIVED:
            self.lane.pause()

    def given_back(self, bulks: list[Bulk], reason: str) -> None:
        for bulk in bulks:
            self._uplink.over_libp2p(bulk)
        self._space.set()

    def moved(self, sent: int, received: int) -> None:
        self._uplink.moved(sent, received)

    def changed(self) -> None:
        self._space.set()
        self.lane_changed.set()
