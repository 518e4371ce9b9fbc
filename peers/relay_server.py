"""A relay for members: libp2p's circuit relay, version 2, answered here in place of p2pd's own.

p2pd gives places at its relay to whoever asks, and can't be told who may. So a node of a private swarm takes
the protocol over. A place is for whom `admits` names, and for as long as it does. Whoever wants to meet one
that has a place may: a newcomer is no member yet, and has to ask one to become one. Each circuit carries
CIRCUIT_BYTES each way, for CIRCUIT_S at most, as with libp2p's own; a stranger has few at a time.

What breaks a rule, or is refused, is counted in `refused`, and ends its stream and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.dht.delimited import delimited
from atoll.peers.addresses import RELAY, scope
from atoll.peers.p2pd import GONE, Host
from atoll.peers.relays import CONNECT, HOP, OK, RESERVE, STATUS, TIMEOUT_S, read_message
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.counting import counted

STOP = "/libp2p/circuit/relay/0.2.0/stop"
STOP_CONNECT, STOP_STATUS = 0, 1
"""Types of CircuitStop."""
FULL, DENIED, NOT_MET, NO_PLACE, UNEXPECTED = 201, 202, 203, 204, 401
WORDS = {FULL: "full", DENIED: "denied", NOT_MET: "not_met", NO_PLACE: "no_place", UNEXPECTED: "unexpected"}
"""Why not, as libp2p numbers it, and as it is counted."""
PLACE_S = 3600.0
CIRCUIT_BYTES = 128 << 10
CIRCUIT_S = 120.0
MAX_OPEN, MAX_OPEN_OF_ONE = 64, 4
"""Streams at once, each a circuit or a question: of all strangers, and of any one peer."""
MAX_CIRCUITS_TO_ONE = 16
_READ_BYTES = 16 << 10
_LIMIT = pb.CircuitLimit(duration=int(CIRCUIT_S), data=CIRCUIT_BYTES)

_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]

log = logging.getLogger(__name__)


class RelayServer:
    """Of one node. `admits`: whether a peer may have a place here."""

    def __init__(
        self, host: Host, admits: Callable[[bytes], bool], clock: Callable[[], float] = time.time
    ) -> None:
        """`clock`: Unix seconds."""
        self._host = host
        self._admits = admits
        self._clock = clock
        self._places: dict[bytes, float] = {}
        self._open = Counter[bytes]()
        self._circuits = Counter[bytes]()
        self.refused = Counter[str]()

    async def listen(self) -> None:
        """Answers from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(HOP, self._accept)

    def has_place(self, peer: bytes) -> bool:
        """Whether others can meet a peer here."""
        return self._places.get(peer, 0.0) > self._clock() and self._admits(peer)

    async def _accept(
        self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = bytes(info.peer_id.to_bytes())
        crowded = self._open.total() >= MAX_OPEN and not self._admits(peer)
        try:
            if crowded or self._open[peer] >= MAX_OPEN_OF_ONE:
                self.refused["busy"] += 1
                return
            with counted(self._open, peer):
                await self._answer(peer, str(info.addr), reader, writer)
        except (*GONE, wire.WireError) as error:
            self.refused["broken_off"] += 1
            log.debug("a question to the relay ended early: %s", error)
        finally:
            writer.close()

    async def _answer(
        self, peer: bytes, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            asked = await read_message(reader, pb.CircuitHop)
        status = UNEXPECTED
        if asked.HasField("type") and asked.type == RESERVE:
            status = self._reserve(peer, address)
        elif asked.type == CONNECT and scope(address) != RELAY:
            status = await self._connect(peer, bytes(asked.peer.id), (reader, writer))
            if status == OK:
                return
        reply = pb.CircuitHop(type=STATUS, status=status)
        if status == OK:
            reply.reservation.expire = int(self._places[peer])
            reply.limit.CopyFrom(_LIMIT)
        else:
            self.refused[WORDS[status]] += 1
        async with asyncio.timeout(TIMEOUT_S):
            writer.write(delimited(reply))
            await writer.drain()
            # A stream's end closes both directions at once: wait until the other side has read it.
            await reader.read(1)

    def _reserve(self, peer: bytes, address: str) -> int:
        """Gives a place, or one for longer. The status."""
        if scope(address) == RELAY or not self._admits(peer):
            return DENIED
        self._places = {one: until for one, until in self._places.items() if self.has_place(one)}
        self._places[peer] = self._clock() + PLACE_S
        return OK

    async def _connect(self, peer: bytes, target: bytes, here: _Ends) -> int:
        """Carries what the two say to each other, for a while; or the status by which it does not."""
        if not self.has_place(target):
            return NO_PLACE
        if self._circuits[target] >= MAX_CIRCUITS_TO_ONE:
            return FULL
        with counted(self._circuits, target):
            try:
                async with self._stopped(target, peer) as there:
                    here[1].write(delimited(pb.CircuitHop(type=STATUS, status=OK, limit=_LIMIT)))
                    await _carry(here, there)
                    return OK
            except _NotMet:
                return NOT_MET

    @asynccontextmanager
    async def _stopped(self, target: bytes, peer: bytes) -> AsyncIterator[_Ends]:
        """A stream on which the target has agreed to meet a peer. Raises _NotMet."""
        asked = pb.CircuitStop(type=STOP_CONNECT, peer=pb.CircuitPeer(id=peer), limit=_LIMIT)
        writer: asyncio.StreamWriter | None = None
        try:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    _, reader, writer = await self._host.p2p.call_binary_stream_handler(PeerID(target), STOP)
                    writer.write(delimited(asked))
                    await writer.drain()
                    said = await read_message(reader, pb.CircuitStop)
            except (*GONE, wire.WireError) as error:
                raise _NotMet from error
            if said.type != STOP_STATUS or said.status != OK:
                raise _NotMet
            yield reader, writer
        finally:
            if writer is not None:
                writer.close()


class _NotMet(Exception):
    """The target does not answer, or does not want to be met."""


async def _carry(one: _Ends, other: _Ends) -> None:
    """Until one of the two ends it, or as much has gone one way, or for as long, as may be."""
    ways = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        await asyncio.wait(ways, timeout=CIRCUIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    left = CIRCUIT_BYTES
    with suppress(OSError):  # one of the two has gone
        while left and (data := await reader.read(min(_READ_BYTES, left))):
            left -= len(data)
            writer.write(data)
            await writer.drain()
