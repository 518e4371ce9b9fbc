"""Direct lanes between real hosts: frames whole and once, who is let in, breaks, bad stripes."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.peers import lane as lane_module
from atoll.peers import lanes as lanes_module
from atoll.peers.bulk import BulkTraffic
from atoll.peers.lane import Lane
from atoll.peers.lane_tls import Credentials, NotTheirs, check_certificate
from atoll.peers.lanes import Lanes, candidates
from atoll.peers.link import Link
from atoll.peers.ways import Way
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.signing import peer_id_of
from atoll.protocol.stripes import MAX_AHEAD, STRIPE_BYTES, encode_head

from .hosts import DEADLINE_S, Hosts, connect, until
from .nodes import Node, contribution, dial, make, pair, ready


def link_of(node: Node, other: Node) -> Link:
    link = node.links.get(other.id)
    assert link is not None
    return link


def bulk_of(node: Node, other: Node) -> BulkTraffic:
    bulk = link_of(node, other).bulk
    assert bulk is not None
    return bulk


def lane_of(node: Node, other: Node) -> Lane:
    return bulk_of(node, other).lane


async def joined(hosts: Hosts, connections: int = 2) -> tuple[Node, Node]:
    """Two nodes with a link and a lane of this many connections beside it."""
    a, b = await pair(hosts, lanes=True)
    for node, other in ((a, b), (b, a)):
        await until(lambda node=node, other=other: len(lane_of(node, other).connections) >= connections)
    return a, b


def payloads(count: int, size: int = 5 * STRIPE_BYTES + 17) -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(size + number) for number in range(count)]


async def send(a: Node, b: Node, sent: list[bytes]) -> list[asyncio.Task[None]]:
    """Begins to send a contribution for each payload, its chunk the payload's place."""
    return [
        asyncio.create_task(a.links.send_bulk(b.id, contribution(chunk), payload))
        for chunk, payload in enumerate(sent)
    ]


async def arrived(b: Node, sent: list[bytes]) -> None:
    """Each came whole and once."""
    await b.when(lambda: len(b.frames) >= len(sent))
    got = sorted((f.contribution.chunk, bytes(payload)) for _, f, payload in b.frames)
    assert got == list(enumerate(sent))


def cut(lane: Lane, count: int) -> None:
    """Ends connections as a network would: under the feet of both sides."""
    for connection in list(lane.connections)[:count]:
        with socket.socket(fileno=os.dup(connection._sock.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)


# ---- frames


async def test_frames_go_over_the_lane_whole_and_once(hosts: Hosts):
    a, b = await joined(hosts)
    before = a.links.traffic.sent
    sent = payloads(20)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)
    link = link_of(a, b)
    await until(lambda: link.rate_bps(Way.LANE) > 0)
    assert link.lane.startswith("lane: ") and bulk_of(a, b).ways.preferred is Way.LANE
    assert a.links.traffic.sent - before > sum(map(len, sent)), "the lane's bytes are counted"
    assert b.links.traffic.received > sum(map(len, sent))
    back = payloads(3)
    await asyncio.gather(*await send(b, a, back))
    await arrived(a, back)


@pytest.mark.parametrize("size", [0, 1, STRIPE_BYTES, wire.MAX_PAYLOAD_BYTES])
async def test_every_size_fits(hosts: Hosts, size: int):
    a, b = await joined(hosts)
    sent = [bytes(size)] * 3
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)


async def test_a_frame_that_is_too_large_takes_no_number(hosts: Hosts):
    a, b = await joined(hosts)
    with pytest.raises(wire.WireError, match="at most"):
        await a.links.send_bulk(b.id, contribution(0), bytes(wire.MAX_PAYLOAD_BYTES + 1))
    sent = payloads(2 * MAX_AHEAD, 1000)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)


