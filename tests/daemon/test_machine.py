"""What the machine tells of itself; what it does not tell is None."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from atoll.daemon.machine import Kept, MachineFacts, disk_use, resident_bytes, temperature_c


def test_memory_of_processes() -> None:
    own = resident_bytes(["self"])
    assert own is not None and own > 10_000_000
    assert resident_bytes(["self", str(os.getpid())]) is not None
    assert resident_bytes(["0"]) is None


def test_the_hottest_sensor_that_can_be_true(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, text in enumerate(["45000", "61500", "255000", "-128000", "broken"]):
        folder = tmp_path / f"hwmon{number}"
        folder.mkdir()
        (folder / "temp1_input").write_text(text)
    assert temperature_c(tmp_path) == 61.5


def test_a_folder_and_what_is_free_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(100_000))
    found = disk_use(tmp_path)
    assert found["used_bytes"] >= 100_000 and found["free_bytes"] > 0
    assert disk_use(tmp_path / "gone") == {"used_bytes": 0, "free_bytes": 0}


async def test_what_takes_long_is_read_in_a_thread_and_looked_at_without_waiting() -> None:
    reads, threads, pauses = iter(range(1, 10)), set[int](), list[float]()

    def read() -> int:
        threads.add(threading.get_ident())
        return next(reads)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise InterruptedError

    kept = Kept(read, 5.0, 0)
    assert kept.look() == 0
    with pytest.raises(InterruptedError):
        await kept.keep(sleep)
    assert kept.look() == 3 and pauses == [5.0] * 3
    assert threading.get_ident() not in threads


async def test_a_sensor_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    facts, lets_go = MachineFacts(tmp_path), threading.Event()
    facts.temperature_c = Kept(lambda: lets_go.wait() and None, 5.0, None)
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert facts.disk.look() == {"used_bytes": 0, "free_bytes": 0} and facts.free_bytes.look() is None
    work = asyncio.create_task(facts.keep())
    async with asyncio.timeout(30):
        while not (facts.disk.look()["used_bytes"] >= 100_000 and facts.free_bytes.look()):
            await asyncio.sleep(0)
    lets_go.set()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
