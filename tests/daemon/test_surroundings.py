"""What a machine tells of its battery and its processor, from made-up files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.daemon.surroundings import WINDOW, ProcessorUse, on_battery

ME = os.getpid()


def supply(root: Path, name: str, **files: str) -> None:
    (root / name).mkdir(parents=True)
    for file, text in files.items():
        (root / name / file).write_text(text + "\n")


def test_on_battery(tmp_path: Path) -> None:
    assert on_battery(tmp_path / "none") is None
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging")
    assert on_battery(tmp_path) is None, "a mouse is not the machine"
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    assert on_battery(tmp_path) is True
    supply(tmp_path, "AC", type="Mains", online="1")
    assert on_battery(tmp_path) is False
    (tmp_path / "AC" / "online").write_text("0\n")
    assert on_battery(tmp_path) is True
    (tmp_path / "BAT0" / "status").write_text("Charging\n")
    assert on_battery(tmp_path) is False


class Proc:
    """A machine with this daemon, its children, and the script that trains."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.busy, self.idle = 1000, 5000
        self.ticks: dict[int, int] = {}
        self.children: dict[int, list[int]] = {}

    def write(self) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "stat").write_text(f"cpu  {self.busy} 0 0 {self.idle} 0 0 0 77 0 0\ncpu0 1 2 3\n")
        for pid, ticks in self.ticks.items():
            task = self.root / str(pid) / "task" / str(pid)
            task.mkdir(parents=True, exist_ok=True)
            children = " ".join(map(str, self.children.get(pid, [])))
            (task / "children").write_text(children)
            (self.root / str(pid) / "stat").write_text(
                f"{pid} (a) evil) name) S 1 2 3 4 5 6 7 8 9 10 {ticks} 0 0 0 20 0\n"
            )


def test_what_others_use_is_what_is_busy_but_for_our_processes(tmp_path: Path) -> None:
    proc = Proc(tmp_path / "proc")
    use = ProcessorUse(lambda: 5, proc.root)
    assert use.look() is None, "there is no /proc"
    proc.ticks, proc.children = {5: 0, ME: 500, 11: 100}, {5: [ME], ME: [11, 99]}
    proc.write()
    assert use.look() is None, "one look measures nothing"
    proc.busy, proc.idle, proc.ticks = proc.busy + 800, proc.idle + 200, {5: 100, ME: 550, 11: 150}
    proc.write()
    assert use.look() == pytest.approx(0.6)
    assert use.look() == pytest.approx(0.6), "a look in the same moment"
    proc.ticks[12], proc.children[11] = 300, [12]
    proc.busy += 300
    proc.write()
    assert use.look() == pytest.approx(600 / 1300), "a grandchild that came since is ours, too"


def test_it_looks_back_over_a_window_only(tmp_path: Path) -> None:
    proc = Proc(tmp_path / "proc")
    proc.ticks = {ME: 0}
    use = ProcessorUse(proc=proc.root)
    proc.write()
    use.look()
    proc.busy += 1000
    proc.write()
    assert use.look() == 1.0
    for _ in range(WINDOW):
        proc.idle += 1000
        proc.write()
        found = use.look()
    assert found == 0.0


def test_our_processes_are_the_daemon_the_trainer_and_all_below(tmp_path: Path) -> None:
    proc = Proc(tmp_path / "proc")
    use = ProcessorUse(lambda: 5, proc.root)
    assert use.processes() == set(), "there is no /proc"
    proc.ticks, proc.children = {5: 0, ME: 500, 11: 100}, {5: [ME], ME: [11, 99]}
    proc.write()
    assert use.processes() == {5, ME, 11}
    (proc.root / "11" / "stat").write_text("")
    assert use.processes() == set(), "one that ends in this moment"


def test_this_machine_tells() -> None:
    use = ProcessorUse()
    use.look()
    assert on_battery() in (None, True, False)
    found = use.look()
    assert found is None or 0.0 <= found <= 1.0
