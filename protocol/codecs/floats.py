"""fp32 and bf16, little endian, as they are: for tests, for no loss at all, and for little of it."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.protocol.codecs.base import MAX_VALUE, SLICE, Codec, CodecError, require_finite


class _FloatCodec(Codec):
    dtype: torch.dtype

    @classmethod
    def _bytes(cls, n: int) -> int:
        return cls.dtype.itemsize * n

    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        numbers = out.view(self.dtype)
        for start in range(0, values.numel(), SLICE):
            part = values[start : start + SLICE]
            clamped = self._room("clamped", part.shape, part)
            if require_finite(torch.abs(part, out=clamped), values) > MAX_VALUE:
                part = torch.clamp(part, -MAX_VALUE, MAX_VALUE, out=clamped)
            numbers[start : start + SLICE].copy_(part)

    def _numbers(self, payload: Tensor) -> Tensor:
        """The payload's numbers. One that starts at an odd byte is copied: views need alignment."""
        if payload.storage_offset() % self.dtype.itemsize:
            payload = payload.clone()
        return payload.view(self.dtype)

    def _decode(self, payload: Tensor, out: Tensor) -> None:
        self._require_range(payload)
        out.copy_(self._numbers(payload))

    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        self._require_range(payload)
        numbers = self._numbers(payload)
        for start in range(0, into.numel(), SLICE):
            part = into[start : start + SLICE]
            scratch = self._room("numbers", part.shape, part)
            part.add_(scratch.copy_(numbers[start : start + SLICE]).mul_(weight))

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        self._require_range(payload)

    def _require_range(self, payload: Tensor) -> None:
        numbers = self._numbers(payload)
        # Compared as numbers, so that NaN fails.
        if not (float(numbers.max()) <= MAX_VALUE and float(numbers.min()) >= -MAX_VALUE):
            raise CodecError(f"{self.name}: a value is not finite, or too large")


class Float32Codec(_FloatCodec):
    """4 bytes a value, exact."""

    name = "fp32"
    dtype = torch.float32


class BFloat16Codec(_FloatCodec):
    """2 bytes a value, rounded to the nearest, half to even."""

    name = "bf16"
    dtype = torch.bfloat16
