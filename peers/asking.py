"""One question and one answer, each a length-prefixed message, over a stream of its own.

For what is asked seldom, and by whom there is no link with, or not yet: enrolling, dial-back. A server
answers few at a time, each within a deadline, and counts what it drops; a stream's end closes both directions
at once, so whoever answers waits until the other side has gone.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.peers.p2pd import Host
from atoll.protocol import wire
from atoll.protocol.counting import counted

_Reply = TypeVar("_Reply", bound=Message)

log = logging.getLogger(__name__)


class AnswerServer(ABC):
    """Answers one protocol; a subclass says what.

    `most_bytes`: of a question; `most_open`: at once, `most_of_one` of them of one peer.
    """

    def __init__(
        self,
        host: Host,
        protocol: str,
        *,
        most_bytes: int,
        most_open: int,
        most_of_one: int,
        timeout_s: float,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._most_bytes = most_bytes
        self._most_open = most_open
        self._most_of_one = most_of_one
        self._timeout_s = timeout_s
        self._open = Counter[bytes]()
        self.refused = Counter[str]()
        """By code: what got no answer, `busy` and `unreadable` among them."""

    @abstractmethod
    async def _reply(self, peer: bytes, remote: str, question: bytes) -> Message:
        """The answer to a peer that is connected from the multiaddr `remote`. Raises DecodeError."""

    async def listen(self) -> None:
        """Answers from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(self._protocol, self._accept)

    async def _accept(
        self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = bytes(info.peer_id.to_bytes())
        try:
            if self._open.total() >= self._most_open or self._open[peer] >= self._most_of_one:
                self.refused["busy"] += 1
                return
            with counted(self._open, peer):
                async with asyncio.timeout(self._timeout_s):
                    question = await _read(reader, self._most_bytes)
                    reply = await self._reply(peer, str(info.addr), question)
                    writer.write(wire.prefixed(reply.SerializeToString()))
                    await writer.drain()
                    await reader.read(1)
        except (OSError, EOFError, TimeoutError, wire.WireError, DecodeError) as error:
            self.refused["unreadable"] += 1
            log.debug("a question by %s ended early: %s", self._protocol, error)
        finally:
            writer.close()


async def ask(
    host: Host,
    peer: bytes,
    protocol: str,
    question: Message,
    kind: type[_Reply],
    most_bytes: int,
    timeout_s: float,
) -> _Reply:
    """The answer of a connected peer. Raises OSError, EOFError, TimeoutError, WireError, P2PDaemonError."""
    async with asyncio.timeout(timeout_s):
        _, reader, writer = await host.p2p.call_binary_stream_handler(PeerID(peer), protocol)
        try:
            writer.write(wire.prefixed(question.SerializeToString()))
            await writer.drain()
            return kind.FromString(await _read(reader, most_bytes))
        except DecodeError as error:
            raise wire.WireError("the peer's answer is not readable") from error
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, limit: int) -> bytes:
    """A length-prefixed message. Raises WireError, EOFError."""
    size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), limit)
    return await reader.readexactly(size)
