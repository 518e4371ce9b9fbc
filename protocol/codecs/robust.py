"""How the owner of a chunk makes a step out of contributions of which some may lie.

A mean goes wherever one contribution pulls it. These do not, as long as at most a quarter lies (trimmed), or
fewer than half (the others):

    trimmed   per value, the mean of what is left without the ⌊k/4⌋ highest and lowest, at least one of each
              (coordinate-wise trimmed mean, 1803.01498)
    median    per value, the median (the same)
    clip      v + mean of (d − v) · min(1, τ / ‖d − v‖), three times, from v = the median, with τ the median
              of ‖d − v‖ (CenteredClip, 2012.10333, whose v is the last step: an owner of chunks may change
              between rounds, so here each round stands by itself)
    filter    the mean of those whose direction most of the others share, none longer than their median length
              (the first two steps of FLAME, 2101.02281, with a threshold in place of clusters and no noise):
              a contribution's score is the median of its cosines with the others, and what scores below half
              of the median score is left out, though never more than half of all

Each may be had after bucketing (2006.09365, algorithm 1): contributions are averaged in small groups drawn at
random before the rule looks at them, which lets honest nodes whose texts differ look more alike.

Weights by tokens are not taken: whoever lies would lie about them as well. Up to two contributions there is
nobody to outvote anybody, and all of them are the mean. What they don't hinder: lies that stay within the
spread of the honest; so the more honest nodes differ (few tokens a phase, texts of their own), the more room
there is.

Whoever has the same payloads makes the same bits of them, on any machine: every operation on values is
rounded by itself, in a fixed order, and what is measured over a whole vector (lengths, cosines: their last
bits depend on how a machine adds up) decides only after it was rounded to a coarse grid.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atoll.protocol.codecs.base import Codec
from atoll.protocol.manifest import HOLDING_MERGES

TRIMMED, MEDIAN, CLIP, FILTER = ROBUST = HOLDING_MERGES
CLIP_STEPS = 3
AGREES = 0.5
"""Of the median score, what a contribution has to reach not to be left out."""
GRID = 1 << 12
"""Steps from 0 to 1 of what is measured over vectors."""
_SLICE = 1 << 16
"""Values that are sorted, or multiplied, at a time: either needs room of its own."""


def robust(
    rule: str,
    codecs: Sequence[Codec],
    payloads: Iterable[Tensor],
    out: Tensor,
    bucket: int = 1,
    seed: bytes = b"",
) -> tuple[int, ...]:
    """What `rule` makes of decoded `payloads`, into `out` [n] fp32; the places of those it left out whole.

    `bucket`: so many are averaged at a time first (1: none), drawn by `seed`; then nobody is named.
    Needs room for all of them at once, [k, n] fp32.
    """
    stack = torch.empty(len(codecs), out.numel())
    for codec, payload, row in zip(codecs, payloads, stack, strict=True):
        codec.decode(payload, row)
    if bucket > 1 and len(stack) > 2 * bucket:
        _merge(rule, _bucketed(stack, bucket, seed), out)
        return ()
    return _merge(rule, stack, out)


def _merge(rule: str, stack: Tensor, out: Tensor) -> tuple[int, ...]:
    count = len(stack)
    if rule == FILTER:
        return _filtered(stack, out)
    if rule == TRIMMED:
        _middle(stack, max(1, count // 4) if count > 2 else 0, out)
    else:
        _middle(stack, (count - 1) // 2, out)
    if rule == CLIP:
        _clipped(stack, out)
    return ()


def _bucketed(stack: Tensor, size: int, seed: bytes) -> Tensor:
    """Means of `size` rows at a time (the last group may have fewer), in an order drawn by `seed`."""
    order = sorted(
        range(len(stack)), key=lambda place: hashlib.sha256(seed + place.to_bytes(4, "big")).digest()
    )
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    means = torch.zeros(len(groups), stack.shape[1])
    for mean, group in zip(means, groups, strict=True):
        for place in sorted(group):
            mean += stack[place] / len(group)
    return means


def _middle(stack: Tensor, cut: int, out: Tensor) -> None:
    """Per value the mean without the `cut` lowest and highest of `stack` [k, n]."""
    kept = range(cut, len(stack) - cut)
    for start in range(0, out.numel(), _SLICE):
        part = slice(start, start + _SLICE)
        ordered = stack[:, part].sort(dim=0).values
        ordered /= len(kept)  # first, so that no sum leaves the range of fp32
        # Row by row, in order: the same bits on every machine.
        out[part] = ordered[kept[0]]
        for row in kept[1:]:
            out[part] += ordered[row]


def _clipped(stack: Tensor, center: Tensor) -> None:
    """CenteredClip of `stack` [k, n] about `center` [n], which becomes the result."""
    reach = sorted(_distances(stack, center))[len(stack) // 2]
    step, away = torch.empty_like(center), torch.empty_like(center)
    for _ in range(CLIP_STEPS):
        step.zero_()
        for row, distance in zip(stack, _distances(stack, center), strict=True):
            torch.sub(row, center, out=away)
            step += away.mul_(_share(reach, distance)).div_(len(stack))
        center.add_(step)
    # Whatever strangers send: no value is greater than the greatest that came.
    center.nan_to_num_(nan=0.0).clamp_(stack.min(), stack.max())


def _filtered(stack: Tensor, out: Tensor) -> tuple[int, ...]:
    """The mean of the rows of `stack` [k, n] that agree, into `out`; who does not."""
    gram = torch.zeros(len(stack), len(stack), dtype=torch.float64)
    for start in range(0, out.numel(), _SLICE):
        part = stack[:, start : start + _SLICE].double()
        gram += part @ part.T
    lengths = [float(square) ** 0.5 for square in gram.diagonal()]
    out_of = _disagreeing(gram.tolist(), lengths) if len(stack) > 2 else ()
    kept = [place for place in range(len(stack)) if place not in out_of]
    reach = statistics.median(lengths[place] for place in kept) if len(stack) > 2 else max(lengths)
    out.zero_()
    row = torch.empty_like(out)
    for place in kept:
        out += torch.mul(stack[place], _share(reach, lengths[place]), out=row).div_(len(kept))
    return out_of


def _disagreeing(gram: Sequence[Sequence[float]], lengths: Sequence[float]) -> tuple[int, ...]:
    """Whose direction the others do not share, at most half of all, the worst first to go."""
    places = range(len(lengths))
    scores = []
    for i in places:
        cosines = (
            gram[i][j] / (lengths[i] * lengths[j]) if lengths[i] and lengths[j] else 0.0
            for j in places
            if j != i
        )
        scores.append(round(statistics.median(cosines) * GRID))
    least = max(0.0, AGREES * statistics.median(scores))
    worst = sorted((score, place) for place, score in zip(places, scores, strict=True) if score < least)
    return tuple(sorted(place for _, place in worst[: len(lengths) // 2]))


def _share(reach: float, length: float) -> float:
    """How much of a vector of this length is taken, so that it is no longer than `reach`; on the grid."""
    return 1.0 if length <= reach else round(GRID * (reach / length)) / GRID


def _distances(stack: Tensor, center: Tensor) -> list[float]:
    return [float(torch.linalg.vector_norm(row - center, dtype=torch.float64)) for row in stack]
