"""How many inner steps: the smallest number for which a synchronisation costs no more than it may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.modes.period import FEWEST, MOST, choose_inner_steps


@given(st.floats(0, 1e5), st.floats(1e-3, 1e3), st.floats(0.01, 1))
def test_it_is_the_smallest_that_is_cheap_enough(sync_s: float, step_s: float, overhead: float):
    number = choose_inner_steps(sync_s, step_s, overhead).number
    assert FEWEST <= number <= MOST
    if number < MOST:
        assert sync_s <= overhead * number * step_s * (1 + 1e-6)
    if number > FEWEST:
        assert sync_s > overhead * (number - 1) * step_s * (1 - 1e-6)


def test_the_sentence_says_why():
    assert choose_inner_steps(20, 1.0).sentence == (
        "200 inner steps, the smallest number for which it is at most 10 %: "
        "a synchronisation of 20 s is 10 % of their time."
    )
    few, many = choose_inner_steps(0.5, 1.0, 0.05), choose_inner_steps(57, 1.0)
    assert few.number == FEWEST and "the fewest" in few.sentence and "1.67 %" in few.sentence
    assert many.number == MOST and "only 570 would bring that to 10 %" in many.sentence


@pytest.mark.parametrize(
    "wrong", [(-1, 1, 0.1), (1, 0, 0.1), (1, 1, 0), (1, 1, 2), (float("nan"), 1, 0.1), (1, float("inf"), 0.1)]
)
def test_nonsense_is_refused(wrong: tuple[float, float, float]):
    with pytest.raises(ValueError, match="no inner steps"):
        choose_inner_steps(*wrong)
