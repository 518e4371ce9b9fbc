"""Links: one warm stream to each peer, over libp2p, with a handshake before anything else.

What a link is, is in link.py. The first frame each way is a Hello (handshake.py); a peer of another swarm,
protocol, model or text is refused with the reason, and the reason is kept to be shown. When both sides dial
at once, the stream dialled by the smaller peer id stays. Where this node has lanes (lanes.py), each Hello
offers one: the stream is authenticated, so what came over it needs no other proof.

A stream that closes is how a death is noticed: p2pd's connection breaks as soon as the process is gone. A
peer that is silent but connected is the roster's affair; when bytes moved last is known here, because a large
frame on a slow line takes longer than a peer may be silent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.peers import packing
from atoll.peers.addresses import RELAY, scope
from atoll.peers.bulk import BulkTraffic
from atoll.peers.handshake import LinkRefused, Spoken, VersionsDiffer, goodbye, parted, read_hello, say, whole
from atoll.peers.lanes import Lanes, is_offer
from atoll.peers.link import Link, LinkLost, read_frame
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.counting import counted
from atoll.protocol.text import plain

HELLO_TIMEOUT_S = 10.0
GOODBYE_S = 1.0
MAX_LINKS = 96
MAX_SHAKING, MAX_SHAKING_OF_ONE = 32, 2
"""Handshakes that others have begun and not ended, of all and of one peer."""
MAX_SOFTWARE = 64
PUNCHED_S = 60.0

__all__ = [
    "Callbacks",
    "Link",
    "LinkLost",
    "LinkRefused",
    "Links",
    "Spoken",
    "Traffic",
    "VersionsDiffer",
    "read_frame",
]

log = logging.getLogger(__name__)


class LinksFull(LinkRefused):
    """This node takes no more links."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of links since the start."""

    sent: int
    received: int


@dataclass(frozen=True)
class Callbacks:
    """What the owner of the links provides.

    `hello`: this node's Hello, made afresh. `refuse`: why a peer's Hello is not welcome, or None.
    `frame` is awaited for one frame at a time on each way of a link, libp2p and lane, so a slow reader slows
    its sender down.
    """

    hello: Callable[[], pb.Hello]
    refuse: Callable[[bytes, pb.Hello], str | None]
    up: Callable[[Link], None]
    down: Callable[[bytes, str], None]
    frame: Callable[[bytes, pb.Frame, wire.Payload], Awaitable[None]]


