"""What updates tell: on a small model each look finds what it should, and noise hides it."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.daemon.training import leak
from atoll.daemon.training.corpus import builtin_corpus
from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten
from atoll.daemon.training.inner import InnerConfig
from atoll.daemon.training.model import GPT, GPTConfig, initialise

SMALL = GPTConfig(layers=1, width=32, heads=2, context=16)
TEXT = list(b"Now is the winter")


@pytest.fixture(scope="module")
def about():
    model = GPT(SMALL)
    initialise(model, 1)
    schema, parameters = flatten(model)
    return SMALL, schema, parameters


def test_the_rows_of_one_step_name_the_bytes_of_its_example(about) -> None:
    found = leak.rows(about[1], leak.gradient(*about, TEXT), TEXT)
    assert found.held == len(set(TEXT)) == found.found and found.by_chance < 1
    blind = np.random.default_rng(0).standard_normal(len(about[2]), dtype=np.float32)
    assert leak.rows(about[1], blind, TEXT).found < found.held / 2


def test_the_rank_of_one_step_is_the_length_of_its_example(about) -> None:
    assert leak.rank(about[1], leak.gradient(*about, TEXT[:9])) == 8
    assert leak.rank(about[1], leak.gradient(*about, TEXT)) == 16


def test_a_phase_of_many_steps_is_what_the_inner_optimizer_makes(about) -> None:
    windows, inner = Windows.of(builtin_corpus()[:4000], SMALL.context), InnerConfig(batch=2, micro_batch=2)
    update, seen = leak.phase(*about, windows, inner, 3, 7)
    again, _ = leak.phase(*about, windows, inner, 3, 7)
    assert np.array_equal(update, again) and np.linalg.norm(update) > 0
    assert set(seen) <= set(builtin_corpus()[:4000]) and len(set(seen)) > 5
    assert not np.array_equal(leak.phase(*about, windows, inner, 3, 8)[0], update)


def test_matching_finds_most_of_an_example_and_nothing_in_noise(about) -> None:
    exact = leak.gradient(*about, TEXT)
    found = leak.match(*about, exact, TEXT, 80, 1)
    assert found.at_all >= 14 and found.in_place > found.by_chance and found.text == bytes(TEXT)
    assert leak.match(*about, exact, TEXT, 80, 1) == found, "the same seed finds the same"
    noise = np.random.default_rng(1).standard_normal(exact.size, dtype=np.float32)
    blurred = exact + np.float32(np.linalg.norm(exact)) * noise
    hidden = leak.match(*about, blurred, TEXT, 80, 1)
    assert hidden.at_all <= found.at_all - 5 and hidden.in_place <= hidden.by_chance + 1


def test_a_guess_is_judged_by_place_and_by_letters() -> None:
    judged = leak.judged(b"abca", b"acbb")
    assert (judged.in_place, judged.at_all, judged.by_chance) == (1, 3, 2)
