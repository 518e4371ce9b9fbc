"""The event log: numbers that go on, a ring that says what it lost, a file that stays small."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from atoll.daemon import events as module
from atoll.daemon.events import RING, Events, read_log


def test_sequences_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = Events(path, lambda: 1.0)
    first.emit("a", "One.")
    first.emit("b", "Two.", detail=3)
    again = Events(path, lambda: 2.0)
    again.emit("c", "Three.")
    assert [e["sequence"] for e in read_log(path, 1 << 20)] == [1, 2, 3]
    assert read_log(path, 1 << 20)[1] == {
        "sequence": 2,
        "time": 1.0,
        "kind": "b",
        "text": "Two.",
        "detail": 3,
    }


def test_a_gap_is_told(tmp_path: Path) -> None:
    log = Events(tmp_path / "e.jsonl", lambda: 0.0)
    assert log.since(0) == ([], False)
    for number in range(RING + 5):
        log.emit("n", f"{number}.")
    assert log.since(log.last) == ([], False)
    assert log.since(0)[1] is True
    newest, gap = log.since(log.last - 2)
    assert (len(newest), gap) == (2, False)


def test_hints_of_change_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    log = Events(path, lambda: 0.0)
    log.emit("a", "A.")
    for _ in range(10):
        log.changed()
    assert [e["kind"] for e in log.since(0)[0]] == ["a", "state"]
    assert len(path.read_text().splitlines()) == 1


async def test_waiting_ends_with_the_next_event(tmp_path: Path) -> None:
    log = Events(tmp_path / "e.jsonl", lambda: 0.0)
    waiting = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.emit("a", "A.")
    async with asyncio.timeout(5):
        await waiting


def test_the_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 500)
    path = tmp_path / "events.jsonl"
    log = Events(path, lambda: 0.0)
    for number in range(50):
        log.emit("n", f"Event {number}.")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.1.jsonl", "events.jsonl"]
    assert all(p.stat().st_size <= 500 for p in tmp_path.iterdir())


def test_damaged_lines_and_a_lost_folder(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "events.jsonl"
    log = Events(path, lambda: 0.0)
    log.emit("a", "A.")
    assert log.failed and "events.jsonl" in log.failed
    path.parent.mkdir()
    log.emit("b", "B.")
    assert log.failed is None
    path.write_text('nonsense\n[1]\n{"sequence": "x"}\n' + json.dumps({"sequence": 7}) + "\n{half")
    assert Events(path, lambda: 0.0).last == 7
