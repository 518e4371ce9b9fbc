"""ROUND's ten mutants, each alone: the simulator finds it with this seed, and the seed is fine without it."""

from __future__ import annotations

import pytest

from atoll.daemon.simulate import chaos
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.simulate.mutants import MUTANTS

SEEDS = {
    "a vote sent before fsync": 1,
    "world size read before the retry": 6,
    "missing parent digest in the session": 35,
    "error feedback cleared on abort": 4,
    "rebase applied twice": 1,
    "owner index by original rank": 2,
    "a lower view accepted": 7,
    "contributions double-counted after succession": 3,
    "provisional beating certified": 3,
    "unbounded replay log": 1,
}
"""The first of the seeds from 1 on that finds each."""


def test_all_ten_have_a_seed():
    assert len(MUTANTS) == 10 and SEEDS.keys() == MUTANTS.keys()


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_found(name: str):
    plant, kind = MUTANTS[name]
    with plant(), pytest.raises(Violation) as caught:
        chaos.run(SEEDS[name])
    assert caught.value.kind == kind, caught.value
    chaos.run(SEEDS[name])
