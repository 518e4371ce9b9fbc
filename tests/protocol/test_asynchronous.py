"""Phases by speed, and outer steps that are shared by those who arrive."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.protocol.modes.asynchronous import (
    inner_steps_by_speed,
    shared_nesterov_step,
)
from atoll.protocol.outer import outer_step

LR, BETA, N = 0.3, 0.9, 64


def test_the_papers_toy_speeds() -> None:
    """Section 4's devices, in seconds per step."""
    assert inner_steps_by_speed([1 / s for s in (0.58, 0.75, 1.51, 3.33)], 50) == (50, 38, 19, 8)
    assert inner_steps_by_speed([1.0, 1e-9], 50) == (50, 1)


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
