"""2 bits a value, with a statistical codebook for each block of 256; to be used with error feedback.

Uniform levels are poor at two bits: most values would become zero. Here a block has four bins, cut at zero
and at ±5/4 of the mean magnitude (the best threshold for Gaussian values; where few values are not zero,
those get bins of their own), and each bin's level is the mean of what is in it (SparseLoCo, 2508.15706;
MuLoCo, 2505.23725). Payload: the codebooks of all blocks, 4 bf16 each (little endian, in the order of the
codes), then the codes, byte j of a block holding values j, j + 64, j + 128 and j + 192, lowest bits first.

Means are made of integers: a value counts as round(2^15 · value / absmax), so that sums are exact in fp32
and another implementation, with another order of summation, gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atoll.protocol.codecs import bf16
from atoll.protocol.codecs.base import MAX_VALUE, SLICE, Codec, CodecError, require_finite
from atoll.protocol.schema import BLOCK

Room = Callable[..., Tensor]
"""Scratch: Codec._room."""
LEVELS = 4
UNIT = 2.0**15
"""At most 256 values of a row: their sum stays under 2^24, where fp32 holds every integer."""
THRESHOLD = 1.25
_WIDTH = BLOCK // LEVELS


def quantise(rows: Tensor, absmax: Tensor, codes: Tensor, room: Room) -> Tensor:
    """Codes [k, m] uint8 of fp32 `rows` [k, m] (m ≤ 256), and the codebooks [k, 4] fp32 (bf16 numbers).

    `absmax` [k, 1], finite, is overwritten. Code 0: under minus the threshold; 1: to below 0; 2: to the
    threshold, 0 among them; 3: over it.
    """
    whole, part = room("whole", rows.shape, rows), room("part", rows.shape, rows)
    unit = absmax.div_(UNIT)
    # Adding zero makes minus zero plus zero: from here on the sign bit says what is negative.
    torch.div(rows, torch.where(unit == 0, 1, unit), out=whole).round_().add_(0.0)
    magnitude = torch.abs(whole, out=part)
    threshold = magnitude.sum(dim=1, keepdim=True).div_(rows.shape[1]).mul_(THRESHOLD)
    # Masks are the sign bit of a difference: comparing and choosing would take several times as long.
    large = torch.sub(threshold, magnitude, out=part).view(torch.int32).bitwise_right_shift_(31)
    upper, lower = (room(use, rows.shape, rows, torch.int8) for use in ("upper", "lower"))
    is_large = upper.copy_(large)
    outer = large.bitwise_and_(whole.view(torch.int32)).view(torch.float32)
    all_outer, low_outer = outer.sum(dim=1), outer.clamp_(max=0).sum(dim=1)
    high = whole.sum(dim=1)
    low = torch.clamp(whole, max=0, out=part).sum(dim=1)
    high -= low
    is_negative = lower.copy_(whole.view(torch.int32).bitwise_right_shift_(31))
    of_large, of_negative = _count(is_large), _count(is_negative)
    # The low bit: large, or small and negative; the high bit: not negative.
    torch.bitwise_xor(is_large, is_negative, out=codes.view(torch.int8)).bitwise_and_(1)
    of_low_outer = _count(is_large.bitwise_and_(is_negative))
    codes.bitwise_or_(is_negative.bitwise_not_().bitwise_and_(2).view(torch.uint8))
    high_outer, of_high_outer = all_outer - low_outer, of_large - of_low_outer
    sums = (low_outer, low - low_outer, high - high_outer, high_outer)
    counts = (
        of_low_outer,
        of_negative - of_low_outer,
        rows.shape[1] - of_negative - of_high_outer,
        of_high_outer,
    )
    book = torch.stack(sums, dim=1).div_(torch.stack(counts, dim=1).clamp_(min=1)).mul_(unit)
    return book.clamp_(-MAX_VALUE, MAX_VALUE).to(torch.bfloat16).to(torch.float32)


def _count(mask: Tensor) -> Tensor:
    """How many of each row [k, m] int8 are not 0 but -1; m at most 256 and a multiple of 8. [k] fp32."""
    # Eight bytes are added at a time: at most 32 ones stay in each byte.
    ones = torch.bitwise_and(mask, 1).view(torch.int64).sum(dim=1)
    return ones.view(torch.uint8).view(-1, 8).sum(dim=1).to(torch.float32)


def look_up(codes: Tensor, book: Tensor, room: Room) -> Tensor:
    """Values [k, m] fp32 that `book` [k, 4] has for `codes` [k, m] uint8, 0 to 3."""
    index = room("index", codes.shape, codes, torch.int64).copy_(codes)
    return torch.gather(book, 1, index, out=room("looked up", codes.shape, book))


def pack(codes: Tensor, out: Tensor) -> None:
    """Codes [k, m] uint8, which are overwritten, four to a byte of `out` [k, m / 4]."""
    quarters = codes.view(codes.shape[0], LEVELS, -1)
    out.copy_(quarters[:, 0])
    for k in range(1, LEVELS):
        out.bitwise_or_(quarters[:, k].bitwise_left_shift_(2 * k))


def require_book(name: str, book: Tensor) -> None:
    """Raises CodecError unless all levels are finite and in range."""
    if not bool((book.abs() <= MAX_VALUE).all()):
        raise CodecError(f"{name}: a level of a codebook is not finite, or too large")


class TwoBitCodec(Codec):
    """2.25 bits a value."""

    name = "2bit"

    @classmethod
    def _bytes(cls, n: int) -> int:
        return n // BLOCK * (2 * LEVELS + _WIDTH)

    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        rows = values.view(-1, BLOCK)
        books, packed = self._parts(out)
        for start in range(0, rows.shape[0], SLICE // BLOCK):
            part = slice(start, start + SLICE // BLOCK)
            codes = self._room("codes", rows[part].shape, rows, torch.uint8)
            magnitudes = torch.abs(rows[part], out=self._room("part", rows[part].shape, rows))
            absmax = magnitudes.amax(dim=1, keepdim=True)
            require_finite(absmax, values)
            book = quantise(rows[part], absmax, codes, self._room)
            bf16.store(book, books[LEVELS * start : LEVELS * part.stop])
            pack(codes, packed[part])

    def _decode(self, payload: Tensor, out: Tensor) -> None:
        self._each(payload, 1.0, out, adds=False)

    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        self._each(payload, weight, into, adds=True)

    def _each(self, payload: Tensor, weight: float, out: Tensor, adds: bool) -> None:
        books, packed = self._parts(payload)
        book = bf16.load(books).view(-1, LEVELS)
        require_book(self.name, book)
        book.mul_(weight)
        rows = out.view(-1, LEVELS, _WIDTH)
        for start in range(0, rows.shape[0], SLICE // BLOCK):
            part = slice(start, start + SLICE // BLOCK)
            codes = self._room("codes", packed[part].shape, rows, torch.uint8)
            for k in range(LEVELS):
                torch.bitwise_right_shift(packed[part], 2 * k, out=codes).bitwise_and_(3)
                values = look_up(codes, book[part], self._room)
                if adds:
                    rows[part, k].add_(values)
                else:
                    rows[part, k].copy_(values)

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        require_book(self.name, bf16.load(self._parts(payload)[0]))

    def _parts(self, payload: Tensor) -> tuple[Tensor, Tensor]:
        """Views of a payload: codebooks [4 · blocks, 2] and codes [blocks, 64], uint8."""
        blocks = payload.numel() // (2 * LEVELS + _WIDTH)
        end = 2 * LEVELS * blocks
        return payload[:end].view(-1, 2), payload[end:].view(blocks, _WIDTH)
