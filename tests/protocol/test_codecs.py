"""Codecs: error bounds against float64, exact decoding, refusals, and a mean that depends on nothing else."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atoll.protocol import manifest
from atoll.protocol.codecs import (
    CODECS,
    BFloat16Codec,
    Codec,
    CodecError,
    E3M0Codec,
    Float32Codec,
    Int4Codec,
    Int8Codec,
    NonFinite,
    TopKCodec,
    TwoBitCodec,
    aggregate,
)
from atoll.protocol.codecs.base import MAX_SCALE, MAX_VALUE, MIN_SCALE, SLICE
from atoll.protocol.codecs.codebook import THRESHOLD
from atoll.protocol.codecs.topk import CHUNK, KEPT
from atoll.protocol.schema import BLOCK

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vectors(block: int = BLOCK, most: int = 4) -> st.SearchStrategy[np.ndarray]:
    return st.integers(1, most).flatmap(lambda k: hnp.arrays(np.float32, k * block, elements=FLOATS))


VECTORS = vectors()
ALL = pytest.mark.parametrize("codec", [kind() for kind in CODECS.values()], ids=lambda c: c.name)
LEVELED = pytest.mark.parametrize("codec", [Int8Codec(), Int4Codec()], ids=lambda c: c.name)
SCALED = pytest.mark.parametrize("codec", [Int8Codec(), Int4Codec(), E3M0Codec()], ids=lambda c: c.name)


def encode(codec: Codec, values: np.ndarray, noise: torch.Generator | None = None) -> torch.Tensor:
    out = torch.empty(codec.bound(values.size), dtype=torch.uint8)
    assert codec.encode(torch.from_numpy(values.copy()), out, noise).data_ptr() == out.data_ptr()
    return out


def decode(codec: Codec, payload: torch.Tensor, n: int) -> np.ndarray:
    out = torch.empty(n)
    codec.decode(payload, out)
    return out.numpy()


def as_float(data: np.ndarray) -> np.ndarray:
    """Little-endian bf16 as fp32."""
    return (np.frombuffer(data.tobytes(), dtype="<u2").astype(np.uint32) << 16).view(np.float32)


def scales(payload: torch.Tensor, n: int) -> np.ndarray:
    return as_float(payload.numpy()[: 2 * n // BLOCK])


def gaussian(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def test_the_manifest_knows_the_codecs_by_name():
    assert tuple(sorted(CODECS)) == tuple(sorted(manifest.CODEC_NAMES))


# ---- errors


@LEVELED
@given(VECTORS)
def test_integer_levels_err_by_half_a_level_at_most(codec: Codec, values: np.ndarray):
    top = {"int8": 127, "int4": 7}[codec.name]
    payload = encode(codec, values)
    decoded = decode(codec, payload, values.size).astype(np.float64)
    reach = {"int8": 127.0, "int4": 7 + 127 / 256}[codec.name]
    exact = np.clip(values.astype(np.float64), -top * MAX_SCALE, top * MAX_SCALE).reshape(-1, BLOCK)
    scale = scales(payload, values.size).astype(np.float64)
    error = np.abs(decoded.reshape(-1, BLOCK) - exact).max(axis=1)
    # A block of next to nothing has scale 0 and decodes to zeros.
    lost = scale == 0
    assert (np.abs(exact[lost]) < reach * MIN_SCALE).all()
    assert (error[~lost] <= scale[~lost] * (0.5 + 2.0**-17)).all()
    absmax = np.abs(values.astype(np.float64)).reshape(-1, BLOCK).max(axis=1)
    normal = absmax > reach * MIN_SCALE
    expected = np.minimum(absmax[normal] / reach, MAX_SCALE)
    assert (scale[normal] >= expected * (1 - 2.0**-23)).all()
    assert (scale[normal] <= expected * (1 + 2.0**-7)).all()


@given(VECTORS)
def test_e3m0_errs_by_a_third_or_by_half_its_smallest_level(values: np.ndarray):
    payload = encode(E3M0Codec(), values)
    decoded = decode(E3M0Codec(), payload, values.size).astype(np.float64).reshape(-1, BLOCK)
    exact = np.clip(values.astype(np.float64), -MAX_SCALE, MAX_SCALE).reshape(-1, BLOCK)
    scale = scales(payload, values.size).astype(np.float64)[:, None]
    allowed = np.maximum(np.abs(exact) / 3, scale * 2.0**-7) * (1 + 2.0**-20)
    some = scale[:, 0] > 0
    assert (np.abs(decoded - exact)[some] <= allowed[some]).all()
    assert (np.abs(exact[~some]) < MIN_SCALE).all() and not decoded[~some].any()
    ratio = np.abs(decoded[some]) / scale[some]
    assert np.isin(ratio, [0.0, *(2.0**-k for k in range(7))]).all()


@given(VECTORS)
def test_bf16_errs_by_half_a_unit_of_its_last_place(values: np.ndarray):
    decoded = decode(BFloat16Codec(), encode(BFloat16Codec(), values), values.size).astype(np.float64)
    exact = np.clip(values.astype(np.float64), -MAX_VALUE, MAX_VALUE)
    assert (np.abs(decoded - exact) <= np.maximum(np.abs(exact) * 2.0**-8, 2.0**-134)).all()


@given(VECTORS)
def test_fp32_is_exact_within_its_range(values: np.ndarray):
    decoded = decode(Float32Codec(), encode(Float32Codec(), values), values.size)
    expected = np.clip(values, np.float32(-MAX_VALUE), np.float32(MAX_VALUE))
    assert decoded.tobytes() == expected.tobytes()


@given(VECTORS)
def test_two_bits_are_the_means_of_four_bins(values: np.ndarray):
    values = np.clip(values, -1e30, 1e30)
    payload = encode(TwoBitCodec(), values)
    blocks = values.size // BLOCK
    books = as_float(payload.numpy()[: 8 * blocks]).reshape(blocks, 4).astype(np.float64)
    packed = payload.numpy()[8 * blocks :].reshape(blocks, BLOCK // 4)
    codes = np.concatenate([packed >> 2 * k & 3 for k in range(4)], axis=1)
    exact = values.astype(np.float64).reshape(blocks, BLOCK)
    absmax = np.abs(exact).max(axis=1)
    for row, code, book, top in zip(exact, codes, books, absmax, strict=True):
        unit = top / 2**15
        cut = THRESHOLD * np.abs(row).mean()
        for k in range(4):
            inside = row[code == k]
            if inside.size and top > 1e-30:
                assert abs(book[k] - inside.mean()) <= 2.0**-8 * abs(inside.mean()) + unit + 1e-38
        assert (row[code < 2] <= 0).all() and (row[code >= 2] >= -0.5000001 * unit).all()
        assert (np.abs(row[(code == 1) | (code == 2)]) <= cut + 2 * unit + 1e-38).all()


@given(vectors(CHUNK, 2))
def test_topk_keeps_the_largest_and_nothing_else(values: np.ndarray):
    decoded = decode(TopKCodec(), encode(TopKCodec(), values), values.size).reshape(-1, CHUNK)
    for row, got in zip(values.reshape(-1, CHUNK), decoded, strict=True):
        magnitudes = np.sort(np.abs(row))
        assert np.count_nonzero(got) <= KEPT
        assert (np.abs(row[got != 0]) >= magnitudes[-KEPT]).all()


def test_topk_finds_all_of_the_largest():
    values = gaussian(2 * CHUNK)
    decoded = decode(TopKCodec(), encode(TopKCodec(), values), values.size)
    for row, got in zip(values.reshape(-1, CHUNK), decoded.reshape(-1, CHUNK), strict=True):
        assert set(np.flatnonzero(got)) == set(np.argsort(np.abs(row))[-KEPT:])
        assert (np.sign(got[got != 0]) == np.sign(row[got != 0])).all()


@pytest.mark.parametrize(
    ("codec", "most"),
    [
        (BFloat16Codec(), 0.002),
        (Int8Codec(), 0.008),
        (Int4Codec(), 0.13),
        (E3M0Codec(), 0.2),
        (TwoBitCodec(), 0.35),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_relative_error_on_gaussian_values(codec: Codec, most: float):
    values = gaussian(64 * BLOCK)
    error = decode(codec, encode(codec, values), values.size) - values
    assert np.linalg.norm(error) / np.linalg.norm(values) <= most


@SCALED
@given(VECTORS)
def test_levels_decode_exactly(codec: Codec, values: np.ndarray):
    """level · scale has no rounding in fp32, so no instruction set can change a bit."""
    payload = encode(codec, values)
    levels = payload.numpy()[2 * values.size // BLOCK :].reshape(values.size // BLOCK, -1)
    if codec.name == "int8":
        levels = levels.view(np.int8).astype(np.float64)
    else:
        nibbles = np.concatenate([levels & 15, levels >> 4], axis=1).astype(np.int64)
        integers = np.where(nibbles < 8, nibbles, nibbles - 16)
        powers = np.where(nibbles & 7, 2.0 ** ((nibbles & 7) - 7), 0.0) * np.where(nibbles & 8, -1, 1)
        levels = integers.astype(np.float64) if codec.name == "int4" else powers
    product = levels * scales(payload, values.size).astype(np.float64)[:, None]
    decoded = decode(codec, payload, values.size).astype(np.float64)
    assert np.array_equal(product.ravel(), decoded)


@pytest.mark.parametrize("codec", [Int8Codec(), E3M0Codec()], ids=lambda codec: codec.name)
@given(VECTORS)
def test_what_was_decoded_encodes_to_the_same_values(codec: Codec, values: np.ndarray):
    """Not of int4, whose largest value is no level's."""
    once = decode(codec, encode(codec, values), values.size)
    assert np.isfinite(once).all()
    twice = decode(codec, encode(codec, once), values.size)
    scale = np.abs(once).reshape(-1, BLOCK).max(axis=1)
    assert (np.abs(once - twice).reshape(-1, BLOCK).max(axis=1) <= scale / 127).all()


