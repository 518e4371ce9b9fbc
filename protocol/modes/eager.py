"""Eager updates: going on before the average is here (2502.12996, section 3).

While the contributions of a phase are on their way, a worker takes the outer step on an estimate of their
mean: the mean of the phase before, with its own part replaced by the fresh one. The next phase starts there.
The committed parameters follow the exact mean; the estimate is of the trainer's starting point alone.
"""

from __future__ import annotations

import numpy as np

from atoll.protocol.outer import Float32


def eager_estimate(mean: Float32, fresh: Float32, stale: Float32, share: float, out: Float32) -> None:
    """out = mean + share · (fresh − stale); all [n] fp32, `out` may be `stale`.

    `mean`: of the phase before; `stale`: this worker's contribution to it; `fresh`: its contribution now;
    `share`: its part of the mean, 1/M among M equal ones. With a `share` of 0 the mean is delayed by a
    phase (the paper's delayed variant).
    """
    np.subtract(fresh, stale, out=out)
    np.multiply(out, np.float32(share), out=out)
    np.add(mean, out, out=out)
