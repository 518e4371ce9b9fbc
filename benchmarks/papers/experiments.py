"""The rows of the report: which arms are compared, what the paper found, and what is accepted here.

Where 50 rounds and 0.1 M parameters forbid the paper's ratio, the band is that of a pilot with these
settings, and the paper's ratio stands beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from benchmarks.papers.arms import Arm
from benchmarks.papers.arrivals import AsyncArm
from benchmarks.papers.daemons import RealArm
from benchmarks.papers.punctual import TimedArm

AnyArm = Arm | AsyncArm | TimedArm | RealArm


class Losses(Mapping[AnyArm, float]):
    """Mean over the seeds, nats per byte."""

    @abstractmethod
    def among(self, arms: Iterable[AnyArm]) -> Losses:
        """The same over the seeds that all of these arms have: some arms are run with fewer."""


def perplexity(losses: Losses, arm: AnyArm, base: AnyArm) -> float:
    """Per cent of perplexity more than `base` has."""
    both = losses.among((arm, base))
    return 100 * float(np.exp(both[arm] - both[base]) - 1)


def loss(losses: Losses, arm: AnyArm, base: AnyArm) -> float:
    """Per cent of loss more than `base` has."""
    both = losses.among((arm, base))
    return 100 * (both[arm] / both[base] - 1)


@dataclass(frozen=True)
class Row:
    """One line: per cent of `arm` over `base` (of perplexity, or of loss), between `least` and `most`."""

    name: str
    arm: AnyArm
    base: AnyArm
    paper: str
    least: float
    most: float
    measure: Callable[[Losses, AnyArm, AnyArm], float] = loss
    quick: bool = False

    def value(self, losses: Losses) -> float:
        return self.measure(losses, self.arm, self.base)

    def passes(self, losses: Losses) -> bool:
        return self.least <= self.value(losses) <= self.most


@dataclass(frozen=True)
class Order:
    """One line: arms from the least loss to the greatest, each at most `slack` per cent out of order."""

    name: str
    arms: tuple[AnyArm, ...]
    paper: str
    slack: float = 0.0
    quick: bool = False

    def value(self, losses: Losses) -> list[float]:
        shared = losses.among(self.arms)
        return [shared[arm] for arm in self.arms]

    def passes(self, losses: Losses) -> bool:
        found = self.value(losses)
        return all(a <= b * (1 + self.slack / 100) for a, b in pairwise(found))


@dataclass(frozen=True)
class Gain:
    """One line: per cent of what the first step of `arms` gains that the second one gains, at most `most`."""

    name: str
    arms: tuple[AnyArm, AnyArm, AnyArm]
    paper: str
    most: float
    quick: bool = False

    def value(self, losses: Losses) -> float:
        first, second, third = (losses[arm] for arm in self.arms)
        return 100 * (second - third) / (first - second)

    def passes(self, losses: Losses) -> bool:
        return self.value(losses) <= self.most


@dataclass(frozen=True)
class Trend:
    """One line: per cent of `arm` over `base` in the larger setting; no more than in the small one."""

    name: str
    arm: Arm
    base: Arm
    paper: str
    measure: Callable[[Losses, AnyArm, AnyArm], float] = loss
    quick = False

    @property
    def large(self) -> tuple[Arm, Arm]:
        return larger(self.arm), larger(self.base)

    def value(self, losses: Losses) -> tuple[float, float]:
        """In the small setting, and in the larger one."""
        return self.measure(losses, self.arm, self.base), self.measure(losses, *self.large)

    def passes(self, losses: Losses) -> bool:
        small, large = self.value(losses)
        return large <= small


def larger(arm: Arm) -> Arm:
    """The same with 1.0 M parameters and 100 rounds."""
    return replace(arm, large=True, rounds=100)


@dataclass(frozen=True)
class Table:
    """What is held against one paper."""

    paper: str
    rows: tuple[Row | Order | Gain | Trend, ...]
    note: str = ""
    """On what is not as accepted, and why."""

    def arms(self, quick: bool) -> list[AnyArm]:
        """All that its rows need, in order, each once."""
        found: list[AnyArm] = []
        for row in self.chosen(quick):
            found += row.arms if isinstance(row, Order | Gain) else (row.arm, row.base)
            found += row.large if isinstance(row, Trend) else ()
        return list(dict.fromkeys(found))

    def chosen(self, quick: bool) -> Sequence[Row | Order | Gain | Trend]:
        return [row for row in self.rows if row.quick or not quick]


ONE = Arm(workers=1)
DILOCO = Arm()
EIGHT = Arm(workers=8)
WHOLE = Arm(workers=1, batch=32)
"""One worker with the batches of four, and an outer step."""
FAR = Arm(shuffled=False)
LOSSY = replace(FAR, drop=0.5, missed="reset")
"""Half of all contributions are lost; who was lost goes on from the outer parameters, as by default."""
INF = float("inf")
SYNC_HALF = Arm(lr=0.5, beta=0.5)
EAGER = Arm(ahead="eager", lr=0.4)
PAPER_EAGER = Arm(ahead="paper", lr=0.4, beta=0.5)
DELAYED = Arm(ahead="delayed", lr=0.4, beta=0.5)
NAIVELY_DELAYED = Arm(ahead="delayed")
STREAM = Arm(fragments=2, lr=0.7)
SPARSE = Arm(codec="topk", feedback=0.95, lr=1.0, beta=0.0)
SYNC_VERY = AsyncArm("sync", "very")
ASYNC_VERY = AsyncArm("async", "very", lr=0.6, beta=0.8)
ASYNC_NONE = AsyncArm("async", "none", lr=0.6, beta=0.8)
EXACT = ("--codec", "fp32", "--result-codec", "fp32")
MULOCO = RealArm(("--mode", "muloco"), optimizer="muon")
REAL_STREAM = (
    "--fragments",
    "2",
    "--pattern",
    "balanced",
    "--overlap",
    "5",
    "--mix",
    "0",
    "--outer-lr",
    "0.7",
)

TABLES = (
    Table(
        "DiLoCo, 2311.08105",
        (
            Row("8 workers against one, same steps", EIGHT, ONE, "-7.5 %", -INF, -4.0, perplexity),
            Row("4 workers against one, same steps", DILOCO, ONE, "-6.2 %", -INF, -4.0, perplexity, True),
            Row(
                "4 workers against data parallel with their whole batch",
                DILOCO,
                Arm(workers=1, batch=32, lr=1.0, beta=0.0),
                "-1.8 % (8)",
                -5.0,
                5.0,
                perplexity,
                True,
            ),
            Order(
                "four times the updates of one worker, then four workers, then one",
                (Arm(workers=1, rounds=200), DILOCO, ONE),
                "14.72 < 15.02 < 16.23",
            ),
            Order(
                "64, 16, 8, 4, 1 workers",
                (Arm(workers=64), Arm(workers=16), EIGHT, DILOCO, ONE),
                "14.95, 15.02, 15.08, 15.23, 16.23",
                0.25,
            ),
            Gain("from 4 to 8 workers, of what 1 to 4 gained", (ONE, DILOCO, EIGHT), "13 %", 60.0),
            Order(
                "H = 10, 20, 50, 100 at as many inner steps",
                (Arm(steps=10, rounds=100), DILOCO, Arm(steps=50, rounds=20), Arm(steps=100, rounds=10)),
                "+2.9 % from 50 to 1000",
                0.5,
            ),
            Order(
                "H = 1 is not the best",
                (Arm(steps=10, rounds=100), Arm(steps=1, rounds=1000)),
                "worst of all",
            ),
            Row(
                "smallest 50 % of each tensor pruned",
                Arm(prune=0.5),
                DILOCO,
                "+0.39 %",
                -0.5,
                2.5,
                perplexity,
            ),
            Order("0, 50, 75 % pruned", (DILOCO, Arm(prune=0.5), Arm(prune=0.75)), "+0.39, +1.66 %", 0.2),
            Row(
                "each reads its own text, nothing shuffled",
                FAR,
                DILOCO,
                "-0.4 %",
                -2.0,
                2.0,
                perplexity,
                True,
            ),
            Row("of those 10 % dropped", replace(LOSSY, drop=0.1), FAR, "< 2.1 %", -2.0, 2.0, perplexity),
            Row("30 % dropped", replace(LOSSY, drop=0.3), FAR, "< 2.1 %", -2.0, 6.0, perplexity),
            Row("50 % dropped", LOSSY, FAR, "+2.1 %", -2.0, 10.0, perplexity, True),
            Row(
                "4 to 8 workers against 8 to 4",
                Arm(workers=8, pool=(4, 8)),
                Arm(workers=8, pool=(8, 4)),
                "about the same",
                -2.5,
                2.5,
                perplexity,
            ),
            Order(
                "Nesterov, then plain averaging (FedAvg)",
                (DILOCO, Arm(lr=1.0, beta=0.0)),
                "FedAvg is worse",
                quick=True,
            ),
        ),
    ),
    Table(
        "Scaling laws of DiLoCo, 2503.09799 (as many tokens in all)",
        (
            Order(
                "1, 2, 4, 8 workers with 32, 16, 8, 4 sequences each",
                (WHOLE, Arm(workers=2, batch=16), DILOCO, Arm(workers=8, batch=4)),
                "-0.1, +0.7, +2.0, +3.9 %",
            ),
            Row(
                "one worker with an outer step against none",
                WHOLE,
                Arm(workers=1, batch=32, lr=1.0, beta=0.0),
                "-0.1 %",
                -INF,
                0.5,
            ),
        ),
    ),
    Table(
        "Codecs (2501.18512, 2505.23725, 2508.15706)",
        (
            Row("int8", Arm(codec="int8"), DILOCO, "0.0 %", -0.5, 0.3, loss, True),
            Row("int4", Arm(codec="int4"), DILOCO, "0.0 %", -0.5, 0.3, loss, True),
            Row("E3M0", Arm(codec="e3m0"), DILOCO, "0.0 %", -0.5, 0.3),
            Row(
                "2 bit with error feedback",
                Arm(codec="2bit", feedback=0.9),
                DILOCO,
                "near 0",
                -0.5,
                1.0,
                loss,
                True,
            ),
            Row("2 bit without", Arm(codec="2bit"), DILOCO, "a visible loss", -0.5, 1.5),
            Row(
                "SparseLoCo, 50 rounds (too short for it)",
                SPARSE,
                DILOCO,
                "at most 0 %",
                -3.0,
                15.0,
            ),
        ),
    ),
    Table(
        "Streaming DiLoCo, 2501.18512 (two fragments)",
        (
            Row("in turns, without overlap", STREAM, DILOCO, "0.0 %", -1.0, 0.75, loss, True),
            Row("1 step of overlap", replace(STREAM, tau=1), STREAM, "< 0.2 %", -0.5, 1.5),
            Row("5 steps", replace(STREAM, tau=5), STREAM, "< 0.2 %", -0.5, 3.0, loss, True),
            Row("10 steps, a whole segment", replace(STREAM, tau=10), STREAM, "about 0.5 %", -0.5, 5.0),
            Row(
                "5 steps, half of what is local stays",
                replace(STREAM, tau=5, mix=0.5),
                STREAM,
                "best",
                -0.5,
                6.0,
            ),
            Row("E3M0, 1 step", replace(STREAM, tau=1, codec="e3m0"), STREAM, "0.0 %", -0.5, 1.5),
        ),
    ),
    Table(
        "Eager updates, 2502.12996 (one outer step of delay)",
        (
            Row("delayed, at the synchronous rate", NAIVELY_DELAYED, DILOCO, "+12.7 %", 3.0, INF),
            Row("delayed, lower rate and momentum", DELAYED, DILOCO, "+2.2 %", -1.0, 20.0),
            Row("the paper's estimate, lower rate and momentum", PAPER_EAGER, DILOCO, "+0.7 %", -1.0, 20.0),
            Row("eager as it ships, lower rate", EAGER, DILOCO, "+0.7 %", -1.0, 2.0, loss, True),
            Row(
                "the same with two outer steps of delay, half the rate",
                Arm(ahead="eager", lr=0.2, delay=2),
                DILOCO,
                "a little more",
                -1.0,
                10.0,
            ),
            Order(
                "synchronous, eager as it ships, the paper's, delayed, naively delayed",
                (DILOCO, EAGER, PAPER_EAGER, DELAYED, NAIVELY_DELAYED),
                "2.67, 2.69, 2.73, 3.01",
                0.3,
            ),
        ),
        "Any delay costs a small model more, and 50 rounds are few for an outer momentum that has to be"
        " lower: with 1.0 M parameters and 100 rounds eager costs about half as much (below).",
    ),
    Table(
        "Asynchronous Local-SGD, 2401.09135 (as many inner steps in all, rates tuned)",
        (
            Row(
                "Nesterov on each arrival, very unequal speeds",
                AsyncArm("naive", "very", lr=0.3),
                SYNC_VERY,
                "+7.1 %",
                2.0,
                INF,
                perplexity,
                True,
            ),
            Row(
                "delayed Nesterov and phases by speed, very unequal",
                AsyncArm("dn", "very", lr=0.3),
                SYNC_VERY,
                "-0.5 %",
                -INF,
                8.0,
                perplexity,
            ),
            Row("as it ships, very unequal", ASYNC_VERY, SYNC_VERY, "-0.5 %", -INF, 2.0, perplexity, True),
            Row(
                "as it ships, equal speeds",
                ASYNC_NONE,
                AsyncArm("sync", "none"),
                "-0.2 %",
                -INF,
                2.0,
                perplexity,
            ),
            Order(
                "as it ships, delayed Nesterov, Nesterov on each arrival",
                (ASYNC_VERY, AsyncArm("dn", "very", lr=0.3), AsyncArm("naive", "very", lr=0.3)),
                "41.3, 41.3, 44.3",
            ),
        ),
        "Delayed Nesterov is the paper's rule, which is not shipped. Its four workers take steps of an "
        "N that is fixed; at the best rate of a sweep with one seed it is far better than Nesterov on "
        "each arrival, and behind ours.",
    ),
    Table(
        "Rounds that don't wait for everybody: DBW, 2102.06280, and FedFix, 2206.10189 (in equal time)",
        (
            Row(
                "as many as learn most per second, against everybody",
                TimedArm("dbw"),
                TimedArm("all"),
                "faster",
                -INF,
                -3.0,
                perplexity,
            ),
            Row(
                "fixed periods, against everybody",
                TimedArm("period"),
                TimedArm("all"),
                "faster",
                -INF,
                -3.0,
                perplexity,
            ),
            Row(
                "each its own text: weights by attendance, against by tokens alone",
                TimedArm("period", shuffled=False, attendance=True),
                TimedArm("period", shuffled=False),
                "less biased",
                -INF,
                8.0,
                perplexity,
            ),
        ),
    ),
    Table(
        "Photon, 2411.02908",
        (
            Row(
                "128 local steps, a quarter of the batch, plain averaging, against the whole batch centrally",
                Arm(steps=128, rounds=8, batch=2, lr=1.0, beta=0.0),
                Arm(workers=1, steps=128, rounds=8, lr=1.0, beta=0.0),
                "better",
                -INF,
                18.0,
                perplexity,
            ),
        ),
    ),
    Table(
        "MuLoCo, 2505.23725 (real daemons)",
        (
            Row(
                "Muon inside, 2 bit with error feedback, against AdamW inside, fp32",
                MULOCO,
                DILOCO,
                "lower",
                -INF,
                0.0,
            ),
            Row(
                "2 bit with error feedback, against fp32",
                MULOCO,
                RealArm(("--optimizer", "muon", "--outer-lr", "0.8", *EXACT), optimizer="muon"),
                "near 0",
                -0.5,
                1.0,
            ),
        ),
    ),
    Table(
        "Four real daemons in each mode, against the stacked replicas",
        (
            Row("DiLoCo", RealArm(("--outer-lr", "0.7", *EXACT)), DILOCO, "the same", -0.3, 0.3),
            Row(
                "streaming, up to 5 steps of overlap",
                RealArm(("--mode", "streaming", *REAL_STREAM, *EXACT)),
                replace(STREAM, tau=5),
                "the same",
                -3.0,
                1.0,
            ),
            Row("eager", RealArm(("--mode", "eager", *EXACT)), EAGER, "the same", -1.0, 1.0),
            Row("asynchronous", RealArm(("--mode", "async", *EXACT)), ASYNC_NONE, "the same", -1.0, 2.0),
        ),
        "DiLoCo, streaming and eager lose what the replicas lose, to the digits shown. Asynchronous windows "
        "go by the clock of a machine that four daemons share, those of the replicas by virtual time; with "
        "other work beside them the same run came to +2.0 %.",
    ),
    Table(
        "Toward the papers' size: 1.0 M parameters, 100 rounds, one seed",
        (
            Trend("50 % of contributions dropped", LOSSY, FAR, "+2.1 %", perplexity),
            Trend("eager as it ships", EAGER, DILOCO, "+0.7 %"),
            Trend("delayed, lower rate and momentum", DELAYED, DILOCO, "+2.2 %"),
            Trend("streaming, 5 steps of overlap", replace(STREAM, tau=5), STREAM, "< 0.2 %"),
            Trend("the same, half of what is local stays", replace(STREAM, tau=5, mix=0.5), STREAM, "best"),
            Trend("SparseLoCo", SPARSE, DILOCO, "at most 0 %"),
            Trend(
                "4 workers against one, as many tokens in all",
                DILOCO,
                WHOLE,
                "+2.0 %, shrinking with the model",
            ),
        ),
        "What is lost is lost: with half of all contributions gone, half of all tokens are. A model of "
        "0.1 M is limited by its size and hardly minds; one of 1.0 M still learns steeply after 100 "
        "rounds, and does. Work that is kept for the next round instead (`--missed keep`, one seed) "
        "costs 11.2 % in the small setting and 11.8 % in the larger one. The paper's 2.1 % are those of"
        " 150 M parameters after 500 rounds.",
    ),
)
