"""How many inner steps a round has, chosen by what a synchronisation costs. Pure.

Fewer inner steps learn a little more for each token (DiLoCo, 2311.08105: H = 1000 costs 2.9 % of perplexity
against H = 50; scaling laws, 2503.09799: the loss rises slowly with H), and more of them hide a slow line. So
H is the smallest for which a synchronisation takes no more than a given part of the inner steps' time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FEWEST, MOST = 30, 500
"""Inner steps: the range in which the papers found the loss to depend little on H."""
OVERHEAD = 0.1
"""Of the inner steps' time, what a synchronisation may take."""
_ROUNDING = 1e-9
"""Quotients that are whole but for the last bits of a float are whole."""


@dataclass(frozen=True)
class InnerSteps:
    """A choice: `number` of inner steps in a round, and the sentence that explains it."""

    number: int
    sentence: str


def choose_inner_steps(sync_s: float, step_s: float, overhead: float = OVERHEAD) -> InnerSteps:
    """The smallest H from FEWEST to MOST with `sync_s` ≤ `overhead` · H · `step_s`, or MOST.

    `sync_s`: seconds in which a round's synchronisation keeps a node from computing; `step_s`: of one inner
    step. Raises ValueError unless sync_s ≥ 0, step_s > 0 and 0 < overhead ≤ 1, all finite.
    """
    if not (0 <= sync_s < math.inf and 0 < step_s < math.inf and 0 < overhead <= 1):
        raise ValueError(f"no inner steps for {sync_s} s, {step_s} s a step and an overhead of {overhead}")
    needed = math.ceil(sync_s / (overhead * step_s) * (1 - _ROUNDING))
    number = min(max(needed, FEWEST), MOST)
    costs = f"a synchronisation of {sync_s:.3g} s is {_percent(sync_s / (number * step_s))} of their time"
    allowed = _percent(overhead)
    if needed > MOST:
        why = f"the most: {costs}, and only {needed} would bring that to {allowed}"
    elif needed < FEWEST:
        why = f"the fewest: {costs}, and {allowed} would be allowed"
    else:
        why = f"the smallest number for which it is at most {allowed}: {costs}"
    return InnerSteps(number, f"{number} inner steps, {why}.")


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
