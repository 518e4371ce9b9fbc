"""What waits in a round waits in files, and the bits are the same."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from atoll.daemon.rounds import driver as drivers
from atoll.daemon.storage import spill as spills
from atoll.daemon.storage.spill import loaded, spill

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


def test_what_is_loaded_is_a_copy_of_the_right_place(tmp_path: Path) -> None:
    kept = memoryview(spill(tmp_path, bytes(range(256)) * 40))
    for place in (slice(0, 10_240), slice(5000, 5100)):
        assert loaded(kept[place]) == (bytes(range(256)) * 40)[place]
    assert loaded(b"abc") == b"abc" == kept[97:100], "its pages come again"


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
    """The bits are those of a round in memory."""
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
            assert len(spilled) == (3 * len(swarm.manifest.chunks) if limit < 0 else 0)
            assert all(m.reports[-1].contributed == m.reports[-1].planned for m in swarm.members)
        finally:
            await swarm.close()
    assert bits[0] == bits[1] and len(bits[0]) == 1
