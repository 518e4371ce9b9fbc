"""What the robust setting costs: the same swarm of real daemons with `--untrusted` and without, by turns.

    python -m benchmarks.robust_overhead            three pairs (about ten minutes with nothing else running)

A round is what lies between two commits: the inner phase of all and the averaging. Wall time, and CPU time of
all processes of the swarm (daemons, p2pd, trainers), are counted over the same rounds, the first ones left
out: in those nodes still find each other. Four nodes share this machine's cores, so what one of them computes
more, all wait for; between machines of their own most of it is done beside the training.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from tests.process.harness import descendants

from benchmarks.daemons import a_swarm, options_of

NODES, FIRST, ROUNDS = 4, 2, 8
RESULTS = Path(__file__).parent / "results" / "robust_overhead.md"
SETTINGS: dict[str, tuple[str, ...]] = {"mean": (), "untrusted": ("--untrusted",)}
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: list[int]) -> float:
    """User and system time of these processes and of their children that ended."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / TICKS


def measure(setting: tuple[str, ...], inner_steps: int) -> tuple[float, float]:
    """Seconds of a round, and CPU seconds of a round of the whole swarm."""
    made = ("--inner-steps", str(inner_steps), "--batch", "8", "--min-peers", str(NODES))
    with a_swarm(NODES, *made, *setting) as nodes:
        begin = nodes[0].wait_for_version(FIRST)
        pids = [pid for node in nodes for pid in (node.process.pid, *descendants(node.process.pid))]
        used = cpu_s(pids)
        for version in range(begin["version"], begin["version"] + ROUNDS):
            end = nodes[0].wait_for_version(version + 1)
        used = cpu_s(pids) - used
        done = end["version"] - begin["version"]
        return (end["time"] - begin["time"]) / done, used / done


def main() -> None:
    parser = options_of(__doc__, RESULTS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--inner-steps", type=int, default=50)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.pairs):
        for name, setting in SETTINGS.items():
            found[name].append(measure(setting, arguments.inner_steps))
            wall, cpu = found[name][-1]
            print(f"{name}: {wall:.2f} s a round, {cpu:.2f} CPU s", flush=True)
    rows, ratios = [], []
    for k, what in enumerate(("wall time", "CPU time of all")):
        means = [statistics.median(values[k] for values in found[name]) for name in SETTINGS]
        ratios.append(means[1] / means[0])
        rows.append(f"| {what} | {means[0]:.2f} s | {means[1]:.2f} s | {ratios[-1]:.3f} |")
    text = [
        "# What the robust setting costs",
        "",
        f"Made by `python -m benchmarks.robust_overhead`: {NODES} real daemons on one machine, the default",
        f"model, {arguments.inner_steps} inner steps,",
        f"{ROUNDS} rounds, median of {arguments.pairs} runs of each by turns. The goal is a ratio of 1.10.",
        "",
        "| of a round | mean | `--untrusted` | ratio |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    arguments.out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
