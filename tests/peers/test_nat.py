"""p2pd behind real routers: network namespaces with nftables between them (netns.py). Needs root."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.peers import addresses as a
from atoll.peers import identity, prober, relays
from atoll.peers.dialback import DialBackServer, ask
from atoll.peers.p2pd import Host
from atoll.peers.punching import Puncher, Ways
from atoll.peers.reach import HIDDEN, PUBLIC, Reach
from atoll.protocol import messages_pb2 as pb

from ..process.netns import Internet, an_internet, entered
from .hosts import DEADLINE_S

PORT = 31337


@pytest.fixture
def internet() -> Iterator[Internet]:
    yield from an_internet("atoll-p2pd")


class Nodes:
    """A p2pd in each namespace: `public`, and the hidden `one` and `other`, which are connected to it."""

    def __init__(self, net: Internet, folder: Path) -> None:
        self.net = net
        self._folder = folder
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self.public = await self._begin(self.net.public[0])
        self.one, self.other = [await self._begin(name) for name in self.net.hidden]
        self.relay = next(x for x in await self.public.addresses() if "/ip4/44." in x)
        for host in (self.one, self.other):
            await host.connect(self.public.peer_id, [self.relay])

    async def _begin(self, name: str) -> Host:
        folder = self._folder / name
        folder.mkdir()
        identity.create(folder / "key")
        listen = [a.tcp("0.0.0.0", PORT), a.quic("0.0.0.0", PORT)]
        with entered(name):
            host = await Host.start(folder / "key", listen, folder / "run")
        self._stack.push_async_callback(host.close)
        return host

    async def close(self) -> None:
        await self._stack.aclose()

    async def probe(self, host: str, port: int, peer: bytes) -> str:
        """As the public node dials."""

        def dial() -> str:
            with entered(self.net.public[0]):
                return asyncio.run(prober.probe(host, port, peer, 2.0))

        return await asyncio.to_thread(dial)

    async def dialled_back(self, host: Host, clock: list[float]) -> Reach:
        """What a hidden node learns from the public one."""
        reply = await ask(host, self.public.peer_id, await host.addresses(), PORT)
        assert not reply.code
        reach = Reach()
        reach.heard(self.public.peer_id, reply, time.time())
        clock[0] += 60.0
        return reach


@pytest.fixture
async def nodes(internet: Internet, tmp_path: Path) -> AsyncIterator[Nodes]:
    made = Nodes(internet, tmp_path)
    try:
        async with asyncio.timeout(60):
            await made.start()
        yield made
    finally:
        await made.close()


async def test_a_node_is_dialled_back_only_where_its_router_lets_others_in(nodes: Nodes) -> None:
    clock = [0.0]
    await DialBackServer(nodes.public, lambda peer: None, lambda: clock[0], nodes.probe).listen()
    outside = nodes.net.outside(nodes.net.hidden[0])
    reach = await nodes.dialled_back(nodes.one, clock)
    assert reach.verdict == HIDDEN and reach.outside == [outside]
    assert reach.failures() == [f"/ip4/{outside}/tcp/{PORT} (no answer in 2 s)"]
    nodes.net.forward_port(nodes.net.hidden[0], PORT)
    reach = await nodes.dialled_back(nodes.one, clock)
    assert reach.verdict == PUBLIC and list(reach.proven) == [f"/ip4/{outside}/tcp/{PORT}"]


async def test_a_hidden_node_is_met_at_its_place_at_a_relay_and_not_without(nodes: Nodes) -> None:
    through = relays.through(nodes.relay, nodes.one.peer_id)
    with pytest.raises(P2PDaemonError):
        await nodes.other.connect(nodes.one.peer_id, [through])
    assert await relays.reserve(nodes.one, nodes.public.peer_id) > time.time() + 600
    # A dial that failed is not repeated at once by libp2p; the other one has not tried yet.
    assert await relays.reserve(nodes.other, nodes.public.peer_id) > time.time() + 600
    peer = nodes.other.peer_id
    await nodes.one.connect(peer, [relays.through(nodes.relay, peer)])
    assert all("/p2p-circuit" in way for way in await nodes.one.ways(peer))
    assert not await nodes.one.is_direct(peer) and await nodes.one.ways(peer)


def a_pair(nodes: Nodes) -> tuple[Puncher, Puncher, list[bytes]]:
    """Punchers of both hidden nodes, that of the smaller peer id first, and whom it opened a link to."""
    linked: list[bytes] = []
    sides: dict[bytes, Puncher] = {}

    async def link(peer: bytes) -> None:
        linked.append(peer)

    for name, host in zip(nodes.net.hidden, (nodes.one, nodes.other), strict=True):
        outside = [a.quic(nodes.net.outside(name), PORT)]

        def send(peer: bytes, frame: pb.Frame, me: bytes = host.peer_id) -> None:
            sides[peer].heard(me, frame.punch)

        ways = Ways(lambda outside=outside: outside, send, lambda peer: None, link)
        sides[host.peer_id] = Puncher(host, host.peer_id, ways)
    first, second = sorted(sides)
    return sides[first], sides[second], linked


async def settled(*punchers: Puncher) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while tasks := [task for puncher in punchers for task in puncher._dials.values()]:
            await asyncio.wait(tasks)


async def test_two_hidden_nodes_punch_a_hole(nodes: Nodes) -> None:
    first, second, linked = a_pair(nodes)
    larger = max(nodes.one.peer_id, nodes.other.peer_id)
    first.look([larger])
    await settled(first, second)
    assert first.results["punched"] and second.results["punched"] and linked == [larger]
    assert await nodes.one.is_direct(nodes.other.peer_id) and await nodes.other.is_direct(nodes.one.peer_id)


async def test_a_relayed_connection_gives_way_to_the_hole(nodes: Nodes) -> None:
    for host in (nodes.one, nodes.other):
        await relays.reserve(host, nodes.public.peer_id)
    await nodes.one.connect(nodes.other.peer_id, [relays.through(nodes.relay, nodes.other.peer_id)])
    assert not await nodes.one.is_direct(nodes.other.peer_id)
    first, second, _ = a_pair(nodes)
    first.look([max(nodes.one.peer_id, nodes.other.peer_id)])
    await settled(first, second)
    assert await nodes.one.is_direct(nodes.other.peer_id) and await nodes.other.is_direct(nodes.one.peer_id)


async def test_a_router_with_another_port_for_each_connection_lets_no_hole_be_punched(nodes: Nodes) -> None:
    nodes.net.scramble_ports(nodes.net.hidden[0])
    first, second, linked = a_pair(nodes)
    first.look([max(nodes.one.peer_id, nodes.other.peer_id)])
    await settled(first, second)
    assert first.results["failed"] and second.results["failed"] and not linked
    assert not await nodes.one.ways(nodes.other.peer_id)
