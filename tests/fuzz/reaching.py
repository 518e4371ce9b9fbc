"""What strangers send about being reached: dial-backs, holes, relays, libp2p's certificates."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError

from atoll.peers import prober, relays
from atoll.peers.dialback import DialBackServer
from atoll.peers.punching import MAX_ADDRESSES, MAX_DIALS, Puncher, Ways
from atoll.peers.reach import MAX_PROVEN, Reach
from atoll.peers.relay_server import RelayServer
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

from ..daemon.swarm import keyring

KEYS = keyring(1)
SEEN = "44.0.0.9"
DEADLINE_S = 10.0
INFO: Any = SimpleNamespace(
    peer_id=SimpleNamespace(to_bytes=lambda: KEYS.peer_id), addr=f"/ip4/{SEEN}/tcp/5555"
)


class Sink:
    """A writer whose other side takes everything."""

    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work()

    asyncio.run(run())


def _stream(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 16)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


def dial_back(data: bytes) -> None:
    """A whole request; whatever it names, nobody but the asker is dialled."""

    async def dial(host: str, port: int, peer: bytes) -> str:
        assert host == SEEN and 0 < port < 65536 and peer == KEYS.peer_id
        return ""

    async def asked() -> None:
        host: Any = None
        server = DialBackServer(host, lambda peer: None, lambda: 0.0, dial)
        writer: Any = Sink()
        await server._accept(INFO, _stream(data), writer)
        assert not server._open

    _run(asked)


def dial_back_reply(data: bytes) -> None:
    reach = Reach()
    with contextlib.suppress(DecodeError):
        reach.heard(KEYS.peer_id, pb.DialBackReply.FromString(data), 1e9)
    assert len(reach.proven) <= MAX_PROVEN
    Reach(reach.facts())


def punch(data: bytes) -> None:
    """What a member says of a hole."""

    async def nothing(*_: Any) -> None:
        pass

    async def is_direct(peer: bytes) -> bool:
        return False

    async def ways(peer: bytes) -> list[str]:
        return []

    async def connect(peer: bytes, addresses: list[str]) -> None:
        assert 0 < len(addresses) <= MAX_ADDRESSES
        assert all(address.endswith("/quic-v1") for address in addresses)

    async def said() -> None:
        host: Any = SimpleNamespace(is_direct=is_direct, ways=ways, connect=connect)
        mine = ["/ip4/44.0.0.1/udp/31337/quic-v1"]
        puncher = Puncher(host, b"a" * 38, Ways(lambda: mine, lambda *_: None, lambda _: None, nothing))
        puncher.look([KEYS.peer_id])
        with contextlib.suppress(DecodeError):
            puncher.heard(KEYS.peer_id, pb.Punch.FromString(data))
        assert len(puncher._dials) <= MAX_DIALS
        await asyncio.gather(*puncher._dials.values())
        await puncher.close()

    _run(said)


def relay_reply(data: bytes) -> None:
    """What a relay answers to who wants a place."""

    async def call(peer: object, protocol: str) -> tuple[object, asyncio.StreamReader, Sink]:
        return None, _stream(data), Sink()

    async def asks() -> None:
        host: Any = SimpleNamespace(p2p=SimpleNamespace(call_binary_stream_handler=call))
        with contextlib.suppress(wire.WireError, relays.NoPlace, EOFError):
            await relays.reserve(host, KEYS.peer_id)

    _run(asks)


def relay_asked(data: bytes) -> None:
    """What strangers ask of a relay for members: whatever it is, they get no place."""
    member = keyring(2).peer_id

    async def call(peer: object, protocol: str) -> tuple[object, asyncio.StreamReader, Sink]:
        return None, _stream(data), Sink()

    async def asked() -> None:
        host: Any = SimpleNamespace(p2p=SimpleNamespace(call_binary_stream_handler=call))
        server = RelayServer(host, lambda peer: peer == member, lambda: 0.0)
        server._places[member] = 1.0
        writer: Any = Sink()
        await server._accept(INFO, _stream(data), writer)
        assert not server.has_place(KEYS.peer_id) and not server._open and not server._circuits

    _run(asked)


def libp2p_certificate(data: bytes) -> None:
    if prober.proves(data, KEYS.peer_id):
        # Only what libp2p itself would take, too: the key's own signature of the certificate's key is in it.
        assert KEYS.public_key in data


def made_certificate() -> bytes:
    """A certificate as libp2p makes one (libp2p specs, tls.md), of the node with the identity KEYS."""
    key = ec.derive_private_key(1_234_567, ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    host_key = bytes.fromhex("08011220") + KEYS.public_key
    signature = KEYS.private_key.sign(b"libp2p-tls-handshake:" + spki)
    parts = b"".join(bytes([4, len(part)]) + part for part in (host_key, signature))
    name = x509.Name([])
    since = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, since, since.replace(year=2120))
    value = x509.UnrecognizedExtension(prober._EXTENSION, bytes([0x30, len(parts)]) + parts)
    return builder.add_extension(value, True).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


_REQUEST = pb.DialBackRequest(addresses=[f"/ip4/{SEEN}/tcp/31337", "/ip4/9.9.9.9/tcp/53"], port=31337)
_REPLY = pb.DialBackReply(
    seen=SEEN, results=[pb.DialBackResult(address=f"/ip4/{SEEN}/tcp/31337", cause="no answer in 5 s")]
)
_PUNCH = pb.Punch(addresses=[f"/ip4/{SEEN}/udp/31337/quic-v1"])
_PLACE = pb.CircuitHop(type=2, reservation=pb.CircuitReservation(expire=1), status=100)

_MEET = pb.CircuitHop(type=relays.CONNECT, peer=pb.CircuitPeer(id=keyring(2).peer_id))

REACHING: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "dial_back": (dial_back, [wire.prefixed(_REQUEST.SerializeToString())]),
    "dial_back_reply": (dial_back_reply, [_REPLY.SerializeToString()]),
    "punch": (
        punch,
        [_PUNCH.SerializeToString(), pb.Punch(addresses=_PUNCH.addresses, answer=True).SerializeToString()],
    ),
    "relay_reply": (relay_reply, [relays.delimited(_PLACE)]),
    "relay_asked": (
        relay_asked,
        [relays.delimited(pb.CircuitHop(type=relays.RESERVE)), relays.delimited(_MEET)],
    ),
    "libp2p_certificate": (libp2p_certificate, [made_certificate()]),
}
