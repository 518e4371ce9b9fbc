"""Who may send more bits than others: EF21-W's weights as a budget for contributions (2402.10774).

Compressed gradients of node i cost a step as much as its loss is rough: theory weighs each node's error with
L_i / Σ L, the smoothness constant of its loss. So in a round whose codec is narrow the roughest third of the
nodes sends the wide one. L_i is estimated as the paper does, from what two rounds showed,

    L = ‖g(t) − g(t−1)‖ / ‖x(t) − x(t−1)‖

of pseudo-gradients g at outer parameters x, here on a sample of the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atoll.protocol.outer import Float32

PART = 3
"""One in so many nodes."""
EVERY = 61
"""Of so many values one is looked at: prime, so that no column of a matrix is always left out."""


def roughest(roughness: Sequence[float]) -> list[bool]:
    """Which nodes have the wide codec; those of which nothing is known (0) have not."""
    known = [(value, -k) for k, value in enumerate(roughness) if 0 < value < math.inf]
    chosen = {-k for _, k in sorted(known, reverse=True)[: len(roughness) // PART]}
    return [k in chosen for k in range(len(roughness))]


class Roughness:
    """What a node remembers of the last round for its estimate."""

    def __init__(self) -> None:
        self._before: tuple[Float32, Float32] | None = None

    def of(self, gradient: Float32, parameters: Float32) -> float:
        """The estimate from these samples, fp32 [n]; 0 the first time, or where nothing moved."""
        before, self._before = self._before, (gradient.copy(), parameters.copy())
        if before is None:
            return 0.0
        moved = float(np.linalg.norm(parameters - before[1]))
        return float(np.linalg.norm(gradient - before[0])) / moved if moved > 0 else 0.0
