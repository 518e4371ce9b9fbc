"""Each mode held against its paper: one report in benchmarks/results/papers.

    python -m benchmarks.papers              all rows, three seeds
    python -m benchmarks.papers --quick      the main rows, one seed: minutes

Stacked replicas of a small model with the product's outer side (arms.py). What is done stays done: each run
of an arm with a seed is a file in the cache, named by what it depends on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from atoll.daemon.plot import bars
from benchmarks.papers.arms import Arm
from benchmarks.papers.daemons import RealArm
from benchmarks.papers.experiments import TABLES, AnyArm, Gain, Losses, Order, Row, Table, Trend
from benchmarks.papers.runs import measure

RESULTS = Path(__file__).parents[1] / "results" / "papers"
CACHE = Path("build/papers")


class Means(Losses):
    """Mean loss of an arm; `among` those that are compared, over the seeds that all of them have."""

    def __init__(
        self, found: Mapping[tuple[AnyArm, int], float], seeds: frozenset[int] | None = None
    ) -> None:
        self._found = found
        self._seeds = seeds

    def __getitem__(self, arm: AnyArm) -> float:
        runs = ((seed, loss) for (one, seed), loss in self._found.items() if one == arm)
        return statistics.mean(loss for seed, loss in runs if self._seeds is None or seed in self._seeds)

    def __iter__(self) -> Iterator[AnyArm]:
        return iter(dict.fromkeys(arm for arm, _ in self._found))

    def __len__(self) -> int:
        return len({arm for arm, _ in self._found})

    def among(self, arms: Iterable[AnyArm]) -> Means:
        having = [{seed for one, seed in self._found if one == arm} for arm in arms]
        return Means(self._found, frozenset(set.intersection(*having)))


def report(tables: Sequence[Table], losses: Losses, quick: bool, seeds: int) -> str:
    """All tables in Markdown."""
    rows = [row for table in tables for row in table.chosen(quick)]
    passed = sum(row.passes(losses) for row in rows)
    tables = [table for table in tables if table.chosen(quick)]
    text = [
        "# The papers, at the size of two processors",
        "",
        f"Made by `make papers{' QUICK=1' if quick else ''}`: {passed} of {len(rows)} rows are as accepted.",
        "Byte-level transformer of 0.1 M parameters, 300 steps of one worker, and from there 50 rounds of",
        "20 inner steps (unless a row says otherwise), batch 8, AdamW at 3e-3 with a cosine schedule,",
        f"{seeds} seed{'s' * (seeds > 1)}{', daemons, larger models and 64 workers one' * (seeds > 1)}.",
        "Validation loss of the outer parameters. What is held is the shape: models of this size show more",
        "of every disturbance than the papers', and 50 rounds are few.",
        "",
    ]
    for number, table in enumerate(tables):
        text += _table(table, number, losses, quick)
    return "\n".join(text)


def _table(table: Table, number: int, losses: Losses, quick: bool) -> list[str]:
    text = [f"## {table.paper}", "", "| | paper | here | accepted | |", "|---|---|---|---|---|"]
    for row in table.chosen(quick):
        verdict = "yes" if row.passes(losses) else "**no**"
        if isinstance(row, Order):
            here = " < ".join(f"{loss:.3f}" for loss in row.value(losses))
            slack = f", {row.slack:g} % may be out of order" if row.slack else ""
            text.append(f"| {row.name} | {row.paper} | {here} | this order{slack} | {verdict} |")
            continue
        if isinstance(row, Gain):
            here, most = f"{row.value(losses):.0f} %", f"at most {row.most:g} %"
            text.append(f"| {row.name} | {row.paper} | {here} | {most} | {verdict} |")
            continue
        if isinstance(row, Trend):
            small, large = row.value(losses)
            here = f"{small:+.2f} %, larger {large:+.2f} %"
            text.append(f"| {row.name} | {row.paper} | {here} | no more than small | {verdict} |")
            continue
        band = f"{_percent(row.least)} to {_percent(row.most)}"
        text.append(f"| {row.name} | {row.paper} | {row.value(losses):+.2f} % | {band} | {verdict} |")
    text += ["", table.note] if table.note and not quick else []
    return [*text, "", f"![Per cent over the base](table{number}.svg)", ""]


def _percent(value: float) -> str:
    return "any" if value in (float("inf"), -float("inf")) else f"{value:+g} %"


def is_long(arm: AnyArm) -> bool:
    """Whether a run takes as long as ten of the others: such are done with one seed."""
    return isinstance(arm, RealArm) or (isinstance(arm, Arm) and (arm.large or arm.workers > 16))


def plot(table: Table, losses: Losses, quick: bool) -> str:
    """How far each row's arm is from its base, as an SVG."""
    rows = [row for row in table.chosen(quick) if isinstance(row, Row)]
    values = [(row.name, abs(row.value(losses)), None) for row in rows]
    full = max((value for _, value, _ in values), default=1.0) or 1.0
    return bars(f"{table.paper}: per cent away from the base", values, full, "{:.2f} %".format)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the main rows, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="1 2 3, with --quick 1")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (2)")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"what is done ({CACHE})")
    parser.add_argument("--out", type=Path, help="folder of the report (benchmarks/results/papers)")
    args = parser.parse_args()
    seeds = args.seeds or ([1] if args.quick else [1, 2, 3])
    needed = list(dict.fromkeys(arm for table in TABLES for arm in table.arms(args.quick)))
    runs = [(arm, seed) for seed in seeds for arm in needed if seed == seeds[0] or not is_long(arm)]
    found = measure(runs, args.cache, args.jobs)
    losses = Means(found)
    out: Path = args.out or (args.cache / "report" if args.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    text = report(TABLES, losses, args.quick, len(seeds))
    (out / "README.md").write_text(text)
    for number, table in enumerate(table for table in TABLES if table.chosen(args.quick)):
        (out / f"table{number}.svg").write_text(plot(table, losses, args.quick))
    print(text)


if __name__ == "__main__":
    main()