async def test_control_frames_stay_on_the_stream_and_pass_bulk_ones(hosts: Hosts):
    a, b = await joined(hosts)
    b.gate.clear()
    work = await send(a, b, payloads(20, wire.MAX_PAYLOAD_BYTES // 4))
    a.links.send(b.id, ready(1))
    b.gate.set()
    await asyncio.gather(*work)
    await b.when(lambda: len(b.frames) == 21)
    kinds = [f.WhichOneof("message") for _, f, _ in b.frames]
    assert kinds.index("ready") < 20


async def test_a_reader_that_is_slow_holds_its_sender_up_and_nothing_piles_up(hosts: Hosts):
    a, b = await joined(hosts)
    b.gate.clear()
    sent = payloads(64, 1 << 20)
    work = await send(a, b, sent)
    bulk = bulk_of(b, a)
    await until(lambda: bulk.lane._paused)
    assert len(bulk._arrived) <= 4 and bulk.inbox.open_bytes <= lane_module.MAX_UNACKED_BYTES + (2 << 20)
    assert lane_of(a, b)._bytes <= lane_module.MAX_UNACKED_BYTES
    b.gate.set()
    await asyncio.gather(*work)
    await arrived(b, sent)


async def test_without_lanes_everything_goes_over_libp2p(hosts: Hosts):
    a, b = await make(hosts, "a", lanes=True), await make(hosts, "b")
    await connect(a.host, b.host)
    await dial(a, b)
    await b.when(lambda: b.ups)
    sent = payloads(3)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)
    assert link_of(a, b).lane == link_of(b, a).lane == "libp2p: one of the two offers no lane"
    assert link_of(a, b).rate_bps(Way.LANE) == 0.0


# ---- connections that break


async def test_a_connection_that_breaks_in_mid_frame_loses_nothing(hosts: Hosts):
    a, b = await joined(hosts)
    b.gate.clear()
    sent = payloads(30, 1 << 20)
    work = await send(a, b, sent)
    await until(lambda: lane_of(b, a)._paused)  # in the midst of frames, and both sides' buffers full
    cut(lane_of(a, b), 1)
    b.gate.set()
    await asyncio.gather(*work)
    await arrived(b, sent)
    assert not a.downs and not b.downs


@pytest.mark.parametrize("side", ["sender", "receiver"])
async def test_a_lane_that_breaks_whole_falls_back_to_libp2p(
    hosts: Hosts, side: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lanes_module, "FIRST_PAUSE_S", DEADLINE_S)
    a, b = await joined(hosts)
    b.gate.clear()
    sent = payloads(30, 1 << 20)
    work = await send(a, b, sent)
    await until(lambda: lane_of(b, a)._paused)
    cut(lane_of(a, b) if side == "sender" else lane_of(b, a), 8)
    b.gate.set()
    await asyncio.gather(*work)
    await arrived(b, sent)
    assert not lane_of(a, b).open and "connections" in link_of(a, b).lane
    assert link_of(a, b).rate_bps(Way.LIBP2P) > 0


async def test_a_lane_comes_back(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes_module, "FIRST_PAUSE_S", 0.05)
    a, b = await joined(hosts)
    old = set(lane_of(a, b).connections)
    cut(lane_of(a, b), 8)
    await until(lambda: len(lane_of(a, b).connections - old) >= 2)
    sent = payloads(3)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)


async def test_a_lane_on_which_nothing_moves_is_given_up(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lane_module, "STALL_S", 0.2)
    a, b = await joined(hosts)
    lane_of(b, a).pause()
    sent = payloads(4, 1 << 20)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)
    assert "nothing moved" in link_of(a, b).lane


async def test_the_lane_ends_with_its_link(hosts: Hosts):
    a, b = await joined(hosts)
    lane = lane_of(a, b)
    a.links.cut(b.id, "enough")
    assert not lane.open
    await b.when(lambda: b.downs)
    assert not b.links.peers


async def test_the_side_that_was_dialled_dials_where_the_other_one_can_not(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lanes_module, "PATIENCE_S", 0.05)
    a, b = await make(hosts, "a", lanes=True), await make(hosts, "b", lanes=True)
    lanes = b.lanes
    assert lanes is not None
    offer = lanes.offer

    def deaf() -> pb.LaneOffer:
        made = offer()
        made.port = 0
        return made

    monkeypatch.setattr(lanes, "offer", deaf)
    await connect(a.host, b.host)
    await dial(a, b)
    await b.when(lambda: b.ups)
    await until(lambda: len(lane_of(a, b).connections) == 2 and len(lane_of(b, a).connections) == 2)
    sent = payloads(3)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)


