"""Codecs: error bounds against float64, exact decoding, refusals, and a mean that depends on nothing else."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atoll.protocol import manifest
from atoll.protocol.codecs import CODECS, Codec, CodecError, Float32Codec, Int8Codec, NonFinite, aggregate
from atoll.protocol.codecs.base import MAX_SCALE, MAX_VALUE
from atoll.protocol.codecs.int8 import _SLICE
from atoll.protocol.schema import BLOCK

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = st.integers(1, 4).flatmap(lambda k: hnp.arrays(np.float32, k * BLOCK, elements=FLOATS))
BOTH = pytest.mark.parametrize("codec", [Float32Codec(), Int8Codec()], ids=lambda c: c.name)


def encode(codec: Codec, values: np.ndarray) -> torch.Tensor:
    out = torch.empty(codec.bound(values.size), dtype=torch.uint8)
    codec.encode(torch.from_numpy(values.copy()), out)
    return out


def decode(codec: Codec, payload: torch.Tensor, n: int) -> np.ndarray:
    out = torch.empty(n)
    codec.decode(payload, out)
    return out.numpy()


def scales(payload: torch.Tensor, n: int) -> np.ndarray:
    bits = np.frombuffer(payload.numpy()[: 2 * n // BLOCK].tobytes(), dtype="<u2").astype(np.uint32) << 16
    return bits.view(np.float32)


def test_the_manifest_knows_the_codecs_by_name():
    assert tuple(sorted(CODECS)) == manifest.CODEC_NAMES


@given(VECTORS)
def test_int8_errs_by_half_a_level_at_most(values: np.ndarray):
    payload = encode(Int8Codec(), values)
    decoded = decode(Int8Codec(), payload, values.size).astype(np.float64)
    exact = np.clip(values.astype(np.float64), -MAX_VALUE, MAX_VALUE).reshape(-1, BLOCK)
    scale = scales(payload, values.size).astype(np.float64)
    error = np.abs(decoded.reshape(-1, BLOCK) - exact).max(axis=1)
    # A block so small that absmax / 127 is no fp32 number has scale 0 and decodes to zeros.
    lost = scale == 0
    assert (np.abs(exact[lost]) < 127 * 2.0**-149).all()
    assert (error[~lost] <= scale[~lost] * (0.5 + 2.0**-17)).all()
    absmax = np.abs(exact).max(axis=1)
    normal = absmax > 127 * 2.0**-126
    assert (scale[normal] >= (absmax[normal] / 127) * (1 - 2.0**-23)).all()
    assert (scale[normal] <= (absmax[normal] / 127) * (1 + 2.0**-7)).all()


@given(VECTORS)
def test_int8_decodes_exactly(values: np.ndarray):
    """q · scale has no rounding in fp32, so no instruction set can change a bit."""
    payload = encode(Int8Codec(), values)
    levels = np.frombuffer(payload.numpy()[2 * values.size // BLOCK :].tobytes(), dtype=np.int8)
    product = levels.reshape(-1, BLOCK).astype(np.float64) * scales(payload, values.size)[:, None]
    assert np.array_equal(product.ravel(), decode(Int8Codec(), payload, values.size).astype(np.float64))


@given(VECTORS)
def test_what_was_decoded_encodes_to_the_same_values(values: np.ndarray):
    """A member that adopts the decoded result and one that gets its payload hold the same."""
    once = decode(Int8Codec(), encode(Int8Codec(), values), values.size)
    assert np.isfinite(once).all()
    twice = decode(Int8Codec(), encode(Int8Codec(), once), values.size)
    scale = np.abs(once).reshape(-1, BLOCK).max(axis=1)
    assert (np.abs(once - twice).reshape(-1, BLOCK).max(axis=1) <= scale / 127).all()


@given(VECTORS)
def test_fp32_is_exact_within_its_range(values: np.ndarray):
    decoded = decode(Float32Codec(), encode(Float32Codec(), values), values.size)
    expected = np.clip(values, np.float32(-MAX_VALUE), np.float32(MAX_VALUE))
    assert decoded.tobytes() == expected.tobytes()


@BOTH
def test_blocks_of_zeros_stay_zero(codec: Codec):
    values = np.zeros(3 * BLOCK, dtype=np.float32)
    values[BLOCK] = -0.0
    payload = encode(codec, values)
    assert not payload.any() or codec.name == "fp32"
    assert not decode(codec, payload, values.size).any()


@BOTH
def test_the_largest_values_are_cut_and_the_smallest_survive_or_vanish(codec: Codec):
    largest = np.finfo(np.float32).max
    values = np.zeros(BLOCK * 2, dtype=np.float32)
    values[:2] = largest, -largest
    values[BLOCK] = 1e-45
    decoded = decode(codec, encode(codec, values), values.size)
    assert decoded[0] == np.float32(MAX_VALUE) and decoded[1] == -np.float32(MAX_VALUE)
    assert decoded[BLOCK] in (values[BLOCK], 0.0)


@BOTH
@given(st.integers(0, _SLICE + BLOCK - 1), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_refused_with_its_position(codec: Codec, position: int, bad: float):
    values = torch.zeros(_SLICE + BLOCK)
    values[position] = bad
    with pytest.raises(NonFinite) as caught:
        codec.encode(values, torch.empty(codec.bound(values.numel()), dtype=torch.uint8))
    assert caught.value.position == position


@BOTH
def test_sizes_are_what_bound_says(codec: Codec):
    assert Int8Codec.bound(BLOCK) == 258 and Float32Codec.bound(BLOCK) == 1024
    assert Int8Codec.bound(1 << 20) == (1 << 20) + 8192
    for n in (0, -BLOCK, 1, BLOCK + 1):
        with pytest.raises(CodecError):
            codec.bound(n)
    with pytest.raises(CodecError):
        codec.encode(torch.zeros(BLOCK), torch.empty(codec.bound(BLOCK) - 1, dtype=torch.uint8))
    with pytest.raises(CodecError):
        codec.check(torch.zeros(codec.bound(BLOCK) + 1, dtype=torch.uint8), BLOCK)
    with pytest.raises(CodecError):
        codec.check(torch.zeros(codec.bound(BLOCK)), BLOCK)


def test_int8_reuses_its_scratch_for_any_size():
    codec = Int8Codec()
    rng = np.random.default_rng(1)
    for n in (BLOCK, _SLICE + 3 * BLOCK, 2 * BLOCK):
        values = rng.standard_normal(n).astype(np.float32)
        assert torch.equal(encode(codec, values), encode(Int8Codec(), values))


@BOTH
def test_a_payload_may_lie_at_any_byte(codec: Codec):
    values = np.random.default_rng(2).standard_normal(BLOCK).astype(np.float32)
    payload = encode(codec, values)
    shifted = torch.empty(payload.numel() + 1, dtype=torch.uint8)
    shifted[1:] = payload
    assert np.array_equal(decode(codec, shifted[1:], BLOCK), decode(codec, payload, BLOCK))


# ---- hostile payloads


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, -0.0, 2.0 * MAX_SCALE])
def test_int8_refuses_scales_that_no_encoder_makes(scale: float):
    payload = encode(Int8Codec(), np.ones(BLOCK, dtype=np.float32))
    payload[:2] = torch.tensor(list(struct.pack("<f", scale)[2:]), dtype=torch.uint8)
    with pytest.raises(CodecError, match="scale"):
        Int8Codec().check(payload, BLOCK)
    with pytest.raises(CodecError):
        decode(Int8Codec(), payload, BLOCK)


def test_int8_refuses_the_level_that_no_encoder_makes():
    payload = encode(Int8Codec(), np.ones(BLOCK, dtype=np.float32))
    payload[100] = 128
    with pytest.raises(CodecError, match="-128"):
        Int8Codec().check(payload, BLOCK)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0 * MAX_VALUE])
def test_fp32_refuses_values_out_of_range(value: float):
    payload = torch.from_numpy(np.array([value] * BLOCK, dtype=np.float32).view(np.uint8))
    with pytest.raises(CodecError):
        Float32Codec().check(payload, BLOCK)


@BOTH
@given(data=st.data())
def test_any_bytes_are_refused_or_decode_within_range(codec: Codec, data: st.DataObject):
    size = codec.bound(BLOCK)
    raw = data.draw(st.binary(min_size=size, max_size=size))
    payload = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        codec.check(payload, BLOCK)
    except CodecError:
        return
    assert (np.abs(decode(codec, payload, BLOCK)) <= MAX_VALUE).all()


# ---- the mean


def mean(codec: Codec, vectors: list[np.ndarray], weights: list[int]) -> np.ndarray:
    n = vectors[0].size
    out, scratch = torch.empty(n), torch.empty(n)
    aggregate(codec, [encode(codec, v) for v in vectors], weights, out, scratch)
    return out.numpy()


MEMBERS = st.lists(hnp.arrays(np.float32, BLOCK, elements=FLOATS), min_size=1, max_size=5)


@BOTH
@given(MEMBERS, st.data())
def test_the_mean_is_near_the_exact_one_and_always_finite(
    codec: Codec, vectors: list[np.ndarray], data: st.DataObject
):
    weights = [data.draw(st.integers(1, 2**40)) for _ in vectors]
    result = mean(codec, vectors, weights).astype(np.float64)
    assert np.isfinite(result).all()
    decoded = [decode(codec, encode(codec, v), BLOCK).astype(np.float64) for v in vectors]
    exact = sum(w / sum(weights) * d for w, d in zip(weights, decoded, strict=True))
    largest = np.abs(decoded).max()
    assert (np.abs(result - exact) <= 2e-6 * largest + 1e-44 * len(vectors)).all()


@BOTH
def test_a_mean_of_extremes_can_be_encoded_again(codec: Codec):
    """No set of allowed contributions makes a result that can't be sent: that would stop the round."""
    extreme = np.full(BLOCK, np.finfo(np.float32).max, dtype=np.float32)
    result = mean(codec, [extreme] * 7, [1, 3, 7, 11, 13, 17, 19])
    assert np.isfinite(decode(codec, encode(codec, result), BLOCK)).all()


