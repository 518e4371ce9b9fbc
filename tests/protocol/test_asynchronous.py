"""Delayed Nesterov against the paper's own algorithm, and phases by speed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.modes.asynchronous import (
    delayed_nesterov_step,
    inner_steps_by_speed,
    shared_nesterov_step,
    under_trained,
)
from atoll.protocol.outer import outer_step

LR, BETA, N = 0.3, 0.9, 64


@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_it_is_algorithm_3_with_its_buffer(window: int) -> None:
    chance = np.random.default_rng(window)
    theta, m, delta = chance.standard_normal(N), np.zeros(N), np.zeros(N)
    parameters, momentum = theta.astype(np.float32), np.zeros(N, np.float32)
    for arrival in range(3 * window + 2):
        g = chance.standard_normal(N).astype(np.float32)
        delayed_nesterov_step(parameters, momentum, g, arrival, window, LR, BETA, np.empty_like(g))
        delta += g
        if (arrival + 1) % window == 0:
            m = BETA * m + delta / window
            theta = theta - LR * (BETA * m + g / window)
            delta = np.zeros(N)
        else:
            theta = theta - LR * g / window
        assert np.allclose(parameters, theta, atol=1e-5)


def test_with_a_window_of_one_it_is_nesterov() -> None:
    chance = np.random.default_rng(1)
    one, other = (np.ones(N, np.float32) for _ in range(2))
    m1, m2, scratch = (np.zeros(N, np.float32) for _ in range(3))
    for arrival in range(5):
        g = chance.standard_normal(N).astype(np.float32)
        delayed_nesterov_step(one, m1, g, arrival, 1, LR, BETA, scratch)
        outer_step(other, m2, g, LR, BETA, scratch)
    assert np.allclose(one, other, atol=1e-6) and np.allclose(m1, m2, atol=1e-6)


def test_the_papers_toy_speeds() -> None:
    """Section 4's devices, in seconds per step."""
    assert inner_steps_by_speed([1 / s for s in (0.58, 0.75, 1.51, 3.33)], 50) == (50, 38, 19, 8)
    assert inner_steps_by_speed([1.0, 1e-9], 50) == (50, 1)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8), st.data())
def test_shards_are_read_where_least_was_trained(sizes: list[int], data: st.DataObject) -> None:
    trained = data.draw(st.lists(st.integers(0, 10**9), min_size=len(sizes), max_size=len(sizes)))
    likely = under_trained(sizes, trained)
    assert abs(sum(likely) - 1) < 1e-6 and min(likely) >= 0
    level = under_trained(sizes, sizes)
    assert np.allclose(level, np.array(sizes) / sum(sizes))


def test_a_shard_that_had_more_than_its_part_is_not_read() -> None:
    assert under_trained([100, 100], [10, 0]) == (0.0, 1.0)
    assert under_trained([300, 100], [0, 0]) == (0.75, 0.25)


def test_all_at_once_are_one_nesterov_step_bit_for_bit() -> None:
    chance = np.random.default_rng(4)
    theta, v, mean = (chance.standard_normal(N).astype(np.float32) for _ in range(3))
    other, other_v, scratch = theta.copy(), v.copy(), np.empty_like(theta)
    shared_nesterov_step(theta, v, mean, 1.0, LR, BETA, scratch)
    outer_step(other, other_v, mean, LR, BETA, scratch)
    assert theta.tobytes() == other.tobytes() and v.tobytes() == other_v.tobytes()


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_shares_of_all_are_about_one_step(count: int) -> None:
    """Of equal pseudo-gradients; momentum decays nearly as much, and is applied once in all."""
    chance = np.random.default_rng(count)
    theta, v, mean = (chance.standard_normal(N).astype(np.float32) for _ in range(3))
    other, other_v, start, scratch = theta.copy(), v.copy(), theta.copy(), np.empty_like(theta)
    outer_step(other, other_v, mean, LR, BETA, scratch)
    for _ in range(count):
        shared_nesterov_step(theta, v, mean, 1 / count, LR, BETA, scratch)
    assert np.linalg.norm(v - other_v) < 0.06 * np.linalg.norm(other_v)
    assert np.linalg.norm(theta - other) < 0.25 * np.linalg.norm(other - start)


def test_it_leaves_the_mean_alone() -> None:
    theta, v, mean = (np.full(N, x, np.float32) for x in (1.0, 2.0, 3.0))
    shared_nesterov_step(theta, v, mean, 0.5, 0.5, 0.5, np.empty_like(theta))
    assert (mean == 3.0).all()
    # v = 0.75 · 2 + 0.5 · 3 = 3; θ = 1 − 0.25 · (3 + 0.5 · 3)
    assert (v == 3.0).all() and (theta == -0.125).all()
