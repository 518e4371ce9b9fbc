"""SparseLoCo's sparse pseudo-gradient (2508.15706): of each 4096 values the 64 largest, at 2 bits.

Payload: for each block of 4096 a codebook of 4 bf16 (little endian), then all blocks' positions, 64 of 12
bits, ascending, then all blocks' codes. Position k of the first 32 and position k + 32 lie in three bytes:
the low byte of the first, its high bits below the low ones of the second, the high byte of the second.
Codes lie as in codebook.py: byte j holds those of entries j, j + 16, j + 32 and j + 48. 0.234 bits a value.

Meant to be used with error feedback, which keeps what is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.protocol.codecs import bf16
from atoll.protocol.codecs.base import SLICE, Codec, CodecError, require_finite
from atoll.protocol.codecs.codebook import LEVELS, look_up, pack, quantise, require_book

CHUNK = 4096
KEPT = 64
_GROUP = 8
"""Values of which the largest is looked at first: the 64 largest of all are in the 64 best groups."""


class TopKCodec(Codec):
    name = "topk"
    block = CHUNK

    @classmethod
    def _bytes(cls, n: int) -> int:
        return n // CHUNK * (2 * LEVELS + KEPT * 12 // 8 + KEPT // LEVELS)

    def _encode(self, values: Tensor, out: Tensor, noise: torch.Generator | None) -> None:
        rows = values.view(-1, CHUNK)
        books, positions, packed = self._parts(out)
        for start in range(0, rows.shape[0], SLICE // CHUNK):
            part = slice(start, start + SLICE // CHUNK)
            index, absmax = self._largest(rows[part])
            require_finite(absmax, values)
            codes = self._room("codes", index.shape, rows, torch.uint8)
            book = quantise(rows[part].gather(1, index), absmax, codes, self._room)
            bf16.store(book, books[LEVELS * start : LEVELS * part.stop])
            _pack_positions(index, positions[part])
            pack(codes, packed[part])

    def _largest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [k, 64], ascending, of each row's largest magnitudes; and the largest of all [k, 1].

        Of equal ones, any.
        """
        magnitude = torch.abs(rows, out=self._room("magnitude", rows.shape, rows))
        groups = magnitude.view(-1, _GROUP, CHUNK // _GROUP)
        largest = groups.amax(dim=1)
        best = largest.topk(KEPT, dim=1, sorted=False).indices
        inside = groups.gather(2, best.unsqueeze(1).expand(-1, _GROUP, -1)).view(-1, _GROUP * KEPT)
        chosen = inside.topk(KEPT, dim=1, sorted=False).indices
        place = chosen // KEPT * (CHUNK // _GROUP) + best.gather(1, chosen % KEPT)
        return place.sort(dim=1).values, largest.amax(dim=1, keepdim=True)

    def _decode(self, payload: Tensor, out: Tensor) -> None:
        out.zero_()
        self._decode_add(payload, 1.0, out)

    def _decode_add(self, payload: Tensor, weight: float, into: Tensor) -> None:
        books, positions, packed = self._parts(payload)
        book = bf16.load(books).view(-1, LEVELS)
        require_book(self.name, book)
        book.mul_(weight)
        index = self._checked(positions)
        codes = torch.cat([packed >> 2 * k & 3 for k in range(LEVELS)], dim=1)
        values = look_up(codes, book, self._room)
        # No position twice: each sum has two terms, so no order matters.
        into.view(-1, CHUNK).scatter_add_(1, index, values)

    def check(self, payload: Tensor, n: int) -> None:
        super().check(payload, n)
        books, positions, _ = self._parts(payload)
        require_book(self.name, bf16.load(books))
        self._checked(positions)

    def _checked(self, positions: Tensor) -> Tensor:
        """Positions [blocks, 64] int64. Raises CodecError where one is there twice, or out of order."""
        index = _unpack_positions(positions)
        if not bool((index[:, 1:] > index[:, :-1]).all()):
            raise CodecError("topk: positions are not ascending")
        return index

    def _parts(self, payload: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of a payload: codebooks [4 · blocks, 2], positions [blocks, 96], codes [blocks, 16]."""
        wide, narrow = KEPT * 12 // 8, KEPT // LEVELS
        blocks = payload.numel() // (2 * LEVELS + wide + narrow)
        first, second = 2 * LEVELS * blocks, (2 * LEVELS + wide) * blocks
        return (
            payload[:first].view(-1, 2),
            payload[first:second].view(blocks, wide),
            payload[second:].view(blocks, narrow),
        )


def _pack_positions(index: Tensor, out: Tensor) -> None:
    """Positions [k, 64] int64 into `out` [k, 96] uint8."""
    first, second = index[:, : KEPT // 2], index[:, KEPT // 2 :]
    triples = out.view(-1, KEPT // 2, 3)
    triples[:, :, 0] = first & 255
    triples[:, :, 1] = (first >> 8) | ((second & 15) << 4)
    triples[:, :, 2] = second >> 4


def _unpack_positions(data: Tensor) -> Tensor:
    low, middle, high = data.view(-1, KEPT // 2, 3).to(torch.int64).unbind(dim=2)
    return torch.cat([low | (middle & 15) << 8, middle >> 4 | high << 4], dim=1)
