"""int8, absmax, one bf16 scale for each block of 256 values: 8.0625 bits a value.

Payload: the n/256 scales (bf16, little endian), then n signed bytes.
    scale = bf16↑(absmax / 127)    rounded up, so that |value / scale| ≤ 127
    q     = round_half_even(value / scale)
Decoding, q · scale, is exact in fp32: seven bits times eight bits fit the 24 of the significand. So no
fused multiply-add, no other instruction set, can change a bit. A block of zeros has scale 0; no scale is over
MAX_SCALE, so that what is decoded can be summed.
Works chunk by chunk in scratch that is kept: freshly allocated memory is ten times slower.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.protocol.codecs.base import (
    MAX_SCALE,
    Codec,
    CodecError,
    NonFinite,
    first_non_finite,
    require_blocks,
)
from atoll.protocol.schema import BLOCK

LEVELS = 127
_SLICE = 256 * 1024  # values worked on at a time: scratch stays in the cache


class Int8Codec(Codec):
    name = "int8"

    def __init__(self) -> None:
        self._scratch = torch.empty(0)

    @staticmethod
    def bound(n: int) -> int:
        require_blocks(n)
        return n + n // BLOCK * 2

    def encode(self, values: Tensor, out: Tensor) -> None:
        n = values.numel()
        if out.numel() != self.bound(n):
            raise CodecError(f"int8: room for {out.numel()} bytes, {self.bound(n)} needed")
        scales, levels = _parts(out, n)
        for start in range(0, n, _SLICE):
            part = values[start : start + _SLICE].view(-1, BLOCK)
            rows = slice(start // BLOCK, start // BLOCK + part.shape[0])
            absmax = part.abs().amax(dim=1)
            if not bool(torch.isfinite(absmax).all()):
                raise NonFinite(start + (first_non_finite(part.reshape(-1)) or 0))
            bits = _bf16_rounded_up(absmax.div_(LEVELS).clamp_(max=MAX_SCALE))
            scales[rows].copy_(bits.view(-1, 1).view(torch.uint8).view(-1, 4)[:, 2:])
            scale = bits.view(torch.float32)
            # A block of zeros: 0 / 1 instead of 0 / 0.
            divisor = torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(1)
            scratch = self._room(part)
            torch.div(part, divisor, out=scratch)
            if bool((scale == MAX_SCALE).any()):
                scratch.clamp_(-LEVELS, LEVELS)
            levels[rows].copy_(scratch.round_())

    def decode(self, payload: Tensor, out: Tensor) -> None:
        n = out.numel()
        self.check(payload, n)
        scales, levels = _parts(payload, n)
        scale = _scales_as_float(scales)
        for start in range(0, n, _SLICE):
            part = out[start : start + _SLICE].view(-1, BLOCK)
            rows = slice(start // BLOCK, start // BLOCK + part.shape[0])
            part.copy_(levels[rows])
            part.mul_(scale[rows].unsqueeze(1))

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        scales, levels = _parts(payload, n)
        scale = _scales_as_float(scales)
        # Compared as numbers, so that NaN fails both; minus zero is no scale that an encoder makes.
        if not bool(((scale >= 0) & (scale <= MAX_SCALE) & ~torch.signbit(scale)).all()):
            raise CodecError("int8: a scale is not a number from 0 to 2^120")
        if bool((levels == -128).any()):
            raise CodecError("int8: a level is -128, which no encoder makes")

    def _room(self, like: Tensor) -> Tensor:
        if self._scratch.numel() < like.numel() or self._scratch.device != like.device:
            self._scratch = torch.empty(like.numel(), dtype=torch.float32, device=like.device)
        return self._scratch[: like.numel()].view(like.shape)


def _parts(payload: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Views of a payload: scales [n/256, 2] uint8 and levels [n/256, 256] int8."""
    blocks = n // BLOCK
    return payload[: 2 * blocks].view(blocks, 2), payload[2 * blocks :].view(torch.int8).view(blocks, BLOCK)


def _bf16_rounded_up(values: Tensor) -> Tensor:
    """Bits [k] int32 of non-negative fp32 `values` rounded up to bf16 (low 16 bits zero)."""
    return (values.view(torch.int32) + 0xFFFF).bitwise_and_(-0x10000)


def _scales_as_float(scales: Tensor) -> Tensor:
    """[k, 2] little-endian bf16 bytes as [k] fp32, whatever the alignment."""
    low, high = scales[:, 0].to(torch.int32), scales[:, 1].to(torch.int32)
    return ((high << 24) | (low << 16)).view(torch.float32)
