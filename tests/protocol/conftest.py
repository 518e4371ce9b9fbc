"""Machines in a session, for the tests of single machines."""

import pytest

from .bench import FIRST, SECOND, THIRD, Bench, frames


@pytest.fixture
def member() -> Bench:
    """SECOND, ready, in the session of FIRST."""
    bench = Bench(SECOND)
    bench.local()
    bench.planned()
    return bench


@pytest.fixture
def leader() -> Bench:
    """FIRST, in its own session with everyone."""
    bench = Bench(FIRST)
    bench.local()
    bench.ready(SECOND)
    assert frames(bench.ready(THIRD), "plan")
    return bench
