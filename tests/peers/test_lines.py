"""Lines as they are: what is measured over real p2pd, and who owns nothing: the slow and the relayed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from atoll.peers.line import FRAMING, Caps, Kind, Line
from atoll.peers.links import Links
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundConfig
from atoll.protocol.round.plan import make_plan
from atoll.protocol.signing import peer_text

from .hosts import DEADLINE_S, Hosts, connect, until
from .nodes import SWARM, Node, contribution, dial, make, ready

CONFIG = RoundConfig(SWARM, 40, "int8", "int8", lambda n: 0.5, b"")
PAYLOAD = random.Random(1).randbytes(1 << 19)
"""Nothing that zstd could make smaller."""


def owned(nodes: Sequence[Node]) -> list[int]:
    """Chunks that each would own in a plan with what their links say now."""
    offers = {
        node.id: pb.Ready(
            tokens=1,
            upload_bps=node.links.line.upload_bps,
            download_bps=node.links.line.likely_download_bps,
            relayed=node.links.relayed,
        )
        for node in nodes
    }
    plan = make_plan(CONFIG, Head(1, bytes(32), ()), nodes[0].id, offers, (), 0, (1.0, 1.0, 1.0))
    places = {bytes(c.peer): k for k, c in enumerate(plan.contributors)}
    return [list(plan.owners).count(places[node.id]) for node in nodes]


@pytest.mark.parametrize("lanes", [False, True])
async def test_a_slow_line_is_measured_and_owns_nothing(hosts: Hosts, lanes: bool) -> None:
    nodes = [await make(hosts, name, lanes) for name in ("a", "b", "c", "slow")]
    *_, slow = nodes
    slow.links.line = slow.host.line = Line(Caps(up_bps=2e6))
    for k, node in enumerate(nodes):
        for other in nodes[k + 1 :]:
            await connect(node.host, other.host)
            await dial(node, other)
    if lanes:
        links = [link for node in nodes for peer in node.links.peers if (link := node.links.get(peer))]
        await until(lambda: all(link.bulk and link.bulk.lane.open for link in links))
    assert owned(nodes) == [10, 10, 10, 10], "nothing is known yet"
    async with asyncio.timeout(2 * DEADLINE_S), asyncio.TaskGroup() as group:
        for node in nodes:
            for other in nodes:
                if node is not other:
                    for chunk in range(1 if node is slow else 8):
                        frame = contribution(chunk)
                        group.create_task(node.links.send_bulk(other.id, frame, PAYLOAD))
        # While its bulk waits, what steers rounds does not.
        await until(lambda: slow.links.line.sent[Kind.ROUNDS])
        slow.links.send(nodes[0].id, ready(77))
        await nodes[0].when(lambda: any(f.HasField("ready") for _, f, _ in nodes[0].frames))
    await until(lambda: all(node.links.line.upload_bps for node in nodes))
    assert 1.2e6 < slow.links.line.upload_bps <= 2e6 / FRAMING
    assert min(node.links.line.upload_bps for node in nodes[:3]) > 4e6
    shares = owned(nodes)
    assert shares[3] == 0 and min(shares[:3]) > 0 and sum(shares) == 40
    assert slow.links.line.sent[Kind.ROUNDS] >= 3 * len(PAYLOAD)


async def test_a_node_all_of_whose_links_are_relayed_owns_nothing(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real links; only what libp2p says of the connection is replaced: here it always finds a direct one."""
    a, b, hidden = [await make(hosts, name) for name in ("a", "b", "hidden")]
    shake = Links._shake

    async def relayed(links: Links, peer: bytes, info: StreamInfo, *more: object, **options: object) -> None:
        if hidden.id in (links.me, peer):
            info = SimpleNamespace(addr=f"{info.addr}/p2p/{peer_text(a.id)}/p2p-circuit")
        await shake(links, peer, info, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Links, "_shake", relayed)
    for one, other in ((a, b), (a, hidden), (b, hidden)):
        await connect(one.host, other.host)
        await dial(one, other)
        await other.when(lambda one=one, other=other: one.id in other.ups)  # type: ignore[misc]
    assert hidden.links.relayed and not a.links.relayed and not b.links.relayed
    assert owned([a, b, hidden]) == [20, 20, 0]
