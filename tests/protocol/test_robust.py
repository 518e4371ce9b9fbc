"""Merges that some liars can't lead: against numpy, and against what liars would do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.protocol.codecs import CODECS
from atoll.protocol.codecs.robust import CLIP, MEDIAN, ROBUST, TRIMMED, robust
from atoll.protocol.manifest import MEAN, MERGES, RDA

N = 512


def merged(rule: str, vectors: np.ndarray) -> np.ndarray:
    codec = CODECS["fp32"]()
    payloads = [
        codec.encode(torch.from_numpy(v), torch.empty(codec.bound(v.size), dtype=torch.uint8))
        for v in vectors
    ]
    out = torch.empty(vectors.shape[1])
    robust(rule, [codec] * len(vectors), payloads, out)
    return out.numpy()


def honest(count: int, seed: int = 1) -> np.ndarray:
    """What honest nodes send: one direction, and noise of each."""
    chance = np.random.default_rng(seed)
    return (1.0 + 0.5 * chance.standard_normal((count, N))).astype(np.float32)


def test_the_manifest_names_all_there_are() -> None:
    assert (MEAN, RDA, *ROBUST) == MERGES


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 2**32))
def test_per_value_it_is_what_numpy_says(count: int, seed: int) -> None:
    them = np.random.default_rng(seed).standard_normal((count, N)).astype(np.float32)
    assert np.allclose(merged(MEDIAN, them), np.median(them, axis=0), atol=1e-6)
    cut = max(1, count // 4) if count > 2 else 0
    expected = np.sort(them, axis=0)[cut : count - cut].mean(axis=0)
    assert np.allclose(merged(TRIMMED, them), expected, atol=1e-6)


def test_long_chunks_are_cut_where_nobody_sees_it() -> None:
    them = np.random.default_rng(3).standard_normal((5, (1 << 16) + 256)).astype(np.float32)
    assert np.allclose(merged(MEDIAN, them), np.median(them, axis=0))


@pytest.mark.parametrize("rule", ROBUST)
def test_one_alone_and_two_are_their_mean(rule: str) -> None:
    one, two = honest(2)
    assert np.array_equal(merged(rule, np.stack([one])), one)
    assert np.allclose(merged(rule, np.stack([one, two])), (one + two) / 2, atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("lie", [-1.0, 100.0, -100.0, 0.0, 1e30])
def test_two_liars_of_eight_move_it_little(rule: str, lie: float) -> None:
    them = honest(8)
    true = them[:6].mean(axis=0)
    them[6:] = lie * them[:2]
    out = merged(rule, them)
    assert np.linalg.norm(out - true) < 0.45 * np.linalg.norm(true)
    lied = np.linalg.norm(them.astype(np.float64).mean(axis=0) - true)
    assert np.linalg.norm(out - true) < lied or lie == 0.0


def test_clipping_hears_the_honest_more_evenly_than_a_median() -> None:
    them = honest(9)
    true = them.mean(axis=0)
    assert np.linalg.norm(merged(CLIP, them) - true) < np.linalg.norm(merged(MEDIAN, them) - true)


@pytest.mark.parametrize("rule", ROBUST)
def test_whatever_is_sent_it_stays_finite(rule: str) -> None:
    highest = np.float32(127 * 2.0**120)
    for them in (
        np.full((5, N), highest, np.float32),
        np.concatenate([np.full((3, N), highest), np.full((3, N), -highest)]).astype(np.float32),
        np.zeros((4, N), np.float32),
    ):
        out = merged(rule, them)
        assert np.isfinite(out).all() and np.abs(out).max() <= highest
