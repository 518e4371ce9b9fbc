"""Requests to the DHT over real p2pd: answered as hivemind does, and not read before their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hivemind.p2p import P2PHandlerError, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
from hivemind.proto import dht_pb2, p2pd_pb2

from atoll.dht import pacing, serving
from atoll.dht.delimited import varint
from atoll.dht.pacing import Pace
from atoll.dht.serving import Server
from atoll.peers.p2pd import Host

from ..peers.hosts import DEADLINE_S, Hosts, connect, until

STORE, FIND = "DHTProtocol.rpc_store", "DHTProtocol.rpc_find"


class Served:
    """A host that serves, and others that ask it. `handle` is what it answers with."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.now = 1000.0
        self.asked: list[bytes] = []
        self.handle: Callable[[bytes], bytes] = lambda request: request
        self.wait: asyncio.Event | None = None
        self.pace = Pace(clock=lambda: self.now, sleep=self._sleep)
        self.server = Server(self.pace, {"rpc_store": self._answer, "rpc_find": self._answer})

    async def _answer(self, request: bytes, peer: PeerID) -> bytes:
        self.asked.append(request)
        if self.wait is not None:
            await self.wait.wait()
        return self.handle(request)

    async def _sleep(self, seconds: float) -> None:
        """Nobody's debt ends meanwhile: the clock stands still."""

    async def ask(self, by: Host, request: bytes, protocol: str = STORE) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            answer = await by.p2p._client.call_unary_handler(PeerID(self.host.peer_id), protocol, request)
        return bytes(answer)

    async def stream(self, by: Host) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        peer = PeerID(self.host.peer_id)
        _, reader, writer = await by.p2p.call_binary_stream_handler(peer, STORE)
        return reader, writer

    async def ends(self, reader: asyncio.StreamReader) -> None:
        """It ends the stream, and says nothing."""
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""

    async def is_at_rest(self) -> None:
        await until(lambda: self.server.open == 0)


async def serve(hosts: Hosts) -> tuple[Served, Host]:
    """One that serves, and a host that is connected to it."""
    host, _ = await hosts.start("served")
    served = Served(host)
    await served.server.listen(host.p2p)
    return served, await another(hosts, served, "asks")


async def another(hosts: Hosts, served: Served, name: str) -> Host:
    host, _ = await hosts.start(name)
    await connect(host, served.host)
    return host


@pytest.mark.parametrize("size", (0, 1, 127, 128, 16_383, 16_384, 700_000))
async def test_what_is_asked_by_stock_hivemind_is_answered_whole(hosts: Hosts, size: int):
    served, by = await serve(hosts)
    served.now += 1e6
    request = bytes(range(256)) * (size // 256 + 1)
    assert await served.ask(by, request[:size]) == request[:size]
    await served.is_at_rest()


async def test_what_a_handler_raises_is_told_to_who_asked(hosts: Hosts):
    served, by = await serve(hosts)

    def wrong(request: bytes) -> bytes:
        raise ValueError("no such thing")

    served.handle = wrong
    with pytest.raises(P2PHandlerError, match="no such thing"):
        await served.ask(by, b"x")
    too_many = dht_pb2.FindRequest(keys=[bytes([n]) * 20 for n in range(pacing.MAX_KEYS + 1)])
    with pytest.raises(P2PHandlerError, match="too many requests"):
        await served.ask(by, too_many.SerializeToString(), FIND)
    assert served.asked == [b"x"] and served.pace.refused == 1


async def test_what_is_refused_is_not_read(hosts: Hosts):
    """Only its length is sent, and the answer is there."""
    served, by = await serve(hosts)
    reader, writer = await served.stream(by)
    writer.write(varint(pacing.MAX_REQUEST_BYTES + 1))
    await served.ends(reader)
    served.handle = lambda request: bytes(pacing.MAX_ANSWER_BYTES // 2)
    for _ in range(2):
        await served.ask(by, b"x")
    reader, writer = await served.stream(by)
    writer.write(varint(1 << 20))
    await served.ends(reader)
    assert len(served.asked) == 2 and served.pace.refused == 2
    await served.is_at_rest()


async def test_who_says_nothing_or_not_all_is_left(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "READ_S", 0.1)
    served, by = await serve(hosts)
    for said in (b"", b"\x80", varint(1000), varint(1000) + bytes(999)):
        reader, writer = await served.stream(by)
        writer.write(said)
        await served.ends(reader)
    await served.is_at_rest()
    assert not served.asked and served.pace.refused == 4


async def test_rubbish_ends_its_stream_and_nothing_else(hosts: Hosts):
    served, by = await serve(hosts)
    answer = p2pd_pb2.PersistentConnectionRequest(callId=bytes(16), unaryResponse={"response": b"x"})
    for body in (b"\xff" * 100, answer.SerializeToString(), b""):
        reader, writer = await served.stream(by)
        writer.write(varint(len(body)) + body)
        await served.ends(reader)
    reader, writer = await served.stream(by)
    writer.write(b"\xff" * 10)
    await served.ends(reader)
    assert not served.asked and served.pace.refused == 4
    assert await served.ask(by, b"good") == b"good"


async def test_one_peer_has_so_many_streams_and_all_together_have(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serving, "MAX_OPEN", 3)
    monkeypatch.setattr(serving, "MAX_OPEN_OF_ONE", 2)
    served, by = await serve(hosts)
    other = await another(hosts, served, "other")
    streams = [await served.stream(by) for _ in range(2)]
    await until(lambda: served.server.open == 2)
    reader, _ = await served.stream(by)
    await served.ends(reader)
    streams.append(await served.stream(other))
    await until(lambda: served.server.open == 3)
    reader, _ = await served.stream(other)
    await served.ends(reader)
    assert served.pace.refused == 2
    for _, writer in streams:
        writer.close()
    await served.is_at_rest()
    assert await served.ask(other, b"good") == b"good"


async def test_so_much_is_read_at_one_time(hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "MAX_READ_BYTES", 1500)
    served, by = await serve(hosts)
    _, first = await served.stream(by)
    first.write(varint(1000))
    await until(lambda: served.server._read_bytes == 1000)
    reader, second = await served.stream(by)
    second.write(varint(1000))
    await served.ends(reader)
    first.close()
    await served.is_at_rest()
    assert served.pace.refused == 1 and served.server._read_bytes == 0
    assert await served.ask(by, bytes(1000)) == bytes(1000)


async def test_whose_caller_gives_up_is_forgotten(hosts: Hosts):
    served, by = await serve(hosts)
    served.wait = asyncio.Event()
    calls = [asyncio.create_task(served.ask(by, b"x")) for _ in range(20)]
    await until(lambda: len(served.asked) == 20)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    served.wait.set()
    await served.is_at_rest()
    assert await served.ask(by, b"good") == b"good"


async def test_after_the_end_nobody_is_answered(hosts: Hosts):
    served, by = await serve(hosts)
    await served.server.close(served.host.p2p)
    with pytest.raises(P2PDaemonError):
        await served.ask(by, b"x")
