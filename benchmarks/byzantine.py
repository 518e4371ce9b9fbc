"""What liars do to a run, with the robust setting and without: stacked replicas, shipping aggregation code.

    python -m benchmarks.byzantine                  8 attacks, 0 to 3 of 8, three seeds (about an hour)
    python -m benchmarks.byzantine --quick          some of them, one seed

Stopped, it goes on where it was (build/byzantine.json). Liars train like everybody and see what the honest
send, which is more than real ones could know. Attacks on contributions: `flip` sends minus what it learned;
`scale` a hundred times that; `random` noise of the same length; `inner` minus the mean of the honest
(inner-product manipulation, 1903.03936); `copy` what the first honest one sends; `labels` trains on wrong
labels (255 minus the next byte). Attacks on rounds: `reducer` gives, for the chunks it owns, minus what
the contributions make; `leader` flips, and in the rounds that a liar leads (by hash, as in the product)
leaves out as many honest nodes as it can without losing the majority that certifies, makes the liars owners
of all chunks, and all of these results are lies.

The robust setting is `atoll init --untrusted`: merge `filter`, and audits. An audit here is the product's
draw of the chunk (protocol/audit.py); that looking at a lie proves it, and that the proof convinces all, is
what tests/daemon/test_guard.py shows with real records. Who was proved to lie has weight 0, owns nothing,
and its plans are declined. Perplexity is per byte, on held-out text, of the outer parameters at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from atoll.protocol import audit
from atoll.protocol.chain import leader_of
from atoll.protocol.outer import Float32
from atoll.protocol.schema import BLOCK, ChunkTable, default_chunk_values
from benchmarks.papers.arms import Arm, Average, Run

WORKERS = 8
RESULTS = Path(__file__).parent / "results" / "byzantine.md"
FOUND = Path("build") / "byzantine.json"
CONTRIBUTIONS = ("flip", "scale", "random", "inner", "copy", "labels")
ROUNDS = ("reducer", "leader")
ROBUST = "filter"
MERGES = ("trimmed", "median", "clip")
"""The other merges, which are shown with two liars and without audits."""
BASE = Arm(workers=WORKERS, codec="int8", batch=4, rounds=15, steps=15)
SAME = 0.05
"""Within so much of the honest run's perplexity the run is as good."""


@dataclass(frozen=True)
class Case:
    """One run: a merge, and so many liars (the last workers) with an attack."""

    rule: str
    attack: str = ""
    liars: int = 0

    @property
    def audits(self) -> bool:
        return self.rule == ROBUST


@dataclass(frozen=True)
class Outcome:
    """`perplexity`: infinite where the parameters are not finite. `caught`: rounds until the last liar was
    proved to lie; 0: nothing to catch, or no audit; -1: one was not."""

    perplexity: float
    caught: int = 0


