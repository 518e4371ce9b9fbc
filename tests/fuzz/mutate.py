"""Mutations of valid inputs, from a seed: flipped, lost, doubled, spliced bytes, and numbers at limits."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

LIMITS = [0, 1, 127, 128, 255, (1 << 16) - 1, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]
MAX_BYTES = 1 << 14


def mutations(seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Without end; begins with the seeds themselves, and goes on from what it made."""
    pool = list(seeds)
    yield from pool
    while True:
        data = bytearray(rng.choice(pool))
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            _change(data, pool, rng)
        made = bytes(data[:MAX_BYTES])
        if len(pool) < 256:
            pool.append(made)
        else:
            pool[rng.randrange(len(seeds), len(pool))] = made
        yield made


def _change(data: bytearray, pool: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(rng.choice([1, 2, 4, 8, 32, 128]), len(data) - at)
    match rng.randrange(7):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length]
        case 3:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 8]))
        case 4:
            data[at:at] = _varint(rng.choice(LIMITS))
        case 5:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + rng.choice([4, 16, 64, 256])]
        case _:
            data[at : at + 4] = rng.choice(LIMITS).to_bytes(8, "big")[-4:]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
