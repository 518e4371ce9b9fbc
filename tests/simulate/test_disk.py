"""The simulated disk: what a power cut leaves, and that both disks are one interface."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate.disk import PowerCut, SimulatedDisk
from atoll.daemon.storage.disk import Disk, RealDisk

A, B = Path("folder/a"), Path("folder/b")


@pytest.mark.parametrize("kind", ["real", "simulated"])
def test_both_disks_do_the_same(kind: str, tmp_path: Path) -> None:
    disk: Disk = RealDisk() if kind == "real" else SimulatedDisk()
    a, b = tmp_path / "a", tmp_path / "b"
    disk.pwrite(a, b"cd", 2)
    assert disk.pread(a, 10, 0) == b"\0\0cd"
    disk.pwrite(a, b"ab", 0)
    disk.truncate(a, 3)
    disk.fsync(a)
    assert disk.read(a) == b"abc"
    disk.write(b, b"new")
    disk.write(b, b"newer")
    assert disk.names(tmp_path) == ["a", "b"] and disk.read(b) == b"newer"
    disk.release()
    disk.unlink(a)
    disk.unlink(a)
    assert disk.names(tmp_path) == ["b"]
    with pytest.raises(FileNotFoundError):
        disk.read(a)


@given(seed=st.integers(0, 1000))
def test_a_power_cut_leaves_what_was_synced_and_perhaps_more(seed: int) -> None:
    disk = SimulatedDisk()
    disk.pwrite(A, b"synced", 0)
    disk.fsync(A)
    disk.write(B, b"whole")
    disk.pwrite(A, b"TORN", 2)
    assert disk.durable(A) == b"synced" and disk.durable(B) == b"whole"
    disk.power_cut(random.Random(seed))
    assert disk.read(B) == b"whole"
    assert disk.read(A) in (b"sy" + b"TORN"[:n] + b"nced"[n:] for n in range(5))


def test_all_fates_of_an_unsynced_write_come() -> None:
    seen = set()
    for seed in range(60):
        disk = SimulatedDisk()
        disk.pwrite(A, b"1234", 0)
        disk.write(B, b"")  # makes the name of A durable, not its content
        disk.pwrite(A, b"5678", 0)
        disk.power_cut(random.Random(seed))
        seen.add(disk.read(A))
    assert {b"", b"1234", b"5678"} <= seen and len(seen) > 6


def test_names_that_were_not_synced_may_go() -> None:
    left = set()
    for seed in range(20):
        disk = SimulatedDisk()
        disk.write(B, b"x")
        disk.unlink(B)
        disk.pwrite(A, b"y", 0)
        disk.power_cut(random.Random(seed))
        left.add(tuple(disk.names(Path("folder"))))
    assert left == {("b",), (), ("a",)}


def test_a_full_disk_refuses_and_keeps() -> None:
    disk = SimulatedDisk()
    disk.write(A, b"old")
    disk.full = True
    for work in (lambda: disk.write(A, b"new"), lambda: disk.pwrite(B, b"x", 0)):
        with pytest.raises(AtollError) as caught:
            work()
        assert caught.value.code == "disk_full"
    disk.unlink(A)
    assert disk.names(Path("folder")) == []


def test_an_atomic_write_is_old_or_new_wherever_it_is_cut() -> None:
    seen = set()
    for step in range(1, 4):
        for seed in range(10):
            disk = SimulatedDisk()
            disk.write(A, b"old")
            disk.cut_after = step
            with pytest.raises(PowerCut):
                disk.write(A, b"new")
            disk.power_cut(random.Random(seed))
            seen.add((step, disk.read(A)))
    assert seen == {(1, b"old"), (2, b"old"), (3, b"old"), (3, b"new")}


def test_a_flipped_bit_is_one_bit() -> None:
    disk = SimulatedDisk()
    disk.write(A, bytes(16))
    disk.flip(A, random.Random(1))
    assert sum(byte.bit_count() for byte in disk.read(A)) == 1
    disk.flip(B, random.Random(1))  # nothing there
