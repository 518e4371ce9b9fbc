"""What the rules want to know around this node: whether it runs on battery, and how busy others keep it.

Read from /sys/class/power_supply and /proc, which are small and need no rights; where they are not there
(another system, a machine without a battery) the answer is None, and rules that ask for it never pause.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SUPPLIES = Path("/sys/class/power_supply")
PROC = Path("/proc")
WINDOW = 4
"""Looks over which the load is averaged: a browser that opens a page is no load."""
_MOST_PROCESSES = 256


def on_battery(supplies: Path = SUPPLIES) -> bool | None:
    """Whether the machine lives on its battery; None where it has none, or does not tell.

    Batteries of mice and the like (scope Device) don't count.
    """
    found: list[str] = []
    try:
        for supply in sorted(supplies.iterdir()):
            kind = _text(supply / "type")
            if kind == "Battery" and _text(supply / "scope") != "Device":
                found.append(_text(supply / "status"))
            elif kind in ("Mains", "USB") and _text(supply / "online") not in ("", "0"):
                return False
    except OSError:
        return None
    return "Discharging" in found if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


class ProcessorUse:
    """Part of all cores that programs other than ours use.

    Ours are the daemon and the trainer, which may be a script that started the daemon, and all below them.
    """

    def __init__(self, trainer: Callable[[], int | None] = lambda: None, proc: Path = PROC) -> None:
        self._trainer = trainer
        self._proc = proc
        self._looks: deque[tuple[int, int, Mapping[int, int]]] = deque(maxlen=WINDOW + 1)

    def look(self) -> float | None:
        """Since the look WINDOW ago, 0 to 1; None at the first one, or where the system does not tell."""
        try:
            busy, total = self._machine()
            ours = dict(self._ours())
        except (OSError, ValueError, IndexError):
            self._looks.clear()
            return None
        self._looks.append((busy, total, ours))
        busy_before, total_before, ours_before = self._looks[0]
        if total <= total_before:
            return None
        # A child that came meanwhile began at 0; what one that went had done since is taken for others'.
        own = sum(max(0, ticks - ours_before.get(pid, 0)) for pid, ticks in ours.items())
        return min(1.0, max(0.0, (busy - busy_before - own) / (total - total_before)))

    def processes(self) -> set[int]:
        """Ours, now; none where the system does not tell."""
        try:
            return {pid for pid, _ in self._ours()}
        except (OSError, ValueError, IndexError):
            return set()

    def _machine(self) -> tuple[int, int]:
        """Ticks in which cores were busy, and all ticks. What a hypervisor took is in neither."""
        with (self._proc / "stat").open() as file:
            user, nice, system, idle, iowait, irq, softirq = map(int, file.readline().split()[1:8])
        busy = user + nice + system + irq + softirq
        return busy, busy + idle + iowait

    def _ours(self) -> Iterator[tuple[int, int]]:
        """(pid, ticks) of our processes; one that is ending is left out."""
        todo, seen = [os.getpid()], set[int]()
        if (trainer := self._trainer()) is not None:
            todo.append(trainer)
        while todo and len(seen) < _MOST_PROCESSES:
            pid = todo.pop()
            if pid in seen:
                continue
            seen.add(pid)
            try:
                # The name of a program may hold anything, but it ends at the last bracket.
                fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
                for task in (self._proc / str(pid) / "task").iterdir():
                    todo += map(int, _text(task / "children").split())
            except (OSError, UnicodeDecodeError):
                continue
            yield pid, int(fields[11]) + int(fields[12])