# ---- rounding at random


@LEVELED
def test_random_rounding_is_right_on_average_and_repeats_with_its_seed(codec: Codec):
    values = gaussian(4 * BLOCK)
    drawn = [torch.Generator().manual_seed(seed) for seed in range(200)]
    decoded = np.stack([decode(codec, encode(codec, values, g), values.size) for g in drawn])
    scale = np.repeat(scales(encode(codec, values, drawn[0]), values.size), BLOCK)
    # The mean of 200 draws of a level above or below: at most 0.5 / √200 of a level off, four times over.
    assert (np.abs(decoded.mean(axis=0) - values) <= 0.15 * scale).all()
    assert (np.abs(decoded - values) <= scale * (1 + 2.0**-16)).all()
    again = encode(codec, values, torch.Generator().manual_seed(7))
    assert torch.equal(again, encode(codec, values, torch.Generator().manual_seed(7)))


@ALL
def test_only_some_round_at_random(codec: Codec):
    values = gaussian(codec.block)
    if codec.stochastic:
        codec.check(encode(codec, values, torch.Generator().manual_seed(1)), values.size)
    else:
        with pytest.raises(CodecError, match="at random"):
            encode(codec, values, torch.Generator())


# ---- odd values


@ALL
def test_blocks_of_zeros_stay_zero(codec: Codec):
    values = np.zeros(3 * codec.block, dtype=np.float32)
    values[codec.block] = -0.0
    decoded = decode(codec, encode(codec, values), values.size)
    assert not decoded.any()


