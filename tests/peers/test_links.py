"""Links over real libp2p hosts: handshakes and refusals, both kinds of frames, deaths, hostile bytes."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from hivemind.p2p import PeerID

from atoll.peers import link as link_module
from atoll.peers import links as links_module
from atoll.peers.link import MAX_CONTROL_QUEUE
from atoll.peers.links import MAX_LINKS, LinkLost, LinkRefused, Spoken, VersionsDiffer, read_frame
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

from .hosts import DEADLINE_S, Hosts, connect, until
from .nodes import contribution, dial, make, pair, ready

# ---- frames


async def test_frames_go_both_ways_with_their_payloads(hosts: Hosts):
    a, b = await pair(hosts)
    assert a.links.peers == (b.id,) and b.links.peers == (a.id,)
    link = a.links.get(b.id)
    assert link is not None and link.dialled and link.hello.software == "b" and not link.relayed
    payload = bytes(range(256)) * 8192
    assert a.links.send(b.id, ready(1))
    await a.links.send_bulk(b.id, contribution(3), payload)
    assert b.links.send(a.id, ready(2))
    await b.when(lambda: len(b.frames) == 2)
    await a.when(lambda: a.frames)
    assert [f.WhichOneof("message") for _, f, _ in b.frames] == ["ready", "contribution"]
    assert b.frames[1][2] == payload and a.frames[0][1].ready.tokens == 2
    assert a.links.traffic.sent > len(payload) and b.links.traffic.received > len(payload)
    assert link.upload_bps > 0


async def test_control_frames_overtake_bulk_frames(hosts: Hosts):
    a, b = await pair(hosts)
    b.gate.clear()
    bulk = [
        asyncio.create_task(a.links.send_bulk(b.id, contribution(chunk), bytes(wire.MAX_PAYLOAD_BYTES)))
        for chunk in range(6)
    ]
    await asyncio.sleep(0)
    a.links.send(b.id, ready(1))
    b.gate.set()
    await asyncio.gather(*bulk)
    await b.when(lambda: len(b.frames) == 7)
    kinds = [f.WhichOneof("message") for _, f, _ in b.frames]
    assert kinds.index("ready") <= 1, "behind one bulk frame at most"
    assert [f.contribution.chunk for _, f, _ in b.frames if f.HasField("contribution")] == list(range(6))


async def test_there_is_nothing_to_send_to_a_stranger(hosts: Hosts):
    a = await make(hosts, "a")
    assert not a.links.send(b"x" * 38, ready(1))
    with pytest.raises(LinkLost):
        await a.links.send_bulk(b"x" * 38, contribution(1), b"")


# ---- handshakes


async def test_a_peer_of_another_swarm_is_refused_and_told_why(hosts: Hosts):
    a, b = await make(hosts, "a"), await make(hosts, "b", swarm_id=b"o" * 32)
    await connect(a.host, b.host)
    with pytest.raises(LinkRefused, match="another swarm"):
        await dial(a, b)
    assert not a.ups and not b.ups and not a.links.peers


STATUS = {"status": pb.NodeStatus(version=7, label="at home"), "addresses": ["/ip4/192.0.2.7/tcp/1"]}


async def test_whoever_dials_tells_a_stranger_nothing_of_itself(hosts: Hosts):
    a, (stranger, _) = await make(hosts, "a", lanes=True, **STATUS), await hosts.start("stranger")
    told: list[pb.Frame] = []
    done = asyncio.Event()

    async def answer(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append((await read_frame(reader))[0])
        writer.write(wire.encode_frame(pb.Frame(hello=pb.Hello(swarm_id=b"o" * 32, protocol=wire.spoken()))))
        with contextlib.suppress(EOFError, OSError):
            while True:
                told.append((await read_frame(reader))[0])
        done.set()

    await stranger.p2p.add_binary_stream_handler(wire.LINK_PROTOCOL, answer)
    await connect(a.host, stranger)
    with pytest.raises(LinkRefused, match="another swarm"):
        await a.links.dial(stranger.peer_id)
    async with asyncio.timeout(DEADLINE_S):
        await done.wait()
    assert [frame.WhichOneof("message") for frame in told] == ["hello", "goodbye"]
    hello = told[0].hello
    assert hello.swarm_id and not hello.HasField("status") and not hello.HasField("lane")
    assert not hello.addresses


async def test_both_sides_of_a_link_know_all_of_the_others_hello(hosts: Hosts):
    a, b = await make(hosts, "a", lanes=True, **STATUS), await make(hosts, "b", lanes=True, **STATUS)
    await connect(a.host, b.host)
    await dial(a, b)
    await b.when(lambda: b.ups)
    for link in (a.links.get(b.id), b.links.get(a.id)):
        assert link is not None and link.hello.status == STATUS["status"] and link.hello.swarm_id
        assert list(link.hello.addresses) == STATUS["addresses"] and link.hello.lane.token
        assert link.hello.packing == ["zstd"]


async def test_what_is_not_the_rest_of_a_hello_ends_the_handshake(hosts: Hosts):
    a, (stranger, _) = await make(hosts, "a"), await hosts.start("stranger")
    await connect(stranger, a.host)
    for second in (ready(1), pb.Frame(goodbye=pb.Goodbye(reason="bye"))):
        _, reader, writer = await stranger.p2p.call_binary_stream_handler(PeerID(a.id), wire.LINK_PROTOCOL)
        writer.write(wire.encode_frame(pb.Frame(hello=a.hello)) + wire.encode_frame(second))
        async with asyncio.timeout(DEADLINE_S):
            await read_frame(reader)
            assert await reader.read() == b"", "the stream is closed"
        writer.close()
    assert not a.ups and a.links.refused["hello"] == 2


async def test_ranges_without_a_common_version_are_both_named(hosts: Hosts):
    a = await make(hosts, "a")
    b = await make(hosts, "b", protocol=pb.ProtocolRange(lowest=2, highest=5))
    await connect(a.host, b.host)
    with pytest.raises(VersionsDiffer, match="the peer speaks protocol 2 to 5, this node 1 to 1") as seen:
        await dial(a, b)
    assert (seen.value.theirs.lowest, seen.value.theirs.highest) == (2, 5) and seen.value.theirs.software
    await until(lambda: b.links.refused)
    assert not b.ups, "which had accepted the other, and waited for the rest of its Hello"
    with pytest.raises(VersionsDiffer, match="2 to 5") as told:
        await dial(b, a)
    assert told.value.theirs == Spoken(1, 1), "which the other one told with its goodbye"


async def test_whether_versions_differ_is_known_by_the_code_and_not_by_the_words(hosts: Hosts):
    a, (other, _) = await make(hosts, "a"), await hosts.start("other")
    words = "the peer speaks protocol 1 to 1, this node 7 to 9"
    goodbyes = [
        pb.Goodbye(reason="zu alt", code="incompatible", protocol=pb.ProtocolRange(lowest=7, highest=9)),
        pb.Goodbye(reason=words),
    ]
    answers = iter(goodbyes)

    async def refuse(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        writer.write(wire.encode_frame(pb.Frame(goodbye=next(answers))))
        await writer.drain()

    await other.p2p.add_binary_stream_handler(wire.LINK_PROTOCOL, refuse)
    await connect(a.host, other)
    with pytest.raises(VersionsDiffer, match="zu alt") as seen:
        await a.links.dial(other.peer_id)
    assert seen.value.theirs == Spoken(7, 9)
    with pytest.raises(LinkRefused) as plain:
        await a.links.dial(other.peer_id)
    assert not isinstance(plain.value, VersionsDiffer)


async def test_a_peer_that_does_not_say_hello_is_refused(hosts: Hosts):
    a, (stranger, _) = await make(hosts, "a"), await hosts.start("stranger")
    await connect(stranger, a.host)
    for first in (wire.encode_frame(ready(1)), b"\xff\xff\xff\xff", b"\0\0\0\1\xff"):
        _, reader, writer = await stranger.p2p.call_binary_stream_handler(PeerID(a.id), wire.LINK_PROTOCOL)
        writer.write(first)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b"", "the stream is closed"
        writer.close()
    assert not a.ups


async def test_a_peer_that_says_nothing_is_refused_after_a_while(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(links_module, "HELLO_TIMEOUT_S", 0.05)
    a, (stranger, _) = await make(hosts, "a"), await hosts.start("stranger")
    await connect(stranger, a.host)
    _, reader, writer = await stranger.p2p.call_binary_stream_handler(PeerID(a.id), wire.LINK_PROTOCOL)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    writer.close()
    assert not a.ups


async def test_a_peer_has_only_so_many_handshakes_under_way(hosts: Hosts):
    a, (stranger, _) = await make(hosts, "a"), await hosts.start("stranger")
    await connect(stranger, a.host)
    many = links_module.MAX_SHAKING_OF_ONE + 1
    silent = [
        await stranger.p2p.call_binary_stream_handler(PeerID(a.id), wire.LINK_PROTOCOL) for _ in range(many)
    ]
    ends = [asyncio.create_task(reader.read()) for _, reader, _ in silent]
    done, waiting = await asyncio.wait(
        ends, timeout=links_module.HELLO_TIMEOUT_S / 2, return_when=asyncio.FIRST_COMPLETED
    )
    assert len(done) == 1 and done.pop().result() == b"" and len(waiting) == many - 1
    assert a.links.turned_away == 1
    b = await make(hosts, "b")
    await connect(a.host, b.host)
    await dial(b, a)
    assert b.id in a.links.peers, "others come in meanwhile"
    for _, _, writer in silent:
        writer.close()
    await asyncio.gather(*ends)


async def test_there_are_only_so_many_links(hosts: Hosts):
    a, b = await pair(hosts)
    c = await make(hosts, "c")
    await connect(a.host, c.host)
    assert not a.links.is_full
    a.links.limit(1)
    assert a.links.is_full
    with pytest.raises(LinkRefused, match="1 links already"):
        await dial(a, c)
    with pytest.raises((LinkRefused, EOFError, OSError)):
        await dial(c, a)
    await dial(a, b)
    assert a.links.peers == (b.id,)
    a.links.limit(1000)
    assert a.links._most == MAX_LINKS
    await dial(a, c)


async def test_when_both_dial_one_stream_stays(hosts: Hosts):
    a, b = await make(hosts, "a"), await make(hosts, "b")
    await connect(a.host, b.host)
    await asyncio.gather(dial(a, b), dial(b, a), return_exceptions=True)
    await until(lambda: a.links.peers and b.links.peers)
    smaller = min(a, b, key=lambda n: n.id)

    def settled() -> bool:
        here, there = a.links.get(b.id), b.links.get(a.id)
        return bool(here and there and here.dialled != there.dialled)

    await until(settled)
    first, second = a.links.get(b.id), b.links.get(a.id)
    assert first is not None and second is not None
    assert (first if smaller is a else second).dialled or len(a.ups) + len(b.ups) == 2
    a.links.send(b.id, ready(1))
    b.links.send(a.id, ready(2))
    await b.when(lambda: b.frames)
    await a.when(lambda: a.frames)


async def test_a_second_dial_does_nothing(hosts: Hosts):
    a, b = await pair(hosts)
    link = a.links.get(b.id)
    await dial(a, b)
    assert a.links.get(b.id) is link and len(b.ups) == 1


# ---- the end


async def test_a_peer_that_is_killed_is_noticed_at_once(hosts: Hosts):
    a, b = await pair(hosts)
    b.host.process.kill()
    await a.when(lambda: a.downs)
    assert a.downs[0][0] == b.id
    with pytest.raises(LinkLost):
        await a.links.send_bulk(b.id, contribution(1), b"x")


async def test_what_waits_to_be_sent_fails_when_the_link_ends(hosts: Hosts):
    a, b = await pair(hosts)
    b.gate.clear()
    bulk = [
        asyncio.create_task(a.links.send_bulk(b.id, contribution(chunk), bytes(wire.MAX_PAYLOAD_BYTES)))
        for chunk in range(12)
    ]
    await asyncio.sleep(0)
    a.links.cut(b.id, "it was silent")
    results = await asyncio.gather(*bulk, return_exceptions=True)
    assert any(isinstance(r, LinkLost) for r in results)
    assert all(r is None or isinstance(r, LinkLost) for r in results)
    assert a.downs == [(b.id, "it was silent")]
    a.links.cut(b.id, "again")
    assert len(a.downs) == 1


async def test_goodbye_says_why(hosts: Hosts):
    a, b = await pair(hosts)
    await a.links.close("you asked for it")
    await b.when(lambda: b.downs)
    assert b.downs == [(a.id, "it left: you asked for it")]
    assert not a.links.peers
    await dial(a, b)
    assert not a.links.peers, "a node that stops dials nobody"
    with pytest.raises((LinkRefused, EOFError, OSError)):
        await dial(b, a)


async def test_a_peer_that_reads_nothing_is_cut_off(hosts: Hosts):
    a, b = await pair(hosts)
    b.gate.clear()
    link = a.links.get(b.id)
    assert link is not None
    for number in range(MAX_CONTROL_QUEUE + 1):
        link.send(ready(number))
    assert link.closed.is_set() and link.reason == "it does not read what it is sent"
    link.send(ready(1))
    await a.when(lambda: a.downs)


async def test_control_frames_that_wait_are_bounded_in_bytes_too(hosts: Hosts):
    a, b = await pair(hosts)
    link = a.links.get(b.id)
    assert link is not None
    large = pb.Frame(goodbye=pb.Goodbye(reason="x" * (wire.MAX_FRAME_BYTES - 100)))
    for _ in range(link_module.MAX_CONTROL_BYTES // wire.MAX_FRAME_BYTES):
        link.send(large)
        assert not link.closed.is_set()
    link.send(large)
    assert link.closed.is_set() and link.reason == "it does not read what it is sent"


async def test_what_is_passed_on_is_dropped_and_never_cuts_off(hosts: Hosts):
    a, b = await pair(hosts)
    b.gate.clear()
    large = pb.Frame(ready=pb.Ready(parent=bytes(wire.MAX_FRAME_BYTES - 100)))
    link = a.links.get(b.id)
    assert link is not None
    assert a.links.pass_on(b.id, large, b"flood")
    assert not a.links.pass_on(b.id, large, b"flood")
    small = [a.links.pass_on(b.id, ready(n), b"many") for n in range(2 * link_module.MAX_PASSED)]
    assert small.count(True) == link_module.MAX_PASSED
    others = [a.links.pass_on(b.id, large, b"origin %d" % n) for n in range(8)]
    assert others.count(True) == 2, "the budget of all together"
    for number in range(MAX_CONTROL_QUEUE):
        link.send(ready(number))
    assert not link.closed.is_set(), "what waits for others is no debt of the target"
    b.gate.set()
    await b.when(lambda: len(b.frames) == 3 + link_module.MAX_PASSED + MAX_CONTROL_QUEUE)
    assert a.links.pass_on(b.id, large, b"flood"), "there is room again"
    assert not a.links.pass_on(b"x" * 38, large, b"flood")


async def test_bytes_of_a_frame_that_is_not_whole_are_a_sign_of_life(hosts: Hosts):
    a, b = await pair(hosts)
    link, other = a.links.get(b.id), b.links.get(a.id)
    assert link is not None and other is not None
    link.alive_at = 0.0
    other._writer.write(wire.prefixed(b"x" * 1000)[:100])
    await until(lambda: link.alive_at > 0.0)
    assert a.frames == [] and a.links.alive_at(b.id) == link.alive_at
    assert a.links.alive_at(b"x" * 38) == -math.inf


async def test_a_full_line_that_moves_is_a_sign_of_life_and_one_that_stands_is_not(hosts: Hosts):
    a, b = await pair(hosts)
    b.gate.clear()
    link = a.links.get(b.id)
    assert link is not None
    link.alive_at = 0.0
    link.send(ready(1))
    await link.drained.wait()
    assert link.alive_at == 0.0, "what only fits into a buffer was taken by nobody"
    payload = bytes(wire.MAX_PAYLOAD_BYTES)
    work = asyncio.create_task(link.send_bulk(contribution(1), payload))
    await until(lambda: link.alive_at > 0.0)
    b.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        await work


HOSTILE = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\0\0\0\3abc",
    wire.prefixed(pb.Frame().SerializeToString() + b"\x08\x01"),
    wire.prefixed(pb.Frame(payload_size=2**31, contribution=pb.Contribution()).SerializeToString()),
    wire.prefixed(pb.Frame(payload_size=5, ready=pb.Ready()).SerializeToString()),
]


async def test_hostile_bytes_end_their_link_and_nothing_else(hosts: Hosts):
    a, b = await pair(hosts)
    stranger, _ = await hosts.start("stranger")
    await connect(stranger, a.host)
    hello = wire.encode_frame(pb.Frame(hello=a.hello))
    for number, bad in enumerate(HOSTILE):
        _, reader, writer = await stranger.p2p.call_binary_stream_handler(PeerID(a.id), wire.LINK_PROTOCOL)
        writer.write(hello)
        async with asyncio.timeout(DEADLINE_S):
            for more in (hello, bad):
                frame, _ = await read_frame(reader)
                assert frame.HasField("hello")
                writer.write(more)
            await reader.read()
        writer.close()
        await a.when(lambda number=number: len(a.downs) == number + 1)
        assert a.downs[-1][0] == stranger.peer_id
    a.links.send(b.id, ready(1))
    await b.when(lambda: b.frames)
    assert a.links.peers == (b.id,)


async def test_a_link_whose_frames_make_its_node_fail_does_not_stay_half_open(hosts: Hosts):
    a, b = await pair(hosts)

    async def broken(peer: bytes, frame: pb.Frame, payload: bytes) -> None:
        raise RuntimeError("a bug")

    object.__setattr__(a.links._on, "frame", broken)
    b.links.send(a.id, ready(1))
    await a.when(lambda: a.downs)
    assert not a.links.peers


async def test_a_link_through_a_hole_is_told_from_others(hosts: Hosts):
    """Whichever comes first, the link or the news that there is a hole for it."""
    a, b = await pair(hosts)
    for node, other in ((a, b), (b, a)):
        link = node.links.get(other.id)
        assert link is not None and not link.punched
        node.links.punched(other.id)
        assert link.punched
    a.links.cut(b.id, "the test wants another one")
    await b.when(lambda: b.downs)
    await dial(a, b)
    await b.when(lambda: len(b.ups) == 2)
    assert all(link is not None and link.punched for link in (a.links.get(b.id), b.links.get(a.id)))
