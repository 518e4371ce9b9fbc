"""Results between disk and peers: nothing piles up, nothing is lost, and the bits are the same."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.rounds import results as results_module
from atoll.daemon.rounds.results import Results
from atoll.daemon.storage.round_log import RoundLogError
from atoll.peers.links import LinkLost
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.round import types as t

from .swarm import Swarm, delta

SIZE = 1000
CHUNKS = 12


def payload_of(chunk: int) -> bytes:
    return bytes([chunk]) * SIZE


def given(chunk: int, *peers: bytes, count: int = 3) -> t.SendResult:
    message = pb.ChunkResult(
        chunk=chunk,
        contributors=range(count),
        payload_digest=hashlib.sha256(payload_of(chunk) if count else b"").digest(),
    )
    return t.SendResult(peers, pb.SessionId(), chunk, pb.Signed(body=message.SerializeToString()))


class Log:
    """A replay log in memory."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.lacks: set[int] = set()

    def size(self, chunk: int, count: int) -> int:
        return SIZE if count else 0

    def get(self, version: int, chunk: int, count: int, digest: bytes) -> bytes:
        self.reads.append(chunk)
        if chunk in self.lacks or hashlib.sha256(payload_of(chunk)).digest() != digest:
            raise RoundLogError("not here")
        return payload_of(chunk)

    def put(self, *arguments: Any) -> None:
        raise AssertionError


class Bench:
    """Results whose peers take what they are sent when the test lets them."""

    def __init__(self) -> None:
        self.log = Log()
        self.open: dict[bytes, asyncio.Event] = {}
        self.took: list[tuple[bytes, int]] = []
        self.lost: set[bytes] = set()
        self.most = 0
        self.news = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.results = Results(self.log, self._on_disk, self._start, self._send)  # type: ignore[arg-type]

    def _on_disk(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(None, work, *arguments)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _send(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        message = pb.ChunkResult.FromString(frame.result.body)
        assert payload == (payload_of(message.chunk) if message.contributors else b"")
        self.most = max(self.most, self.results.loaded_bytes)
        await self.open.setdefault(peer, asyncio.Event()).wait()
        if peer in self.lost:
            raise LinkLost("gone")
        self.took.append((peer, message.chunk))
        self.news.set()

    def lets(self, *peers: bytes) -> None:
        for peer in peers:
            self.open.setdefault(peer, asyncio.Event()).set()

    def chunks(self, peer: bytes) -> list[int]:
        return sorted(chunk for who, chunk in self.took if who == peer)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def end(self) -> None:
        """Everything is done, and nothing is kept."""
        async with asyncio.timeout(20):
            while self.tasks:
                await asyncio.wait(self.tasks)
        assert not self.results.loaded_bytes and not self.results._loaded
        assert not self.results._waiting and not self.results._leaving


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for task in made.tasks:
        task.cancel()


async def test_a_slow_peer_holds_nobody_up_and_takes_little_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "LOADED_BYTES", 2 * SIZE)
    bench.lets(b"fast", b"other")
    for chunk in range(CHUNKS):
        bench.results.send(1, given(chunk, b"slow", b"fast", b"other"))
    await bench.until(lambda: len(bench.took) == 2 * CHUNKS)
    assert bench.chunks(b"slow") == [] and bench.chunks(b"fast") == list(range(CHUNKS))
    assert results_module.AHEAD * SIZE >= bench.results.loaded_bytes > 0
    # All that the slow one has under way, and one for each of the others.
    assert bench.most <= (results_module.AHEAD + 2) * SIZE
    bench.lets(b"slow")
    await bench.until(lambda: len(bench.took) == 3 * CHUNKS)
    await bench.end()
    assert bench.chunks(b"slow") == list(range(CHUNKS))


async def test_what_several_send_at_once_is_read_once(bench: Bench) -> None:
    peers = [bytes([k]) for k in range(6)]
    for chunk in range(3):
        bench.results.send(1, given(chunk, *peers))
    bench.lets(*peers)
    await bench.end()
    assert len(bench.took) == 18 and bench.log.reads == [0, 1, 2]


async def test_whoever_asks_again_and_again_gets_it_once_more(bench: Bench) -> None:
    for _ in range(50):
        for chunk in range(CHUNKS):
            bench.results.send(1, given(chunk, b"eager"))
    bench.lets(b"eager")
    await bench.end()
    # Those that were under way already, as they may be lost, and each once.
    assert set(bench.chunks(b"eager")) == set(range(CHUNKS))
    assert len(bench.took) <= CHUNKS + results_module.AHEAD


async def test_a_result_of_nobody_needs_no_disk(bench: Bench) -> None:
    bench.lets(b"peer")
    bench.results.send(1, given(5, b"peer", count=0))
    await bench.end()
    assert bench.took == [(b"peer", 5)] and not bench.log.reads


async def test_what_is_not_there_any_more_and_who_is_gone_stop_nothing(bench: Bench) -> None:
    bench.log.lacks, bench.lost = {2, 3}, {b"gone"}
    bench.lets(b"gone", b"here")
    for chunk in range(CHUNKS):
        bench.results.send(1, given(chunk, b"gone", b"here"))
    await bench.end()
    assert bench.chunks(b"here") == [c for c in range(CHUNKS) if c not in (2, 3)]
    assert bench.chunks(b"gone") == []


async def test_a_slow_disk_holds_back_what_comes_and_what_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's results pile up in memory: whoever sends them waits, and the round ends all the same."""
    monkeypatch.setattr(results_module, "UNSTORED_BYTES", 0)
    monkeypatch.setattr(results_module, "STORE_WAIT_S", 60.0)
    swarm = Swarm(tmp_path, 3)
    try:
        slow = swarm.members[2]
        gate, put, loop = threading.Event(), slow.state.rounds.put, asyncio.get_running_loop()
        taken: list[int] = []
        most = 0
        waiting = 0
        result, room = slow.driver._result, slow.driver._results.room

        def held(*arguments: Any) -> None:
            nonlocal most
            most = max(most, slow.driver._results.unstored_bytes)
            loop.call_soon_threadsafe(swarm.news.set)
            assert gate.wait(20)
            put(*arguments)

        async def watched() -> None:
            nonlocal waiting
            waiting += bool(slow.driver._results.unstored_bytes)
            swarm.news.set()
            await room()

        async def heard(*arguments: Any) -> None:
            await result(*arguments)
            taken.append(1)

        monkeypatch.setattr(slow.state.rounds, "put", held)
        monkeypatch.setattr(slow.driver._results, "room", watched)
        monkeypatch.setattr(slow.driver, "_result", heard)
        for number, member in enumerate(swarm.members):
            member.train(delta(number), 100)
        # From each of the two others a result waits, and one of its own waits to be made.
        await swarm.until(lambda: most > 0 and waiting >= 3)
        assert not taken, "with the disk at a stand, no result is done with"
        gate.set()
        await swarm.version(1)
        assert taken and not slow.driver._results.unstored_bytes
        assert len({m.bits for m in swarm.members}) == 1
    finally:
        await swarm.close()
