"""What the robust setting costs: the same swarm of real daemons with `--untrusted` and without, by turns.

    python -m benchmarks.robust_overhead            three pairs (about ten minutes with nothing else running)

A round is what lies between two commits: the inner phase of all and the averaging. Wall time, and CPU time of
daemons with their p2pd and of trainers, are counted over the same rounds, the first ones left out: in those
nodes still find each other. Trainers do the same steps in either setting and take far more than all else, so
what they differ by is the machine's mood, and so is most of what the wall time does: what the setting costs
is what daemons take more, as part of a round. Four nodes share this machine's cores; between machines of
their own most of that is done beside the training.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.daemons import a_swarm, cpu_s, daemon_of, options_of, trainers_of

NODES, FIRST, ROUNDS = 4, 2, 8
RESULTS = Path(__file__).parent / "results" / "robust_overhead.md"
SETTINGS: dict[str, tuple[str, ...]] = {"mean": (), "untrusted": ("--untrusted",)}


def measure(setting: tuple[str, ...], inner_steps: int) -> tuple[float, float, float]:
    """Seconds of a round, and CPU seconds that daemons and trainers take for it."""
    made = ("--inner-steps", str(inner_steps), "--batch", "8", "--min-peers", str(NODES))
    with a_swarm(NODES, *made, *setting) as nodes:
        begin = nodes[0].wait_for_version(FIRST)
        daemons = [pid for node in nodes for pid in daemon_of(node)]
        trainers = [pid for node in nodes for pid in trainers_of(node)]
        before = cpu_s(daemons), cpu_s(trainers)
        for version in range(begin["version"], begin["version"] + ROUNDS):
            end = nodes[0].wait_for_version(version + 1)
        used = cpu_s(daemons) - before[0], cpu_s(trainers) - before[1]
        done = end["version"] - begin["version"]
        return (end["time"] - begin["time"]) / done, used[0] / done, used[1] / done


def main() -> None:
    parser = options_of(__doc__, RESULTS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--inner-steps", type=int, default=50)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.pairs):
        for name, setting in SETTINGS.items():
            found[name].append(measure(setting, arguments.inner_steps))
            wall, daemons, trainers = found[name][-1]
            print(f"{name}: {wall:.2f} s a round, {daemons:.2f} + {trainers:.2f} CPU s", flush=True)
    rows, medians = [], []
    for k, what in enumerate(("wall time", "CPU time of daemons", "CPU time of trainers")):
        medians.append([statistics.median(values[k] for values in found[name]) for name in SETTINGS])
        plain, robust = medians[-1]
        rows.append(f"| {what} | {plain:.2f} s | {robust:.2f} s | {robust / plain:.3f} |")
    (_, _), (plain, robust), (trained, _) = medians
    cost = (robust - plain) / (plain + trained)
    text = [
        "# What the robust setting costs",
        "",
        f"Made by `python -m benchmarks.robust_overhead`: {NODES} real daemons on one machine, the default",
        f"model, {arguments.inner_steps} inner steps,",
        f"{ROUNDS} rounds, median of {arguments.pairs} runs of each by turns.",
        f"Daemons take {cost:+.1%} of a round's CPU time more; the goal is at most 10 %. Trainers do the",
        "same in either setting.",
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
