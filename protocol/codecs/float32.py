"""fp32 as it is, little endian: 4 bytes a value. For tests, and for whoever wants no loss at all."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.protocol.codecs.base import (
    MAX_VALUE,
    Codec,
    CodecError,
    NonFinite,
    first_non_finite,
    require_blocks,
)


class Float32Codec(Codec):
    name = "fp32"

    @staticmethod
    def bound(n: int) -> int:
        require_blocks(n)
        return 4 * n

    def encode(self, values: Tensor, out: Tensor) -> None:
        position = first_non_finite(values)
        if position is not None:
            raise NonFinite(position)
        if out.numel() != self.bound(values.numel()):
            raise CodecError(f"fp32: room for {out.numel()} bytes, {self.bound(values.numel())} needed")
        out.copy_(values.clamp(-MAX_VALUE, MAX_VALUE).view(torch.uint8))

    def decode(self, payload: Tensor, out: Tensor) -> None:
        self.check(payload, out.numel())
        out.view(torch.uint8).copy_(payload)

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        # A payload from the wire may start at any byte; the view needs an aligned copy.
        if not bool((payload.clone().view(torch.float32).abs() <= MAX_VALUE).all()):
            raise CodecError("fp32: a value is not finite, or too large")