async def test_a_relayed_link_gets_no_lane(hosts: Hosts):
    a, b = await joined(hosts)
    link = link_of(a, b)
    link.relayed = True
    assert a.lanes is not None
    a.lanes.keep(link, a.lanes.offer(), "/ip4/127.0.0.1/tcp/1")
    assert link.lane == "libp2p: the link runs over a relay" and len(a.lanes._kept) == 1


async def test_a_frame_of_the_lane_that_its_node_fails_on_ends_the_link(hosts: Hosts):
    a, b = await joined(hosts)

    async def broken(peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        raise RuntimeError("a bug")

    object.__setattr__(a.links._on, "frame", broken)
    await b.links.send_bulk(a.id, contribution(1), b"x")
    await a.when(lambda: a.downs)
    assert not a.links.peers


# ---- who is let in


async def connected(port: int, context: ssl.SSLContext, name: str) -> bytes:
    """What a client is told after its handshake; raises what the handshake ends with."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name or None
        )
        try:
            return await reader.read(100)
        finally:
            writer.close()


def token_of(node: Node) -> str:
    assert node.lanes is not None
    return next(iter(node.lanes._kept))


def any_server(credentials: Credentials) -> ssl.SSLContext:
    """A stranger's context that would take any server, to see what the server says."""
    context = credentials.client(credentials.certificate)
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_a_stranger_is_not_told_who_is_here(hosts: Hosts):
    a, b = await joined(hosts)
    assert b.lanes is not None
    stranger = any_server(Credentials.of(Ed25519PrivateKey.generate()))
    for name in ("00" * 16, "localhost", ""):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await connected(b.lanes.port, stranger, name)
    assert sum(b.lanes.refused.values()) == 3
    assert len(lane_of(b, a).connections) == 2


async def test_a_stranger_with_a_stolen_token_and_another_key_is_refused(hosts: Hosts):
    a, b = await joined(hosts)
    assert b.lanes is not None
    stranger = any_server(Credentials.of(Ed25519PrivateKey.generate()))
    with pytest.raises((ssl.SSLError, OSError)):
        assert await connected(b.lanes.port, stranger, token_of(b)) == b""
        raise ConnectionError("it was closed without a word")
    await until(lambda: b.lanes is not None and b.lanes.refused["another certificate"] == 1)
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, OSError)):
        assert await connected(b.lanes.port, nobody, token_of(b)) == b""
        raise ConnectionError("it was closed without a word")
    assert len(lane_of(b, a).connections) == 2


async def test_an_offer_ends_with_its_link(hosts: Hosts):
    a, b = await joined(hosts)
    assert b.lanes is not None
    token, certificate = token_of(b), bytes(link_of(a, b).hello.lane.certificate)
    known = Credentials.of(a.keyring.private_key).client(certificate)
    assert await connected(b.lanes.port, known, token) == lanes_module.GREETING
    a.links.cut(b.id, "enough")
    await until(lambda: b.lanes is not None and not b.lanes._kept)
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await connected(b.lanes.port, known, token)


async def test_older_tls_is_refused(hosts: Hosts):
    _, b = await joined(hosts)
    assert b.lanes is not None
    old = any_server(Credentials.of(Ed25519PrivateKey.generate()))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        await connected(b.lanes.port, old, token_of(b))


async def test_a_man_in_the_middle_with_a_certificate_of_his_own_is_refused(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    middle = Credentials.of(Ed25519PrivateKey.generate()).server(None)
    middle.verify_mode = ssl.CERT_NONE
    seen = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set()
        writer.write(lanes_module.GREETING)

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=middle)
    monkeypatch.setattr(Lanes, "port", property(lambda self: server.sockets[0].getsockname()[1]))
    a, b = await pair(hosts, lanes=True)
    await until(lambda: "another certificate" in lane_of(a, b).reason)
    assert not lane_of(a, b).open and not seen.is_set()
    sent = payloads(2)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)
    server.close()


