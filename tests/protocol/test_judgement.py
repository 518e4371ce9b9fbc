"""Whether results are voted for, by what a member learned itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.judgement import Look, accused, against, times_longer

FOR, ASIDE, AWAY = Look(0.5, 1.0, 0.5), Look(0.0, 1.0, 0.0), Look(-0.5, 1.0, 0.5)


def looks(*each: Look) -> dict[int, Look]:
    return dict(enumerate(each))


def test_results_that_go_the_same_way_are_voted_for() -> None:
    assert against(looks(FOR, FOR, AWAY), 3) == ""
    assert against(looks(FOR, ASIDE), 2) == ""
    assert against({}, 3) == "", "nothing is touched"


def test_results_that_point_away_in_most_chunks_are_not() -> None:
    small = Look(-0.01, 1.0, 0.5)
    said = against(looks(FOR, small, small), 3)
    assert said == "its results point against what this node learned in 2 of 3 chunks"
    assert against(looks(FOR, small), 2) == "", "half of them is not most"


def test_a_few_long_results_that_point_away_are_not() -> None:
    said = against(looks(FOR, FOR, FOR, Look(-50.0, 1.0, 2500.0)), 4)
    assert "all chunks together" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_voted_for(value: float) -> None:
    assert against(looks(FOR, FOR, FOR, Look(value, 1.0, 1.0)), 4)
    assert Look(1.0, 1.0, value).against


def test_results_far_longer_than_usual_are_not_voted_for() -> None:
    long = Look(40.0, 1.0, 1600.0)
    assert times_longer([long, long]) == 40
    assert against(looks(long, long), 2) == ""
    assert "40 times as long" in against(looks(long, long), 2, longest=10.0)
    assert against(looks(FOR, FOR), 2, longest=10.0) == ""
    assert times_longer([Look(0.0, 0.0, 1.0)]) is times_longer([Look(0.0, 1.0, math.inf)]) is None


def test_whoever_made_them_is_named() -> None:
    owners = {0: b"a", 1: b"b", 2: b"b", 3: b"c", 4: b"c"}
    seen = looks(FOR, AWAY, ASIDE, AWAY, Look(0.5, 1.0, 0.5))
    assert accused(seen, owners) == (b"b",), "c made as much for as against"
    broken = looks(FOR, FOR, FOR, Look(math.nan, 1.0, 1.0), Look(1.0, 1.0, math.inf))
    assert accused(broken, owners) == (b"c",)


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=40), st.integers(1, 32))
def test_a_mean_that_has_a_members_own_in_it_and_noise_of_no_direction_is_voted_for(
    noise: list[float], members: int
) -> None:
    """Each product is a share of the own length, and what the others add, which here is smaller than that."""
    each = [Look(1 / members + n / (2 * members), 1.0, 1.0) for n in noise]
    assert against(looks(*each), len(each)) == ""
