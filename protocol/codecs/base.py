"""The codec interface, and the reduction that is the same whatever the codec.

Every codec works on its device with plain torch functions, slice by slice in scratch that is kept: freshly
allocated memory is ten times slower, and a slice stays in the cache from one operation to the next. Each
operation rounds to fp32 by itself (no fused multiply-add), so CPU and CUDA decode to the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from atoll.protocol.schema import BLOCK

MAX_SCALE = 2.0**120
MIN_SCALE = 2.0**-100
"""Blocks whose scale would be smaller count as zeros: so no product is ever a denormal number."""
MAX_VALUE = 127 * MAX_SCALE
"""Largest magnitude in a payload, half of what fp32 holds: a weighted mean of payloads is always finite."""
SLICE = 512 * 1024
"""Values worked on at a time."""


class CodecError(ValueError):
    """A payload that no encoder makes: wrong length, or a value or scale outside its range."""


class NonFinite(ValueError):
    """The values hold a NaN or an infinity; `position` is the first one's index in the chunk."""

    def __init__(self, position: int) -> None:
        super().__init__(f"value {position} is not finite")
        self.position = position


class Codec(ABC):
    """Turns n fp32 values (n a multiple of `block`) into exactly `bound(n)` bytes and back.

    Values are dense tensors [n] and payloads dense tensors [bound(n)] uint8 of the same device. Finite values
    beyond ±MAX_VALUE are sent as ±MAX_VALUE. An instance owns scratch buffers and serves one thread.
    """

    name: ClassVar[str]
    block: ClassVar[int] = BLOCK
    """Values that share a scale, a codebook or a choice; no block spans two tensors."""
    stochastic: ClassVar[bool] = False
    """Whether `encode` can round at random."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    @classmethod
    def bound(cls, n: int) -> int:
        """Payload bytes for n values. Raises CodecError unless they are whole blocks."""
        if n <= 0 or n % cls.block:
            raise CodecError(f"{cls.name}: {n} values are not whole blocks of {cls.block}")
        return cls._bytes(n)

    @classmethod
    @abstractmethod
    def _bytes(cls, n: int) -> int: ...

    def encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Encodes `values` [n] fp32 into `out` [≥ bound(n)] uint8, gives the payload in it. Raises NonFinite.

        Rounds to the nearest; with `noise` (of the values' device), in codecs that are `stochastic`, up or
        down with the probabilities that make the mean of many encodings the value itself.
        """
        size = self.bound(values.numel())
        if out.numel() < size:
            raise CodecError(f"{self.name}: room for {out.numel()} bytes, {size} needed")
        if noise is not None and not self.stochastic:
            raise CodecError(f"{self.name} does not round at random")
        self._encode(values, out[:size], noise)
        return out[:size]

    @abstractmethod
    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None: ...

    def decode(self, payload: Tensor, out: Tensor) -> None:
        """Decodes `payload` into `out` [n] fp32, exactly. Raises CodecError.

        What `check` looks at beyond what could make a value that is not finite is not looked at again.
        """
        self._require(payload, out.numel())
        self._decode(payload, out)

    @abstractmethod
    def _decode(self, payload: Tensor, out: Tensor) -> None: ...

    def decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        """Adds `weight` (fp32) times the decoded values to `into` [n] fp32. Raises CodecError, as `decode`.

        Scales and codebooks are multiplied first, where a codec has them; each product and sum is rounded.
        """
        self._require(payload, into.numel())
        self._decode_add(payload, weight, into)

    @abstractmethod
    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None: ...

    def check(self, payload: Tensor, n: int) -> None:
        """Raises CodecError unless `payload` is one that an encoder makes of n values."""
        self._require(payload, n)

    def _require(self, payload: Tensor, n: int) -> None:
        if payload.dtype != torch.uint8 or payload.numel() != self.bound(n):
            raise CodecError(f"{self.name}: {payload.numel()} bytes for {n} values, not {self.bound(n)}")

    def _room(
        self, use: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Scratch of this shape on `like`'s device, for one use at a time; what is in it is left over."""
        key, size = (use, dtype, like.device), math.prod(shape)
        kept = self._kept.get(key)
        if kept is None or kept.numel() < size:
            kept = self._kept[key] = torch.empty(size, dtype=dtype, device=like.device)
        return kept[:size].view(*shape)


def first_non_finite(values: Tensor) -> int:
    """Index of the first NaN or infinity in `values` [n]; 0 where there is none."""
    return int(torch.isfinite(values).logical_not_().to(torch.uint8).argmax().item())


def require_finite(absmax: Tensor, values: Tensor) -> float:
    """The largest of the blocks' largest magnitudes [n/block]. Raises NonFinite unless it is finite."""
    largest = float(absmax.max())  # NaN is larger than all
    if not math.isfinite(largest):
        raise NonFinite(first_non_finite(values))
    return largest


def aggregate(
    codec: Codec | Sequence[Codec], payloads: Iterable[Tensor], weights: Sequence[int], out: Tensor
) -> None:
    """Weighted mean of decoded `payloads` into `out` [n] fp32, in the given (member) order.

    `codec`: of all payloads, or of each. The payloads are taken one at a time: what makes them may load them.
    `weights` are positive integers; w_i = fp32(weight_i / sum). The result is a function of the bytes and the
    order alone (SPEC.md, section 4).
    """
    total = sum(weights)
    if not weights or min(weights) <= 0:
        raise CodecError("a mean needs payloads, each with a positive weight")
    out.zero_()
    codecs = [codec] * len(weights) if isinstance(codec, Codec) else codec
    for one, payload, weight in zip(codecs, payloads, weights, strict=True):
        one.decode_add(payload, float(torch.tensor(weight / total, dtype=torch.float32)), out)
