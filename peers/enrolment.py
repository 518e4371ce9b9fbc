"""Enrolling: a stream on which a newcomer shows its ticket and is told manifest, certificate, revocations.

One request, one reply. Whoever is no member can open nothing else; so it is small, has a deadline, and is
answered to few at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from google.protobuf.message import DecodeError
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.peers.counting import counted
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

TIMEOUT_S = 10.0
MAX_OPEN = 16
MAX_OPEN_OF_ONE = 2

Answer = Callable[[bytes, pb.EnrolRequest], pb.EnrolReply]
"""The reply to a peer's request."""

log = logging.getLogger(__name__)


class EnrolServer:
    """Answers those who want to become members."""

    def __init__(self, host: Host, answer: Answer) -> None:
        self._host = host
        self._answer = answer
        self._open = Counter[bytes]()
        self.dropped = 0
        """Streams that were closed because too many were open, or because nothing sensible came."""

    async def listen(self) -> None:
        """Answers from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(wire.ENROL_PROTOCOL, self._accept)

    async def _accept(
        self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = bytes(info.peer_id.to_bytes())
        if self._open.total() >= MAX_OPEN or self._open[peer] >= MAX_OPEN_OF_ONE:
            self.dropped += 1
            writer.close()
            return
        try:
            with counted(self._open, peer):
                async with asyncio.timeout(TIMEOUT_S):
                    await self._serve(peer, reader, writer)
        except (OSError, EOFError, TimeoutError, wire.WireError, DecodeError) as error:
            self.dropped += 1
            log.debug("an enrolment ended early: %s", error)
        finally:
            writer.close()

    async def _serve(self, peer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await _read(reader, wire.MAX_ENROL_BYTES)
        reply = self._answer(peer, pb.EnrolRequest.FromString(body))
        writer.write(wire.prefixed(reply.SerializeToString()))
        await writer.drain()
        # A stream's end closes both directions at once: wait until the other side has read it all.
        await reader.read(1)


async def ask(host: Host, peer: bytes, request: pb.EnrolRequest) -> pb.EnrolReply:
    """Asks a connected peer. Raises OSError, EOFError, TimeoutError, WireError, P2PDaemonError."""
    async with asyncio.timeout(TIMEOUT_S):
        _, reader, writer = await host.p2p.call_binary_stream_handler(PeerID(peer), wire.ENROL_PROTOCOL)
        try:
            writer.write(wire.prefixed(request.SerializeToString()))
            await writer.drain()
            return pb.EnrolReply.FromString(await _read(reader, wire.MAX_ENROL_REPLY_BYTES))
        except DecodeError as error:
            raise wire.WireError("the peer's answer is not readable") from error
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, limit: int) -> bytes:
    """A length-prefixed message. Raises WireError, EOFError."""
    size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), limit)
    return await reader.readexactly(size)
