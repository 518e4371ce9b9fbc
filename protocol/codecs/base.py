"""The codec interface, and the reduction that is the same whatever the codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from atoll.protocol.schema import BLOCK

MAX_SCALE = 2.0**120
MAX_VALUE = 127 * MAX_SCALE
"""Largest magnitude in a payload, half of what fp32 holds: a weighted mean of payloads is always finite."""


class CodecError(ValueError):
    """A payload that no encoder makes: wrong length, or a value or scale outside its range."""


class NonFinite(ValueError):
    """The values hold a NaN or an infinity; `position` is the first one's index in the chunk."""

    def __init__(self, position: int) -> None:
        super().__init__(f"value {position} is not finite")
        self.position = position


class Codec(ABC):
    """Turns n fp32 values (n a multiple of 256) into exactly `bound(n)` bytes and back.

    Finite values beyond ±MAX_VALUE are sent as ±MAX_VALUE.

    An instance owns scratch buffers and serves one thread at a time.
    """

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def bound(n: int) -> int:
        """Payload bytes for n values."""

    @abstractmethod
    def encode(self, values: Tensor, out: Tensor) -> None:
        """Encodes `values` [n] fp32 into `out` [bound(n)] uint8. Raises NonFinite."""

    @abstractmethod
    def decode(self, payload: Tensor, out: Tensor) -> None:
        """Decodes `payload` [bound(n)] uint8 into `out` [n] fp32, exactly. Raises CodecError."""

    def check(self, payload: Tensor, n: int) -> None:
        """Raises CodecError unless `payload` decodes to n values within ±MAX_VALUE."""
        if payload.dtype != torch.uint8 or payload.numel() != self.bound(n):
            raise CodecError(f"{self.name}: {payload.numel()} bytes for {n} values, not {self.bound(n)}")


def require_blocks(n: int) -> None:
    """Raises CodecError unless n is a positive number of whole blocks."""
    if n <= 0 or n % BLOCK:
        raise CodecError(f"{n} values are not whole blocks of {BLOCK}")


def first_non_finite(values: Tensor) -> int | None:
    """Index of the first NaN or infinity in `values` [n], or None."""
    bad = torch.isfinite(values).logical_not_()
    return int(bad.nonzero()[0].item()) if bool(bad.any()) else None


def aggregate(
    codec: Codec, payloads: Sequence[Tensor], weights: Sequence[int], out: Tensor, scratch: Tensor
) -> None:
    """Weighted mean of decoded `payloads` into `out` [n] fp32, in the given (member) order.

    `weights` are positive integers; w_i = fp32(weight_i / sum). Each product and each sum is rounded on its
    own, so the result is a function of the bytes and the order alone. `scratch` [n] fp32 is overwritten.
    """
    total = sum(weights)
    if len(payloads) != len(weights) or not payloads or min(weights) <= 0:
        raise CodecError("a mean needs payloads, each with a positive weight")
    out.zero_()
    for payload, weight in zip(payloads, weights, strict=True):
        codec.decode(payload, scratch)
        scratch.mul_(float(torch.tensor(weight / total, dtype=torch.float32)))
        out.add_(scratch)