class Attacked(Run):
    """A run of which some nodes lie."""

    def __init__(self, case: Case, arm: Arm, seed: int) -> None:
        super().__init__(replace(arm, merge=case.rule), seed)
        total = self.table.total
        self.table = ChunkTable(total, default_chunk_values(total), BLOCK)
        self.average = Average(self.arm, self.table)
        self._case = case
        self._chance = np.random.default_rng(seed)
        self._draw = random.Random(seed).randrange
        self._liars = set(range(WORKERS - case.liars, WORKERS))
        self._out: set[int] = set()
        """Proved to lie."""
        self.caught = 0

    # ---- attacks on contributions

    def train(self, steps: int, works: Sequence[bool] = ()) -> None:
        if self._case.attack != "labels":
            super().train(steps, works)
            return
        # Told wrong labels: what is learned from inputs of which each byte is another one.
        step, liars = self.replicas.step, sorted(self._liars)

        def wrong(inputs: torch.Tensor, targets: torch.Tensor, *more: object) -> None:
            targets = targets.clone()
            targets[liars] = 255 - targets[liars]
            step(inputs, targets, *more)  # type: ignore[arg-type]

        self.replicas.step = wrong  # type: ignore[assignment, method-assign]
        try:
            super().train(steps, works)
        finally:
            self.replicas.step = step  # type: ignore[method-assign]

    def _sent(self, deltas: list[Float32]) -> list[Float32]:
        """What is sent instead of these."""
        honest = [delta for k, delta in enumerate(deltas) if k not in self._liars]
        mean: Float32 = np.stack(honest).mean(axis=0, dtype=np.float32)
        for k in self._liars:
            own = deltas[k]
            match self._case.attack:
                case "flip" | "leader":
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

    # ---- attacks on rounds

    def _plan(self, number: int) -> tuple[list[int], list[int]]:
        """Who contributes, and who owns which chunk."""
        there = [k for k in range(WORKERS) if k not in self._out]
        owners = [there[chunk % len(there)] for chunk in range(len(self.table))]
        if self._case.attack != "leader":
            return there, owners
        names = {_name(k): k for k in there}
        leader = leader_of(f"{self.seed} {number}".encode(), 0, names)
        liars = sorted(self._liars - self._out)
        if leader is None or names[leader] not in liars:
            return there, owners
        # Voters are all eight, of the commit before: so many have to be there.
        honest = [k for k in there if k not in liars][: WORKERS // 2 + 1 - len(liars)]
        return honest + liars, [liars[chunk % len(liars)] for chunk in range(len(self.table))]

    def _lies_in(self, contributors: Sequence[int], owners: Sequence[int]) -> list[int]:
        """Chunks whose owner gives minus the result."""
        if self._case.attack == "reducer" or (
            self._case.attack == "leader" and len(contributors) < WORKERS - len(self._out)
        ):
            return [chunk for chunk, owner in enumerate(owners) if owner in self._liars]
        return []

    def _audit(self, number: int, owners: Sequence[int], lies: Sequence[int]) -> None:
        """Each honest node makes one result again."""
        seen = {chunk: _name(owner) for chunk, owner in enumerate(owners)}
        for k in set(range(WORKERS)) - self._liars:
            chunk = audit.choose(seen, _name(k), self._draw)
            if chunk is not None and chunk in lies and owners[chunk] not in self._out:
                self._out.add(owners[chunk])
                self.caught = number + 1

    def _round(self, number: int) -> None:
        self.train(self.arm.steps)
        contributors, owners = self._plan(number)
        sent = self._sent([self.outer - self.local(k) for k in range(WORKERS)])
        deltas = [delta if k in contributors else None for k, delta in enumerate(sent)]
        self.average(deltas, self.carried, range(len(self.table)), self.mean)
        lies = self._lies_in(contributors, owners)
        for chunk in lies:
            self.mean[self.table.span(chunk)] *= -1
        self._step(range(len(self.table)))
        if self._case.audits:
            self._audit(number, owners, lies)
        for k in range(WORKERS):
            self.set_local(k, self.outer)
            self.carried[k] = 0

    def outcome(self) -> Outcome:
        loss = self.whole()
        all_out = self._case.attack not in ROUNDS or not self._case.audits or self._out == self._liars
        return Outcome(math.exp(loss) if loss < 50 else math.inf, self.caught if all_out else -1)


def _name(k: int) -> bytes:
    return bytes([k])


def table(found: dict[Case, list[Outcome]], honest: float, cases: Sequence[Case]) -> list[str]:
    """Ratios of the mean perplexity to the honest run's, by attack and number of liars."""
    rules = list(dict.fromkeys(case.rule for case in cases))
    names = [f"{rule}, audits" if rule == ROBUST else rule for rule in rules]
    lines = [
        f"| attack | liars of {WORKERS} | {' | '.join(names)} | caught after |",
        "|---|---|" + "---|" * (len(rules) + 1),
    ]
    for attack, liars in dict.fromkeys((case.attack, case.liars) for case in cases):
        cells = []
        for rule in rules:
            outcomes = found.get(Case(rule, attack, liars))
            if outcomes is None:
                cells.append("")
                continue
            ratio = statistics.fmean(o.perplexity for o in outcomes) / honest
            cells.append("lost" if ratio > 10 else f"{ratio - 1:+.1%}")
        caught = [o.caught for o in found.get(Case(ROBUST, attack, liars), ())]
        when = (
            ""
            if attack not in ROUNDS
            else ", ".join("never" if c < 0 else str(c) for c in caught) + " rounds"
        )
        lines.append(f"| {attack or 'none'} | {liars} | {' | '.join(cells)} | {when} |")
    return lines


def all_cases(quick: bool) -> list[Case]:
    if quick:
        attacks: tuple[str, ...] = ("flip", "scale", "reducer")
        return [
            Case(rule, a, n) for a, n in [("", 0), *((a, 2) for a in attacks)] for rule in ("mean", ROBUST)
        ]
    both = [Case(rule) for rule in ("mean", ROBUST)]
    both += [
        Case(rule, attack, liars)
        for attack in CONTRIBUTIONS + ROUNDS
        for liars in (1, 2, 3)
        for rule in ("mean", ROBUST)
    ]
    others = [
        Case(rule, attack, liars)
        for attack, liars in [("", 0), *((a, 2) for a in CONTRIBUTIONS)]
        for rule in MERGES
    ]
    return both + others


def report(found: dict[Case, list[Outcome]], quick: bool, seeds: int) -> str:
    """The tables, and whether what the robust setting promises holds."""
    honest = statistics.fmean(o.perplexity for o in found[Case("mean")])
    command = f"python -m benchmarks.byzantine{' --quick' if quick else ''}"
    robust = [case for case in found if case.rule == ROBUST and case.liars <= 2]
    worst = max(robust, key=lambda case: statistics.fmean(o.perplexity for o in found[case]))
    ratio = statistics.fmean(o.perplexity for o in found[worst]) / honest - 1
    late = [o.caught for case in robust if case.attack == "reducer" for o in found[case]]
    text = [
        "# Liars among the nodes",
        "",
        f"Made by `{command}`: {WORKERS} workers, {BASE.rounds} rounds of {BASE.steps} steps, {seeds} seed"
        f"{'s' if seeds > 1 else ''}, int8, chunks as `atoll init` makes them.",
        f"Perplexity against the honest run's with the mean ({honest:.3f} per byte); `lost`: ten times it.",
        f"`{ROBUST}, audits` is `atoll init --untrusted`. The attacks are explained in `byzantine.py`.",
        "",
        *table(found, honest, [c for c in found if c.rule in ("mean", ROBUST)]),
        "",
        f"With the robust setting and up to two liars the worst is {ratio:+.1%} "
        f"({worst.attack or 'none'}, {worst.liars}); the goal is {SAME:.0%}.",
        f"Liars who own chunks are caught after {min(late)} to {max(late)} rounds; the goal is 5.",
        "",
    ]
    others = [case for case in found if case.rule in MERGES]
    if others:
        text += ["The other merges, without audits, one seed:", "", *table(found, honest, others), ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1) if arguments.quick else range(3)
    known: dict[str, list[float]] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    found: dict[Case, list[Outcome]] = {}
    for seed in seeds:
        for case in all_cases(arguments.quick):
            if case.rule in MERGES and seed:
                continue
            key = json.dumps([asdict(case), asdict(BASE), seed])
            if key not in known:
                began = time.monotonic()
                outcome = Attacked(case, BASE, seed).outcome()
                known[key] = [outcome.perplexity, outcome.caught]
                FOUND.parent.mkdir(exist_ok=True)
                FOUND.write_text(json.dumps(known))
                print(f"{case}, seed {seed}: {outcome} ({time.monotonic() - began:.0f} s)", flush=True)
            found.setdefault(case, []).append(Outcome(known[key][0], int(known[key][1])))
        arguments.out.write_text(report(found, arguments.quick, seed + 1))
        print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
