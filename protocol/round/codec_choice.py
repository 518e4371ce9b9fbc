"""Which codec a round's contributions are sent with, where the manifest leaves that to the leader (`auto`).

The widest of CHOICES with which the exchange takes no more than a tenth of the round, by what the members say
of their lines (`Ready`) and how long the leader's inner phase was: exchange ≤ SHARE · (inner phase +
exchange). The exchange is as long as its busiest line needs for both legs, with the plan's own shares; an
unknown speed counts as the slowest known, and where none is known nothing speaks against the widest. Codecs
coarser than int4 need error feedback, which costs a copy of the parameters: they are for the organiser to
choose. What zstd saves on slow lines comes on top.

Pure functions. What the choice rests on goes into the plan, so every member can say why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.modes.budget import PART, roughest

AUTO = "auto"
CHOICES = ("int8", "int4")
"""Widest first."""
BITS = {
    "fp32": 32.0,
    "bf16": 16.0,
    "int8": 8.0625,
    "int4": 4.0625,
    "e3m0": 4.0625,
    "2bit": 2.25,
    "topk": 0.23,
}
"""Per value, scales included (docs/codecs.md); for the codec of results too."""
SHARE = 0.1
MAX_S = 1e9


@dataclass(frozen=True)
class Choice:
    """A codec, and what it rests on: seconds of exchange and inner phase; 0: not known."""

    codec: str
    exchange_s: float = 0.0
    inner_s: float = 0.0


def allowed(codec: str) -> tuple[str, ...]:
    """What plans may name where the manifest says `codec`."""
    return CHOICES if codec == AUTO else (codec,)


def exchange_s(
    ready: Sequence[pb.Ready], owners: Sequence[int], followers: int, bits: float, result_bits: float
) -> float:
    """Seconds that both legs take on the busiest line; `bits` of a whole contribution and a whole result.

    0.0: no speed is known.
    """
    known = [speed for r in ready for speed in (r.upload_bps, r.download_bps) if speed]
    slowest = min(known, default=0)
    if not slowest:
        return 0.0
    owned = Counter(owners)
    lines = [(r.upload_bps or slowest, r.download_bps or slowest) for r in ready]
    shares = [owned[k] / len(owners) for k in range(len(ready))]
    return busiest_s(lines, shares, followers, bits, result_bits)


def busiest_s(
    lines: Sequence[tuple[float, float]],
    shares: Sequence[float],
    followers: int,
    bits: float,
    result_bits: float,
) -> float:
    """Seconds that both legs take on the busiest of these lines (up and down, bits per second).

    Member k, which owns the part w of the chunks, sends (1 - w) contributions and w results to each other
    member, and receives w contributions of each and the (1 - w) results of others.
    """
    others, longest = len(lines) - 1, 0.0
    for (up, down), w in zip(lines, shares, strict=True):
        sent = (1 - w) * bits + w * (others + followers) * result_bits
        received = w * others * bits + (1 - w) * result_bits
        longest = max(longest, sent / up, received / down)
    return longest


def choose(
    ready: Sequence[pb.Ready],
    owners: Sequence[int],
    followers: int,
    values: int,
    result_codec: str,
    inner_s: float,
) -> Choice:
    """The codec for a plan of these members; `inner_s`: 0.0 where no inner phase was measured."""
    best = Choice(CHOICES[0])
    for codec in CHOICES:
        takes = exchange_s(ready, owners, followers, BITS[codec] * values, BITS[result_codec] * values)
        best = Choice(codec, min(takes, MAX_S), min(inner_s, MAX_S))
        if not inner_s or takes <= SHARE * (inner_s + takes):
            break
    return best


def budgets(codec: str, ready: Sequence[pb.Ready]) -> list[str]:
    """What each member sends instead of a plan's codec: in a narrow round the roughest the widest."""
    if codec != CHOICES[-1]:
        return [""] * len(ready)
    return [CHOICES[0] if wide else "" for wide in roughest([r.roughness for r in ready])]


def codec_of(plan: pb.Plan, peer: bytes) -> str:
    """What a contributor sends."""
    return next((c.codec for c in plan.contributors if c.peer == peer and c.codec), plan.codec)


def are_sound(plan: pb.Plan, by_roughness: bool) -> bool:
    """Whether its members' codecs are what the manifest allows."""
    own = [c.codec for c in plan.contributors if c.codec]
    most = len(plan.contributors) // PART if by_roughness and plan.codec == CHOICES[-1] else 0
    return len(own) <= most and set(own) <= {CHOICES[0]}


def is_sound(plan: pb.Plan, codec: str) -> bool:
    """Whether a plan's codec and its reasons are what the manifest's `codec` allows."""
    given = (plan.exchange_s, plan.inner_s)
    if codec != AUTO:
        return plan.codec == codec and not any(given)
    return plan.codec in CHOICES and all(math.isfinite(s) and 0 <= s <= MAX_S for s in given)


def reason(plan: pb.Plan, codec: str) -> str:
    """One sentence on why the plan has its codec; empty where the manifest has fixed it."""
    if codec != AUTO:
        return ""
    if not plan.exchange_s or not plan.inner_s:
        unknown = "no line has been measured" if not plan.exchange_s else "no inner phase has been measured"
        return f"Contributions go as {plan.codec}: {unknown} yet."
    part = 100 * plan.exchange_s / (plan.exchange_s + plan.inner_s)
    share = f"the exchange takes about {_seconds(plan.exchange_s)}, {part:.0f} % of a round with "
    share += f"{_seconds(plan.inner_s)} of inner steps"
    fits = part <= 100 * SHARE
    if plan.codec == CHOICES[0]:
        return f"Contributions go as {plan.codec}, the widest: {share}."
    why = (
        "a wider codec would take more than a tenth" if fits else "narrower ones are not chosen by themselves"
    )
    return f"Contributions go as {plan.codec}: {share}; {why}."


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
