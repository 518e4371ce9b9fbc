"""Whether results are voted for, by what a member learned itself."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from atoll.protocol.judgement import Look, accused, against, times_longer

Vectors = npt.NDArray[np.float64]
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


def rounds(seed: int, members: int = 12, chunks: int = 24, values: int = 24) -> tuple[Vectors, Vectors]:
    """One member's own pseudo-gradient and the mean of all, chunk by chunk; the others' have no direction."""
    rng = np.random.default_rng(seed)
    each = rng.standard_normal((members, chunks, values))
    return each[0], each.mean(0)


def beside(own: Vectors, result: Vectors) -> dict[int, Look]:
    return looks(*(Look(float(a @ b), float(a @ a), float(b @ b)) for a, b in zip(own, result, strict=True)))


def test_a_mean_that_has_a_members_own_in_it_is_voted_for_and_one_turned_about_is_not() -> None:
    """Of honest members who have nothing in common: some chunks point away all the same."""
    away = 0
    for seed in range(200):
        own, mean = rounds(seed)
        seen = beside(own, mean)
        away += any(look.against for look in seen.values())
        assert against(seen, len(seen)) == "", f"seed {seed}"
        assert against(beside(own, -mean), len(seen)), f"seed {seed}"
        half = np.where(np.arange(len(mean))[:, None] % 3 > 0, -mean, mean)
        assert against(beside(own, half), len(seen)), f"seed {seed}: two thirds of it"
    assert away > 100
