"""What waits in a round waits in files, and the bits are the same."""

from __future__ import annotations

import asyncio
import errno
import gc
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
from atoll.daemon.storage.spill import spill

from .swarm import Swarm, delta


@pytest.mark.parametrize("payload", [b"x", bytes(range(256)) * 100, bytearray(20_000)])
def test_what_was_spilled_is_the_same_and_has_no_name(tmp_path: Path, payload: bytes) -> None:
    kept = spill(tmp_path, payload)
    assert isinstance(kept, memoryview) and kept == payload and kept.readonly
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_leaves_it_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    payload = b"kept"
    assert spill(tmp_path, b"") == b""
    assert spill(tmp_path, payload) is payload
    assert spill(tmp_path / "gone", payload) is payload


def test_a_disk_that_takes_a_part_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(spills.os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    assert spill(tmp_path, bytes(range(100))) == bytes(range(100))


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_not_more_files_are_open_than_a_process_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spills, "MAX_SPILLED", 5)
    gc.collect()
    before = _open_files()
    kept = [spill(tmp_path, b"payload") for _ in range(9)]
    assert sum(isinstance(one, memoryview) for one in kept) == 5
    assert _open_files() == before + 5 and set(kept) == {b"payload"}
    kept.clear()
    gc.collect()
    assert _open_files() == before and not spills._open
    assert isinstance(spill(tmp_path, b"again"), memoryview)


def test_a_disk_that_is_nearly_full_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spills, "SPARE_BYTES", 1 << 60)
    payload = b"kept"
    assert spill(tmp_path, payload) is payload


async def test_rounds_whose_contributions_wait_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results on their way as well; and the bits are those of a round in memory."""
    bits = []
    for limit in (drivers.HELD_BYTES, -1):
        monkeypatch.setattr(drivers, "HELD_BYTES", limit)
        monkeypatch.setattr(drivers, "LEAVING_BYTES", limit)
        spilled: list[int] = []
        monkeypatch.setattr(drivers, "spill", lambda *a, s=spilled: (s.append(1), spill(*a))[1])
        swarm = Swarm(tmp_path / str(limit), 3)
        try:
            for number, member in enumerate(swarm.members):
                member.train(delta(number), 100)
            await swarm.version(1)
            bits.append({member.bits for member in swarm.members})
            assert len(spilled) >= (4 * len(swarm.manifest.chunks) if limit < 0 else 0)
            assert limit < 0 or not spilled
            assert not any(m.driver._leaving for m in swarm.members)
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
