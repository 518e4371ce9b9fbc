"""Requests to the DHT, answered on streams of their own: each waits for its peer's turn before it is read.

hivemind has p2pd read a request whole, up to 4 MiB, before anybody can say no. Here p2pd hands over the
stream instead, and of a request that is refused no more than its length is read: what lies behind it stays
with whoever sent it. On the wire all is as before (a varint with the length, and p2pd's own message of a
call; the answer likewise), so stock hivemind nodes notice nothing. A stream that says nothing, or too slowly,
is ended; of one peer and of all there are so many at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial

from google.protobuf.message import DecodeError
from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.proto import p2pd_pb2

from atoll.dht.delimited import delimited, read_length
from atoll.dht.pacing import Handler, Pace, TooMuch, few_keys
from atoll.protocol.counting import counted
from atoll.protocol.wire import WireError

MAX_OPEN, MAX_OPEN_OF_ONE = 256, 32
"""Streams at once, each of which is an open file here: of all peers, and of any one."""
READ_S = 5.0
"""For a request's length, for the rest of it, and for the answer to be taken: hivemind's callers wait for no
longer."""
MAX_READ_BYTES = 16 << 20
"""Of requests that are read at one time."""
_LENGTH_BYTES = 4
_FIND, _STORE = "rpc_find", "rpc_store"

log = logging.getLogger(__name__)


class Server:
    """Of one node. `handlers`: hivemind's, by the name of its method."""

    def __init__(self, pace: Pace, handlers: Mapping[str, Handler]) -> None:
        self._pace = pace
        self._handlers = {
            method: few_keys(pace, handler) if method == _FIND else handler
            for method, handler in handlers.items()
        }
        self._open = Counter[PeerID]()
        self._read_bytes = 0

    @property
    def open(self) -> int:
        """Streams at this moment."""
        return self._open.total()

    async def listen(self, p2p: P2P) -> None:
        """Answers from now on."""
        for method in self._handlers:
            await p2p.add_binary_stream_handler(_protocol(method), partial(self._accept, method))

    async def close(self, p2p: P2P) -> None:
        """Answers no more. Raises P2PDaemonError, OSError, EOFError."""
        for method in self._handlers:
            await p2p.remove_binary_stream_handler(_protocol(method))

    async def _accept(
        self, method: str, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = info.peer_id
        try:
            if self._open.total() >= MAX_OPEN or self._open[peer] >= MAX_OPEN_OF_ONE:
                self._pace.refuse()
            with counted(self._open, peer):
                await self._serve(method, peer, reader, writer)
        except (OSError, EOFError, TooMuch) as error:
            log.debug("a request to the DHT was not answered: %s", error or type(error).__name__)
        finally:
            writer.close()

    async def _serve(
        self, method: str, peer: PeerID, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            who, call = await self._request(peer, reader)
        except (TimeoutError, WireError):
            self._pace.refuse()
        answer = p2pd_pb2.CallUnaryResponse()
        try:
            answer.response = await self._pace.answer(
                who, peer, call.callUnary.data, self._handlers[method], method == _STORE
            )
        except Exception as error:  # noqa: BLE001
            # Whatever hivemind makes of a wrong request is told to whoever sent it, as it does itself.
            answer.error = repr(error).encode()
        reply = p2pd_pb2.PersistentConnectionRequest(callId=call.callId, unaryResponse=answer)
        async with asyncio.timeout(READ_S):
            writer.write(delimited(reply))
            await writer.drain()
            # A stream's end closes both directions at once: wait until the other side has read it.
            await reader.read(1)

    async def _request(
        self, peer: PeerID, reader: asyncio.StreamReader
    ) -> tuple[PeerID | None, p2pd_pb2.PersistentConnectionRequest]:
        """By what its turn is kept in mind, and the call. Raises OSError, EOFError, WireError, TooMuch."""
        async with asyncio.timeout(READ_S):
            size = await read_length(reader, _LENGTH_BYTES)
        who = await self._pace.turn(peer, size)
        return who, _call(await self._rest(reader, size))

    async def _rest(self, reader: asyncio.StreamReader, size: int) -> bytes:
        """The request itself. Raises OSError, EOFError, TooMuch."""
        if self._read_bytes + size > MAX_READ_BYTES:
            self._pace.refuse()
        self._read_bytes += size
        try:
            async with asyncio.timeout(READ_S):
                return await reader.readexactly(size)
        finally:
            self._read_bytes -= size


async def serve(node: DHTNode, p2p: P2P, pace: Pace) -> None:
    """Has a DHT node that was just made answer by its peers' turns. Raises P2PDaemonError, OSError."""
    control = p2p._client.control
    handlers = {}
    for method in ("rpc_ping", _STORE, _FIND):
        handlers[method] = control.unary_handlers[_protocol(method)]
        await control.remove_unary_handler(_protocol(method))
    server = Server(pace, handlers)
    await server.listen(p2p)
    # What hivemind does when the node shuts down: its own handlers are not there any more.
    node.protocol.remove_p2p_handlers = server.close


def _protocol(method: str) -> str:
    """libp2p's name of a method's protocol."""
    return str(DHTProtocol._get_handle_name(None, method))


def _call(body: bytes) -> p2pd_pb2.PersistentConnectionRequest:
    """p2pd's message of a call. Raises WireError."""
    try:
        call = p2pd_pb2.PersistentConnectionRequest.FromString(body)
    except DecodeError as error:
        raise WireError("a request that is not readable") from error
    if not call.HasField("callUnary"):
        raise WireError("a request that asks for nothing")
    return call
