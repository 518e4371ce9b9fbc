"""How long rounds take: the closed forms that the tables of papers and the plan of a swarm share. Pure.

A node computes for a while, and then waits for what of a synchronisation it could not hide behind further
steps. Compute utilisation is the part of its time in which it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atoll.protocol.round.codec_choice import busiest_s
from atoll.protocol.round.plan import alike, chunk_shares


@dataclass(frozen=True)
class Line:
    """A node's line to all others: bits per second."""

    up_bps: float
    down_bps: float

    @property
    def slower_bps(self) -> int:
        """The slower of up and down, which decides what part of the values a node owns."""
        return int(min(self.up_bps, self.down_bps))


def utilisation(compute_s: float, stall_s: float) -> float:
    """Compute utilisation: C / (C + T)."""
    return compute_s / (compute_s + stall_s)


def stall_s(sync_s: float, hidden_s: float) -> float:
    """What a node waits for a synchronisation, `hidden_s` of which it spends computing."""
    return max(0.0, sync_s - hidden_s)


def owned_shares(lines: Sequence[Line]) -> list[float]:
    """The part of the values that each node owns, as plans deal them out; their sum is 1."""
    return chunk_shares(alike([line.slower_bps for line in lines]))


def all_reduce_s(lines: Sequence[Line], bits: float, result_bits: float) -> float:
    """Seconds of a butterfly all-reduce of `bits` from each node, and `result_bits` back to each.

    Where both are S, and lines are symmetric and not alike, that is S · max(1 / slowest, 2 (N - 1) / sum).
    """
    pairs = [(line.up_bps, line.down_bps) for line in lines]
    return busiest_s(pairs, owned_shares(lines), 0, bits, result_bits)
