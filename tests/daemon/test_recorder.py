"""A node's figures reach their file, and a disk that refuses costs none of the newest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from atoll.daemon import recorder as recorders
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.recorder import Recorder
from atoll.daemon.storage.series import Series

T0 = 1_700_000_000


class Rig:
    """A recorder whose clock and figures are the test's."""

    def __init__(self, folder: Path) -> None:
        self.now, self.loss = float(T0), 4.0
        self.events = Events(folder / "events.jsonl", lambda: self.now)
        self.recorder = Recorder(
            folder / "history.sqlite", lambda: {"loss": self.loss}, self.events, lambda: self.now
        )

    async def read(self) -> list[float]:
        found = await self.recorder.read("loss", T0, T0 + 9_000, 1000)
        return [bucket["mean"] for bucket in found["buckets"]]

    @property
    def told(self) -> int:
        return sum(event["kind"] == "disk" for event in self.events.since(0)[0])


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_what_was_sampled_is_read_at_once_and_after_a_restart(rig: Rig, tmp_path: Path) -> None:
    rig.recorder.sample()
    rig.now, rig.loss = T0 + 10.0, 2.0
    rig.recorder.sample()
    assert await rig.read() == [4.0, 2.0]
    assert await rig.read() == [4.0, 2.0], "written once"
    assert await rig.recorder.read(None, 0, 1, 1) == {"names": ["loss"]}
    await rig.recorder.close()
    again = Rig(tmp_path)
    assert await again.read() == [4.0, 2.0]
    await again.recorder.close()


async def test_it_samples_and_writes_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "SAMPLE_S", 0.0)
    task = asyncio.create_task(rig.recorder.keep())
    async with asyncio.timeout(10):
        while not await rig.read():
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await rig.recorder.close()


async def test_a_disk_that_refuses_is_told_once_and_loses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Series, samples: object) -> None:
        raise AtollError(Exit.TEMPORARY, "disk", "The disk is full.", "Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(Series, "add", refuse)
        for k in range(3):
            rig.now, rig.loss = T0 + 10.0 * k, float(k)
            rig.recorder.sample()
            await rig.recorder.write()
    assert rig.told == 1
    assert await rig.read() == [0.0, 1.0, 2.0]
    await rig.recorder.close()


async def test_what_waits_for_a_disk_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(recorders.MAX_WAITING + 5):
        rig.now, rig.loss = T0 + 10.0 * k, float(k)
        rig.recorder.sample()
    found = await rig.read()
    assert len(found) == recorders.MAX_WAITING and found[0] == 5.0, "the oldest have left"
    await rig.recorder.close()
