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


def test_snapshots_are_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    log = Events(path, lambda: 1.0)
    log.emit("a", "One.")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 500)
    for _ in range(50):
        log.note_snapshot({"state": {"version": 3}})
    assert len(log.since(0)[0]) == 1 and log.last == 1 and log.snapshots.part > 0
    assert [e["kind"] for e in read_log(path, 1 << 20, snapshots=True)] == ["a"]
    assert read_log(tmp_path / "snapshots.jsonl", 1 << 20, snapshots=True)[-1]["state"] == {"version": 3}
    assert {p.name: p.stat().st_size <= 500 for p in tmp_path.iterdir()} == dict.fromkeys(
        ("events.jsonl", "snapshots.jsonl", "snapshots.1.jsonl"), True
    )
    assert Events(path, lambda: 2.0).last == 1


def test_snapshots_among_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"sequence": 4, "kind": "a"}\n{"sequence": 4, "kind": "snapshot"}\n')
    assert [e["kind"] for e in read_log(path, 1 << 20)] == ["a"]
    assert [e["kind"] for e in read_log(path, 1 << 20, snapshots=True)] == ["a", "snapshot"]


def test_the_file_before_is_read_where_the_newest_is_short(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = Events(path, lambda: 1.0)
    for text in ("One.", "Two."):
        log.emit("a", text)
    path.rename(tmp_path / "events.1.jsonl")
    log.emit("a", "Three.")
    size = path.stat().st_size
    assert [e["text"] for e in read_log(path, 1 << 20)] == ["One.", "Two.", "Three."]
    assert [e["text"] for e in read_log(path, 2 * size)] == ["Two.", "Three."]
    assert [e["text"] for e in read_log(path, size)] == ["Three."]
    path.unlink()
    assert Events(path, lambda: 1.0).last == 2


def test_the_ring_is_filled_again_with_sequences_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = Events(path, lambda: 1.0)
    log.emit("round", "Round 1 ended.", record={"round": {"version": 1}}, extra=2)
    log.emit("a", "Two.")
    before = log.since(0)
    again = Events(path, lambda: 2.0)
    again.emit("start", "It starts.")
    assert again.since(1) == (again.since(2)[0], True)
    past = read_log(path, 1 << 20)
    damaged = [{"sequence": "x"}, {"sequence": 9, "time": 1.0, "kind": "a", "text": "From nowhere."}]
    again.restore([*past[:1], *damaged, *past[1:]])
    found, gap = again.since(0)
    assert (found[:2], gap) == before and [e["sequence"] for e in found] == [1, 2, 3]
    assert again.since(1)[1] is False


def test_the_ring_holds_so_many_when_it_is_filled(tmp_path: Path) -> None:
    log = Events(tmp_path / "events.jsonl", lambda: 1.0)
    log.last = RING + 50
    log.emit("a", "The newest.")
    log.restore([{"sequence": n, "time": 1.0, "kind": "a", "text": ""} for n in range(1, RING + 51)])
    assert [e["sequence"] for e in log.since(0)[0]] == list(range(52, RING + 52))


def test_a_gap_is_told(tmp_path: Path) -> None:
    log = Events(tmp_path / "e.jsonl", lambda: 0.0)
    assert log.since(0) == ([], False)
    for number in range(RING + 5):
        log.emit("n", f"{number}.")
    assert log.since(log.last) == ([], False)
    assert log.since(0)[1] is True
    newest, gap = log.since(log.last - 2)
    assert (len(newest), gap) == (2, False)


async def test_a_change_is_told_and_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    log = Events(path, lambda: 0.0)
    log.emit("a", "A.")
    seen = log.changes
    waiting = asyncio.create_task(log.wait_change(seen))
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(10):
        log.changed()
    async with asyncio.timeout(5):
        await waiting
    assert [e["kind"] for e in log.since(0)[0]] == ["a"]
    assert len(path.read_text().splitlines()) == 1


def test_a_record_is_on_disk_only(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    log = Events(path, lambda: 0.0)
    log.emit("round", "Round 1 ended.", record={"round": {"version": 1}})
    assert "round" not in log.since(0)[0][0]
    assert read_log(path, 1 << 20)[0]["round"] == {"version": 1}


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