@ALL
def test_the_largest_values_are_cut_and_the_smallest_survive_or_vanish(codec: Codec):
    largest = np.finfo(np.float32).max
    values = np.zeros(codec.block * 2, dtype=np.float32)
    values[:2] = largest, -largest
    values[codec.block] = 1e-45
    decoded = decode(codec, encode(codec, values), values.size)
    most = {"int4": 7 * MAX_SCALE, "e3m0": MAX_SCALE}.get(codec.name, MAX_VALUE)
    assert decoded[0] == np.float32(most) and decoded[1] == -np.float32(most)
    assert abs(decoded[codec.block]) <= 2e-45


@ALL
@given(st.integers(0, SLICE + CHUNK - 1), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_refused_with_its_position(codec: Codec, position: int, bad: float):
    values = torch.zeros(SLICE + CHUNK)
    values[position] = bad
    with pytest.raises(NonFinite) as caught:
        codec.encode(values, torch.empty(codec.bound(values.numel()), dtype=torch.uint8))
    assert caught.value.position == position


BITS = {
    "fp32": 32,
    "bf16": 16,
    "int8": 8.0625,
    "int4": 4.0625,
    "e3m0": 4.0625,
    "2bit": 2.25,
    "topk": 0.234375,
}


@ALL
def test_sizes_are_what_bound_says(codec: Codec):
    n = codec.block
    assert codec.bound(1 << 20) == BITS[codec.name] * (1 << 20) / 8
    for wrong in (0, -n, 1, n + 1):
        with pytest.raises(CodecError):
            codec.bound(wrong)
    with pytest.raises(CodecError):
        codec.encode(torch.zeros(n), torch.empty(codec.bound(n) - 1, dtype=torch.uint8))
    for wrong_payload in (
        torch.zeros(codec.bound(n) + 1, dtype=torch.uint8),
        torch.zeros(codec.bound(n) - 1, dtype=torch.uint8),
        torch.zeros(codec.bound(n)),
    ):
        for use in (
            lambda p: codec.check(p, n),
            lambda p: codec.decode(p, torch.empty(n)),
            lambda p: codec.decode_add(p, 1.0, torch.empty(n)),
        ):
            with pytest.raises(CodecError):
                use(wrong_payload)


@ALL
def test_the_payload_is_a_view_of_the_room_it_got(codec: Codec):
    values = gaussian(codec.block)
    room = torch.full((codec.bound(values.size) + 9,), 77, dtype=torch.uint8)
    payload = codec.encode(torch.from_numpy(values), room)
    assert torch.equal(payload, encode(codec, values)) and (room[payload.numel() :] == 77).all()


@ALL
def test_scratch_is_reused_for_any_size(codec: Codec):
    for n in (codec.block, SLICE + 3 * codec.block, 2 * codec.block):
        values = gaussian(n)
        payload = encode(codec, values)
        assert torch.equal(payload, encode(type(codec)(), values))
        assert np.array_equal(decode(codec, payload, n), decode(type(codec)(), payload, n))


@ALL
def test_a_payload_may_lie_at_any_byte(codec: Codec):
    values = gaussian(codec.block)
    payload = encode(codec, values)
    shifted = torch.empty(payload.numel() + 1, dtype=torch.uint8)
    shifted[1:] = payload
    codec.check(shifted[1:], values.size)
    assert np.array_equal(decode(codec, shifted[1:], values.size), decode(codec, payload, values.size))


# ---- hostile payloads


@SCALED
@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, -0.0, 2.0 * MAX_SCALE, MIN_SCALE / 2])
def test_scales_that_no_encoder_makes_are_refused(codec: Codec, scale: float):
    payload = encode(codec, np.ones(BLOCK, dtype=np.float32))
    payload[:2] = torch.tensor(list(struct.pack("<f", scale)[2:]), dtype=torch.uint8)
    with pytest.raises(CodecError, match="scale"):
        codec.check(payload, BLOCK)
    with pytest.raises(CodecError):
        decode(codec, payload, BLOCK)
    with pytest.raises(CodecError):
        codec.decode_add(payload, 1.0, torch.zeros(BLOCK))


