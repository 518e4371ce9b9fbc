"""The owner's pause: before training, across a kill, and what is said of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.owner_pause import MAX_PAUSE_S, OwnerPause, Pause, pause_s, read
from atoll.daemon.status import Facts, State, describe
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.interface import CommandError

NOON_S = 1_760_000_000.0
HOUR_S = 3600.0


class Island:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.paused: str | None = None
        self.for_s: float | None = None
        self.held = self.finishing = False

    def pause(self, reason: str, for_s: float | None = None) -> None:
        self.paused, self.for_s = reason, for_s

    def resume(self) -> None:
        self.paused, self.for_s, self.finishing = None, None, False


class Life:
    """One run of a daemon in a data dir; another one in the same is what a kill and a start leave."""

    def __init__(self, root: Path, time_s: float = NOON_S, island: Island | None = None) -> None:
        self.time_s = time_s
        self.said: list[tuple[str, str]] = []
        folder = DataDir(root)
        folder.create()
        events = SimpleNamespace(emit=lambda kind, text: self.said.append((kind, text)))
        self.node: Any = SimpleNamespace(folder=folder, events=events, island=island)
        self.pause = OwnerPause(self.node, lambda: self.time_s)
        self.pause.restore()

    async def ask(self, name: str, overridden: bool = False, **arguments: Any) -> str:
        return await self.pause.command(name, arguments, overridden)

    def kept(self) -> Any:
        return json.loads(self.node.folder.node.read_text())["pause"]


async def test_a_pause_of_some_hours_outlives_a_kill_with_the_same_end(tmp_path: Path) -> None:
    first = Life(tmp_path, island=Island())
    await first.ask("pause", for_s=8 * HOUR_S)
    assert first.node.island.for_s == 8 * HOUR_S and first.kept() == {"until": NOON_S + 8 * HOUR_S}
    again = Life(tmp_path, NOON_S + HOUR_S)
    assert again.pause.asked == Pause(NOON_S + 8 * HOUR_S), "while it joins, too"
    again.node.island = Island()
    again.pause.look()
    assert again.node.island.paused == "you asked for it" and again.node.island.for_s == 7 * HOUR_S
    again.time_s = NOON_S + 8 * HOUR_S
    again.pause.look()
    assert again.node.island.paused is None and again.pause.asked is None
    await asyncio.gather(*again.pause._tasks)
    assert again.kept() is None
    assert Life(tmp_path, NOON_S).pause.asked is None


async def test_a_pause_without_an_end_lasts_until_it_is_resumed(tmp_path: Path) -> None:
    await Life(tmp_path, island=Island()).ask("pause")
    again = Life(tmp_path, NOON_S + 10 * MAX_PAUSE_S)
    assert again.pause.asked == Pause()
    await again.ask("resume")
    assert again.kept() is None and again.said == [("resumed", "It trains as soon as it can.")]
    again.node.island = Island()
    again.pause.look()
    assert again.node.island.paused is None


async def test_a_node_that_joins_can_be_paused_and_finished(tmp_path: Path) -> None:
    life = Life(tmp_path)
    with pytest.raises(CommandError, match="not paused"):
        await life.ask("resume")
    assert "contributes once, then pauses" in await life.ask("finish")
    assert "does not train for 2h 00m" in await life.ask("pause", for_s=2 * HOUR_S)
    with pytest.raises(CommandError, match="paused already"):
        await life.ask("finish")
    await life.ask("resume")
    await life.ask("finish")
    life.node.island = island = Island()
    life.pause.look()
    assert island.finishing and island.paused is None
    await life.ask("resume")
    life.pause.look()
    assert not island.finishing


async def test_what_the_islands_own_clock_ends_is_over(tmp_path: Path) -> None:
    life = Life(tmp_path, island=Island())
    await life.ask("pause", for_s=HOUR_S)
    life.node.island.resume()
    life.pause.look()
    assert life.pause.asked is None
    await asyncio.gather(*life.pause._tasks)
    assert life.kept() is None


async def test_finish_says_what_happens(tmp_path: Path) -> None:
    life = Life(tmp_path, island=Island())
    assert await life.ask("finish") == "It contributes to this round, then pauses. "
    life.node.island = Island()
    life.node.island.held = True
    said = await life.ask("finish")
    assert said == "A rule of yours pauses it now. When that is over, it contributes once more, then pauses. "
    assert life.said[-1] == ("finishing", said.strip()) and life.node.island.finishing
    ruled = Facts(State.PAUSED, "this machine runs on battery", following="It resumes soon", finishing=True)
    assert describe(ruled).next == "It resumes soon; then it contributes once more and pauses"


async def test_a_disk_that_refuses_keeps_nobody_from_pausing(tmp_path: Path) -> None:
    life = Life(tmp_path, island=Island())

    def refuse(**_: object) -> None:
        raise AtollError(Exit.TEMPORARY, "disk_full", "The disk is full.", "Make room.")

    life.node.folder.remember = refuse
    assert await life.ask("pause") == "The pause ends with the daemon: The disk is full. "
    assert life.node.island.paused is not None
    assert "may bring the pause back" in await life.ask("resume")
    assert life.node.island.paused is None


@pytest.mark.parametrize(
    ("fact", "pause"),
    [
        (None, None),
        ({}, None),
        ("until", None),
        ({"until": None}, Pause()),
        ({"until": NOON_S + 1}, Pause(NOON_S + 1)),
        ({"until": NOON_S}, None),
        ({"until": True}, None),
        ({"until": "tomorrow"}, None),
        ({"until": float("nan")}, None),
        ({"until": float("inf")}, None),
        ({"until": 10**400}, None),
    ],
)
def test_whatever_stands_in_the_file(fact: Any, pause: Pause | None) -> None:
    assert read(fact, NOON_S) == pause


@pytest.mark.parametrize("value", [0, -1, True, "2h", float("nan"), float("inf"), 10**400, MAX_PAUSE_S + 1])
def test_no_pause_is_that_long(value: Any) -> None:
    with pytest.raises(CommandError, match="for_s"):
        pause_s(value)
