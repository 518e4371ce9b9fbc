"""Whether a member votes for the results of a session: not where they undo what it learned itself. Pure.

What a majority signs is the next state, whoever led, and audits come after it. So before it votes, a member
lays its own pseudo-gradient beside the results. An honest mean has it in it, or those of others who learned
from the same parameters: over whole chunks such vectors point the same way, the less so the more the texts
differ, but hardly ever against each other. A member is against results that point away from its own in most
chunks or all together, that are not finite, or that are, beside its own, many times longer than is usual.

What this does not prove: results that point nowhere, or only a little aside, are voted for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """The result of one chunk, decoded, beside the member's own pseudo-gradient of it."""

    product: float
    """Their inner product."""
    own: float
    """Squared Euclidean length of the own one,"""
    result: float
    """and of the result."""

    @property
    def against(self) -> bool:
        """Whether the result points away from the own one, or is not finite."""
        return not (self.product >= 0 and math.isfinite(self.product) and math.isfinite(self.result))


def times_longer(looks: Iterable[Look]) -> float | None:
    """How many times as long as the own one the result is, over these chunks; None: that means nothing."""
    own, result = 0.0, 0.0
    for look in looks:
        own, result = own + look.own, result + look.result
    return math.sqrt(result / own) if own > 0 and math.isfinite(result) else None


def against(looks: Mapping[int, Look], due: int, longest: float | None = None) -> str:
    """Why a member does not vote for the results of a session that is about `due` chunks; empty: it does.

    `looks`: by chunk, of those that have a result. `longest`: of `times_longer`, that is taken; None: any.
    """
    wrong = sum(look.against for look in looks.values())
    if 2 * wrong > due:
        return f"its results point against what this node learned in {wrong} of {due} chunks"
    whole = sum(look.product for look in looks.values())
    if not (whole >= 0 and math.isfinite(whole)):
        return "its results, all chunks together, point against what this node learned"
    longer = times_longer(looks.values())
    if longest is not None and longer is not None and longer > longest:
        return f"its results are {longer:.3g} times as long as what this node learned, far more than is usual"
    return ""


def accused(looks: Mapping[int, Look], owners: Mapping[int, bytes]) -> tuple[bytes, ...]:
    """Who made results that, all of its own together, point away or are not finite; sorted."""
    sums: dict[bytes, float] = {}
    for chunk, look in looks.items():
        product = look.product if math.isfinite(look.result) else -math.inf
        sums[owners[chunk]] = sums.get(owners[chunk], 0.0) + product
    return tuple(sorted(peer for peer, whole in sums.items() if not whole >= 0))
