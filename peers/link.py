"""One link: a libp2p stream that carries frames both ways (wire.py), and perhaps a direct lane beside it.

Control frames never wait behind more than one bulk frame; both queues are bounded: a peer that does not take
its control frames is cut off, a bulk sender waits. What is passed on for others has a small budget for each
origin, over which it is dropped: no origin can have the target cut off. Where both sides offered a lane, bulk
frames are numbered and take the better way (bulk.py). When the stream ends, the link and its lane end.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from atoll.peers import packing
from atoll.peers.bulk import BulkTraffic, Uplink
from atoll.peers.lane import Bulk
from atoll.peers.line import Line, LinkUse
from atoll.peers.ways import Way
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

WRITE_TIMEOUT_S = 60.0
MAX_CONTROL_QUEUE = 2048
MAX_CONTROL_BYTES = 4 << 20
"""Control frames that wait on one link: by number and by size."""
MAX_PASSED = 64
MAX_PASSED_BYTES = wire.LENGTH_BYTES + wire.MAX_FRAME_BYTES
MAX_PASSED_BYTES_IN_ALL = 4 * MAX_PASSED_BYTES
"""What may wait on one link to be passed on: of one origin (one frame of any size fits), and of all."""
MAX_BULK_QUEUE = 4
_SLICE = 256 * 1024
_READ_BYTES = 256 * 1024


class LinkLost(ConnectionError):
    """The link ended while something was to be sent over it."""


class Link:
    """One established stream to `peer`. `dialled`: this node opened it; `relayed`: over a third node.

    `numbered`: both sides offered a lane. `packs`: both can undo what packing.py does.
    """

    def __init__(
        self,
        peer: bytes,
        hello: pb.Hello,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialled: bool,
        relayed: bool = False,
        numbered: bool = False,
        packs: bool = False,
        line: Line | None = None,
    ) -> None:
        self.peer = peer
        self.hello = hello
        self.dialled = dialled
        self.relayed = relayed
        self.punched = False
        """It runs through a hole in both sides' routers."""
        self.use = LinkUse(line or Line(), self._report)
        self.sent = 0
        self.received = 0
        self._packs = packs
        self._written_bps = 0.0
        self._reader = reader
        self._writer = writer
        self.alive_at = time.monotonic()
        """When bytes of the peer came, or some that had to wait were taken by it."""
        # Control frames with whose they are, b"" this node's own; how many wait, and how many bytes.
        self._control: deque[tuple[bytes, bytes]] = deque()
        self._frames = Counter[bytes]()
        self._bytes = Counter[bytes]()
        self._bulk: deque[Bulk] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_BULK_QUEUE)
        self.closed = asyncio.Event()
        self.drained = asyncio.Event()
        self.reason = ""
        self.bulk: BulkTraffic | None = None
        if numbered:
            self.bulk = BulkTraffic(Uplink(self.send, self._over_libp2p, self._moved_over_lane), line=line)
        self.lane_reason = "" if numbered else "one of the two offers no lane"
        """Why no lane is tried; where one is, its own reason tells why there is none."""

    @property
    def lane(self) -> str:
        """For people: how bulk frames travel, and why not over a lane."""
        if self.bulk is None or self.lane_reason:
            return f"libp2p: {self.lane_reason}"
        if not self.bulk.lane.open:
            return f"libp2p: {self.bulk.lane.reason or 'no lane is up yet'}"
        return f"{self.bulk.ways.preferred.value}: {len(self.bulk.lane.connections)} direct connections"

    @property
    def upload_bps(self) -> float:
        """What bulk frames reach: as acknowledged on the way that they take, else as written to libp2p."""
        acknowledged = self.rate_bps(self.bulk.ways.preferred) if self.bulk is not None else 0.0
        return acknowledged or self._written_bps

    def rate_bps(self, way: Way) -> float:
        """Bits per second that recent bulk frames reached on a way; 0.0: not measured."""
        return self.bulk.ways.rate_bps(way) if self.bulk is not None else 0.0

    def send(self, frame: pb.Frame) -> None:
        """Queues a control frame; a peer that leaves too many unread is cut off."""
        if self.closed.is_set():
            return
        data = wire.encode_frame(frame)
        if self._frames[b""] >= MAX_CONTROL_QUEUE or self._bytes[b""] + len(data) > MAX_CONTROL_BYTES:
            self.close("it does not read what it is sent")
            return
        self._queue(data, b"")

    def pass_on(self, frame: pb.Frame, origin: bytes) -> bool:
        """Queues a control frame of `origin`; False where too much waits already, and it is dropped."""
        data = wire.encode_frame(frame)
        of_all = self._bytes.total() - self._bytes[b""] + len(data)
        over = self._frames[origin] >= MAX_PASSED or self._bytes[origin] + len(data) > MAX_PASSED_BYTES
        if over or of_all > MAX_PASSED_BYTES_IN_ALL or self.closed.is_set():
            return False
        self._queue(data, origin)
        return True

    def _queue(self, data: bytes, origin: bytes) -> None:
        self._control.append((data, origin))
        self._frames[origin] += 1
        self._bytes[origin] += len(data)
        self.drained.clear()
        self._wake.set()

    def _next_control(self) -> bytes:
        data, origin = self._control.popleft()
        self._frames[origin] -= 1
        self._bytes[origin] -= len(data)
        if not self._frames[origin]:
            del self._frames[origin], self._bytes[origin]
        return data

    async def send_bulk(self, frame: pb.Frame, payload: wire.Payload) -> None:
        """Sends a frame with its payload; returns when it is written. Raises LinkLost."""
        async with self._room:
            unpacked_size = 0
            if self._packs and packing.pays(self.use.line.upload_bps or self.upload_bps):
                packed = await asyncio.to_thread(packing.pack, payload)
                if packed is not None:
                    payload, unpacked_size = packed, len(payload)
            if self.closed.is_set():
                raise LinkLost(self.reason)
            if self.bulk is not None:
                try:
                    bulk = await self.bulk.post(frame, payload, unpacked_size)
                except TimeoutError:
                    self.close("it does not acknowledge what it is sent")
                    raise LinkLost(self.reason) from None
            else:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                head = wire.encode_frame(frame, len(payload), unpacked_size=unpacked_size)
                bulk = Bulk(0, head, memoryview(payload), done)
                self._over_libp2p(bulk)
            await bulk.done

    def _over_libp2p(self, bulk: Bulk) -> None:
        if self.closed.is_set():
            _fail(bulk, self.reason)
            return
        self._bulk.append(bulk)
        self._wake.set()

    def _moved_over_lane(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received
        self.use.moved_bulk(sent, received)
        self.use.line.over_lanes += sent + received
        self._moved()

    def _report(self, size_bytes: int) -> None:
        if not self.closed.is_set():
            self.send(pb.Frame(received=pb.Received(bytes=size_bytes)))

    def close(self, reason: str) -> None:
        """Ends the link, once."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._wake.set()
        for bulk in self._bulk:
            _fail(bulk, reason)
        self._bulk.clear()
        if self.bulk is not None:
            self.bulk.close(reason)
        self.use.close()
        self._writer.close()

    async def read(self) -> tuple[pb.Frame, wire.Payload]:
        """The next frame and its payload. Raises WireError, or an OSError/EOFError at the end."""
        frame, payload = await read_frame(self._reader, self._moved, self.use)
        self.received += wire.LENGTH_BYTES + frame.ByteSize() + len(payload)
        return frame, payload

    def _moved(self) -> None:
        self.alive_at = time.monotonic()

    async def write(self) -> None:
        """Writes what is queued until the link ends."""
        try:
            while not self.closed.is_set():
                while self._control:
                    data = self._next_control()
                    self.use.sent_control(len(data))
                    await self._put(data)
                if self._bulk:
                    await self._put_bulk(self._bulk.popleft())
                elif not self._control:
                    self._wake.clear()
                    self.drained.set()
                    await self._wake.wait()
                    self.drained.clear()
        except TimeoutError:
            self.close("it takes no data")
        except (OSError, RuntimeError) as error:
            self.close(f"the connection broke ({error})")

    async def _put(self, data: bytes | memoryview) -> None:
        self._writer.write(data)
        self.sent += len(data)
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            waiting = self._writer.transport.get_write_buffer_size()
            await self._writer.drain()
            # What fits into a buffer says nothing of the peer; that a full one got room again does.
            if self._writer.transport.get_write_buffer_size() < waiting:
                self._moved()

    async def _put_bulk(self, bulk: Bulk) -> None:
        began = time.monotonic()
        if self.bulk is not None:
            self.bulk.began_over_libp2p(bulk)
        try:
            self.use.sent_control(len(bulk.head))
            await self._put(bulk.head)
            turn, step = self.use.line.up.turn(), self.use.line.up.slice_bytes(_SLICE)
            for start in range(0, len(bulk.payload), step):
                part = bulk.payload[start : start + step]
                await self.use.line.up.take(len(part), turn)
                await self._put(part)
                self.use.moved_bulk(len(part), 0)
        except BaseException:
            _fail(bulk, "the connection broke")
            raise
        if not bulk.done.done():
            bulk.done.set_result(None)
        took = max(time.monotonic() - began, 1e-6)
        rate = 8 * len(bulk.payload) / took
        self._written_bps = rate if not self._written_bps else 0.8 * self._written_bps + 0.2 * rate


def _fail(bulk: Bulk, reason: str) -> None:
    if not bulk.done.done():
        bulk.done.set_exception(LinkLost(reason))


def _unnoted() -> None:
    pass


async def read_frame(
    reader: asyncio.StreamReader, moved: Callable[[], None] = _unnoted, use: LinkUse | None = None
) -> tuple[pb.Frame, wire.Payload]:
    """One frame from a stream, with every length checked before it is read. Raises WireError.

    `moved` is called whenever bytes came; `use` counts them, and paces what is bulk.
    """
    size = wire.frame_length(await _exactly(reader, wire.LENGTH_BYTES, moved))
    frame = wire.decode_frame(bytes(await _exactly(reader, size, moved)))
    if use is not None:
        use.read_control(wire.LENGTH_BYTES + size)
    return frame, await _exactly(reader, frame.payload_size, moved, use)


async def _exactly(
    reader: asyncio.StreamReader, size: int, moved: Callable[[], None], use: LinkUse | None = None
) -> bytearray:
    """`size` bytes in a buffer that is allocated once; the caller has checked the size."""
    data = bytearray(size)
    have = 0
    down = use.line.down if use is not None and size else None
    step, turn = (down.slice_bytes(_READ_BYTES), down.turn()) if down is not None else (_READ_BYTES, None)
    while have < size:
        part = await reader.read(min(step, size - have))
        if not part:
            raise asyncio.IncompleteReadError(bytes(data[:have]), size)
        data[have : have + len(part)] = part
        have += len(part)
        moved()
        if use is not None and down is not None and turn is not None:
            use.moved_bulk(0, len(part))
            await down.take(len(part), turn)
    return data
