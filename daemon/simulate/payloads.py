"""Contributions and results of a simulated swarm: dense, or so sparse that results gather them.

Every sum is exact (facts.py), so a result is the plain sum of its contributions: the shipping layout of
results (protocol/codecs/result.py), without weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atoll.daemon.simulate import facts
from atoll.protocol.codecs import CODECS
from atoll.protocol.codecs.base import Codec, CodecError
from atoll.protocol.codecs.result import ResultCodec
from atoll.protocol.outer import Float32
from atoll.protocol.round.types import Part

ENTRIES = 3
"""Values that a contribution moves in a chunk: its own, and the two marks."""


def _write(values: Float32) -> bytes:
    """Positions and values of the first values that are not zero."""
    entries = np.zeros((2, ENTRIES), np.float32)
    found = np.flatnonzero(values)[:ENTRIES]
    entries[0, : len(found)], entries[1, : len(found)] = found, values[found]
    return entries.tobytes()


def _read(payload: bytes) -> Float32:
    """Its values [VALUES]. Raises CodecError."""
    at, values = np.frombuffer(payload, np.float32).reshape(2, ENTRIES)
    # Compared as numbers, so that NaN fails.
    if not (np.isfinite(values).all() and (at >= 0).all() and (at < facts.VALUES).all()):
        raise CodecError("an entry that is not finite, or outside the chunk")
    out = np.zeros(facts.VALUES, np.float32)
    np.add.at(out, at.astype(np.int64), values)
    return out


class Sparse(Codec):
    """At most three values of a chunk, with their positions."""

    name = "sparse"

    @classmethod
    def _bytes(cls, n: int) -> int:
        return ENTRIES * 8

    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        out.copy_(tensor(_write(values.numpy())))

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        _read(payload.numpy().tobytes())

    def _decode(self, payload: Tensor, out: Tensor) -> None:
        out.copy_(torch.from_numpy(_read(payload.numpy().tobytes())))

    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        into.add_(torch.from_numpy(_read(payload.numpy().tobytes())), alpha=weight)


class Payloads:
    """What the nodes of one swarm send each other. `gathers`: contributions are sparse."""

    def __init__(self, gathers: bool = False) -> None:
        mean = CODECS[facts.CODEC]()
        self._sparse = gathers
        self._contribution: Codec = Sparse() if gathers else mean
        self.results = ResultCodec(mean, self._contribution)

    def contribution(self, values: Float32) -> bytes:
        """The payload of one node's values [VALUES]."""
        return _write(values) if self._sparse else values.tobytes()

    def values(self, payload: bytes) -> Float32:
        """What is in a contribution."""
        return _read(payload) if self._sparse else np.frombuffer(payload, np.float32)

    def spoilt(self, payload: bytes, slot: int, value: float) -> bytes:
        """Another value of one slot, if somebody in the payload says anything of it."""
        size = self._contribution.bound(facts.VALUES)
        for at in range(0, len(payload), size):
            values = self.values(payload[at : at + size]).copy()
            if values[slot] or not self._sparse:
                values[slot] = value
                return payload[:at] + self.contribution(values) + payload[at + size :]
        return payload

    def check(self, payload: bytes, members: int | None = None) -> None:
        """Raises CodecError unless it is a contribution, or the result of so many."""
        if members is None:
            self._contribution.check(tensor(payload), facts.VALUES)
        else:
            self.results.check(tensor(payload), facts.VALUES, members)

    def total(self, payload: bytes, members: int) -> Float32:
        """The sum in the result of so many contributions."""
        pieces = self.results.pieces(facts.VALUES, members)
        if pieces is None:
            return np.frombuffer(payload, np.float32)
        return _sum([self.values(payload[piece]) for piece in pieces])

    def part(self, part: Part) -> Float32:
        """What one part puts into a sum."""
        payload = bytes(part.payload)
        return self.total(payload, len(part.members)) if part.partial else self.values(payload)

    def reduce(self, parts: Sequence[Part]) -> bytes:
        """The result of these parts; of none it is empty."""
        members = sum(len(part.members) for part in parts)
        if not self.results.gathers(facts.VALUES, members):
            return _sum([self.part(part) for part in parts]).tobytes() if parts else b""
        pieces: list[tuple[int, bytes]] = []
        for part in parts:
            places = self.results.pieces(facts.VALUES, len(part.members)) or [slice(None)]
            whole = bytes(part.payload)
            pieces += zip(part.members, (whole[place] for place in places), strict=True)
        return b"".join(payload for _, payload in sorted(pieces))


def _sum(values: Sequence[Float32]) -> Float32:
    total: Float32 = np.sum(values, axis=0, dtype=np.float32)
    return total


def tensor(payload: bytes) -> Tensor:
    """A payload's bytes [n] uint8."""
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)
