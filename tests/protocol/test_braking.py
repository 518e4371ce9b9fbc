"""Stale contributions are scaled by how far they go where the momentum has gone."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.protocol.modes.braking import brake


@pytest.mark.parametrize(
    ("momentum", "factor"),
    [((3, 0), 0.5), ((-3, 0), 1.5), ((0, 9), 1.0), ((1, 1), 1 - 0.5 / 2**0.5), ((0, 0), 1.0)],
)
def test_along_the_momentum_it_is_shorter_and_against_it_longer(
    momentum: tuple[float, float], factor: float
) -> None:
    fresh, v = np.array([2, 0], np.float32), np.array(momentum, np.float32)
    brake(fresh, v, 0.5)
    assert fresh == pytest.approx([2 * factor, 0])
    assert (v == momentum).all()


def test_nothing_stays_nothing() -> None:
    fresh = np.zeros(3, np.float32)
    brake(fresh, np.ones(3, np.float32), 0.9)
    assert not fresh.any()