class Links:
    """All links of this node."""

    def __init__(
        self, host: Host, me: bytes, callbacks: Callbacks, lanes: Lanes | None = None, packs: bool = True
    ) -> None:
        """`packs`: payloads are packed where lines are slow and the peer can undo it."""
        self.line = host.line
        self._host = host
        self._lanes = lanes
        self._packs = packs
        self.me = me
        self._on = callbacks
        self._links: dict[bytes, Link] = {}
        self._most = MAX_LINKS
        self._dialling: set[bytes] = set()
        self._shaking = Counter[bytes]()
        self.turned_away = 0
        """Streams that were closed at once, because too many handshakes were under way."""
        self.refused = Counter[str]()
        """Handshakes of others that failed, by reason; why a Hello is not welcome is the owner's to count."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._past = [0, 0]
        self._punched: dict[bytes, float] = {}
        self._closing = False

    async def listen(self) -> None:
        """Accepts links from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(wire.LINK_PROTOCOL, self._accept)

    def limit(self, most: int) -> None:
        """So many links at most from now on; those that are there stay until they end."""
        self._most = min(most, MAX_LINKS)

    @property
    def is_full(self) -> bool:
        """Whether it takes no more links."""
        return len(self._links) >= self._most

    def punched(self, peer: bytes) -> None:
        """A hole was punched to a peer: its link, or one that comes up soon, runs through it."""
        now = time.monotonic()
        link = self._links.get(peer)
        if link is not None and not link.relayed:
            link.punched = True  # the other side was faster
        self._punched = {p: at for p, at in self._punched.items() if now - at < PUNCHED_S}
        self._punched[peer] = now

    def get(self, peer: bytes) -> Link | None:
        return self._links.get(peer)

    def is_direct(self, peer: bytes) -> bool:
        """Whether there is a link to a peer, and over no relay."""
        link = self._links.get(peer)
        return link is not None and not link.relayed

    @property
    def peers(self) -> tuple[bytes, ...]:
        return tuple(self._links)

    @property
    def relayed(self) -> bool:
        """Whether others reach this node over relays only."""
        return bool(self._links) and all(link.relayed for link in self._links.values())

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
        if self.is_full:
            raise LinkRefused(f"this node has {self._most} links already")
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
        if self._shaking.total() >= MAX_SHAKING or self._shaking[peer] >= MAX_SHAKING_OF_ONE:
            self.turned_away += 1
            writer.close()
            return
        try:
            if self.is_full and peer not in self._links:
                raise LinksFull(f"this node has {self._most} links already")
            with counted(self._shaking, peer):
                await self._shake(peer, info, reader, writer, dialled=False)
        except (LinkRefused, wire.WireError, OSError, EOFError, TimeoutError) as error:
            log.info("refused a link: %s", error)
            self.refused[_reason(error)] += 1
            writer.close()

    async def _shake(
        self,
        peer: bytes,
        info: StreamInfo,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dialled: bool,
    ) -> None:
        """Hello each way, then the rest of it: the link is up, for the dialled side first.

        Raises LinkRefused.
        """
        mine = self._on.hello()
        if self._lanes is not None:
            mine.lane.CopyFrom(self._lanes.offer())
        mine.packing.append(packing.NAME)
        first, rest = parted(mine)
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            if dialled:
                await say(writer, pb.Frame(hello=first))
            theirs = await read_hello(reader)
            refusal = self._refusal(peer, theirs)
            if refusal is not None:
                await say(writer, pb.Frame(goodbye=goodbye(refusal)))
                raise refusal
            await say(writer, pb.Frame(hello=rest if dialled else first))
            theirs = whole(theirs, await read_hello(reader))
            if not dialled:
                await say(writer, pb.Frame(hello=rest))
        address = str(info.addr)
        numbered = self._lanes is not None and is_offer(theirs.lane)
        packs = self._packs and packing.NAME in theirs.packing
        relayed = scope(address) == RELAY
        link = Link(peer, theirs, reader, writer, dialled, relayed, numbered, packs, self.line)
        link.punched = not relayed and time.monotonic() - self._punched.get(peer, -math.inf) < PUNCHED_S
        if self._establish(link) and self._lanes is not None and numbered:
            self._lanes.keep(link, mine.lane, address)

    def _refusal(self, peer: bytes, hello: pb.Hello) -> LinkRefused | None:
        if peer == self.me:
            return LinkRefused("that is this node itself")
        speaks = hello.protocol
        try:
            wire.common_version(speaks)
        except wire.IncompatibleProtocol as error:
            theirs = Spoken(speaks.lowest, speaks.highest, plain(hello.software, MAX_SOFTWARE))
            return VersionsDiffer(str(error), theirs)
        reason = self._on.refuse(peer, hello)
        return None if reason is None else LinkRefused(reason)

    def _establish(self, link: Link) -> bool:
        known = self._links.get(link.peer)
        if known is not None and not known.closed.is_set():
            if known.dialled != link.dialled and not self._wins(link):
                link.close("the other stream of the two stays")
                return False
            self._retire(known, "a newer stream took its place")
        self._links[link.peer] = link
        work = {"read": self._read(link), "write": link.write()}
        if link.bulk is not None:
            work["lane"] = self._read_lane(link, link.bulk)
        for name, running in work.items():
            task = asyncio.create_task(running, name=f"link-{name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._on.up(link)
        return True

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
                if frame.HasField("received"):
                    link.use.confirmed(frame.received.bytes)
                    continue
                if link.bulk is not None:
                    if frame.HasField("bulk_ack"):
                        link.bulk.acknowledged(frame.bulk_ack)
                        if link.bulk.idle:
                            link.use.settled()
                        continue
                    if not link.bulk.first_time(frame):
                        continue
                await self._handed_on(link, frame, payload)
        except wire.WireError as error:
            reason = str(error)
        except (OSError, EOFError) as error:
            log.debug("link ended: %s", error)
        finally:
            # Whatever ended the reading, a link that nobody reads must not stay.
            link.close(reason)
            if not self._closing:
                self._down(link)

    async def _read_lane(self, link: Link, bulk: BulkTraffic) -> None:
        try:
            await bulk.deliver(lambda frame, payload: self._handed_on(link, frame, payload))
        except wire.WireError as error:
            link.close(str(error))
        finally:
            link.close("what came over its lane was not handled")

    async def _handed_on(self, link: Link, frame: pb.Frame, payload: wire.Payload) -> None:
        """A frame as its sender meant it. Raises WireError."""
        if frame.unpacked_size:
            payload = await asyncio.to_thread(packing.unpack, payload, frame.unpacked_size)
            # Whoever passes it on, or compares it with a signed envelope, knows it as it was.
            frame.payload_size, frame.unpacked_size = len(payload), 0
        await self._on.frame(link.peer, frame, payload)

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
        farewell = pb.Frame(goodbye=pb.Goodbye(reason=reason))
        for link in list(self._links.values()):
            link.send(farewell)
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


def _reason(error: Exception) -> str:
    """By which a handshake that failed is counted."""
    match error:
        case VersionsDiffer():
            return "incompatible"
        case LinksFull():
            return "full"
        case LinkRefused():
            return "hello"
        case wire.WireError():
            return "malformed"
        case TimeoutError():
            return "silent"
    return "broken_off"
