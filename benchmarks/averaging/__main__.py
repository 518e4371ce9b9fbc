"""Averages the same vectors with Atoll and with others, side by side in one run; writes a Markdown table.

    python -m benchmarks.averaging                 4 processes, 25 M values
    python -m benchmarks.averaging --peers 2 4 8 --values 25 100 --codecs int8 int4 fp32

All arms stay up and take turns, operation by operation, so that a busy machine slows all of them alike. Wall
clock is from the first process that is told to begin to the last that has the mean. CPU is that of a process
and of those it started (p2pd). As root each arm has a network namespace, and its loopback counts the bytes;
else they are not counted. hivemind and torchft each run in an environment of their own under build/, made
when it is missing. Where memory is short the less important arms are left out, and the table says which.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from atoll.daemon.plot import bars
from atoll.protocol.codecs import CODECS
from benchmarks.averaging.arms import Arm, Arms, python_of

RESULTS = Path(__file__).parents[1] / "results"
RESULT = {"fp32": "fp32", "bf16": "bf16"}
"""What means are encoded with where nothing is said, if it is not int8."""


@dataclass(frozen=True)
class Measured:
    """A combination, what was measured of it, and the names of the arms that memory did not suffice for."""

    peers: int
    values: int
    arms: list[Arm]
    left_out: list[str]


def measure(
    args: argparse.Namespace, peers: int, values: int, hivemind: Path | None, torchft: Path | None
) -> Measured:
    with ExitStack() as stack:
        arms = Arms(stack, peers, values)
        results = {codec: args.result_codec or RESULT.get(codec, "int8") for codec in args.codecs}
        planned = [
            arms.atoll(codec, result, args.chunk, way == "direct")
            for codec, result in results.items()
            for way in args.ways
        ]
        planned.append(arms.gloo())
        if torchft is not None:
            planned.append(arms.torchft(torchft))
        if hivemind is not None:
            planned += [arms.hivemind(hivemind, compression) for compression in ("8bit", "fp16")]
        running = arms.that_fit(planned)
        for arm in running:
            arms.start(arm)
        for turn in range(args.repeats + 1):
            for arm in running:
                if turn > args.slow_repeats and arm.name.startswith("hivemind"):
                    continue
                operation = arm.operate()
                print(f"{arm.name}: {operation}", file=sys.stderr)
                if turn:  # the first one warms links, caches and scratch
                    arm.operations.append(operation)
        for arm in running:
            # One of them: each makes all vectors again.
            arm.error = arm.ask_first(do="error")["error"]
    return Measured(peers, values, running, [arm.name for arm in planned if not arm.workers])


def row(arm: Arm, peers: int, values: int, arms: Sequence[Arm]) -> str:
    ops = arm.operations
    wall = [op.wall_s for op in ops]
    cpu = statistics.median(op.cpu_s for op in ops)
    own = statistics.median(op.own_cpu_s for op in ops)
    bound = 2 * (peers - 1) * values * arm.bits / 8
    counted = [op.wire_bytes for op in ops if op.wire_bytes is not None]
    wire = f"{statistics.median(counted) / bound:.3f}" if counted else "–"
    extra = max(op.extra_bytes for op in ops) / 2**20
    same = "yes" if all(op.same for op in ops) else "**no**"
    others = []
    for name in ("hivemind 8bit", "gloo fp32"):
        other = next((a for a in arms if a.name == name), None)
        if other is None or other is arm:
            others.append("–")
            continue
        walls = statistics.median(wall) / statistics.median(op.wall_s for op in other.operations)
        cpus = cpu / statistics.median(op.cpu_s for op in other.operations)
        others.append(f"{walls:.2f} / {cpus:.2f}")
    return (
        f"| {arm.name} | {min(wall):.2f} / {statistics.median(wall):.2f} | {cpu:.3f} ({own:.3f}) | {wire} "
        f"| {extra:.0f} | {arm.error:.2%} | {same} | {' | '.join(others)} |"
    )


def table(measured: Sequence[Measured], repeats: int, picture: str) -> str:
    lines = [
        "# Averaging on loopback",
        "",
        f"Made by `python -m benchmarks.averaging`, {repeats} operations of each arm, which take turns.",
        "Wall is min / median in seconds; CPU-seconds per peer with p2pd (in brackets: without it and other",
        "children); wire: bytes on the loopback over the bound of 2(N-1) payloads; extra: what the largest",
        "process grew by during an operation; ratios are of medians, wall / CPU. Atoll and hivemind encrypt",
        "(TLS), gloo and torchft do not. Atoll's operation has matchmaking, the vote with its fsync and the",
        "outer step inside, torchft's its quorum and its vote.",
    ]
    for m in measured:
        lines += [
            "",
            f"## {m.peers} peers, {m.values / 1e6:g} M values",
            "",
            "| arm | wall | CPU-s per peer | wire | extra, MB | error | same bits | to hivemind | to gloo |",
            "|---|---|---|---|---|---|---|---|---|",
            *(row(arm, m.peers, m.values, m.arms) for arm in m.arms),
        ]
        for first in m.arms[:1]:
            phases = {
                name: statistics.median(op.phases[name] for op in first.operations)
                for name in first.operations[0].phases
            }
            if phases:
                said = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
                lines += ["", f"Phases of {first.name} as the first peer saw them, median seconds: {said}."]
        if m.left_out:
            lines += ["", f"Left out for want of memory: {'; '.join(m.left_out)}."]
    return "\n".join([*lines, "", f"![CPU-seconds per peer]({picture})", ""])


def plot(measured: Sequence[Measured]) -> str:
    """CPU-seconds per peer of every arm."""
    rows: list[tuple[str, float, float | None]] = [
        (
            f"{arm.name}, {m.peers} peers, {m.values / 1e6:g} M",
            statistics.median(op.cpu_s for op in arm.operations) * 25e6 / m.values,
            None,
        )
        for m in measured
        for arm in m.arms
    ]
    full = max((value for _, value, _ in rows), default=1.0)
    return bars("CPU-seconds per peer and 25 M values", rows, full, "{:.3f}".format)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--peers", type=int, nargs="+", default=[4])
    parser.add_argument("--values", type=float, nargs="+", default=[25.0], help="millions (25)")
    parser.add_argument("--codecs", nargs="+", default=["int8", "int4"], choices=sorted(CODECS))
    parser.add_argument("--ways", nargs="+", default=["direct", "libp2p"], choices=["direct", "libp2p"])
    parser.add_argument("--result-codec", choices=sorted(CODECS), help="int8, but the floats' own")
    parser.add_argument("--chunk", type=int, default=0, help="values per chunk (as the product has it)")
    parser.add_argument("--repeats", type=int, default=9, help="operations of each arm (9)")
    parser.add_argument("--slow-repeats", type=int, default=7, help="of hivemind (7)")
    parser.add_argument("--no-hivemind", action="store_true")
    parser.add_argument("--no-torchft", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "averaging.md")
    args = parser.parse_args()
    hivemind = None if args.no_hivemind else python_of("hivemind")
    torchft = None if args.no_torchft else python_of("torchft")
    measured = []
    for peers in args.peers:
        for millions in args.values:
            values = int(millions * 1e6)
            measured.append(measure(args, peers, values, hivemind, torchft))
            text = table(measured, args.repeats, args.out.with_suffix(".svg").name)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text)
            args.out.with_suffix(".svg").write_text(plot(measured))
    print(text)


if __name__ == "__main__":
    main()
