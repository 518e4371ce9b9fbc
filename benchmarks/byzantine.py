"""What liars do to a run, with the robust setting and without: stacked replicas, shipping aggregation code.

    python -m benchmarks.byzantine                  8 attacks, 0 to 3 of 8, three seeds (about an hour)
    python -m benchmarks.byzantine --quick          some of them, one seed
    python -m benchmarks.byzantine --attack leader  the rows of one, printed

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
and its plans are declined.

With each of the merges that hold against liars, honest members vote by the product's rule
(protocol/judgement.py), liars for everything. Where results are refused and no majority is for them, the next
in rank leads, and who made them owns nothing (tests/daemon/test_voting_down.py shows it with real drivers).
Whom all honest nodes have in quarantine for that counts as proved to lie; what a single one's quarantine does
before is left out. Perplexity is per byte, on held-out text, of the outer parameters at the end.
"""

from __future__ import annotations

import argparse
import itertools
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

from atoll.daemon.rounds.norms import Norms
from atoll.protocol import audit
from atoll.protocol.chain import leader_of
from atoll.protocol.judgement import Look, accused, against, times_longer
from atoll.protocol.manifest import HOLDING_MERGES
from atoll.protocol.outer import Float32
from atoll.protocol.schema import BLOCK, ChunkTable, default_chunk_values
from atoll.protocol.standing import VOTED_DOWN, Standings
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

    @property
    def judges(self) -> bool:
        return self.rule in HOLDING_MERGES