@BOTH
@given(MEMBERS)
def test_the_mean_is_a_function_of_bytes_and_order(codec: Codec, vectors: list[np.ndarray]):
    weights = list(range(1, len(vectors) + 1))
    first = mean(codec, vectors, weights)
    assert first.tobytes() == mean(codec, vectors, weights).tobytes()
    assume(len(vectors) > 1)
    alone = mean(codec, vectors[:1], [5])
    assert alone.tobytes() == (decode(codec, encode(codec, vectors[0]), BLOCK) + np.float32(0)).tobytes()


def test_the_mean_rounds_each_product_and_each_sum():
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(BLOCK).astype(np.float32) for _ in range(3)]
    weights = [100, 70, 33]
    total = np.zeros(BLOCK, dtype=np.float32)
    for vector, weight in zip(vectors, weights, strict=True):
        total = total + vector * np.float32(weight / 203)
    assert mean(Float32Codec(), vectors, weights).tobytes() == total.tobytes()


@pytest.mark.parametrize("weights", [[], [0], [-1], [1, 2]])
def test_a_mean_needs_a_positive_weight_for_each_payload(weights: list[int]):
    payloads = [encode(Float32Codec(), np.zeros(BLOCK, dtype=np.float32))] * (1 if weights else 0)
    with pytest.raises(CodecError):
        aggregate(Float32Codec(), payloads, weights, torch.empty(BLOCK), torch.empty(BLOCK))
