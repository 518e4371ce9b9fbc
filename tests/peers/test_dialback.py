"""Dial-back: real p2pd processes that are dialled by others, and what nobody can be made to do."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.peers import addresses as a
from atoll.peers import dialback, prober
from atoll.peers.dialback import DialBackServer, ask, may_dial
from atoll.peers.p2pd import Host
from atoll.peers.reach import HIDDEN, KEPT_S, LAN, MACHINE, PUBLIC, UNKNOWN, VALID_S, Reach
from atoll.protocol import messages_pb2 as pb

from ..daemon.swarm import keyring
from ..fuzz.reaching import KEYS, made_certificate
from .hosts import DEADLINE_S, Hosts, connect

ME, FIRST, SECOND = b"m" * 38, b"a" * 38, b"b" * 38


async def port_of(host: Host) -> int:
    return int((await host.addresses())[0].split("/")[4])


async def test_a_node_that_listens_is_found_at_its_address(hosts: Hosts) -> None:
    (one, _), (other, _) = await hosts.start("one"), await hosts.start("other")
    await DialBackServer(other, lambda peer: None).listen()
    await connect(one, other)
    port = await port_of(one)
    reply = await ask(one, other.peer_id, await one.addresses(), port)
    assert not reply.code and reply.seen == "127.0.0.1"
    assert [(r.address, r.cause) for r in reply.results] == [(f"/ip4/127.0.0.1/tcp/{port}", "")]


async def test_what_is_not_this_node_proves_nothing(hosts: Hosts) -> None:
    """Another node, something else, and nothing at all, at ports of the asker's own address."""
    (one, _), (other, _) = await hosts.start("one"), await hosts.start("other")
    await DialBackServer(other, lambda peer: None).listen()
    await connect(one, other)

    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nothing = closed.getsockname()[1]
        async with await asyncio.start_server(greets, "127.0.0.1", 0) as server:
            mail = server.sockets[0].getsockname()[1]
            ports = (await port_of(other), mail, nothing)
            wanted = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports]
            reply = await ask(one, other.peer_id, wanted, 0)
    assert [r.cause for r in reply.results] == [
        "another node answers there",
        "what answers there is no libp2p node",
        "connection refused",
    ]


async def test_a_listener_that_says_nothing_ends_with_the_time() -> None:
    held: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await prober.probe("127.0.0.1", port, ME, 0.2) == "no answer in 0 s"
    assert held


@pytest.mark.parametrize(
    ("address", "seen", "may"),
    [
        ("/ip4/203.0.113.7/tcp/31337", "203.0.113.7", True),
        ("/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWA4", "203.0.113.7", True),
        ("/ip6/2001:db8::1/tcp/1", "2001:db8::1", True),
        ("/ip6/::ffff:203.0.113.7/tcp/1", "203.0.113.7", True),
        ("/ip4/203.0.113.8/tcp/31337", "203.0.113.7", False),
        ("/ip4/127.0.0.1/tcp/8787", "203.0.113.7", False),
        ("/ip4/192.168.1.1/tcp/80", "192.168.1.5", False),
        ("/dns4/third.example/tcp/80", "203.0.113.7", False),
        ("/ip4/203.0.113.7/udp/31337/quic-v1", "203.0.113.7", False),
        ("/ip4/203.0.113.7/tcp/0", "203.0.113.7", False),
        ("/ip4/203.0.113.7/tcp/99999", "203.0.113.7", False),
        ("/ip4/203.0.113.7", "203.0.113.7", False),
        ("/ip4/nonsense/tcp/1", "nonsense", False),
        ("", "", False),
    ],
)
def test_nobody_is_made_to_dial_a_third_one(address: str, seen: str, may: bool) -> None:
    assert may_dial(address, seen) is may


def a_server(dialled: list[tuple[str, int]], now: list[float], why: str | None = None) -> DialBackServer:
    async def dial(host: str, port: int, peer: bytes) -> str:
        dialled.append((host, port))
        return ""

    unused: Host = None  # type: ignore[assignment]
    return DialBackServer(unused, lambda peer: why, lambda: now[0], dial)