@dataclass(frozen=True)
class Outcome:
    """`perplexity`: infinite where the parameters are not finite. `caught`: rounds until the last liar was
    out; 0: nothing to catch, or no audit; -1: one was not. `refused`: sessions that were voted down."""

    perplexity: float
    caught: int = 0
    refused: int = 0


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
        honest = sorted(set(range(WORKERS)) - self._liars)
        self._norms = {k: Norms() for k in honest}
        self._standings = {k: Standings() for k in honest}
        self._out: set[int] = set()
        """Proved to lie, or in quarantine with everybody."""
        self.caught = 0
        self.refused = 0

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

    def _plan(self, leader: int, accused: set[int]) -> tuple[list[int], list[int]]:
        """Who contributes, and who owns which chunk; `accused` own none, unless a liar leads."""
        there = [k for k in range(WORKERS) if k not in self._out]
        liars = sorted(self._liars - self._out)
        if self._case.attack == "leader" and leader in liars:
            # Voters are all eight, of the commit before: so many have to be there.
            honest = [k for k in there if k not in liars][: WORKERS // 2 + 1 - len(liars)]
            return honest + liars, [liars[chunk % len(liars)] for chunk in range(len(self.table))]
        able = [k for k in there if k not in accused]
        return there, [able[chunk % len(able)] for chunk in range(len(self.table))]

    def _leader(self, number: int, refused: set[int]) -> int:
        """Who leads, by hash; of those who are not out and were not refused in this round."""
        names = {_name(k): k for k in range(WORKERS) if k not in self._out | refused}
        leader = leader_of(f"{self.seed} {number}".encode(), 0, names)
        assert leader is not None
        return names[leader]

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

    # ---- votes

    def _voted_down(self, contributors: Sequence[int], owners: Sequence[int], own: list[Float32]) -> set[int]:
        """Whose results voters refuse; empty: most are for them. Of `own` the honest members' counts."""
        if not self._case.judges:
            return set()
        made_by = {chunk: _name(owner) for chunk, owner in enumerate(owners)}
        refusing: dict[int, tuple[bytes, ...]] = {}
        longer: dict[int, float | None] = {}
        for k in sorted(set(contributors) - self._liars):
            looks = {chunk: self._look(own[k], chunk) for chunk in made_by}
            longer[k] = times_longer(looks.values())
            if against(looks, len(looks), self._norms[k].limit(0)):
                refusing[k] = accused(looks, made_by)
        in_favour = len(contributors) - len(refusing)
        honest = len(longer) - len(refusing)
        # Certified; or provisional, as most of the honest go on with it.
        if not refusing or 2 * in_favour > WORKERS or honest > len(refusing):
            for k, times in longer.items():
                self._norms[k].saw(0, [] if times is None else [times])
            return set()
        self.refused += 1
        for k, peers in refusing.items():
            for peer in peers:
                self._standings[k].strike(peer, VOTED_DOWN)
        return {peer[0] for peers in refusing.values() for peer in peers}

    def _look(self, own: Float32, chunk: int) -> Look:
        mine, made = own[self.table.span(chunk)], self.mean[self.table.span(chunk)]
        return Look(float(np.dot(mine, made)), float(np.dot(mine, mine)), float(np.dot(made, made)))

    def _risen(self, number: int) -> None:
        """A commit was applied. Who is in quarantine with all honest nodes takes no part any more."""
        for standings in self._standings.values():
            standings.commit()
        out = {k for k in self._liars if all(s.quarantined(_name(k)) for s in self._standings.values())}
        if out - self._out:
            self._out |= out
            self.caught = number + 1

    def _round(self, number: int) -> None:
        self.train(self.arm.steps)
        learned = [self.outer - self.local(k) for k in range(WORKERS)]
        sent = self._sent(list(learned))
        passed_over, made_by = set[int](), set[int]()
        for attempt in itertools.count():
            leader = self._leader(number, passed_over)
            contributors, owners = self._plan(leader, made_by)
            deltas = [delta if k in contributors else None for k, delta in enumerate(sent)]
            self.average(deltas, self.carried, range(len(self.table)), self.mean)
            lies = self._lies_in(contributors, owners)
            for chunk in lies:
                self.mean[self.table.span(chunk)] *= -1
            found = self._voted_down(contributors, owners, learned)
            if not found or attempt == WORKERS - 1:
                break
            passed_over.add(leader)
            made_by |= found
        self._step(range(len(self.table)))
        self._risen(number)
        if self._case.audits:
            self._audit(number, owners, lies)
        for k in range(WORKERS):
            self.set_local(k, self.outer)
            self.carried[k] = 0

    def outcome(self) -> Outcome:
        loss = self.whole()
        all_out = self._case.attack not in ROUNDS or not self._case.audits or self._out == self._liars
        perplexity = math.exp(loss) if loss < 50 else math.inf
        return Outcome(perplexity, self.caught if all_out else -1, self.refused)


def _name(k: int) -> bytes:
    return bytes([k])


def table(found: dict[Case, list[Outcome]], honest: float, cases: Sequence[Case]) -> list[str]:
    """Ratios of the mean perplexity to the honest run's, by attack and number of liars."""
    rules = list(dict.fromkeys(case.rule for case in cases))
    names = [f"{rule}, audits" if rule == ROBUST else rule for rule in rules]
    lines = [
        f"| attack | liars of {WORKERS} | {' | '.join(names)} | caught after | voted down |",
        "|---|---|" + "---|" * (len(rules) + 2),
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
        outcomes = found.get(Case(ROBUST, attack, liars), [])
        caught, refused = [o.caught for o in outcomes], [o.refused for o in outcomes]
        # Where each lie was voted down there is no commit to audit.
        audited = attack in ROUNDS and not all(o.caught < 0 < o.refused for o in outcomes)
        when = ", ".join("never" if c < 0 else str(c) for c in caught) + " rounds" if audited else ""
        down = ", ".join(str(n) for n in refused) if any(refused) else ""
        lines.append(f"| {attack or 'none'} | {liars} | {' | '.join(cells)} | {when} | {down} |")
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
        f"`{ROBUST}, audits` is `atoll init --untrusted`; `voted down`: its rounds that voters refused, and",
        "another node led anew; where each lie was, there was none to catch. The attacks are explained in",
        "`byzantine.py`.",
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
    parser.add_argument("--attack", choices=(*CONTRIBUTIONS, *ROUNDS), help="only this one's rows")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1) if arguments.quick else range(3)
    known: dict[str, list[float]] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    found: dict[Case, list[Outcome]] = {}
    cases = [c for c in all_cases(arguments.quick) if arguments.attack in (None, c.attack) or not c.attack]
    for seed in seeds:
        for case in cases:
            if case.rule in MERGES and (seed or arguments.attack):
                continue
            key = json.dumps([asdict(case), asdict(BASE), seed, *(["votes"] if case.judges else [])])
            if key not in known:
                began = time.monotonic()
                outcome = Attacked(case, BASE, seed).outcome()
                known[key] = [outcome.perplexity, outcome.caught, outcome.refused]
                FOUND.parent.mkdir(exist_ok=True)
                FOUND.write_text(json.dumps(known))
                print(f"{case}, seed {seed}: {outcome} ({time.monotonic() - began:.0f} s)", flush=True)
            perplexity, *counts = known[key]
            found.setdefault(case, []).append(Outcome(perplexity, *map(int, counts)))
        if not arguments.attack:
            arguments.out.write_text(report(found, arguments.quick, seed + 1))
            print(f"written: {arguments.out}")
    if arguments.attack:
        honest = statistics.fmean(o.perplexity for o in found[Case("mean")])
        print(*table(found, honest, list(found)), sep="\n")


if __name__ == "__main__":
    main()
