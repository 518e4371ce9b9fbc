"""A second implementation of the codecs, in numpy, from SPEC.md alone: byte for byte the same payloads.

Slow and plain on purpose. Where the specification leaves a choice (which of equal magnitudes topk keeps), the
values have none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from atoll.protocol.codecs import CODECS

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text()
Float32 = NDArray[np.float32]
F = np.float32


def fp32(values: Float32) -> bytes:
    return values.astype("<f4").tobytes()


def nearest_bf16(values: Float32) -> NDArray[np.uint16]:
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bf16(values: Float32) -> bytes:
    return nearest_bf16(values).astype("<u2").tobytes()


def scales(values: Float32, reach: float) -> tuple[Float32, bytes]:
    """Each block's scale, and all of them as bytes."""
    absmax = np.abs(values.reshape(-1, 256)).max(axis=1)
    bits = (np.minimum(absmax / F(reach), F(2.0**120)).view(np.uint32) + 0xFFFF) & 0xFFFF0000
    scale = bits.view(np.float32)
    scale = np.where(scale < F(2.0**-100), F(0), scale)
    return scale, (scale.view(np.uint32) >> 16).astype("<u2").tobytes()


def ratios(values: Float32, scale: Float32) -> Float32:
    result = np.zeros((scale.size, 256), np.float32)
    some = scale > 0
    result[some] = values.reshape(-1, 256)[some] / scale[some, None]
    return result


def int8(values: Float32) -> bytes:
    scale, head = scales(values, 127)
    return head + np.clip(np.rint(ratios(values, scale)), -127, 127).astype(np.int8).tobytes()


def nibbles(levels: NDArray[np.int64]) -> bytes:
    return (levels[:, :128] & 15 | (levels[:, 128:] & 15) << 4).astype(np.uint8).tobytes()


def int4(values: Float32) -> bytes:
    scale, head = scales(values, 7 + 127 / 256)
    return head + nibbles(np.clip(np.rint(ratios(values, scale)), -7, 7).astype(np.int64))


def e3m0(values: Float32) -> bytes:
    scale, head = scales(values, 1)
    ratio = np.clip(ratios(values, scale), -1, 1)
    levels = np.array([0.0] + [2.0**k for k in range(-6, 1)])
    middles = (levels[1:] + levels[:-1]) / 2
    code = np.searchsorted(middles, np.abs(ratio).astype(np.float64), side="right")
    return head + nibbles(code + 8 * ((ratio < 0) & (code > 0)))


def four_bins(row: Float32) -> tuple[bytes, NDArray[np.int64]]:
    """A codebook and the codes of one block."""
    absmax = np.abs(row).max()
    unit = absmax / F(2**15)
    whole = np.rint(row / (unit if unit else F(1))).astype(np.int64)
    mean = F(F(np.abs(whole).sum()) / F(row.size))
    large = np.abs(whole).astype(np.float32) > F(mean * F(1.25))
    code = np.where(whole < 0, np.where(large, 0, 1), np.where(large, 3, 2))
    book = np.zeros(4, np.float32)
    for k in range(4):
        inside = whole[code == k]
        book[k] = F(F(inside.sum()) / F(max(inside.size, 1))) * unit
    book = np.clip(book, -F(127 * 2.0**120), F(127 * 2.0**120))
    return nearest_bf16(book).astype("<u2").tobytes(), code


def quarters(codes: NDArray[np.int64]) -> bytes:
    k = codes.size // 4
    return bytes(sum(int(codes[j + i * k]) << 2 * i for i in range(4)) for j in range(k))


def two_bit(values: Float32) -> bytes:
    parts = [four_bins(row) for row in values.reshape(-1, 256)]
    return b"".join(book for book, _ in parts) + b"".join(quarters(codes) for _, codes in parts)


def topk(values: Float32) -> bytes:
    books, places, packed = b"", b"", b""
    for row in values.reshape(-1, 4096):
        index = np.sort(np.argsort(-np.abs(row), kind="stable")[:64])
        # Units are of the block's largest magnitude, which is among the kept.
        book, codes = four_bins(row[index])
        first, second = index[:32], index[32:]
        triple = np.stack([first & 255, first >> 8 | (second & 15) << 4, second >> 4], axis=1)
        books, places, packed = (
            books + book,
            places + bytes(triple.ravel().tolist()),
            packed + quarters(codes),
        )
    return books + places + packed


REFERENCE: dict[str, Callable[[Float32], bytes]] = {
    "fp32": fp32,
    "bf16": bf16,
    "int8": int8,
    "int4": int4,
    "e3m0": e3m0,
    "2bit": two_bit,
    "topk": topk,
}
EACH = pytest.mark.parametrize("name", CODECS)


def encoded(name: str, values: Float32) -> bytes:
    codec = CODECS[name]()
    out = torch.empty(codec.bound(values.size), dtype=torch.uint8)
    return codec.encode(torch.from_numpy(values), out).numpy().tobytes()


def examples() -> list[Float32]:
    """The values of the table in SPEC.md."""
    first = np.zeros(256, np.float32)
    first[:8] = [1.0, -0.5, 0.25, 127.0, -127.0, 3.3, -1e-3, 63.4]
    i = np.arange(4096)
    third = np.where(i % 2, -1, 1) * (i * 7919 % 4096 + 1) / 4096
    return [first, np.arange(-128, 128, dtype=np.float32) / F(100), third.astype(np.float32)]


@EACH
def test_the_table_of_the_specification(name: str):
    rows = re.findall(rf"^\| {name} \| (\w) \| `(\w+)` \| `(\w+)` \|$", SPEC, re.M)
    wanted = {}
    for letter, values in zip("ABC", examples(), strict=True):
        if values.size % CODECS[name].block == 0:
            payload = encoded(name, values)
            assert payload == REFERENCE[name](values)
            wanted[letter] = (payload[:10].hex(), hashlib.sha256(payload).hexdigest())
    assert {letter: (head, digest) for letter, head, digest in rows} == wanted


# The top of the range is in test_codecs.py; what is denormal or clamped is all the same here.
WIDE = st.floats(width=32, min_value=-(2.0**119), max_value=2.0**119)


@EACH
@given(data=st.data())
@settings(max_examples=60)
def test_the_second_implementation_agrees(name: str, data: st.DataObject):
    if name == "topk":
        values = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(8192).astype(np.float32)
    else:
        values = data.draw(hnp.arrays(np.float32, 512, elements=WIDE))
    assert encoded(name, values) == REFERENCE[name](values)


@EACH
def test_the_second_implementation_agrees_on_gaussian_values(name: str):
    values = np.random.default_rng(5).standard_normal(1 << 16).astype(np.float32) * F(1e-3)
    assert encoded(name, values) == REFERENCE[name](values)
