"""ROUND's ten mutants, each alone: the simulator finds it, and the seed that does is fine without it.

Which seed finds a mutant changes with every change of the machine's messages: the known ones are tried
first, then a short range.
"""

from __future__ import annotations

import pytest

from atoll.daemon.simulate import chaos
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.simulate.mutants import MUTANTS

SEEDS = {
    "a vote sent before fsync": 1,
    "world size read before the retry": 6,
    "missing parent digest in the session": 32,
    "error feedback cleared on abort": 2,
    "rebase applied twice": 1,
    "owner index by original rank": 2,
    "a lower view accepted": 322,
    "contributions double-counted after succession": 4,
    "provisional beating certified": 1,
    "unbounded replay log": 1,
}
"""A seed that finds each, when it was written."""
RANGE = range(1, 601)


def test_all_ten_have_a_seed():
    assert len(MUTANTS) == 10 and SEEDS.keys() == MUTANTS.keys()


def found(name: str, seed: int) -> bool:
    """Whether a seed finds the mutant, by the kind of violation that is expected of it, and nothing else."""
    plant, kinds = MUTANTS[name]
    try:
        with plant():
            chaos.run(seed)
    except Violation as violation:
        return violation.kind in kinds and is_fine(seed)
    return False


def is_fine(seed: int) -> bool:
    """Whether a seed violates nothing without the mutant."""
    try:
        chaos.run(seed)
    except Violation:
        return False
    return True


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_found(name: str):
    seed = next((seed for seed in (SEEDS[name], *RANGE) if found(name, seed)), None)
    assert seed is not None, f"none of {RANGE} finds it"