async def test_an_offer_with_another_ones_certificate_is_not_tried(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    other = Credentials.of(Ed25519PrivateKey.generate())
    a, b = await make(hosts, "a", lanes=True), await make(hosts, "b", lanes=True)
    assert b.lanes is not None
    monkeypatch.setattr(b.lanes, "_credentials", other)
    await connect(a.host, b.host)
    await dial(a, b)
    await b.when(lambda: b.ups)
    assert "another key than that in its peer id" in link_of(a, b).lane
    sent = payloads(2)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)


async def test_handshakes_are_bounded_in_time_and_number(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lanes_module, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(lanes_module, "MAX_HANDSHAKES", 1)
    a = await make(hosts, "a", lanes=True)
    lanes = a.lanes
    assert lanes is not None
    _, silent = await asyncio.open_connection("127.0.0.1", lanes.port)
    await until(lambda: lanes._shaking == 1)
    reader, second = await asyncio.open_connection("127.0.0.1", lanes.port)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    assert lanes.refused == {"too many at once": 1}
    await until(lambda: lanes.refused["no answer in time"] == 1)
    assert lanes._shaking == 0
    silent.close()
    second.close()


def test_a_certificate_is_of_the_key_in_the_peer_id():
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    certificate = Credentials.of(key).certificate
    peer = peer_id_of(key.public_key().public_bytes_raw())
    check_certificate(certificate, peer)
    assert certificate == Credentials.of(key).certificate and len(certificate) < 400
    assert "PRIVATE" not in repr(Credentials.of(key))
    for bad in (
        Credentials.of(other).certificate,
        certificate[:-1],
        b"",
        bytes(2000),
        certificate[:-8] + bytes(8),
    ):
        with pytest.raises(NotTheirs):
            check_certificate(bad, peer)


def test_addresses_to_try():
    announced = [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.168.1.2/tcp/1/p2p/x",
        "/ip6/2001:db8::1/tcp/1",
        "/dns4/a/tcp/1",
    ]
    far = candidates("/ip4/203.0.113.7/tcp/4", announced)
    assert far == ("203.0.113.7", "192.168.1.2", "2001:db8::1"), "its loopback is not ours"
    near = candidates("/ip4/127.0.0.1/tcp/4", announced)
    assert near == ("127.0.0.1", "192.168.1.2", "2001:db8::1")
    assert candidates("/p2p/x/p2p-circuit", ["", "x", "/ip4/no/tcp/1", "/ip4/0.0.0.0/tcp/1"]) == ()
    many = [f"/ip4/10.0.0.{n}/tcp/1" for n in range(100)]
    assert len(candidates("/ip4/10.0.1.1/tcp/1", many)) == lanes_module.MAX_ADDRESSES


# ---- bad stripes


@pytest.mark.parametrize(
    "bad",
    [
        encode_head(1, 0, 0),
        encode_head(1, 2**32 - 1, 0),
        encode_head(1, 100, 100),
        encode_head(1, 10 * STRIPE_BYTES, 1),
        encode_head(2**63, 100, 0),
        encode_head(0, 100, 0),
        encode_head(1, 20, 0) + bytes(20),
        encode_head(1, 11, 0) + wire.encode_frame(ready(1), number=1)[:11],
    ],
)
async def test_bad_stripes_end_the_lane_and_not_the_node(hosts: Hosts, bad: bytes):
    a, b = await joined(hosts)
    next(iter(lane_of(b, a).connections))._sock.send(bad)
    await until(lambda: lane_of(a, b).refused)
    assert not lane_of(a, b).open and not a.frames
    lanes = a.lanes
    assert lanes is not None
    await until(lambda: lanes.refused == {lanes_module.BROKE_RULES: 1} and not lanes._kept)
    sent = payloads(3)
    await asyncio.gather(*await send(b, a, sent))
    await arrived(a, sent)
    await asyncio.gather(*await send(a, b, sent))
    await arrived(b, sent)
