"""What liars among the contributors do to a run, by rule of aggregation: stacked replicas, shipping code.

    python -m benchmarks.byzantine                  all attacks, 0 to 3 of 8, three seeds (hours)
    python -m benchmarks.byzantine --quick          some of them, one seed

Liars train like everybody and see what the honest send, which is more than a real one could know. Attacks:
`flip` sends minus what it learned; `scale` a hundred times that; `random` noise of the same length; `inner`
minus the mean of the honest (inner-product manipulation, 1903.03936); `copy` what the first honest one sends;
`labels` trains on wrong labels (255 minus the next byte). Perplexity is per byte, on held-out text, of the
outer parameters after the last round.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.papers.arms import Arm, Run

from atoll.protocol.outer import Float32

WORKERS = 8
RESULTS = Path(__file__).parent / "results" / "byzantine.md"
ATTACKS = ("flip", "scale", "random", "inner", "copy", "labels")
RULES = ("mean", "trimmed", "median", "clip", "filter")
BASE = Arm(workers=WORKERS, codec="int8")


@dataclass(frozen=True)
class Case:
    """One run: a rule, and so many liars (the last workers) with an attack."""

    rule: str
    attack: str = ""
    liars: int = 0


class Attacked(Run):
    """A run of which some contributions are lies."""

    def __init__(self, case: Case, arm: Arm, seed: int) -> None:
        super().__init__(replace(arm, merge=case.rule), seed)
        self._case = case
        self._chance = np.random.default_rng(seed)
        self._honest = WORKERS - case.liars

    def train(self, steps: int, works: Sequence[bool] = ()) -> None:
        if self._case.attack != "labels":
            super().train(steps, works)
            return
        # Told wrong labels: what is learned from inputs of which each byte is another one.
        step = self.replicas.step

        def wrong(inputs: torch.Tensor, targets: torch.Tensor, *more: object) -> None:
            targets = targets.clone()
            targets[self._honest :] = 255 - targets[self._honest :]
            step(inputs, targets, *more)  # type: ignore[arg-type]

        self.replicas.step = wrong  # type: ignore[assignment, method-assign]
        try:
            super().train(steps, works)
        finally:
            self.replicas.step = step  # type: ignore[method-assign]

    def _pruned(self, delta: Float32) -> Float32:
        return delta

    def _lies(self, deltas: list[Float32]) -> list[Float32]:
        """What is sent instead of these."""
        honest = deltas[: self._honest]
        mean: Float32 = np.stack(honest).mean(axis=0, dtype=np.float32)
        for k in range(self._honest, WORKERS):
            own = deltas[k]
            match self._case.attack:
                case "flip":
                    deltas[k] = -own
                case "scale":
                    deltas[k] = 100 * own
                case "random":
                    noise = self._chance.standard_normal(own.size, dtype=np.float32)
                    noise *= np.float32(np.linalg.norm(own) / math.sqrt(own.size))
                    deltas[k] = noise
                case "inner":
                    deltas[k] = -mean
                case "copy":
                    deltas[k] = honest[0].copy()
        return deltas

    def _round(self, number: int) -> None:
        self.train(self.arm.steps)
        deltas = self._lies([self.outer - self.local(k) for k in range(WORKERS)])
        self.average(deltas, self.carried, range(len(self.table)), self.mean)
        self._step(range(len(self.table)))
        for k in range(WORKERS):
            self.set_local(k, self.outer)
            self.carried[k] = 0


def perplexity(case: Case, arm: Arm, seed: int) -> float:
    """Of the outer parameters after the last round; infinite where they are not finite."""
    torch.set_num_threads(1)
    loss = Attacked(case, arm, seed).whole()
    return math.exp(loss) if loss < 50 else math.inf


def table(found: dict[Case, list[float]], honest: Sequence[float], rules: Sequence[str]) -> list[str]:
    """Ratios of the mean perplexity to the honest run's, by attack and number of liars."""
    lines = [f"| attack | liars of {WORKERS} | {' | '.join(rules)} |", "|---|---|" + "---|" * len(rules)]
    base = statistics.fmean(honest)
    for attack, liars in dict.fromkeys((case.attack, case.liars) for case in found):
        cells = []
        for rule in rules:
            values = found.get(Case(rule, attack, liars))
            if not values:
                cells.append("")
                continue
            ratio = statistics.fmean(values) / base
            cells.append("lost" if ratio > 10 else f"{ratio - 1:+.1%}")
        lines.append(f"| {attack or 'none'} | {liars} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arm = replace(BASE, rounds=25) if arguments.quick else BASE
    seeds = range(1) if arguments.quick else range(3)
    attacks = ("flip", "scale", "inner") if arguments.quick else ATTACKS
    rules = ("mean", "trimmed", "clip", "filter") if arguments.quick else RULES
    counts = (2,) if arguments.quick else (1, 2, 3)
    cases = [Case(rule) for rule in rules]
    cases += [Case(rule, attack, liars) for attack in attacks for liars in counts for rule in rules]
    found: dict[Case, list[float]] = {}
    for case in cases:
        began = time.monotonic()
        found[case] = [perplexity(case, arm, seed) for seed in seeds]
        took = time.monotonic() - began
        print(f"{case}: {statistics.fmean(found[case]):.4f} ({took:.0f} s)", flush=True)
    honest = found[Case("mean")]
    command = f"python -m benchmarks.byzantine{' --quick' if arguments.quick else ''}"
    many = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    text = [
        "# Liars among the contributors",
        "",
        f"Made by `{command}`: {WORKERS} workers, {arm.rounds} rounds of {arm.steps} steps, {many}, int8.",
        f"Perplexity against the honest run's with the mean ({statistics.fmean(honest):.3f} per byte);",
        "`lost`: more than ten times that.",
        "",
        *table(found, honest, rules),
        "",
    ]
    arguments.out.write_text("\n".join(text))


if __name__ == "__main__":
    main()
