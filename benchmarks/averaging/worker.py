"""What a process of the averaging benchmark has in common, whichever system it measures.

It speaks JSON lines: on stdin what the parent wants, on stdout what came of it. Nothing here imports Atoll or
torch, so that the workers of other systems can run in environments of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK = 1 << 20
"""Values that are checked at a time."""


class Channel:
    """The parent's side of stdin and stdout. Whatever else prints goes to stderr."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, **message: Any) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    @staticmethod
    def hear() -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        heard: dict[str, Any] = json.loads(line)
        return heard


def family(root: int) -> tuple[int, ...]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return tuple(found)
        found |= more


def cpu_s(family: Sequence[int]) -> dict[str, float]:
    """CPU-seconds so far, user and system: of this process, and of the others."""
    used = {"self": 0.0, "children": 0.0}
    for pid in family:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        used["self" if pid == os.getpid() else "children"] += spent
    return used


def memory_bytes(field: str = "VmRSS") -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    """From here on VmHWM is the largest that comes."""
    Path("/proc/self/clear_refs").write_text("5")


def error_of(mean: np.ndarray[Any, Any], peers: int) -> float:
    """Relative error of a mean [values] against float64; each rank gave Gaussian values of its own seed.

    Block by block, so that a check takes no memory that the arms would need.
    """
    seeds = [np.random.default_rng(rank) for rank in range(peers)]
    squares = np.zeros(2)
    for start in range(0, len(mean), BLOCK):
        block = mean[start : start + BLOCK].astype(np.float64)
        exact = np.mean([rng.standard_normal(len(block), dtype=np.float32) for rng in seeds], 0, np.float64)
        squares += np.square(block - exact).sum(), np.square(exact).sum()
    return float(np.sqrt(squares[0] / squares[1]))


class Meter:
    """Times one operation: wall clock (comparable between processes) and CPU."""

    def __init__(self) -> None:
        self._family = family(os.getpid())
        self._cpu = cpu_s(self._family)
        self._began = time.monotonic()

    def result(self) -> dict[str, Any]:
        ended = time.monotonic()
        cpu = {name: spent - self._cpu[name] for name, spent in cpu_s(self._family).items()}
        return {"began": self._began, "ended": ended, "cpu": cpu}


def arguments(*more: str) -> argparse.Namespace:
    """What every worker is started with, and options of its own."""
    parser = argparse.ArgumentParser()
    for name in ("rank", "peers", "values"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("folder", *more):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def own_values(args: argparse.Namespace) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What this process gives: fp32 [values], of its rank alone (`error_of` makes them again)."""
    rank, values = int(args.rank), int(args.values)
    return np.random.default_rng(rank).standard_normal(values, dtype=np.float32)


def serve(
    channel: Channel,
    peers: int,
    prepare: Callable[[], object],
    average: Callable[[], object],
    mean: Callable[[], np.ndarray[Any, Any]],
) -> None:
    """Does what the parent orders until the end. `prepare` sets the values, `mean` is what `average` made."""
    base = 0
    while True:
        order = channel.hear()
        if order["do"] == "prepare":
            prepare()
            forget_peak()
            base = memory_bytes()
            channel.say(prepared=True)
        elif order["do"] == "go":
            meter = Meter()
            average()
            said = meter.result()
            digest = hashlib.sha256(mean().data.cast("B")).hexdigest()
            channel.say(**said, digest=digest, extra=memory_bytes("VmHWM") - base)
        elif order["do"] == "error":
            channel.say(error=error_of(mean(), peers))
        else:
            return
