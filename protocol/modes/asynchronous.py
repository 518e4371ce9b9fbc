"""Asynchronous Local-SGD: an outer step at each arrival, and phases as long as a worker is fast (2401.09135).

Nesterov on each arrival overshoots: the same momentum is applied by every worker in turn. Delayed Nesterov
(algorithm 3, with c = 0) applies each pseudo-gradient at once, and momentum once in N arrivals. What a swarm
does is `shared_nesterov_step`: each arrival of N decays and applies the N-th part of the momentum. That needs
no count of arrivals, so N may change at any time; with all N at once it is the synchronous step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atoll.protocol.outer import Float32

ASYNC = "async"
"""The mode."""
ROUND = 1 << 16
"""Progress in a chain of small commits: contributions of all who train make so much together."""
SLOWEST = 8
"""Phases by speed are at most so many times shorter."""


def inner_steps_by_speed(speeds: Sequence[float], steps: int) -> tuple[int, ...]:
    """DyLU (section 4): inner steps of each worker, so that all arrive together; the fastest takes `steps`.

    `speeds` in steps per second, all above 0.
    """
    fastest = max(speeds)
    return tuple(max(1, int(steps * speed / fastest)) for speed in speeds)


def shared_nesterov_step(
    parameters: Float32,
    momentum: Float32,
    mean: Float32,
    share: float,
    lr: float,
    beta: float,
    scratch: Float32,
) -> None:
    """The outer step for a `share` of those who train, in place; all [n] fp32, `scratch` is overwritten.

        v ← (1 − s·(1 − m))·v + s·d ;  θ ← θ − s·lr·(d + m·v)

    `mean`: d, of those `share` = s in (0, 1] whose pseudo-gradients have come; `beta`: m. Coefficients are
    fp64, rounded to fp32 once; every product and sum of values is rounded on its own, as in `outer_step`.
    """
    np.multiply(momentum, np.float32(1.0 - share * (1.0 - beta)), out=momentum)
    np.multiply(mean, np.float32(share), out=scratch)
    np.add(momentum, scratch, out=momentum)
    np.multiply(momentum, np.float32(beta), out=scratch)
    np.add(mean, scratch, out=scratch)
    np.multiply(scratch, np.float32(share * lr), out=scratch)
    np.subtract(parameters, scratch, out=parameters)