async def test_a_stranger_is_refused_and_nothing_is_dialled() -> None:
    dialled: list[tuple[str, int]] = []
    server = a_server(dialled, [0.0], "it has no link to this node")
    reply = await server.answer(FIRST, "/ip4/203.0.113.7/tcp/5", pb.DialBackRequest(port=31337))
    assert reply.code == "not_welcome" and "no link" in reply.reason and not dialled
    assert server.refused == {"not_welcome": 1}


async def test_nothing_is_dialled_for_who_comes_over_a_relay() -> None:
    dialled: list[tuple[str, int]] = []
    relayed = "/ip4/203.0.113.7/tcp/5/p2p/12D3KooWA4/p2p-circuit"
    reply = await a_server(dialled, [0.0]).answer(FIRST, relayed, pb.DialBackRequest(port=31337))
    assert reply.code == "relayed" and not dialled


async def test_one_asker_is_answered_once_in_a_while_and_all_together_seldom() -> None:
    dialled: list[tuple[str, int]] = []
    now = [0.0]
    server = a_server(dialled, now)

    async def asks(peer: bytes) -> str:
        reply = await server.answer(peer, "/ip4/203.0.113.7/tcp/5", pb.DialBackRequest(port=31337))
        return str(reply.code)

    assert [await asks(FIRST), await asks(FIRST)] == ["", "too_often"]
    now[0] += dialback.AGAIN_S
    assert await asks(FIRST) == ""
    crowd = [await asks(bytes([k]) * 38) for k in range(40)]
    assert crowd.count("") <= dialback.BURST + 1 and crowd[-1] == "too_often"
    now[0] += 60
    assert await asks(SECOND) == ""


async def test_of_many_addresses_few_are_dialled() -> None:
    dialled: list[tuple[str, int]] = []
    many = [f"/ip4/203.0.113.7/tcp/{port}" for port in range(1, 500)]
    await a_server(dialled, [0.0]).answer(
        FIRST, "/ip4/203.0.113.7/tcp/5", pb.DialBackRequest(addresses=many, port=31337)
    )
    assert len(dialled) == dialback.MAX_DIALLED


async def test_a_request_that_is_none_ends_the_stream(hosts: Hosts) -> None:
    from hivemind.p2p import PeerID

    from atoll.protocol import wire

    (one, _), (other, _) = await hosts.start("one"), await hosts.start("other")
    server = DialBackServer(other, lambda peer: None)
    await server.listen()
    await connect(one, other)
    for body in (b"\xff\xff\xff\xff", wire.prefixed(b"\xff" * 20), b"\0\0\0\1"):
        async with asyncio.timeout(DEADLINE_S):
            _, reader, writer = await one.p2p.call_binary_stream_handler(
                PeerID(other.peer_id), wire.DIAL_BACK_PROTOCOL
            )
            writer.write(body)
            if len(body) == 5:
                writer.close()
            else:
                assert await reader.read() == b""
            writer.close()
    reply = await ask(one, other.peer_id, await one.addresses(), 0)
    assert not reply.code and server.refused["unreadable"] >= 2


async def test_a_node_that_knows_no_dial_back_says_so(hosts: Hosts) -> None:
    (one, _), (other, _) = await hosts.start("one"), await hosts.start("other")
    await connect(one, other)
    with pytest.raises(P2PDaemonError):
        await ask(one, other.peer_id, await one.addresses(), 0)


# ---- a certificate that proves


def test_bytes_that_are_no_certificate_prove_nothing() -> None:
    node = bytes.fromhex("002408011220") + bytes(32)
    assert not any(prober.proves(data, node) for data in (b"", b"\x30\x80", bytes(5000)))


def test_a_certificate_proves_the_node_that_made_it_and_no_other() -> None:
    made = made_certificate()
    assert prober.proves(made, KEYS.peer_id)
    assert not prober.proves(made, keyring(2).peer_id)
    # With another signature, or of another key, it proves nothing.
    at = made.index(KEYS.public_key)
    assert not prober.proves(made[:at] + bytes(32) + made[at + 32 :], KEYS.peer_id)
    after = at + 32 + 2
    assert not prober.proves(made[:after] + bytes(64) + made[after + 64 :], KEYS.peer_id)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x02\x04\x05", b"\x30\x02\x04\x00", b"\x31\x00"])
