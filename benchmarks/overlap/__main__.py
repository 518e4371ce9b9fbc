"""How much of its time does a node train, on a line that is slow for its model? By mode, in one run.

    python -m benchmarks.overlap                    all arms
    python -m benchmarks.overlap --arms streaming   those whose name has this in it

Four real daemons, each with a training loop of its own, on lines of 20 Mbit/s (kernel, tbf). Steps have a
fixed length and leave most of the processors idle; all arms take the same steps, so the same tokens.
Utilisation is the length of the steps over the time that they took, after the first quarter. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.daemon.plot import bars
from benchmarks.links import lines

RESULTS = Path(__file__).parents[1] / "results"
ROOT = Path(__file__).parents[2]
NODES, MBIT = 4, 20.0
TICKET_S = 60.0


@dataclass(frozen=True)
class Arm:
    """A mode: how many inner steps apart, and options of atoll init."""

    name: str
    inner_steps: int
    options: tuple[str, ...]
    goal: float | None = None


ARMS = (
    Arm("blocking, int8", 9, (), None),
    Arm("eager, int8", 9, ("--mode", "eager", "--outer-lr", "0.4"), 0.97),
    Arm(
        "streaming, E3M0",
        9,
        ("--mode", "streaming", "--pattern", "balanced", "--overlap", "3", "--mix", "0", "--outer-lr", "0.6"),
        0.90,
    ),
)


@dataclass(frozen=True)
class Measured:
    """What an arm showed; `loss`: of the outer parameters, mean of versions of the last eighth."""

    arm: Arm
    utilisation: float
    loss: float
    versions: int
    cpu: float
    late: int


def busy() -> tuple[int, int]:
    """Clock ticks of all processors: all, and idle ones."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(numbers), numbers[3] + numbers[4]


class Nodes:
    """The processes of one arm, in namespaces of their own."""

    def __init__(self, arm: Arm, steps: int, step_s: float, folder: Path, where: lines.Lines) -> None:
        self._where, self._folder = where, folder
        self._common = ["--inner-steps", str(arm.inner_steps), "--steps", str(steps), "--step-s", str(step_s)]
        self._options = [*arm.options, "--min-peers", str(NODES)]

    def start(self, k: int, *more: str) -> subprocess.Popen[str]:
        command = [*self._where.inside(k), sys.executable, "-m", "benchmarks.overlap.worker"]
        arguments = ["--data-dir", str(self._folder / str(k)), "--rank", str(k), *self._common, *more]
        log = (self._folder / f"{k}.log").open("w")
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )

    def first(self) -> subprocess.Popen[str]:
        return self.start(0, "--create", json.dumps(self._options))

    def ticket(self) -> str:
        """Of the first node, once it gives one."""
        command = [*self._where.inside(0), sys.executable, "-m", "atoll", "ticket", "--data-dir"]
        until = time.monotonic() + TICKET_S
        while time.monotonic() < until:
            done = subprocess.run([*command, str(self._folder / "0")], capture_output=True, text=True)
            if done.returncode == 0 and self._where.addresses[0]:
                return done.stdout.strip().splitlines()[-1]
            time.sleep(0.5)
        raise SystemExit(f"the first node gives no ticket:\n{(self._folder / '0.log').read_text()[-2000:]}")


def measure(arm: Arm, steps: int, step_s: float) -> Measured:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-overlap-")))
        where = stack.enter_context(lines.shaped(f"atoll-{os.getpid()}", (MBIT,) * NODES))
        nodes = Nodes(arm, steps, step_s, folder, where)
        processes = [nodes.first()]
        stack.callback(_kill, processes)
        ticket = nodes.ticket()
        processes += [nodes.start(k, "--ticket", ticket) for k in range(1, NODES)]
        before = busy()
        said: list[dict[str, Any]] = []
        after: tuple[int, int] | None = None
        for k, process in enumerate(processes):
            out, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"node {k} failed:\n{(folder / f'{k}.log').read_text()[-3000:]}")
            said.append(json.loads(out.strip().splitlines()[-1]))
            after = after or busy()  # when the first has ended, the others have nearly
        assert after is not None
        shares = [_utilisation(one["ended"], step_s) for one in said]
        return Measured(
            arm,
            statistics.mean(shares),
            statistics.mean(said[0]["losses"]),
            said[0]["version"],
            1 - (after[1] - before[1]) / (after[0] - before[0]),
            sum(one["late"] for one in said),
        )


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()


def _utilisation(ended: Sequence[float], step_s: float) -> float:
    """Of the time after the first quarter of the steps."""
    first = len(ended) // 4
    return step_s * (len(ended) - 1 - first) / (ended[-1] - ended[first])


def table(measured: Sequence[Measured], steps: int, step_s: float) -> str:
    text = [
        "# Time that a node trains, by mode",
        "",
        f"Made by `python -m benchmarks.overlap`: {NODES} nodes on lines of {MBIT:g} Mbit/s, {steps} steps",
        f"of {step_s:g} s on each node. Loss of the outer parameters, mean of versions of the last eighth.",
        "",
        "| mode | utilisation | goal | validation loss | to the first | commits | processors busy |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        more = m.loss / measured[0].loss - 1
        goal = f"{m.arm.goal:.0%}" if m.arm.goal else ""
        cells = (m.arm.name, f"{m.utilisation:.1%}", goal, f"{m.loss:.4f}", f"{more:+.2%}", m.versions)
        text.append(f"| {' | '.join(map(str, cells))} | {m.cpu:.0%} |")
    return "\n".join([*text, "", "![Time that a node trains](overlap.svg)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--arms", default="", help="only those whose name has this in it")
    parser.add_argument("--steps", type=int, default=240, help="inner steps of each node (240)")
    parser.add_argument("--step-s", type=float, default=1.0, help="seconds of one (1)")
    parser.add_argument("--out", type=Path, default=RESULTS / "overlap.md")
    args = parser.parse_args()
    if os.geteuid():
        raise SystemExit("Shaped lines need root.")
    measured: list[Measured] = []
    for arm in ARMS:
        if args.arms in arm.name:
            measured.append(measure(arm, args.steps, args.step_s))
            print(measured[-1], file=sys.stderr)
    text = table(measured, args.steps, args.step_s)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    rows = [(m.arm.name, m.utilisation, m.arm.goal) for m in measured]
    args.out.with_suffix(".svg").write_text(bars("Time that a node trains", rows))
    print(text)


if __name__ == "__main__":
    main()
