"""Local progress after a commit: the rules of a round, on flat spans (a pure decision, no I/O).

With S the local parameters when the pseudo-gradient was taken (the snapshot), `now` the local parameters
at the commit and `new` the committed ones, per span of flat positions:

    contributed      local = new + (now - S)       in plain DiLoCo now == S, and local is `new` bit for bit
    not contributed  KEEP:   local stays as it is
                     REBASE: local = new + (now - anchor)  with the committed parameters before `new`
                     RESET:  local = new                   local progress is dropped  (default: best measured)
    not due          local stays as it is: the commit was about another fragment

Streaming DiLoCo (2501.18512, algorithm 2) has another rule for what was contributed: with `mix` alpha,

    contributed      local = alpha * now + (1 - alpha) * new   steps since the snapshot count with alpha

The anchor of the next pseudo-gradient is `new` everywhere, in all cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

import torch
from torch import Tensor

Span = tuple[int, int]
"""Flat positions [start, stop)."""


class Missed(StrEnum):
    """What becomes of local progress in spans that this node did not contribute to."""

    KEEP = "keep"
    REBASE = "rebase"
    RESET = "reset"


def split(start: int, stop: int, keep: Iterable[Span]) -> Iterator[tuple[int, int, bool]]:
    """Cuts [start, stop) at the edges of the `keep` spans (sorted, disjoint).

    Yields (start, stop, contributed) in order, covering [start, stop) exactly.
    """
    at = start
    for first, last in keep:
        first, last = max(first, start), min(last, stop)
        if first >= last:
            continue
        if at < first:
            yield at, first, True
        yield first, last, False
        at = last
    if at < stop:
        yield at, stop, True


def rebased(now: Tensor, new: Tensor, before: Tensor | None) -> Tensor:
    """new + (now - before), all fp32 of one shape; `before` None: now == before.

    Where nothing moved since then the result is `new` bit for bit: a sum would turn -0.0 into 0.0.
    """
    if before is None:
        return new
    return torch.where(now == before, new, new + (now - before))


def within(start: int, stop: int, spans: Iterable[Span] | None) -> Iterator[Span]:
    """The parts of [start, stop) that are in `spans` (sorted, disjoint); None: all of it."""
    if spans is None:
        yield start, stop
        return
    for first, last in spans:
        first, last = max(first, start), min(last, stop)
        if first < last:
            yield first, last


def mixed(now: Tensor, new: Tensor, mix: float) -> Tensor:
    """mix * now + (1 - mix) * new, all fp32 of one shape; with 0 it is `new` bit for bit."""
    return torch.lerp(new, now, mix) if mix else new


def rebase_(
    local: Tensor,
    new: Tensor,
    snapshot: Tensor | None,
    offset: int,
    keep: Iterable[Span],
    missed: Missed,
    anchor: Tensor | None = None,
    due: Iterable[Span] | None = None,
    mix: float | None = None,
) -> None:
    """Applies the rules in place to one tensor.

    `local` is the parameter as a flat view (any device and floating dtype); `new`, `snapshot` and `anchor`
    (which REBASE needs) are fp32 of the same length; `offset` is where they start in the flat vector, in
    which `keep` and `due` (None: everything) count. `mix`: None where local progress is rebased.
    """
    keep = tuple(keep)
    for first, last in within(offset, offset + local.numel(), due):
        for start, stop, contributed in split(first, last, keep):
            span = slice(start - offset, stop - offset)
            if not contributed and missed is Missed.KEEP:
                continue
            now, there = local[span].float(), new[span].to(local.device)
            if contributed and mix is not None:
                local[span] = mixed(now, there, mix).to(local.dtype)
                continue
            before = snapshot if contributed else anchor if missed is Missed.REBASE else None
            here = None if before is None else before[span].to(local.device)
            local[span] = rebased(now, there, here).to(local.dtype)
