"""Swarms of which every node is against some commits, and believes no few: all holds, and all end as one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from atoll.daemon.simulate import chaos, scenario
from atoll.daemon.simulate.engine import Engine

pytestmark = pytest.mark.usefixtures("one_thread")
SLICE = 15


@pytest.mark.parametrize("refusing", [0.1, 0.4])
@pytest.mark.parametrize("first", [1, 16, 31])
def test_refusals_break_no_invariant(first: int, refusing: float):
    outcomes = Counter[str]()
    for seed in range(first, first + SLICE):
        plan = replace(scenario.draw(Engine(seed).random), refusing=refusing, liar=None)
        outcomes.update(chaos.run(seed, plan=plan).outcomes)
    assert outcomes["certified"] and outcomes["aborted"]
