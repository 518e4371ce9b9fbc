"""Hole punching without routers: who asks whom and when, what is refused, and places at a real relay."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from atoll.peers import relays
from atoll.peers.punching import AGAIN_S, ANSWER_S, MAX_DIALS, PAUSES_S, Puncher, Ways, may_dial
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

from .hosts import Hosts, connect

SMALL, LARGE, THIRD = b"a" * 38, b"b" * 38, b"c" * 38
MINE, THEIRS = "/ip4/44.0.0.1/udp/31337/quic-v1", "/ip4/44.0.0.2/udp/31337/quic-v1"


@dataclass
class FakeHost:
    """A p2pd whose dials work, or not, once they are let go."""

    works: bool = True
    dialled: list[tuple[bytes, list[str]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    direct: set[bytes] = field(default_factory=set)

    async def ways(self, peer: bytes) -> list[str]:
        return []

    async def is_direct(self, peer: bytes) -> bool:
        return peer in self.direct

    async def connect(self, peer: bytes, addresses: list[str]) -> None:
        self.dialled.append((peer, addresses))
        await self.gate.wait()
        if not self.works:
            raise ConnectionRefusedError("timeout: no recent network activity")
        self.direct.add(peer)


@dataclass
class Side:
    """A puncher, and what it did."""

    me: bytes
    host: FakeHost = field(default_factory=FakeHost)
    outside: list[str] = field(default_factory=lambda: [MINE])
    now: float = 100.0
    sent: list[tuple[bytes, pb.Punch]] = field(default_factory=list)
    punched: list[bytes] = field(default_factory=list)
    linked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def link(peer: bytes) -> None:
            self.linked.append(peer)

        host: Any = self.host
        ways = Ways(
            lambda: self.outside,
            lambda peer, frame: self.sent.append((peer, frame.punch)),
            self.punched.append,
            link,
        )
        self.puncher = Puncher(host, self.me, ways, lambda: self.now)
        self.host.gate.set()

    async def settled(self) -> None:
        while self.puncher._dials:
            await asyncio.gather(*self.puncher._dials.values())
            await asyncio.sleep(0)


async def test_the_smaller_one_asks_and_opens_the_link_and_both_dial() -> None:
    one, other = Side(SMALL), Side(LARGE, outside=[THEIRS])
    one.puncher.look([LARGE])
    other.puncher.look([SMALL])
    assert not other.sent
    ((to, asked),) = one.sent
    assert to == LARGE and list(asked.addresses) == [MINE] and not asked.answer
    other.puncher.heard(SMALL, asked)
    ((back, answer),) = other.sent
    assert back == SMALL and list(answer.addresses) == [THEIRS] and answer.answer
    one.puncher.heard(LARGE, answer)
    await one.settled()
    await other.settled()
    assert one.host.dialled == [(LARGE, [THEIRS])] and other.host.dialled == [(SMALL, [MINE])]
    assert one.punched == one.linked == [LARGE] and other.punched == [SMALL] and not other.linked


async def test_a_node_that_can_be_dialled_neither_asks_nor_answers() -> None:
    public = Side(SMALL, outside=[])
    public.puncher.look([LARGE])
    public.puncher.heard(LARGE, pb.Punch(addresses=[THEIRS]))
    assert not public.sent and not public.host.dialled


async def test_what_fails_is_tried_again_ever_more_seldom() -> None:
    side = Side(SMALL, host=FakeHost(works=False))
    times = []
    for _ in range(2000):
        before = len(side.sent)
        side.puncher.look([LARGE])
        if len(side.sent) > before:
            times.append(side.now)
            side.puncher.heard(LARGE, pb.Punch(addresses=[THEIRS], answer=True))
            await side.settled()
        side.now += 1.0
    pauses = [round(b - a) for a, b in itertools.pairwise(times)]
    assert pauses == [*PAUSES_S, PAUSES_S[-1]][: len(pauses)]
    assert side.puncher.results["failed"] == len(times) and not side.punched and not side.linked
    side.puncher.look([])
    side.puncher.look([LARGE])
    assert side.sent[-1][0] == LARGE  # it was gone in between: all begins anew


async def test_a_dial_of_the_other_side_that_came_through_counts() -> None:
    side = Side(SMALL, host=FakeHost(works=False))
    side.puncher.look([LARGE])
    side.host.direct.add(LARGE)
    side.puncher.heard(LARGE, pb.Punch(addresses=[THEIRS], answer=True))
    await side.settled()
    assert side.punched == side.linked == [LARGE]


async def test_an_answer_to_nothing_or_too_late_is_not_followed() -> None:
    side = Side(SMALL)
    side.puncher.heard(LARGE, pb.Punch(addresses=[THEIRS], answer=True))
    side.puncher.look([LARGE])
    side.now += ANSWER_S
    side.puncher.heard(LARGE, pb.Punch(addresses=[THEIRS], answer=True))
    assert not side.host.dialled and side.puncher.results["not followed"] == 2


async def test_nobody_makes_a_node_dial_often_or_much() -> None:
    side = Side(LARGE)
    side.host.gate.clear()
    many = pb.Punch(addresses=[f"/ip4/44.0.0.2/udp/{2000 + k}/quic-v1" for k in range(99)])
    for peer in range(20):
        side.puncher.heard(bytes([peer]) * 38, many)
    assert len(side.puncher._dials) == MAX_DIALS
    await asyncio.sleep(0)
    assert all(len(addresses) == 2 for _, addresses in side.host.dialled)
    side.host.gate.set()
    await side.settled()
    first = bytes([0]) * 38
    side.puncher.heard(first, many)
    assert not side.puncher._dials
    side.now += AGAIN_S
    side.puncher.heard(first, many)
    assert side.puncher._dials
    await side.puncher.close()


@pytest.mark.parametrize(
    ("address", "may"),
    [
        (THEIRS, True),
        ("/ip4/192.168.7.7/udp/31337/quic-v1", True),
        ("/ip6/2600::1/udp/4001/quic-v1", True),
        ("/ip4/44.0.0.2/udp/53/quic-v1", False),
        ("/ip4/127.0.0.1/udp/31337/quic-v1", False),
        ("/ip4/44.0.0.2/udp/99999/quic-v1", False),
        ("/ip4/44.0.0.2/tcp/31337", False),
        ("/dns4/x.example/udp/31337/quic-v1", False),
        ("/ip4/44.0.0.2/udp/31337/quic-v1/p2p/X/p2p-circuit", False),
        ("", False),
    ],
)
def test_what_may_be_dialled_on_a_members_word(address: str, may: bool) -> None:
    assert may_dial(address) is may


# ---- relays


async def test_a_relay_that_says_nonsense_gives_no_place(hosts: Hosts) -> None:
    (relay, _), (hidden, _) = await hosts.start("r"), await hosts.start("h")
    await connect(hidden, relay)
    said = [b"\xff\xff\xff\xff", b"\x00", b"\x03\xff\xff\xff", b"\x05\x08\x02\x28\xc8\x01"]

    async def answers(info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said.pop(0))
        await writer.drain()
        await reader.read()
        writer.close()

    # p2pd answers itself under libp2p's name; here another protocol stands for it.
    await relay.p2p.add_binary_stream_handler("/test/hop", answers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relays, "HOP", "/test/hop")
        for expected in (wire.WireError, wire.WireError, wire.WireError, relays.NoPlace):
            with pytest.raises(expected):
                await relays.reserve(hidden, relay.peer_id)