@pytest.mark.parametrize(
    ("codec", "level"), [(Int8Codec(), 128), (Int4Codec(), 0x08), (Int4Codec(), 0x80), (E3M0Codec(), 0x08)]
)
def test_levels_that_no_encoder_makes_are_refused(codec: Codec, level: int):
    payload = encode(codec, np.ones(BLOCK, dtype=np.float32))
    payload[100] = level
    with pytest.raises(CodecError, match="which no encoder makes"):
        codec.check(payload, BLOCK)


@pytest.mark.parametrize("codec", [TwoBitCodec(), TopKCodec()], ids=lambda c: c.name)
@pytest.mark.parametrize("level", [math.nan, math.inf, -2.0 * MAX_VALUE])
def test_codebooks_out_of_range_are_refused(codec: Codec, level: float):
    payload = encode(codec, np.ones(codec.block, dtype=np.float32))
    payload[:2] = torch.tensor(list(struct.pack("<f", level)[2:]), dtype=torch.uint8)
    with pytest.raises(CodecError, match="codebook"):
        codec.check(payload, codec.block)
    with pytest.raises(CodecError):
        decode(codec, payload, codec.block)


def test_positions_that_come_twice_are_refused():
    payload = encode(TopKCodec(), gaussian(CHUNK))
    payload[8 : 8 + 96] = 0
    with pytest.raises(CodecError, match="ascending"):
        TopKCodec().check(payload, CHUNK)
    with pytest.raises(CodecError, match="ascending"):
        TopKCodec().decode_add(payload, 1.0, torch.zeros(CHUNK))


@pytest.mark.parametrize("codec", [Float32Codec(), BFloat16Codec()], ids=lambda c: c.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, -2.0 * MAX_VALUE])
def test_numbers_out_of_range_are_refused(codec: Codec, value: float):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[codec.name]
    payload = torch.tensor([0.0] * (BLOCK - 1) + [value], dtype=dtype).view(torch.uint8)
    with pytest.raises(CodecError):
        codec.check(payload, BLOCK)
    with pytest.raises(CodecError):
        codec.decode_add(payload, 1.0, torch.zeros(BLOCK))


@ALL
@given(data=st.data())
def test_any_bytes_are_refused_or_decode_within_range(codec: Codec, data: st.DataObject):
    size = codec.bound(codec.block)
    raw = data.draw(st.binary(min_size=size, max_size=size))
    payload = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        codec.check(payload, codec.block)
    except CodecError:
        return
    assert (np.abs(decode(codec, payload, codec.block)) <= MAX_VALUE).all()


