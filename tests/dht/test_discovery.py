"""Discovery on real DHT nodes: three hosts find each other, bad records are refused, and a stock hivemind
node and Atoll serve each other as bootstrap peers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2PHandlerError, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils.timed_storage import get_dht_time

from atoll.dht import pacing
from atoll.dht.discovery import Discovery
from atoll.dht.records import make_record, swarm_key
from atoll.peers.p2pd import Host
from atoll.protocol.signing import Ed25519Keyring, peer_bytes

from ..peers.hosts import DEADLINE_S, Hosts, connect, until

SWARM, OTHER = b"s" * 32, b"o" * 32


class Node:
    """A host with its discovery."""

    def __init__(self, host: Host, keyring: Ed25519Keyring, discovery: Discovery) -> None:
        self.host = host
        self.keyring = keyring
        self.discovery = discovery

    async def announce(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            addresses = await self.host.addresses()
            return await self.discovery.announce(self.keyring, addresses, time.time())

    async def found(self) -> set[bytes]:
        async with asyncio.timeout(DEADLINE_S):
            return {bytes(r.peer) for r in await self.discovery.find(time.time())}


async def make(hosts: Hosts, name: str, swarm_id: bytes | None = SWARM) -> Node:
    host, keyring = await hosts.start(name)
    discovery = await Discovery.create(host.p2p, swarm_id)
    hosts.at_the_end(discovery.close)
    return Node(host, keyring, discovery)


async def meet(node: Node, other: Node) -> None:
    await connect(node.host, other.host)
    async with asyncio.timeout(DEADLINE_S):
        assert await node.discovery.greet(other.host.peer_id)


async def test_a_node_alone_announces_to_itself(hosts: Hosts):
    node = await make(hosts, "a")
    assert await node.found() == set()
    await node.announce()
    assert await node.found() == {node.keyring.peer_id}
    assert node.discovery.known_nodes == 0


async def test_three_nodes_find_each_other_over_one_of_them(hosts: Hosts):
    a, b, c = [await make(hosts, name) for name in "abc"]
    await meet(b, a)
    await meet(c, a)
    assert await b.announce() and await c.announce() and await a.announce()
    for node in (a, b, c):
        assert await node.found() == {n.keyring.peer_id for n in (a, b, c)}
    (record,) = [r for r in await c.discovery.find(time.time()) if r.peer == b.keyring.peer_id]
    await c.host.connect(record.peer, list(record.addresses))
    assert await c.discovery.greet(bytes(record.peer)), "the addresses are dialable"


async def test_swarms_do_not_see_each_other(hosts: Hosts):
    a, b = await make(hosts, "a"), await make(hosts, "b", OTHER)
    await meet(b, a)
    await a.announce()
    await b.announce()
    assert await a.found() == {a.keyring.peer_id}
    assert await b.found() == {b.keyring.peer_id}


async def test_a_peer_without_a_dht_is_greeted_in_vain(hosts: Hosts):
    a = await make(hosts, "a")
    plain, _ = await hosts.start("plain")
    await connect(a.host, plain)
    assert not await a.discovery.greet(plain.peer_id)


async def test_bad_records_are_refused_by_whoever_should_store_them(hosts: Hosts):
    a = await make(hosts, "a")
    stranger = await make(hosts, "stranger", None)
    await meet(stranger, a)
    node: DHTNode = stranger.discovery._node
    forger = Ed25519Keyring(Ed25519PrivateKey.generate())
    good = make_record(forger, SWARM, ["/ip4/127.0.0.1/tcp/1"], time.time())
    expires = get_dht_time() + 60
    bad = ((a.keyring.peer_id, good), (forger.peer_id, b"junk"), ("text", good))
    for number, (subkey, value) in enumerate(bad):
        await node.store(swarm_key(SWARM), value, expires + number, subkey=subkey)
    assert await a.found() == set()
    assert a.discovery.refused_records >= 3
    await node.store(swarm_key(SWARM), good, expires + len(bad), subkey=forger.peer_id)
    assert await a.found() == {forger.peer_id}
    assert await node.store("their own key", "their own value", expires), "other keys are not our business"


async def test_questions_and_answers_that_are_too_large_are_refused(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    a, b = await make(hosts, "a"), await make(hosts, "b")
    await meet(b, a)
    peer, find = PeerID(a.host.peer_id), DHTProtocol._get_handle_name(None, "rpc_find")
    for keys in (20 * [bytes(20)], [bytes([n]) * 20 for n in range(20)]):
        request = dht_pb2.FindRequest(keys=keys).SerializeToString()
        with pytest.raises(P2PHandlerError, match="too many requests"):
            await b.host.p2p._client.call_unary_handler(peer, find, request)
    monkeypatch.setattr(pacing, "MAX_ANSWER_BYTES", 1)
    assert await b.discovery._node.protocol.call_find(peer, [DHTID.generate(source="x")]) is None
    assert a.discovery.refused_requests == 3


async def test_a_record_that_lies_here_too_long_is_not_believed(hosts: Hosts):
    node = await make(hosts, "a")
    await node.announce()
    later = time.time() + 300
    assert await node.discovery.find(later) == []


# ---- together with stock hivemind


@pytest.fixture
async def stock(tmp_path: Path) -> AsyncIterator[str]:
    """Multiaddr of the stock `hivemind-dht` command, run as its users do."""
    command = [
        str(Path(sys.executable).with_name("hivemind-dht")),
        "--host_maddrs",
        "/ip4/127.0.0.1/tcp/0",
        "--identity_path",
        str(tmp_path / "stock.id"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HIVEMIND_COLORS": "never"},
        start_new_session=True,
    )
    assert process.stdout is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            address = None
            while address is None:
                line = (await process.stdout.readline()).decode(errors="replace")
                assert line, "hivemind-dht ended before it was up"
                words = line.replace(",", " ").split()
                address = next((w for w in words if w.startswith("/ip4/127.0.0.1/") and "/p2p/" in w), None)
        drain = asyncio.create_task(process.stdout.read())
        yield address
    finally:
        # It forks helpers, p2pd among them, that outlive it: the whole session is ended.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if drain is not None:
            await drain


async def test_stock_hivemind_bootstraps_atoll(hosts: Hosts, stock: str):
    a, b = await make(hosts, "a"), await make(hosts, "b")
    address, _, peer = stock.partition("/p2p/")
    for node in (a, b):
        async with asyncio.timeout(DEADLINE_S):
            await node.host.connect(peer_bytes(peer), [address])
            assert await node.discovery.greet(peer_bytes(peer))
    assert await a.announce() and await b.announce()
    both = {a.keyring.peer_id, b.keyring.peer_id}
    assert await a.found() == both and await b.found() == both


async def test_atoll_bootstraps_stock_hivemind(hosts: Hosts):
    helper = await make(hosts, "bootstrap", None)
    addresses = await helper.host.addresses()
    first = await DHTNode.create(initial_peers=addresses, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    hosts.at_the_end(first.shutdown)
    second = await DHTNode.create(initial_peers=addresses, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    hosts.at_the_end(second.shutdown)
    assert PeerID(helper.host.peer_id) in first.protocol.routing_table.uid_to_peer_id.values()
    assert await first.store("a key", "a value", get_dht_time() + 60)
    found = await second.get("a key", latest=True)
    assert found is not None and found.value == "a value"
    await until(lambda: helper.discovery.known_nodes >= 2)
