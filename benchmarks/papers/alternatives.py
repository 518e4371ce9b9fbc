"""What papers do where the product does something else, for tables that compare the two. Pure functions."""

from __future__ import annotations

import numpy as np

from atoll.protocol.outer import Float32


def delayed_nesterov_step(
    parameters: Float32,
    momentum: Float32,
    arrived: Float32,
    arrival: int,
    window: int,
    lr: float,
    beta: float,
    scratch: Float32,
) -> None:
    """The step for one pseudo-gradient, in place; all [n] fp32, `scratch` is overwritten.

    `arrival`: its number in the run, from 0; momentum is applied with the last of each `window`. Between, the
    momentum vector holds the decayed one and what has arrived of the window, so there is no other buffer.
    """
    lr32, beta32 = np.float32(lr), np.float32(beta)
    place = arrival % window
    if place == 0:
        np.multiply(momentum, beta32, out=momentum)
    np.divide(arrived, np.float32(window), out=scratch)
    np.add(momentum, scratch, out=momentum)
    if place == window - 1:
        np.add(scratch, beta32 * momentum, out=scratch)
    np.multiply(scratch, lr32, out=scratch)
    np.subtract(parameters, scratch, out=parameters)


def eager_estimate(mean: Float32, fresh: Float32, stale: Float32, share: float, out: Float32) -> None:
    """The paper's estimate of the mean: out = mean + share · (fresh − stale); all [n] fp32.

    `mean`: of the phase before; `stale`: this worker's contribution to it; `fresh`: its contribution now;
    `share`: its part of the mean, 1/M among M equal ones. With a `share` of 0 the mean is delayed by a phase.
    `out` may be `stale`.
    """
    np.subtract(fresh, stale, out=out)
    np.multiply(out, np.float32(share), out=out)
    np.add(mean, out, out=out)