def test_an_extension_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"sequence|string"):
        prober._signed_key(data)


# ---- what is known of it


def told(seen: str, **results: str) -> pb.DialBackReply:
    made = [pb.DialBackResult(address=a.tcp(seen, int(p[1:])), cause=c) for p, c in results.items()]
    return pb.DialBackReply(seen=seen, results=made)


def test_the_verdict_follows_from_the_answers() -> None:
    reach = Reach()
    assert reach.verdict == UNKNOWN
    reach.heard(FIRST, told("44.0.0.1", _31337="no answer in 5 s"), 100.0)
    assert reach.verdict == HIDDEN and reach.hidden_from == [FIRST]
    assert reach.failures() == ["/ip4/44.0.0.1/tcp/31337 (no answer in 5 s)"]
    reach.heard(SECOND, told("127.0.0.1", _31337=""), 101.0)
    assert reach.verdict == MACHINE
    reach.heard(SECOND, told("10.0.0.2", _31337=""), 102.0)
    assert reach.verdict == LAN
    reach.heard(FIRST, told("44.0.0.1", _31337="", _31338="connection refused"), 103.0)
    assert reach.verdict == PUBLIC and not reach.hidden_from and not reach.failures()
    assert reach.proven["/ip4/44.0.0.1/tcp/31337"] == 103.0 and reach.seen == ["10.0.0.2", "44.0.0.1"]


def test_an_answer_about_other_addresses_than_those_that_are_seen_counts_for_nothing() -> None:
    reach = Reach()
    lie = pb.DialBackReply(
        seen="44.0.0.1", results=[pb.DialBackResult(address="/ip4/9.9.9.9/tcp/53", cause="")]
    )
    reach.heard(FIRST, lie, 1.0)
    assert reach.verdict == UNKNOWN and not reach.proven


def test_what_was_proven_is_kept_for_days_and_forgotten_when_it_fails() -> None:
    reach = Reach()
    reach.heard(FIRST, told("44.0.0.1", _31337=""), 100.0)
    again = Reach(reach.facts())
    assert again.proven == {"/ip4/44.0.0.1/tcp/31337": 100.0} and again.verdict == UNKNOWN
    again.forget(100.0 + VALID_S)
    assert again.proven
    again.heard(SECOND, told("44.0.0.1", _31337="no answer in 5 s"), 200.0)
    assert not again.proven and again.verdict == HIDDEN
    assert again.facts()["failed"] == ["/ip4/44.0.0.1/tcp/31337"]
    old = Reach(reach.facts())
    old.forget(100.0 + KEPT_S)
    assert not old.proven


@pytest.mark.parametrize("kept", [None, [], {"proven": []}, {"proven": {"nonsense": 1}}, {"proven": {1: 2}}])
def test_a_file_that_somebody_has_written_in_is_no_proof(kept: object) -> None:
    reach = Reach(kept)
    assert not reach.proven


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("/ip4/44.0.0.1/tcp/1", a.PUBLIC),
        ("/ip4/192.168.3.4/tcp/1", a.LAN),
        ("/ip4/100.64.1.1/tcp/1", a.LAN),
        ("/ip4/169.254.1.1/tcp/1", a.LAN),
        ("/ip6/fd00::1/tcp/1", a.LAN),
        ("/ip6/::1/tcp/1", a.MACHINE),
        ("/ip4/127.0.0.1/tcp/1", a.MACHINE),
        ("/ip4/44.0.0.1/tcp/1/p2p/X/p2p-circuit/p2p/Y", a.RELAY),
        ("/dns4/node.example/tcp/1", a.NAME),
        ("/ip4/0.0.0.0/tcp/1", a.OTHER),
        ("/unix/x", a.OTHER),
        ("", a.OTHER),
    ],
)
def test_for_whom_an_address_is(address: str, scope: str) -> None:
    assert a.scope(address) == scope
