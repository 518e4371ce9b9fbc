"""Eager updates: going on before the average is here (2502.12996).

While the contributions of a phase are on their way, a worker takes the outer step on an estimate of their
mean, and trains the next phase from there. The committed parameters follow the exact mean all the time; the
estimate is of the starting point of one worker's next phase alone, and what that phase changed is measured
against it.

The paper's estimate is the mean of the phase before with the worker's own part renewed, applied to the
worker's own outer parameters, which drift. Here the exact outer parameters and momentum are known up to the
phase before, so the others' part is the momentum, and the worker's fresh pseudo-gradient stands for the mean.
"""

from __future__ import annotations

import numpy as np

from atoll.protocol.outer import Float32

EAGER = "eager"
DELAYED = "delayed"
"""Modes; the second begins at the committed parameters as they are, a phase old."""


def eager_start(
    committed: Float32, momentum: Float32, fresh: Float32, lr: float, beta: float, out: Float32
) -> None:
    """out = the outer step from `committed` as if `fresh` were the mean; all [n] fp32.

    `committed`, `momentum`: the outer state that the last commit made, left as they are; `fresh`: this
    worker's pseudo-gradient since (old minus new parameters); `lr`, `beta` of the outer step.
    """
    lr32, beta32 = np.float32(lr), np.float32(beta)
    np.multiply(momentum, beta32, out=out)
    np.add(out, fresh, out=out)
    np.multiply(out, beta32, out=out)
    np.add(out, fresh, out=out)
    np.multiply(out, lr32, out=out)
    np.subtract(committed, out, out=out)
