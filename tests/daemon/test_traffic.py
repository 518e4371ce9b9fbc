"""Traffic by class: since the start, for seven days, across starts; and what a real libp2p process adds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.cli.observe import _traffic
from atoll.daemon.events import Events
from atoll.daemon.traffic import CLASSES, DAYS, TrafficBook, moved_by
from atoll.peers.line import Kind, Line

DAY_S = 86_400.0


class Rig:
    """A book over a line of its own; the test moves the clock and says what the process has moved."""

    def __init__(self, path: Path) -> None:
        self.line = Line()
        self.now = 20_000 * DAY_S
        self.pid = 7
        self.process: tuple[int, int] | None = None
        self.path = path
        self.events = Events(path.with_name("events.jsonl"), lambda: self.now)
        self.book = TrafficBook(
            path, self.line, lambda: self.pid, self.events, lambda: self.now, lambda pid: self.process
        )

    def move(self, kind: Kind, sent: int, received: int) -> None:
        self.line.sent[kind] += sent
        self.line.received[kind] += received

    def row(self, kind: str) -> tuple[int, int, int, int]:
        return tuple(self.book.summary()[kind].values())  # type: ignore[return-value]


async def test_since_the_start_and_for_a_week_across_starts(tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    rig = Rig(path)
    rig.move(Kind.ROUNDS, 100, 50)
    assert rig.row("rounds") == (100, 50, 100, 50)
    rig.now += DAY_S
    rig.move(Kind.ROUNDS, 10, 5)
    rig.move(Kind.CONTROL, 1, 2)
    await rig.book.save()
    again = Rig(path)
    again.now = rig.now + (DAYS - 2) * DAY_S
    assert again.row("rounds") == (0, 0, 110, 55) and again.row("control") == (0, 0, 1, 2)
    again.move(Kind.STATE, 7, 8)
    again.now += DAY_S
    assert again.row("rounds") == (0, 0, 10, 5), "the first day is gone"
    again.now += 100 * DAY_S
    again.book.look()
    await again.book.save()
    assert len(json.loads(path.read_text())["days"]) == 1, "bounded on disk"
    assert again.row("state") == (7, 8, 0, 0)


def test_what_the_libp2p_process_adds_survives_its_restart(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "traffic.json")
    rig.move(Kind.ROUNDS, 100, 50)
    rig.process = (170, 160)  # 150 were given to it or came from it
    assert rig.row("libp2p")[:2] == (20, 10)
    rig.line.over_lanes = 30
    rig.move(Kind.ROUNDS, 30, 0)
    assert rig.row("libp2p")[:2] == (20, 10), "it has nothing to do with lanes"
    rig.pid, rig.process = 8, (5, 6)
    assert rig.row("libp2p")[:2] == (25, 16)
    rig.move(Kind.CONTROL, 10, 0)
    rig.process = (17, 16)
    assert rig.row("libp2p")[:2] == (27, 16)
    rig.process = None
    assert rig.row("libp2p")[:2] == (27, 16)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"days": 3}', '{"days": {"x": {}}}', '{"days": {"9": {"rounds": ["a"]}}}', "[" * 9999],
)
def test_damaged_counts_are_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "traffic.json"
    path.write_text(text)
    assert Rig(path).row("rounds") == (0, 0, 0, 0)


async def test_a_disk_that_refuses_is_told_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "traffic.json")
    rig.path.mkdir()
    await rig.book.save()
    await rig.book.save()
    events, _ = rig.events.since(0)
    assert sum("traffic counts" in event["text"] for event in events) == 1


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not tell")
def test_the_kernel_counts_what_a_process_moves() -> None:
    before = moved_by(os.getpid())
    read, write = os.pipe()
    os.write(write, bytes(4096))
    os.read(read, 4096)
    after = moved_by(os.getpid())
    assert before is not None and after is not None
    assert after[0] - before[0] >= 4096 <= after[1] - before[1]
    assert moved_by(1 << 30) is None


def test_the_line_of_status() -> None:
    empty: dict[str, Any] = {"upload_bps": 0, "download_bps": 0, "classes": {}}
    assert _traffic(empty) == "Traffic in seven days: nothing yet."
    row = {"sent_bytes": 0, "received_bytes": 0, "week_sent_bytes": 2_000_000, "week_received_bytes": 5_000}
    known = {"upload_bps": 20_100_000, "download_bps": 0, "classes": dict.fromkeys(CLASSES[:1], row)}
    text = _traffic(known)
    assert text.startswith("Traffic in seven days: rounds ") and "20.1 Mbit/s up." in text
