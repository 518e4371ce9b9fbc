"""Relays over real libp2p hosts: what a circuit carries, and who gets a place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hivemind.p2p import PeerID

from atoll.peers import p2pd, relays
from atoll.peers.p2pd import Host

from .hosts import DEADLINE_S, Hosts, connect

HIDDEN = ("-hostAddrs=", "-noListenAddrs")
"""Nobody can dial such a node."""
PUBLIC = ("-forceReachabilityPublic",)
"""p2pd believes that anybody can dial it."""
SINK = "/test/sink"

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

    await other.p2p.add_binary_stream_handler(SINK, sink)
    _, _, writer = await one.p2p.call_binary_stream_handler(PeerID(other.peer_id), SINK)
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
