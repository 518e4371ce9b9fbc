"""Whatever is given, what comes out has the form of the interface."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.web_ui.round_types import Round, Rounds
from atoll.web_ui.shapes import MAX_ITEMS, MAX_TEXT, empty, fields, fit
from atoll.web_ui.state_types import Peer, State

from .fake_node import FakeNode, make_state
from .schema import problems

SHAPES = {"State": State, "Peer": Peer, "Round": Round, "Rounds": Rounds}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_one_has_the_form(name: str) -> None:
    assert problems(empty(SHAPES[name]), name) == []


def test_what_fits_stays() -> None:
    state = make_state(9)
    assert fit(state, State) == state
    rounds = FakeNode().rounds(0, 10)
    assert fit(rounds, Rounds) == rounds


@given(st.data())
def test_whatever_is_given_has_the_form_afterwards(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    shape = SHAPES[name]
    given_value: Any = data.draw(
        anything | st.fixed_dictionaries({}, optional={field: anything for field in fields(shape)})
    )
    assert problems(fit(given_value, shape), name) == []


def test_it_is_bounded() -> None:
    assert len(fit(["x"] * 10_000, list[str])) == MAX_ITEMS
    assert len(fit("x" * 10_000, str)) == MAX_TEXT
    assert fit(10**400, int) == 0 and fit(10**400, float) == 0.0
    assert fit(2**60, int) == 0 and fit(float("nan"), float | None) is None and fit(True, int) == 0
    assert [fit(value, str | int | bool) for value in ("x", 3, True, None)] == ["x", 3, True, ""]
    assert fit({"a": 1, "b": "x"}, dict[str, int]) == {"a": 1, "b": 0}
