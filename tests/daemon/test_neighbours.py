"""Neighbours over real libp2p hosts: two nodes that can't reach each other meet through a third."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from atoll.daemon import neighbours
from atoll.daemon.events import Events
from atoll.daemon.neighbours import Hooks, Neighbours
from atoll.peers import routing
from atoll.peers.links import LinkLost, LinkRefused
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest

from ..peers.hosts import Hosts, connect, until
from .swarm import keyring, make_manifest


@dataclass
class Node:
    """Neighbours, and what they gave to the node."""

    host: Host
    neighbours: Neighbours
    id: bytes
    version: int = 0
    frames: list[tuple[bytes, pb.Frame, bytes]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    beats: asyncio.Task[None] | None = None


async def make(hosts: Hosts, name: str, manifest: SwarmManifest, folder: Path) -> Node:
    host, keys = await hosts.start(name)

    async def frame(peer: bytes, message: pb.Frame, payload: bytes) -> None:
        node.frames.append((peer, message, payload))
        node.changed.set()

    hooks = Hooks(
        status=lambda: pb.NodeStatus(state=pb.TRAINING, version=node.version, digest=b"d" * 32),
        chain=lambda: (),
        addresses=lambda: [],
        provide=lambda kind, version, chunk: None,
        changed=lambda: node.changed.set(),
        lost=lambda: node.changed.set(),
        learned=lambda address: None,
        frame=frame,
    )
    events = Events(folder / f"{name}.jsonl", lambda: 0.0)
    node = Node(host, Neighbours(host, keys, manifest, name, events, hooks), keys.peer_id)
    await node.neighbours.listen()
    node.beats = asyncio.create_task(node.neighbours.heartbeats())
    return node


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    started = Hosts(tmp_path)
    yield started
    await started.close()


@pytest.fixture
async def trio(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Node, Node, Node]]:
    """A and B, each linked to F only."""
    monkeypatch.setattr(routing, "PATIENCE_S", 0.0)
    manifest = make_manifest(keyring(0), 1)
    a, b, f = [await make(hosts, name, manifest, tmp_path) for name in "abf"]
    for node in (a, b):
        await connect(node.host, f.host)
        await node.neighbours.links.dial(f.id)
    yield a, b, f
    for node in (a, b, f):
        assert node.beats is not None
        node.beats.cancel()
        await asyncio.gather(node.beats, return_exceptions=True)
        await node.neighbours.close("bye")


@pytest.mark.parametrize(
    ("what", "part", "change"),
    [
        ("parameter schema", "schema_digest", b"o" * 32),
        ("data", "data", pb.Data(digest=b"o" * 32)),
    ],
)
async def test_a_node_of_another_schema_or_other_data_is_refused_with_both_named(
    hosts: Hosts, tmp_path: Path, what: str, part: str, change: bytes | pb.Data
) -> None:
    """Neither can happen to nodes that hold one manifest: it names both. A forged or broken one can."""
    manifest = make_manifest(keyring(0), 1)
    body = pb.Manifest(**({field.name: v for field, v in manifest.body.ListFields()} | {part: change}))
    a = await make(hosts, "a", manifest, tmp_path)
    b = await make(hosts, "b", replace(manifest, body=body), tmp_path)
    await connect(a.host, b.host)
    mine = manifest.body.schema_digest if part == "schema_digest" else b""
    for one, other, its, own in ((a, b, mine, b"o" * 32), (b, a, b"o" * 32, mine)):
        with pytest.raises(LinkRefused) as caught:
            await one.neighbours.links.dial(other.id)
        # It is the other one that refuses: "its" is ours, and what it is not is the other's.
        said = f"its {what} {its.hex()[:16] or 'none'} is not {own.hex()[:16] or 'none'}"
        assert said in str(caught.value)
        assert not other.neighbours.links.peers
    for node in (a, b):
        assert node.beats is not None
        node.beats.cancel()
        await asyncio.gather(node.beats, return_exceptions=True)
        await node.neighbours.close("bye")


async def test_two_nodes_without_a_link_reach_each_other_through_a_third(trio: tuple[Node, Node, Node]):
    a, b, f = trio
    for one, other in ((a, b), (b, a)):
        await until(lambda one=one, other=other: other.id in one.neighbours.views(), one.changed)
        assert not one.neighbours.views()[other.id].direct
        assert one.neighbours.views()[f.id].direct
    a.neighbours.send(b.id, pb.Frame(want=pb.Want(chunks=[1])))
    contribution = pb.Frame(contribution=pb.Contribution(chunk=2))
    await a.neighbours.send_bulk(b.id, contribution, b"payload" * 1000)
    await until(lambda: len(b.frames) == 2, b.changed)
    by_kind = {frame.WhichOneof("message"): (peer, payload) for peer, frame, payload in b.frames}
    assert by_kind == {"want": (a.id, b""), "contribution": (a.id, b"payload" * 1000)}
    assert f.neighbours.forwarded["passed on"] >= 4 and f.frames == []
    with pytest.raises(LinkLost):
        await a.neighbours.send_bulk(b"x" * 38, contribution, b"")


async def test_a_change_is_told_through_others_and_their_loss_ends_it(
    trio: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
):
    a, b, f = trio
    await until(lambda: b.id in a.neighbours.views(), a.changed)
    b.version = 9
    b.neighbours.tell_everyone()
    await until(lambda: a.neighbours.roster.entries[b.id].status.version == 9)
    monkeypatch.setattr("atoll.peers.roster.EVICT_S", 1.0)
    await f.neighbours.close("bye")
    await until(lambda: not a.neighbours.views(), a.changed)


async def test_lists_are_told_once_and_stay_known(
    trio: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
):
    a, b, f = trio
    heard: list[pb.NodeStatus] = []
    real = a.neighbours.roster.heard
    told = asyncio.Event()

    def listen(peer: bytes, status: pb.NodeStatus, now: float) -> bool:
        heard.append(status)
        told.set()
        return real(peer, status, now)

    await until(lambda: len(a.neighbours.roster.entries[f.id].status.linked) == 2)
    monkeypatch.setattr(a.neighbours.roster, "heard", listen)
    brief: list[int] = []
    send = f.neighbours.links.send
    monkeypatch.setattr(
        f.neighbours.links, "send", lambda peer, frame: (brief.append(frame.ByteSize()), send(peer, frame))[1]
    )
    for version in range(1, 4):
        f.version = version
        f.neighbours.tell_everyone()
        await until(lambda version=version: bool(heard) and heard[-1].version == version, told)
        assert sorted(heard[-1].linked) == sorted((a.id, b.id)) and not heard[-1].unchanged
    assert min(brief) < 60, "two ids alone are 76 bytes"


async def test_an_echo_from_nowhere_makes_no_peer(trio: tuple[Node, Node, Node]):
    a, _, _ = trio
    await a.neighbours._unwrapped(b"x" * 38, pb.Frame(heartbeat=pb.Heartbeat(echo=5)), b"", 1.0)
    assert b"x" * 38 not in a.neighbours.views()


async def test_envelopes_that_are_not_to_be_passed_on_are_counted(trio: tuple[Node, Node, Node]):
    a, b, f = trio
    await until(lambda: b.id in a.neighbours.views(), a.changed)
    envelope = a.neighbours._router.wrap(b.id, pb.Frame(want=pb.Want()))
    envelope.forward.target = b"x" * 38
    a.neighbours.links.send(f.id, envelope)
    reason = "envelope for a peer without a link here"
    await until(lambda: f.neighbours.forwarded[reason])


async def test_an_origin_that_floods_is_dropped_and_the_target_keeps_its_link(trio: tuple[Node, Node, Node]):
    a, b, f = trio
    await until(lambda: b.id in a.neighbours.views(), a.changed)
    link = f.neighbours.links.get(b.id)
    assert link is not None
    large = pb.Forward(origin=a.id, target=b.id, envelope=pb.Signed(body=bytes(900_000)))
    for _ in range(20):  # without giving the writer a turn: the target takes nothing
        await f.neighbours._forward(a.id, large, b"", 0.0)
    assert f.neighbours.forwarded["too many at once"] >= 19
    assert not link.closed.is_set()


async def test_one_origin_has_not_all_places_for_payloads(trio: tuple[Node, Node, Node]):
    a, b, f = trio
    await until(lambda: b.id in a.neighbours.views(), a.changed)
    before = f.neighbours.forwarded["passed on"]
    envelope = pb.Forward(origin=a.id, target=b.id, envelope=pb.Signed(body=b"x"))
    for _ in range(neighbours.MAX_FORWARDING):
        await f.neighbours._forward(a.id, envelope, b"payload", 0.0)
    assert f.neighbours.forwarded["passed on"] == before + neighbours.MAX_FORWARDING_OF_ONE
    assert f.neighbours.forwarded["too many at once"] == neighbours.MAX_FORWARDING_OF_ONE


async def test_a_network_that_is_left_alone_carries_control_messages_only(trio: tuple[Node, Node, Node]):
    a, b, f = trio
    await until(lambda: b.id in a.neighbours.views(), a.changed)
    f.neighbours._hooks = replace(f.neighbours._hooks, carries=lambda: False)
    before = f.neighbours.forwarded["passed on"]
    envelope = pb.Forward(origin=a.id, target=b.id, envelope=pb.Signed(body=b"x"))
    await f.neighbours._forward(a.id, envelope, b"payload", 0.0)
    assert f.neighbours.forwarded["passed on"] == before
    assert f.neighbours.forwarded["the network is to be left alone"] == 1
    await f.neighbours._forward(a.id, envelope, b"", 0.0)
    assert f.neighbours.forwarded["passed on"] == before + 1


async def test_a_peer_whose_bytes_move_is_not_evicted(
    trio: tuple[Node, Node, Node], monkeypatch: pytest.MonkeyPatch
):
    a, _, f = trio
    entries = a.neighbours.roster.entries
    monkeypatch.setattr(neighbours.Roster, "seen", lambda self, peer, now: None)
    link = a.neighbours.links.get(f.id)
    assert link is not None
    for alive_at, evicted in ((math.inf, False), (0.0, True)):
        monkeypatch.setattr(a.neighbours.links, "alive_at", lambda peer, at=alive_at: at)
        entries[f.id] = replace(entries[f.id], last_seen=0.0)
        a.neighbours.evict(time.monotonic())
        assert link.closed.is_set() == evicted
