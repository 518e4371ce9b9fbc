"""The result of a chunk: its encoded mean, or the contributions themselves where those are shorter.

A codec may send so little (topk: 0.23 bits a value) that what a few members sent is less than one encoded
mean. Then the result is their payloads, one after the other in member order, and everyone makes the mean: the
all-gather of SparseLoCo (2508.15706), by way of the owner. Nothing is rounded a second time. Which of the two
a result is follows from the manifest's codecs and the number of contributors alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.protocol.codecs.base import Codec, CodecError, aggregate


class ResultCodec:
    """Encodes and decodes results. An instance owns scratch buffers and serves one thread.

    `mean`: the codec of encoded means. `contribution`: the one codec that all contributions have; None where
    plans choose it: then a result is always a mean.
    """

    def __init__(self, mean: Codec, contribution: Codec | None = None) -> None:
        self.mean = mean
        self._contribution = contribution

    def room(self, n: int) -> int:
        """The most bytes that a result of n values has."""
        return self.mean.bound(n)

    def size(self, n: int, count: int) -> int:
        """Bytes of a result of n values with `count` contributions."""
        return count * self._piece(n) if self.gathers(n, count) else self.mean.bound(n)

    def gathers(self, n: int, count: int) -> bool:
        """Whether a result of so many contributions is those contributions."""
        return self._contribution is not None and 0 < count * self._piece(n) < self.mean.bound(n)

    def _piece(self, n: int) -> int:
        return 0 if self._contribution is None else self._contribution.bound(n)

    def encode(self, mean: Tensor) -> Tensor:
        """The result [room(n)] uint8 that is a mean [n] fp32."""
        return self.mean.encode(mean, torch.empty(self.room(mean.numel()), dtype=torch.uint8))

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The result that is these contributions, in member order."""
        return torch.cat(list(pieces))

    def pieces(self, n: int, count: int) -> list[slice] | None:
        """Where the contributions are in a result, in member order; None where it is a mean."""
        if not self.gathers(n, count):
            return None
        size = self._piece(n)
        return [slice(at, at + size) for at in range(0, count * size, size)]

    def check(self, payload: Tensor, n: int, count: int) -> None:
        """Raises CodecError unless `payload` is a result of `count` contributions of n values."""
        self._require(payload, n, count)
        pieces = self.pieces(n, count)
        if pieces is None or self._contribution is None:
            self.mean.check(payload, n)
            return
        for piece in pieces:
            self._contribution.check(payload[piece], n)

    def decode(self, payload: Tensor, weights: Sequence[int], out: Tensor) -> None:
        """The mean in a result into `out` [n] fp32; `weights`: of its members, in their order.

        Raises CodecError.
        """
        self._require(payload, out.numel(), len(weights))
        pieces = self.pieces(out.numel(), len(weights))
        if pieces is None or self._contribution is None:
            self.mean.decode(payload, out)
            return
        aggregate(self._contribution, [payload[piece] for piece in pieces], weights, out)

    def _require(self, payload: Tensor, n: int, count: int) -> None:
        size = self.size(n, count)
        if payload.numel() != size:
            raise CodecError(f"result of {payload.numel()} bytes with {count} contributions, not {size}")
