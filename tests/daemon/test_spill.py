"""What waits in a round waits in files, and the bits are the same."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon.rounds import driver as drivers
from atoll.daemon.rounds.driver import in_turns
from atoll.daemon.storage import spill as spills
from atoll.daemon.storage.round_log import RoundLog, RoundLogError
from atoll.daemon.storage.spill import mapped, spill
from atoll.protocol.codecs import result_codec
from atoll.protocol.schema import ChunkTable

from .swarm import Swarm, delta

PAGE = mmap.ALLOCATIONGRANULARITY


@pytest.mark.parametrize("payload", [b"x", bytes(range(256)) * 100, bytearray(3 * PAGE)])
def test_what_was_spilled_is_the_same_and_has_no_name(tmp_path: Path, payload: bytes) -> None:
    kept = spill(tmp_path, payload)
    assert isinstance(kept, memoryview) and kept == payload and kept.readonly
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_leaves_it_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    payload = b"kept"
    assert spill(tmp_path, payload) is payload
    assert spill(tmp_path / "gone", payload) is payload


def test_a_disk_that_takes_a_part_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(spills.os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    assert spill(tmp_path, bytes(range(100))) == bytes(range(100))


@given(offset=st.integers(0, 3 * PAGE), size=st.integers(1, 2 * PAGE))
def test_any_part_of_a_file_is_mapped(
    tmp_path_factory: pytest.TempPathFactory, offset: int, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "whole"
    whole = bytes(k * 31 % 251 for k in range(5 * PAGE))
    path.write_bytes(whole)
    with path.open("rb") as file:
        view = mapped(file.fileno(), size, offset)
    path.unlink()
    assert view == whole[offset : offset + size]


def test_a_result_is_viewed_as_it_is_read(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, ChunkTable(4096, 2048), result_codec("2bit", "int8"))
    with pytest.raises(RoundLogError, match="can't be read"):
        log.view(1, 0, 9)
    for chunk, count in ((0, 9), (1, 2)):
        payload = os.urandom(2048 + 8 * 2 if count == 9 else 2 * 576)
        log.put(1, chunk, payload)
        assert log.view(1, chunk, count) == payload == log.get(1, chunk, count)
    with pytest.raises(RoundLogError, match="incomplete"):
        log.view(1, 1, 9)
    view = log.view(1, 0, 9)
    log.clear()
    assert len(view) == 2064, "what was removed is there as long as somebody looks at it"


async def test_rounds_whose_contributions_wait_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything does, once some is held: and the bits are those of a round in memory."""
    bits = []
    for limit in (drivers.HELD_BYTES, -1):
        monkeypatch.setattr(drivers, "HELD_BYTES", limit)
        spilled: list[int] = []
        monkeypatch.setattr(drivers, "spill", lambda *a, s=spilled: (s.append(1), spill(*a))[1])
        swarm = Swarm(tmp_path / str(limit), 3)
        try:
            for number, member in enumerate(swarm.members):
                member.train(delta(number), 100)
            await swarm.version(1)
            bits.append({member.bits for member in swarm.members})
            assert bool(spilled) == (limit < 0)
            assert all(m.reports[-1].contributed == m.reports[-1].planned for m in swarm.members)
        finally:
            await swarm.close()
    assert bits[0] == bits[1] and len(bits[0]) == 1


async def test_a_disk_that_is_slow_holds_results_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's results pile up in memory: whoever sends them waits, and the round ends all the same."""
    monkeypatch.setattr(drivers, "UNSTORED_BYTES", 0)
    swarm = Swarm(tmp_path, 3)
    try:
        slow = swarm.members[2]
        gate, most, put = threading.Event(), 0, slow.state.rounds.put
        loop = asyncio.get_running_loop()

        def held(*arguments: Any) -> None:
            nonlocal most
            most = max(most, slow.driver._unstored)
            loop.call_soon_threadsafe(swarm.news.set)
            assert gate.wait(20)
            put(*arguments)

        monkeypatch.setattr(slow.state.rounds, "put", held)
        for number, member in enumerate(swarm.members):
            member.train(delta(number), 100)
        await swarm.until(lambda: most > 0)
        gate.set()
        await swarm.version(1)
        assert slow.driver._unstored == 0 and len({m.bits for m in swarm.members}) == 1
    finally:
        await swarm.close()


@given(chunks=st.integers(0, 60), peers=st.integers(1, 9), index=st.integers(0, 8))
def test_all_members_go_through_the_chunks_together(chunks: int, peers: int, index: int) -> None:
    targets = tuple((chunk, bytes([chunk % peers])) for chunk in range(chunks))
    ordered = in_turns(targets, index)
    assert sorted(ordered) == sorted(targets)
    for place, (chunk, _) in enumerate(ordered):
        assert chunk // peers == place // peers, "nobody is a whole turn ahead"
    if chunks >= peers:
        first = {in_turns(targets, k)[0][1] for k in range(peers)}
        assert len(first) == peers, "not all begin at the same owner"
