"""Relays over real libp2p hosts: what a circuit carries, and who gets a place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.dht.delimited import delimited
from atoll.peers import p2pd, relay_server, relays
from atoll.peers.p2pd import Host
from atoll.peers.relay_server import RelayServer
from atoll.peers.relays import NoPlace
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Ed25519Keyring

from .hosts import DEADLINE_S, Hosts, connect, until

HIDDEN = ("-hostAddrs=", "-noListenAddrs")
"""Nobody can dial such a node."""
PUBLIC = ("-forceReachabilityPublic",)
"""p2pd believes that anybody can dial it."""

Begin = Callable[..., Awaitable[Host]]


@pytest.fixture
def begin(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Starts a host with options of p2pd."""
    real = p2pd._spawn

    async def begin(name: str, options: Sequence[str] = ()) -> Host:
        async def spawn(arguments: Sequence[str], folder: Path) -> asyncio.subprocess.Process:
            return await real([*arguments, *options], folder)

        monkeypatch.setattr(p2pd, "_spawn", spawn)
        return (await hosts.start(name))[0]

    return begin


async def meet(relay: Host, one: Host, other: Host) -> None:
    """`one` dials `other` at its place at the relay."""
    (address, *_) = await relay.addresses()
    async with asyncio.timeout(DEADLINE_S):
        await one.connect(other.peer_id, [relays.through(address, other.peer_id)])


async def carried(one: Host, other: Host, size_bytes: int) -> int:
    """How many of so many bytes come over when `one` sends them to `other`."""
    got: list[int] = []
    ended = asyncio.Event()

    async def sink(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                got.append(len(data))
        ended.set()

    protocol = f"/test/sink/{size_bytes}"
    await other.p2p.add_binary_stream_handler(protocol, sink)
    _, _, writer = await one.p2p.call_binary_stream_handler(PeerID(other.peer_id), protocol)
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(OSError):
            for _ in range(size_bytes >> 14):
                writer.write(bytes(1 << 14))
                await writer.drain()
        writer.close()
        await ended.wait()
    return sum(got)


async def test_a_circuit_carries_little_whatever_p2pd_believes_of_its_node(begin: Begin) -> None:
    relay, hidden, other = await begin("relay", PUBLIC), await begin("hidden", HIDDEN), await begin("other")
    for host in (hidden, other):
        await connect(host, relay)
    await relays.reserve(hidden, relay.peer_id)
    await meet(relay, other, hidden)
    assert all("/p2p-circuit" in way for way in await other.ways(hidden.peer_id))
    assert 0 < await carried(other, hidden, 1 << 20) < 1 << 17


# ---- for members


async def test_a_stranger_gets_no_place_at_a_relay_for_members(begin: Begin) -> None:
    relay, member, stranger = await begin("relay"), await begin("member", HIDDEN), await begin("stranger")
    members = {member.peer_id}
    server = RelayServer(relay, members.__contains__)
    for host in (member, stranger):
        await connect(host, relay)
    assert await relays.reserve(stranger, relay.peer_id), "p2pd's own gives one to whoever asks"
    await server.listen()
    with pytest.raises(NoPlace, match="202"):
        await relays.reserve(stranger, relay.peer_id)
    assert not server.has_place(stranger.peer_id) and server.refused["denied"] == 1
    await relays.reserve(member, relay.peer_id)
    assert server.has_place(member.peer_id)
    members.clear()
    assert not server.has_place(member.peer_id), "a place is lost with the membership"


async def test_a_newcomer_meets_a_hidden_member_at_its_place_and_a_circuit_carries_little(
    begin: Begin,
) -> None:
    relay, member = await begin("relay", PUBLIC), await begin("member", HIDDEN)
    server = RelayServer(relay, lambda peer: peer == member.peer_id)
    await server.listen()
    early, newcomer = await begin("early"), await begin("newcomer")
    for host in (member, early, newcomer):
        await connect(host, relay)
    with pytest.raises(P2PDaemonError, match="NO_RESERVATION"):
        await meet(relay, early, member)
    await relays.reserve(member, relay.peer_id)
    await meet(relay, newcomer, member)
    assert all("/p2p-circuit" in way for way in await newcomer.ways(member.peer_id))
    assert await carried(newcomer, member, 1 << 15) == 1 << 15
    assert 0 < await carried(newcomer, member, 1 << 20) < relay_server.CIRCUIT_BYTES
    await until(lambda: not server._circuits and not server._open)


async def test_what_makes_no_sense_ends_its_stream_and_nothing_else(begin: Begin) -> None:
    relay, stranger = await begin("relay"), await begin("stranger")
    member = Ed25519Keyring(Ed25519PrivateKey.generate()).peer_id  # which is gone
    server = RelayServer(relay, lambda peer: peer == member)
    server._places[member] = time.time() + 60.0
    await server.listen()
    await connect(stranger, relay)

    async def said(*messages: bytes) -> list[int]:
        """The statuses that the relay answers."""
        _, reader, writer = await stranger.p2p.call_binary_stream_handler(PeerID(relay.peer_id), relays.HOP)
        writer.write(b"".join(messages))
        answers = []
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(EOFError, OSError):
                answers.append((await relays.read_message(reader, pb.CircuitHop)).status)
        writer.close()
        return answers

    def to(peer: bytes) -> bytes:
        return delimited(pb.CircuitHop(type=relays.CONNECT, peer=pb.CircuitPeer(id=peer)))

    assert await said(b"\xff\xff\xff") == [] and await said(b"\x02\xff\xff") == []
    assert await said(b"\x02\x28\x64") == [401] == await said(delimited(pb.CircuitHop(type=9)))
    assert await said(to(stranger.peer_id)) == [204] == await said(to(b"nobody"))
    assert await said(to(member)) == [203]
    assert server.refused == {"broken_off": 2, "unexpected": 2, "no_place": 2, "not_met": 1}
    await until(lambda: not server._circuits and not server._open)


async def test_one_stranger_has_few_streams_at_a_relay(begin: Begin) -> None:
    relay, stranger = await begin("relay"), await begin("stranger")
    server = RelayServer(relay, lambda peer: False)
    await server.listen()
    await connect(stranger, relay)
    streams = [
        await stranger.p2p.call_binary_stream_handler(PeerID(relay.peer_id), relays.HOP)
        for _ in range(relay_server.MAX_OPEN_OF_ONE + 1)
    ]
    await until(lambda: server.refused["busy"])
    assert server._open[stranger.peer_id] == relay_server.MAX_OPEN_OF_ONE
    for _, _, writer in streams:
        writer.close()
