"""Links: one warm stream to each peer, over libp2p, with a handshake before anything else.

A link carries frames both ways (wire.py). Control frames never wait behind more than one bulk frame; both
queues are bounded: a peer that does not take its control frames is cut off, a bulk sender waits. What is
passed on for others has a small budget for each origin, over which it is dropped: no origin can have the
target cut off. The first frame each way is a Hello; a peer of another swarm, protocol, model or text is
refused with the reason, and the reason is kept to be shown. When both sides dial at once, the stream dialled
by the smaller peer id stays.

A stream that closes is how a death is noticed: p2pd's connection breaks as soon as the process is gone. A
peer that is silent but connected is the roster's affair; when bytes moved last is known here, because a large
frame on a slow line takes longer than a peer may be silent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.text import plain

HELLO_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
GOODBYE_S = 1.0
MAX_CONTROL_QUEUE = 2048
MAX_CONTROL_BYTES = 4 << 20
"""Control frames that wait on one link: by number and by size."""
MAX_PASSED = 64
MAX_PASSED_BYTES = wire.LENGTH_BYTES + wire.MAX_FRAME_BYTES
MAX_PASSED_BYTES_IN_ALL = 4 * MAX_PASSED_BYTES
"""What may wait on one link to be passed on: of one origin (one frame of any size fits), and of all."""
MAX_BULK_QUEUE = 4
MAX_LINKS = 96
_SLICE = 256 * 1024
_READ_BYTES = 256 * 1024

log = logging.getLogger(__name__)


class LinkRefused(ConnectionError):
    """The handshake failed; the message says why."""


class LinkLost(ConnectionError):
    """The link ended while something was to be sent over it."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of links since the start."""

    sent: int
    received: int


