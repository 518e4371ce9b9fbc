"""int8, int4 and E3M0: absmax, one bf16 scale for each block of 256 values, then the levels.

Payload: the n/256 scales (bf16, little endian), then the levels of the blocks.
    scale = bf16↑(absmax / R)      rounded up, so that |value / scale| ≤ R
    level = nearest(value / scale)
R, the reach, is L, but for int4 just under half a level more: the largest value errs by half a level then, as
any other may, and all levels lie closer by 7 % (of int8's 127 levels that would be nothing).
Decoding, level · scale, is exact in fp32: seven bits times eight bits fit the 24 of the significand. A
block of zeros, or of next to nothing, has scale 0; no other is under MIN_SCALE, none over MAX_SCALE, so
that what is decoded can be summed. E3M0, one bit of sign and three of exponent, is the format of Streaming
DiLoCo (2501.18512).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from atoll.protocol.codecs import bf16
from atoll.protocol.codecs.base import MAX_SCALE, MIN_SCALE, SLICE, Codec, CodecError, require_finite
from atoll.protocol.schema import BLOCK

ROWS = SLICE // BLOCK
"""Blocks worked on at a time."""


class LevelCodec(Codec):
    """What the three share: scales, and the walk over slices."""

    top: ClassVar[int]
    """The largest level."""
    reach: ClassVar[float]
    """The largest value over its scale: what is nearest to it is `top`."""
    bits: ClassVar[int]
    unit: ClassVar[float] = 1.0
    """What a scale is multiplied with for `_unpack`'s levels: a power of two, so that nothing is rounded."""

    @classmethod
    def _bytes(cls, n: int) -> int:
        return n // BLOCK * (2 + BLOCK * cls.bits // 8)

    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        rows = values.view(-1, BLOCK)
        scales, levels = self._parts(out)
        scale = self._absmax(rows)
        # At random, what lies between the largest level and the reach would always be too small.
        reach = self.reach if noise is None else self.top
        clamps = require_finite(scale, values) > reach * MAX_SCALE
        scale.div_(reach)
        bf16.up(scale.clamp_(max=MAX_SCALE) if clamps else scale)
        nothing = scale < MIN_SCALE
        bf16.store(scale.masked_fill_(nothing, 0), scales)
        # A block without a scale: divided by infinity it is zeros.
        divisors = scale.masked_fill_(nothing, math.inf).unsqueeze(1)
        for part, divisor, coded in _together(rows, divisors, levels):
            ratio = torch.div(part, divisor, out=self._room("ratio", part.shape, part))
            if clamps:
                ratio.clamp_(-self.top, self.top)
            self._quantise(ratio, coded, noise)

    def _absmax(self, rows: Tensor) -> Tensor:
        result = self._room("absmax", rows.shape[:1], rows)
        for part, absmax in _together(rows, result):
            magnitudes = torch.abs(part, out=self._room("ratio", part.shape, part))
            torch.amax(magnitudes, dim=1, out=absmax)
        return result

    def _decode(self, payload: Tensor, out: Tensor) -> None:
        scale, levels = self._loaded(payload)
        for part, factor, coded in _together(out.view(-1, BLOCK), scale, levels):
            self._unpack(coded, part)
            part.mul_(factor)

    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        scale, levels = self._loaded(payload)
        scale.mul_(weight)
        for part, factor, coded in _together(into.view(-1, BLOCK), scale, levels):
            decoded = self._room("ratio", part.shape, part)
            self._unpack(coded, decoded)
            part.add_(decoded.mul_(factor))

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        _, levels = self._loaded(payload)
        self._check_levels(levels)

    def _loaded(self, payload: Tensor) -> tuple[Tensor, Tensor]:
        """Scales [blocks, 1] fp32 and levels [blocks, bytes] uint8. Raises CodecError."""
        scales, levels = self._parts(payload)
        scale = bf16.load(scales)
        least, most = torch.aminmax(scale)  # both NaN if one is
        if not (float(least) >= MIN_SCALE and float(most) <= MAX_SCALE):
            # Minus zero is no scale that an encoder makes.
            possible = (scale >= MIN_SCALE) & (scale <= MAX_SCALE) | (scale.view(torch.int32) == 0)
            if not bool(possible.all()):
                raise CodecError(f"{self.name}: a scale is neither 0 nor from 2^-100 to 2^120")
        return scale.mul_(self.unit).unsqueeze(1), levels

    def _parts(self, payload: Tensor) -> tuple[Tensor, Tensor]:
        """Views of a payload: scales [blocks, 2] and levels [blocks, bytes], uint8."""
        width = BLOCK * self.bits // 8
        blocks = payload.numel() // (2 + width)
        return payload[: 2 * blocks].view(blocks, 2), payload[2 * blocks :].view(blocks, width)

    @abstractmethod
    def _quantise(self, ratio: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        """Levels of value / scale [rows, 256] fp32, which may be overwritten, into `out` [rows, bytes]."""

    @abstractmethod
    def _unpack(self, levels: Tensor, out: Tensor) -> None:
        """Levels [rows, bytes] as fp32 [rows, 256], over `unit`."""

    def _check_levels(self, levels: Tensor) -> None:
        """Raises CodecError for a level that no encoder makes."""


class _IntegerCodec(LevelCodec):
    """Levels that lie at equal distances."""

    stochastic = True

    def _round(self, ratio: Tensor, noise: torch.Generator | None) -> Tensor:
        if noise is None:
            return ratio.round_()
        # Up with the probability of what is over the level below; a sum may round to one level too much.
        drawn = self._room("noise", ratio.shape, ratio).uniform_(generator=noise)
        return ratio.add_(drawn).floor_().clamp_(-self.top, self.top)


class Int8Codec(_IntegerCodec):
    """8.0625 bits a value: 127 levels each way, a signed byte each."""

    name = "int8"
    top = 127
    reach = 127.0
    bits = 8

    def _quantise(self, ratio: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        out.view(torch.int8).copy_(self._round(ratio, noise))

    def _unpack(self, levels: Tensor, out: Tensor) -> None:
        out.copy_(levels.view(torch.int8))

    def _check_levels(self, levels: Tensor) -> None:
        if int(levels.view(torch.int8).min()) == -128:
            raise CodecError("int8: a level is -128, which no encoder makes")


class Int4Codec(_IntegerCodec):
    """4.0625 bits a value: 7 levels each way; byte j of a block holds values j (low half) and j + 128."""

    name = "int4"
    top = 7
    reach = 7 + 127 / 256
    bits = 4
    unit = 1 / 16

    def _quantise(self, ratio: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        levels = self._room("levels", ratio.shape, ratio, torch.int8)
        levels.copy_(self._round(ratio, noise))
        low, high = levels[:, : BLOCK // 2], levels[:, BLOCK // 2 :]
        torch.bitwise_or(low.bitwise_and_(15), high.bitwise_left_shift_(4), out=out.view(torch.int8))

    def _unpack(self, levels: Tensor, out: Tensor) -> None:
        both = levels.view(torch.int8)
        # Each in the high half of a byte, sixteen times its level: there its sign is the byte's.
        wide = self._room("levels", out.shape, both, torch.int8)
        torch.bitwise_left_shift(both, 4, out=wide[:, : BLOCK // 2])
        torch.bitwise_and(both, -16, out=wide[:, BLOCK // 2 :])
        out.copy_(wide)

    def _check_levels(self, levels: Tensor) -> None:
        low, high = levels & 15, levels >> 4
        if bool(((low == 8) | (high == 8)).any()):
            raise CodecError("int4: a level is -8, which no encoder makes")


class E3M0Codec(LevelCodec):
    """4.0625 bits a value: sign and 3-bit exponent, levels ±2^-6 … ±1 of the scale, and 0.

    A level is a nibble, laid out as in int4: bit 3 the sign, bits 0 to 2 e; e = 0 is zero, else 2^(e-7).
    """

    name = "e3m0"
    top = 1
    reach = 1.0
    bits = 4

    def _quantise(self, ratio: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        bits = ratio.view(torch.int32)
        code = self._room("code", ratio.shape, ratio, torch.int32)
        # Half of the significand carries into the exponent from 1.5 on: the nearest power of two. Below the
        # smallest level the nearest is zero up to half of it, 2^-7, and the level itself from there on.
        torch.bitwise_and(bits, 0x7FFFFFFF, out=code)
        tiny = code >= 0x3C000000
        code.add_(0x400000).bitwise_right_shift_(23).sub_(120).clamp_(0, 7)
        torch.maximum(code, tiny, out=code)
        # A zero has no sign.
        code.add_(bits.bitwise_right_shift_(28).bitwise_and_(8).mul_(code > 0))
        levels = self._room("levels", ratio.shape, ratio, torch.int8)
        levels.copy_(code)
        low, high = levels[:, : BLOCK // 2], levels[:, BLOCK // 2 :]
        torch.bitwise_or(low, high.bitwise_left_shift_(4), out=out.view(torch.int8))

    def _unpack(self, levels: Tensor, out: Tensor) -> None:
        nibble = self._room("nibble", levels.shape, levels, torch.int32)
        for half, start in ((0, 0), (4, BLOCK // 2)):
            nibble.copy_(levels).bitwise_right_shift_(half).bitwise_and_(15)
            exponent = self._room("exponent", levels.shape, levels, torch.int32)
            torch.bitwise_and(nibble, 7, out=exponent)
            zero = exponent == 0
            # (e - 7 + 127) << 23 is 2^(e-7) in fp32; the sign is its highest bit.
            exponent.add_(120).masked_fill_(zero, 0).bitwise_left_shift_(23)
            exponent.bitwise_or_(nibble.bitwise_right_shift_(3).bitwise_left_shift_(31))
            out[:, start : start + BLOCK // 2].copy_(exponent.view(torch.float32))

    def _check_levels(self, levels: Tensor) -> None:
        low, high = levels & 15, levels >> 4
        if bool(((low == 8) | (high == 8)).any()):
            raise CodecError("e3m0: a zero has a sign, which no encoder makes")


def _together(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same ROWS rows of each."""
    return zip(*(torch.split(tensor, ROWS) for tensor in tensors), strict=True)
