"""What a seed stands for: a swarm, and what befalls it. Drawn once, before anything happens."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from atoll.daemon.simulate import liar
from atoll.daemon.simulate.node import Traits
from atoll.daemon.simulate.recovery import TIMING
from atoll.daemon.training.rebase import Missed

QUIET_AT_S = 44.0
"""All faults are over by then."""
KINDS = {
    "kill": 4,
    "power": 3,
    "torn": 2,
    "stall": 3,
    "hang_up": 3,
    "partition": 3,
    "unreachable": 2,
    "slow": 2,
    "full": 2,
    "flip": 1,
    "trainer": 2,
    "duplicates": 3,
    "narrow": 1,
}
"""Kinds of faults and how often each comes."""
KNOWING = ("full", "trainer", "duplicates")
"""Those after which a node still knows where the swarm is, if they are short."""
SHORT_S = TIMING.fresh / 4
"""Beside slow rounds, so long a full disk may keep a node from committing with others."""


@dataclass(frozen=True)
class Fault:
    """At `at_s`, for `for_s`; `nodes` in an order in which the fault takes as many as it needs."""

    at_s: float
    for_s: float
    kind: str
    nodes: tuple[int, ...]
    amount: float


@dataclass(frozen=True)
class Scenario:
    """`starts`: when each node starts first; those after 0 come with empty disks. `gone`: never come back.

    `missed`: the manifest's rule for work that a round did without. `two_level_above`: its threshold.
    `gathers`: contributions are so short that results are made of them. `fragments`: they take turns.
    `ahead`: trainers begin their next phase before the commit, as the eager mode's do. `arrivals`: commits
    are small, of those who arrive together, as in the asynchronous mode. `refusing`: the part of commits that
    each node is against, until the faults are over, in a swarm where members may lie; no seed draws it.
    """

    traits: tuple[Traits, ...]
    starts: tuple[float, ...]
    min_peers: int
    latency_s: tuple[float, float]
    liar: int | None
    lie: str
    gone: frozenset[int]
    faults: tuple[Fault, ...]
    missed: Missed = Missed.RESET
    two_level_above: int = 32
    gathers: bool = False
    fragments: int = 1
    ahead: bool = False
    arrivals: bool = False
    refusing: float = 0.0

    @property
    def size(self) -> int:
        return len(self.traits)


def draw(chance: random.Random, kinds: tuple[str, ...] | None = None) -> Scenario:
    """A scenario; `kinds`: only these faults (none at all where it is empty)."""
    size = chance.randint(3, 9)
    joiners = chance.choice((0, 0, 1, 1, 2)) if size > 3 else 0
    starts = [0.0] * (size - joiners) + [chance.uniform(2, QUIET_AT_S - 4) for _ in range(joiners)]
    liar_at = chance.randrange(1, size) if size >= 4 and chance.random() < 0.3 else None
    lie = chance.choice(liar.KINDS)
    gone = frozenset(k for k in range(1, size) if chance.random() < 0.05)
    latency = chance.choice(((0.0005, 0.002), (0.005, 0.03), (0.03, 0.12)))
    allowed, longest_s = tuple(KINDS) if kinds is None else kinds, math.inf
    if kinds is not None:
        liar_at, gone = None, frozenset()
    elif liar_at is not None and lie == "state":
        # A node that is alone with a liar, or new, can only believe it: here all know where the swarm is.
        starts, gone, allowed, longest_s = [0.0] * size, frozenset(), KNOWING, SHORT_S
    scenario = Scenario(
        traits=tuple(_traits(chance, latency[1]) for _ in range(size)),
        starts=tuple(starts),
        min_peers=chance.randint(1, max(1, size - joiners - len(gone))),
        latency_s=latency,
        liar=liar_at,
        lie=lie,
        gone=gone,
        faults=tuple(_faults(chance, size, allowed, longest_s)),
        missed=chance.choice((Missed.KEEP, Missed.RESET)),
    )
    # The last draws: half of the swarms that are big enough have rounds with two levels, a third gathers, and
    # two in five have more than one fragment. Of those that may a quarter trains ahead, and one has small
    # commits.
    scenario = replace(scenario, two_level_above=chance.choice((3, 32)))
    scenario = replace(scenario, gathers=chance.random() < 1 / 3)
    scenario = replace(scenario, fragments=chance.choice((1, 1, 1, 2, 4)))
    may = scenario.fragments == 1 and scenario.missed is Missed.KEEP
    scenario = replace(scenario, ahead=may and chance.random() < 0.5)
    if scenario.ahead and chance.random() < 0.5:
        return replace(scenario, ahead=False, arrivals=True)
    return scenario


def _traits(chance: random.Random, latency_s: float) -> Traits:
    # A round is long beside a round trip, as in life: or nobody could ever catch up.
    inner = chance.uniform(0.4, 1.0) + 5 * latency_s
    speed = 10 ** chance.uniform(4.5, 6.5)
    return Traits(
        inner_s=(inner, 1.3 * inner),
        work_s=(0.005, chance.choice((0.02, 0.1))),
        upload_bps=speed,
        download_bps=speed * chance.uniform(1, 8),
        interval=chance.choice((1, 1, 3)),
    )


def _faults(chance: random.Random, size: int, allowed: tuple[str, ...], longest_s: float) -> list[Fault]:
    at = chance.uniform(0.5, 4)
    faults = []
    while allowed and at < QUIET_AT_S - 2:
        weights = [KINDS[kind] for kind in allowed]
        nodes = list(range(size))
        chance.shuffle(nodes)
        faults.append(
            Fault(
                at_s=at,
                for_s=min(_duration(chance), QUIET_AT_S - at, longest_s),
                kind=chance.choices(allowed, weights)[0],
                nodes=tuple(nodes),
                amount=chance.random(),
            )
        )
        at += chance.expovariate(1 / 2.5)
    return faults


def _duration(chance: random.Random) -> float:
    return chance.choice((0.3, 1, 3, 6, 13)) * chance.uniform(0.7, 1.3)