class Link:
    """One established stream to `peer`. `dialled`: this node opened it; `relayed`: over a third node."""

    def __init__(
        self,
        peer: bytes,
        hello: pb.Hello,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialled: bool,
        relayed: bool = False,
    ) -> None:
        self.peer = peer
        self.hello = hello
        self.dialled = dialled
        self.relayed = relayed
        self.sent = 0
        self.received = 0
        self.upload_bps = 0.0
        self._reader = reader
        self._writer = writer
        self.alive_at = time.monotonic()
        """When bytes of the peer came, or some that had to wait were taken by it."""
        # Control frames with whose they are, b"" this node's own; how many wait, and how many bytes.
        self._control: deque[tuple[bytes, bytes]] = deque()
        self._frames = Counter[bytes]()
        self._bytes = Counter[bytes]()
        self._bulk: deque[tuple[bytes, memoryview, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_BULK_QUEUE)
        self.closed = asyncio.Event()
        self.drained = asyncio.Event()
        self.reason = ""

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
            if self.closed.is_set():
                raise LinkLost(self.reason)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._bulk.append((wire.encode_frame(frame, len(payload)), memoryview(payload), done))
            self._wake.set()
            await done

    def close(self, reason: str) -> None:
        """Ends the link, once."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._wake.set()
        for _, _, done in self._bulk:
            if not done.done():
                done.set_exception(LinkLost(reason))
        self._bulk.clear()
        self._writer.close()

    async def read(self) -> tuple[pb.Frame, wire.Payload]:
        """The next frame and its payload. Raises WireError, or an OSError/EOFError at the end."""
        frame, payload = await read_frame(self._reader, self._moved)
        self.received += wire.LENGTH_BYTES + frame.ByteSize() + len(payload)
        return frame, payload

    def _moved(self) -> None:
        self.alive_at = time.monotonic()

    async def write(self) -> None:
        """Writes what is queued until the link ends."""
        try:
            while not self.closed.is_set():
                while self._control:
                    await self._put(self._next_control())
                if self._bulk:
                    await self._put_bulk(*self._bulk.popleft())
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

    async def _put_bulk(self, head: bytes, payload: memoryview, done: asyncio.Future[None]) -> None:
        began = time.monotonic()
        try:
            await self._put(head)
            for start in range(0, len(payload), _SLICE):
                await self._put(payload[start : start + _SLICE])
        except BaseException:
            if not done.done():
                done.set_exception(LinkLost("the connection broke"))
            raise
        if not done.done():
            done.set_result(None)
        took = max(time.monotonic() - began, 1e-6)
        rate = 8 * len(payload) / took
        self.upload_bps = rate if not self.upload_bps else 0.8 * self.upload_bps + 0.2 * rate


def _unnoted() -> None:
    pass


async def read_frame(
    reader: asyncio.StreamReader, moved: Callable[[], None] = _unnoted
) -> tuple[pb.Frame, wire.Payload]:
    """One frame from a stream, with every length checked before it is read. Raises WireError.

    `moved` is called whenever bytes came.
    """
    size = wire.frame_length(await _exactly(reader, wire.LENGTH_BYTES, moved))
    frame = wire.decode_frame(bytes(await _exactly(reader, size, moved)))
    return frame, await _exactly(reader, frame.payload_size, moved)


async def _exactly(reader: asyncio.StreamReader, size: int, moved: Callable[[], None]) -> bytearray:
    """`size` bytes in a buffer that is allocated once; the caller has checked the size."""
    data = bytearray(size)
    have = 0
    while have < size:
        part = await reader.read(min(_READ_BYTES, size - have))
        if not part:
            raise asyncio.IncompleteReadError(bytes(data[:have]), size)
        data[have : have + len(part)] = part
        have += len(part)
        moved()
    return data


@dataclass(frozen=True)
class Callbacks:
    """What the owner of the links provides.

    `hello`: this node's Hello, made afresh. `refuse`: why a peer's Hello is not welcome, or None.
    `frame` is awaited for one frame at a time on each link, so a slow reader slows its sender down.
    """

    hello: Callable[[], pb.Hello]
    refuse: Callable[[bytes, pb.Hello], str | None]
    up: Callable[[Link], None]
    down: Callable[[bytes, str], None]
    frame: Callable[[bytes, pb.Frame, wire.Payload], Awaitable[None]]


class Links:
    """All links of this node."""

    def __init__(self, host: Host, me: bytes, callbacks: Callbacks) -> None:
        self._host = host
        self.me = me
        self._on = callbacks
        self._links: dict[bytes, Link] = {}
        self._dialling: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._past = [0, 0]
        self._closing = False

    async def listen(self) -> None:
        """Accepts links from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(wire.LINK_PROTOCOL, self._accept)

    def get(self, peer: bytes) -> Link | None:
        return self._links.get(peer)

    @property
    def peers(self) -> tuple[bytes, ...]:
        return tuple(self._links)

    @property
    def traffic(self) -> Traffic:
        live = self._links.values()
        return Traffic(
            self._past[0] + sum(k.sent for k in live), self._past[1] + sum(k.received for k in live)
        )

    def send(self, peer: bytes, frame: pb.Frame) -> bool:
        """Queues a control frame for a peer; False where there is no link."""
        link = self._links.get(peer)
        if link is not None:
            link.send(frame)
        return link is not None

    def pass_on(self, peer: bytes, frame: pb.Frame, origin: bytes) -> bool:
        """Queues a control frame of `origin` for a peer; False where it is dropped."""
        link = self._links.get(peer)
        return link is not None and link.pass_on(frame, origin)

    def alive_at(self, peer: bytes) -> float:
        """When bytes last moved on the link to a peer, monotonic; -inf where there is none."""
        link = self._links.get(peer)
        return -math.inf if link is None else link.alive_at

    async def send_bulk(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        """Sends a frame with payload. Raises LinkLost."""
        link = self._links.get(peer)
        if link is None:
            raise LinkLost("there is no link to the peer")
        await link.send_bulk(frame, payload)

    async def dial(self, peer: bytes) -> None:
        """Opens a link over an existing libp2p connection. Raises LinkRefused, OSError, P2PDaemonError."""
        if peer in self._links or peer in self._dialling or self._closing:
            return
        if len(self._links) >= MAX_LINKS:
            raise LinkRefused(f"this node has {MAX_LINKS} links already")
        self._dialling.add(peer)
        try:
            info, reader, writer = await self._host.p2p.call_binary_stream_handler(
                PeerID(peer), wire.LINK_PROTOCOL
            )
            try:
                await self._shake(peer, info, reader, writer, dialled=True)
            except BaseException:
                writer.close()
                raise
        finally:
            self._dialling.discard(peer)

    async def _accept(
        self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = bytes(info.peer_id.to_bytes())
        if self._closing:
            writer.close()
            return
        try:
            if len(self._links) >= MAX_LINKS and peer not in self._links:
                raise LinkRefused(f"this node has {MAX_LINKS} links already")
            await self._shake(peer, info, reader, writer, dialled=False)
        except (LinkRefused, wire.WireError, OSError, EOFError, TimeoutError) as error:
            log.info("refused a link: %s", error)
            writer.close()

    async def _shake(
        self,
        peer: bytes,
        info: StreamInfo,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialled: bool,
    ) -> None:
        """Hello each way, then the link is up. The dialled side answers, or says goodbye with its reason."""
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            if dialled:
                writer.write(wire.encode_frame(pb.Frame(hello=self._on.hello())))
            frame, _ = await read_frame(reader)
            kind = frame.WhichOneof("message")
            if kind == "goodbye":
                raise LinkRefused(plain(frame.goodbye.reason))
            if kind != "hello":
                raise LinkRefused(f"the peer began with {kind}, not with hello")
            reason = self._refusal(peer, frame.hello)
            if reason is not None:
                writer.write(wire.encode_frame(pb.Frame(goodbye=pb.Goodbye(reason=reason))))
                await writer.drain()
                raise LinkRefused(reason)
            if not dialled:
                writer.write(wire.encode_frame(pb.Frame(hello=self._on.hello())))
            await writer.drain()
        relayed = "/p2p-circuit" in str(info.addr)
        self._establish(Link(peer, frame.hello, reader, writer, dialled, relayed))

    def _refusal(self, peer: bytes, hello: pb.Hello) -> str | None:
        if peer == self.me:
            return "that is this node itself"
        try:
            wire.common_version(hello.protocol)
        except wire.IncompatibleProtocol as error:
            return str(error)
        return self._on.refuse(peer, hello)

    def _establish(self, link: Link) -> None:
        known = self._links.get(link.peer)
        if known is not None and not known.closed.is_set():
            if known.dialled != link.dialled and not self._wins(link):
                link.close("the other stream of the two stays")
                return
            self._retire(known, "a newer stream took its place")
        self._links[link.peer] = link
        for name, work in (("read", self._read(link)), ("write", link.write())):
            task = asyncio.create_task(work, name=f"link-{name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._on.up(link)

    def _wins(self, link: Link) -> bool:
        """Of two streams between the same two nodes, the one dialled by the smaller peer id stays."""
        return (self.me < link.peer) == link.dialled

    async def _read(self, link: Link) -> None:
        reason = "it closed the connection"
        try:
            while not link.closed.is_set():
                frame, payload = await link.read()
                if frame.WhichOneof("message") == "goodbye":
                    reason = f"it left: {plain(frame.goodbye.reason)}"
                    break
                await self._on.frame(link.peer, frame, payload)
        except wire.WireError as error:
            reason = str(error)
        except (OSError, EOFError) as error:
            log.debug("link ended: %s", error)
        finally:
            # Whatever ended the reading, a link that nobody reads must not stay.
            link.close(reason)
            if not self._closing:
                self._down(link)

    def _retire(self, link: Link, reason: str) -> None:
        self._past[0] += link.sent
        self._past[1] += link.received
        link.close(reason)

    def _down(self, link: Link) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._retire(link, link.reason)
            self._on.down(link.peer, link.reason)

    def cut(self, peer: bytes, reason: str) -> None:
        """Ends the link to a peer."""
        link = self._links.get(peer)
        if link is not None:
            link.close(reason)
            self._down(link)

    async def close(self, reason: str) -> None:
        """Says goodbye on every link and ends them all."""
        self._closing = True
        goodbye = pb.Frame(goodbye=pb.Goodbye(reason=reason))
        for link in list(self._links.values()):
            link.send(goodbye)
        # The writers get a moment to put it on the wire; a peer that takes nothing learns from the end.
        waits = [asyncio.create_task(link.drained.wait()) for link in self._links.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=GOODBYE_S)
            for waiting in late:
                waiting.cancel()
        for link in list(self._links.values()):
            link.close("this node is stopping")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._links.clear()
