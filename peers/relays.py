"""Being met through a relay: a place at another node's p2pd, so that who can't dial this node finds it there.

libp2p's circuit relay, version 2 (libp2p specs, relay/circuit-v2.md). The reservation is asked for from here,
over p2pd's streams, and not by p2pd's own search for relays, which would have to be set up when it starts. It
ends with the connection to the relay, or after an hour.

Every p2pd is such a relay, for whoever comes, and bounded by libp2p's usual limits: 128 reservations, 8 of
one IP address, 16 circuits of one peer, and 128 KiB or two minutes of a circuit; in a private swarm nodes put
one for members in its place (relay_server.py). That is enough to meet, and to agree on punching a hole
(punching.py); what rounds send is passed on by members of the swarm (routing.py), for members alone.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from hivemind.p2p import PeerID

from atoll.dht.delimited import delimited, read_length
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.signing import peer_text

HOP = "/libp2p/circuit/relay/0.2.0/hop"
TIMEOUT_S = 10.0
MAX_BYTES = 4096
RESERVE, CONNECT, STATUS = 0, 1, 2
"""Types of CircuitHop."""
OK = 100


class NoPlace(ConnectionError):
    """The relay gives none."""


async def reserve(host: Host, relay: bytes) -> int:
    """Takes, or renews, a place at a connected peer: Unix seconds until when.

    Raises NoPlace, WireError, OSError, EOFError, TimeoutError, P2PDaemonError.
    """
    async with asyncio.timeout(TIMEOUT_S):
        _, reader, writer = await host.p2p.call_binary_stream_handler(PeerID(relay), HOP)
        try:
            writer.write(delimited(pb.CircuitHop(type=RESERVE)))
            await writer.drain()
            reply = await read_message(reader, pb.CircuitHop)
        finally:
            writer.close()
    if reply.type != STATUS or reply.status != OK:
        raise NoPlace(f"the relay says {reply.status}")
    return int(reply.reservation.expire)


_Kind = TypeVar("_Kind", bound=Message)


async def read_message(reader: asyncio.StreamReader, kind: type[_Kind]) -> _Kind:
    """A message of at most MAX_BYTES after its length. Raises WireError, EOFError."""
    size = await read_length(reader, most_bytes=2)
    if not 0 < size <= MAX_BYTES:
        raise wire.WireError(f"a message of {size} bytes, at most {MAX_BYTES} are allowed")
    try:
        return kind.FromString(await reader.readexactly(size))
    except DecodeError as error:
        raise wire.WireError("a message that is not readable") from error


def through(relay_address: str, me: bytes) -> str:
    """The multiaddr of this node by way of a relay, whose own address ends with its peer id."""
    return f"{relay_address}/p2p-circuit/p2p/{peer_text(me)}"