@ALL
@given(data=st.data())
def test_bytes_that_were_not_checked_do_no_harm(codec: Codec, data: st.DataObject):
    """Whatever the levels are, what is decoded is finite, or refused."""
    size = codec.bound(codec.block)
    payload = torch.frombuffer(
        bytearray(data.draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8
    )
    try:
        decoded = decode(codec, payload, codec.block)
    except CodecError:
        return
    assert (np.abs(decoded) <= 129 * MAX_SCALE).all()


# ---- the mean


def mean(codec: Codec, values: list[np.ndarray], weights: list[int]) -> np.ndarray:
    out = torch.full((values[0].size,), math.nan)
    aggregate(codec, [encode(codec, v) for v in values], weights, out)
    return out.numpy()


def members(codec: Codec) -> st.SearchStrategy[list[np.ndarray]]:
    return st.lists(hnp.arrays(np.float32, codec.block, elements=FLOATS), min_size=1, max_size=5)


@ALL
@given(st.data())
def test_the_mean_is_near_the_exact_one_and_always_finite(codec: Codec, data: st.DataObject):
    values = data.draw(members(codec))
    weights = [data.draw(st.integers(1, 2**40)) for _ in values]
    result = mean(codec, values, weights).astype(np.float64)
    assert np.isfinite(result).all()
    decoded = [decode(codec, encode(codec, v), codec.block).astype(np.float64) for v in values]
    exact = sum(w / sum(weights) * d for w, d in zip(weights, decoded, strict=True))
    largest = np.abs(decoded).max()
    # A scale times a weight that is no normal number any more loses bits: 127 levels of 2^-149.
    assert (np.abs(result - exact) <= 2e-6 * largest + 128 * 2.0**-149 * len(values)).all()


@ALL
def test_a_mean_of_extremes_can_be_encoded_again(codec: Codec):
    """No set of allowed contributions makes a result that can't be sent: that would stop the round."""
    extreme = np.full(codec.block, np.finfo(np.float32).max, dtype=np.float32)
    result = mean(codec, [extreme] * 7, [1, 3, 7, 11, 13, 17, 19])
    for again in CODECS.values():
        values = np.resize(result, CHUNK)
        assert np.isfinite(decode(again(), encode(again(), values), CHUNK)).all()


@ALL
@given(st.data())
def test_the_mean_is_a_function_of_bytes_and_order(codec: Codec, data: st.DataObject):
    values = data.draw(members(codec))
    weights = list(range(1, len(values) + 1))
    first = mean(codec, values, weights)
    assert first.tobytes() == mean(codec, values, weights).tobytes()
    alone = mean(codec, values[:1], [5])
    decoded = decode(codec, encode(codec, values[0]), codec.block)
    assert alone.tobytes() == (decoded + np.float32(0)).tobytes()


@ALL
def test_decoding_adds_to_what_is_there(codec: Codec):
    values, into = gaussian(codec.block), torch.from_numpy(gaussian(codec.block, 2))
    before = into.numpy().copy()
    payload = encode(codec, values)
    codec.decode_add(payload, 0.5, into)
    expected = before + np.float32(0.5) * decode(codec, payload, codec.block)
    assert np.array_equal(into.numpy(), expected), (
        "halving is exact, so the order of the products is no matter"
    )


def test_the_mean_rounds_each_product_and_each_sum():
    values = [gaussian(BLOCK, seed) for seed in range(3)]
    weights = [100, 70, 33]
    total = np.zeros(BLOCK, dtype=np.float32)
    for vector, weight in zip(values, weights, strict=True):
        total = total + vector * np.float32(weight / 203)
    assert mean(Float32Codec(), values, weights).tobytes() == total.tobytes()
    total = np.zeros(BLOCK, dtype=np.float32)
    for vector, weight in zip(values, weights, strict=True):
        payload = encode(Int8Codec(), vector)
        levels = payload.numpy()[2:].view(np.int8).astype(np.float32)
        total = total + levels * (scales(payload, BLOCK) * np.float32(weight / 203))
    assert mean(Int8Codec(), values, weights).tobytes() == total.tobytes(), "the scale first"


@pytest.mark.parametrize("weights", [[], [0], [-1], [1, 2]])
def test_a_mean_needs_a_positive_weight_for_each_payload(weights: list[int]):
    payloads = [encode(Float32Codec(), np.zeros(BLOCK, dtype=np.float32))] * (1 if weights else 0)
    with pytest.raises(ValueError):
        aggregate(Float32Codec(), payloads, weights, torch.empty(BLOCK))
