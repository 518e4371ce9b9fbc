"""Averages over shaped and over long, lossy lines; writes a Markdown table and a plot. Needs root.

    python -m benchmarks.links                      every row
    python -m benchmarks.links --rows "2 peers"     those whose name has this in it

Wall clock is from the first process that is told to begin to the last that has the mean. The bound of a row
is what the lines need for the payload alone: every node sends and receives 2(N-1)/N of it where all lines are
equal; where they are not, by the shares of protocol/round/plan.py. TCP/IP takes 3 to 4 % of a line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from atoll.daemon.plot import bars
from benchmarks.averaging.arms import Arms
from benchmarks.links import lines

RESULTS = Path(__file__).parents[1] / "results"
INT8_BITS = 8.0625


@dataclass(frozen=True)
class Row:
    """One setting: Mbit/s of each node's line, both ways."""

    name: str
    mbit: tuple[float, ...]
    millions: float
    rtt_ms: float = 0.0
    loss: float = 0.0
    goal: float = 0.92

    @property
    def bound_s(self) -> float:
        """Seconds that the lines need for the payload: the larger of what any node sends and receives.

        With shares s_i of the chunks a node sends (1 - s_i) of its contributions and s_i (N - 1) results, and
        receives as much. The best shares make the slowest line as little slow as can be.
        """
        payload_bits = self.millions * 1e6 * INT8_BITS
        n = len(self.mbit)

        def fits(seconds: float) -> bool:
            """Whether shares that sum up to one exist: node i carries (1 - s)(1) + s (N - 1) payloads."""
            total = 0.0
            for rate in self.mbit:
                room = seconds * rate * 1e6 / payload_bits
                if room < 1 - 1e-9 and n > 2:
                    return False  # it can't even send its contributions
                total += min(1.0, (room - 1) / (n - 2)) if n > 2 else (1.0 if room >= 1 else 0.0)
            return total >= 1 - 1e-9

        low, high = 0.0, 1e5
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


ROWS = (
    Row("4 peers, 10 Mbit/s each", (10,) * 4, 4),
    Row("4 peers, 50 Mbit/s each", (50,) * 4, 16),
    Row("4 peers, 200 Mbit/s each", (200,) * 4, 50),
    Row("4 peers, 10, 50, 50 and 50 Mbit/s", (10, 50, 50, 50), 8),
    Row("4 peers, 50, 50, 200 and 200 Mbit/s", (50, 50, 200, 200), 25),
    Row("2 peers, 50 Mbit/s, 40 ms, 0.1 % loss", (50,) * 2, 16, 40, 0.001, 0.80),
    Row("4 peers, 200 Mbit/s, 100 ms, 0.1 % loss", (200,) * 4, 50, 100, 0.001, 0.60),
)


@dataclass(frozen=True)
class Measured:
    """Seconds of each operation by one way."""

    row: Row
    way: str
    wall_s: tuple[float, ...]

    @property
    def reached(self) -> float:
        return self.row.bound_s / statistics.median(self.wall_s)


def measure(row: Row, way: str, repeats: int) -> Measured:
    with ExitStack() as stack:
        name = f"atoll-{os.getpid()}"
        if row.rtt_ms or row.loss:
            made = stack.enter_context(lines.long(name, row.mbit, row.rtt_ms, row.loss))
        else:
            made = stack.enter_context(lines.shaped(name, row.mbit))
        arms = Arms(stack, len(row.mbit), int(row.millions * 1e6), made.inside)
        arm = arms.atoll("int8", "int8", 0, way == "direct", made.addresses)
        arms.start(arm)
        wall = []
        for turn in range(repeats + 1):
            operation = arm.operate()
            assert operation.same
            print(f"{row.name}, {way}: {operation.wall_s:.2f} s, bound {row.bound_s:.2f} s", file=sys.stderr)
            if turn:  # the first one measures the lines and warms the connections
                wall.append(operation.wall_s)
        return Measured(row, way, tuple(wall))


def table(measured: Sequence[Measured], repeats: int) -> str:
    lines = [
        "# Averaging over shaped lines",
        "",
        f"Made by `python -m benchmarks.links`, {repeats} operations after a first one, int8 both legs.",
        "Bound: what the lines need for the payload; reached: bound over the median.",
        "",
        "| lines | values | way | bound, s | wall min / median, s | reached | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        wall = f"{min(m.wall_s):.2f} / {statistics.median(m.wall_s):.2f}"
        goal = f"{m.row.goal:.0%}" if m.way == "direct" else ""
        lines.append(
            f"| {m.row.name} | {m.row.millions:g} M | {m.way} | {m.row.bound_s:.2f} | {wall} "
            f"| {m.reached:.0%} | {goal} |"
        )
    return "\n".join([*lines, "", "![Share of the bound that was reached](links.svg)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", default="", help="only those whose name has this in it")
    parser.add_argument("--ways", nargs="+", default=["direct", "libp2p"], choices=["direct", "libp2p"])
    parser.add_argument("--repeats", type=int, default=5, help="operations of each row and way (5)")
    parser.add_argument("--out", type=Path, default=RESULTS / "links.md")
    args = parser.parse_args()
    if os.geteuid():
        raise SystemExit("Shaped lines need root.")
    measured = []
    for row in ROWS:
        if args.rows in row.name:
            measured += [measure(row, way, args.repeats) for way in args.ways]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            text = table(measured, args.repeats)
            args.out.write_text(text)
            plot = [(f"{m.row.name}, {m.way}", m.reached, m.row.goal) for m in measured]
            args.out.with_suffix(".svg").write_text(bars("Share of the bound that was reached", plot))
    print(text)


if __name__ == "__main__":
    main()
