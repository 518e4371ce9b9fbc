"""How the owner of a chunk makes one step out of its contributions: their mean, or RDA.

The mean of k nearly orthogonal pseudo-gradients is 1/√k as long as one of them, so how far an outer step goes
depends on how many came. RDA (Decoupled DiLoCo, 2604.21428) averages length and direction apart:

    step = (Σ w·‖d‖ / Σ w) · u / ‖u‖ ,  u = Σ w·d/‖d‖ / Σ w

Differs from the paper: norms are of a chunk, not of a tensor, embeddings are treated like the rest, and u is
made at most √k times longer, which is what orthogonal ones need: those that contradict each other are not
blown up. The owner encodes the result once, so whatever its norms were rounded to, all hold the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atoll.protocol.codecs.base import Codec

SMALLEST = 1e-30
"""A contribution whose greatest value is below is nothing."""


def rda(
    codecs: Sequence[Codec], payloads: Iterable[Tensor], weights: Sequence[int], out: Tensor, scratch: Tensor
) -> None:
    """RDA of decoded `payloads` into `out` [n] fp32, in order; `weights` as in `aggregate`.

    `scratch` [n] fp32 is overwritten. Payloads are taken one at a time.
    """
    total, magnitude, highest = sum(weights), 0.0, 0.0
    out.zero_()
    for codec, payload, weight in zip(codecs, payloads, weights, strict=True):
        codec.decode(payload, scratch)
        greatest = float(scratch.abs().max())
        if greatest < SMALLEST:
            continue
        # Of values near 1, whatever strangers send: neither squares nor quotients leave the range of fp32.
        scratch.div_(greatest)
        norm = float(torch.linalg.vector_norm(scratch, dtype=torch.float64))
        magnitude += weight / total * norm * greatest
        highest = max(highest, greatest)
        out.add_(scratch, alpha=weight / total / norm)
    length, most = float(torch.linalg.vector_norm(out, dtype=torch.float64)), float(out.abs().max())
    if most > 0:
        # No value is greater than the greatest that came: what could be sent can be sent on.
        whole = magnitude * min(1 / length, math.sqrt(len(weights))) * most
        out.div_(most).mul_(min(whole, highest))
