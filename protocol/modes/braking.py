"""Adaptive Braking of stale contributions (2007.01397), tensor by tensor as HeLoCo has it (2606.00271).

A pseudo-gradient that was measured against older parameters mostly points where the outer momentum has gone
meanwhile. Applied whole, it goes there a second time; so the part along the momentum is taken back:

    d ← d · (1 − ρ · cos(d, v))

What agrees with the momentum v gets shorter, what opposes it longer, and what is new to it stays.
"""

from __future__ import annotations

import numpy as np

from atoll.protocol.outer import Float32


def brake(fresh: Float32, momentum: Float32, rho: float) -> None:
    """Scales `fresh`, one tensor's pseudo-gradient [n] fp32, in place; `rho` in [0, 1)."""
    lengths = float(np.linalg.norm(fresh)) * float(np.linalg.norm(momentum))
    if lengths > 0:
        np.multiply(fresh, np.float32(1 - rho * float(np.dot(fresh, momentum)) / lengths), out=fresh)
