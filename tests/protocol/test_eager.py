"""Eager updates: the start is an outer step."""

from __future__ import annotations

import numpy as np

from atoll.protocol.modes.eager import eager_start
from atoll.protocol.outer import outer_step

N, LR, BETA = 1000, 0.4, 0.9


def vectors(seed: int, count: int) -> list[np.ndarray]:
    chance = np.random.default_rng(seed)
    return [chance.standard_normal(N).astype(np.float32) for _ in range(count)]


def test_the_start_is_the_outer_step_with_ones_own_pseudo_gradient_bit_for_bit() -> None:
    committed, momentum, fresh = vectors(1, 3)
    out = np.empty_like(committed)
    before = committed.copy(), momentum.copy(), fresh.copy()
    eager_start(committed, momentum, fresh, LR, BETA, out)
    for vector, was in zip((committed, momentum, fresh), before, strict=True):
        assert np.array_equal(vector, was)
    outer_step(committed, momentum, fresh, LR, BETA, np.empty_like(committed))
    assert out.tobytes() == committed.tobytes()


def test_alone_the_start_is_the_next_commit() -> None:
    """With one worker nothing is estimated: eager and blocking take the same steps."""
    committed, momentum, *deltas = vectors(2, 8)
    start = np.empty_like(committed)
    for fresh in deltas:
        eager_start(committed, momentum, fresh, LR, BETA, start)
        outer_step(committed, momentum, fresh, LR, BETA, np.empty_like(committed))
        assert np.array_equal(start, committed)
