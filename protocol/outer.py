"""The outer step: Nesterov SGD on the averaged pseudo-gradient, the same bits on every machine.

DiLoCo (arXiv 2311.08105, algorithm 1; Nesterov as in torch's SGD without dampening):
    v ← m·v + d ;  θ ← θ − lr·(d + m·v)
Every product and sum is rounded to fp32 on its own, in this order: numpy's elementwise kernels do no
fused multiply-add across calls, so a node with AVX-512 and one with NEON agree bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def outer_step(
    parameters: Float32, momentum: Float32, mean: Float32, lr: float, beta: float, scratch: Float32
) -> None:
    """Applies one step in place to `parameters` and `momentum`; all [n] fp32, `scratch` is overwritten.

    `mean` is the decoded average pseudo-gradient (old minus new parameters), `lr` and `beta` are rounded
    to fp32 first.
    """
    lr32, beta32 = np.float32(lr), np.float32(beta)
    np.multiply(momentum, beta32, out=momentum)
    np.add(momentum, mean, out=momentum)
    np.multiply(momentum, beta32, out=scratch)
    np.add(mean, scratch, out=scratch)
    np.multiply(scratch, lr32, out=scratch)
    np.subtract(parameters, scratch, out=parameters)
