"""Delayed Nesterov and the eager estimate, against the papers' own algorithms."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.protocol.outer import outer_step
from benchmarks.papers.alternatives import delayed_nesterov_step, eager_estimate

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


def test_the_papers_estimate_is_the_mean_where_the_others_do_as_before() -> None:
    chance = np.random.default_rng(3)
    old, others, fresh = (chance.standard_normal(N).astype(np.float32) for _ in range(3))
    mean = (old + 3 * others) / np.float32(4)
    out = np.empty_like(mean)
    eager_estimate(mean, fresh, old, 0.25, out)
    assert np.allclose(out, (fresh + 3 * others) / 4, atol=1e-6)
    eager_estimate(mean, fresh, old, 0.0, out)
    assert np.array_equal(out, mean)
