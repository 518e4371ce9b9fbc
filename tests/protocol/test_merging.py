"""RDA: length and direction of a mean apart."""

from __future__ import annotations

import math

import pytest
import torch

from atoll.protocol.codecs import CODECS
from atoll.protocol.codecs.merging import rda

N = 256


def merged(vectors: list[torch.Tensor], weights: list[int]) -> torch.Tensor:
    codec = CODECS["fp32"]()
    payloads = []
    for vector in vectors:
        payload = torch.empty(codec.bound(N), dtype=torch.uint8)
        payloads.append(codec.encode(vector, payload))
    out, scratch = torch.empty(N), torch.empty(N)
    rda([codec] * len(vectors), payloads, weights, out, scratch)
    return out


def basis(*places: int) -> list[torch.Tensor]:
    return [torch.eye(N)[place] for place in places]


def test_alone_and_among_its_like_a_contribution_is_what_it_was() -> None:
    vector = torch.randn(N, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(merged([vector], [7]), vector, atol=1e-6)
    assert torch.allclose(merged([vector] * 3, [1, 2, 3]), vector, atol=1e-6)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_orthogonal_ones_lose_no_length(count: int) -> None:
    out = merged(basis(*range(count)), [5] * count)
    assert float(out.norm()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(out[:count], torch.full((count,), 1 / math.sqrt(count)), atol=1e-5)


def test_a_long_one_has_no_more_say_in_the_direction_than_a_short_one() -> None:
    one, other = basis(0, 1)
    out = merged([100 * one, other], [1, 1])
    assert out[0] == pytest.approx(float(out[1]))
    assert float(out.norm()) == pytest.approx(50.5, rel=1e-5)


def test_those_that_contradict_each_other_are_not_blown_up() -> None:
    one, other = basis(0, 1)
    out = merged([one, -one + 0.01 * other], [1, 1])
    assert float(out.norm()) < 0.02, "at most the square root of two times the mean"
    assert not merged([one, -one], [1, 1]).any()


def test_without_anything_there_is_nothing() -> None:
    assert not merged([torch.zeros(N)] * 2, [1, 1]).any()
    out = merged([torch.zeros(N), basis(3)[0]], [1, 1])
    assert out[3] == pytest.approx(0.5 / math.sqrt(2)) and float(out.norm()) == pytest.approx(float(out[3]))


@pytest.mark.parametrize("value", [1e38, 1e-40, 1e-31, 1e30])
def test_no_value_is_too_large_or_too_small(value: float) -> None:
    """Whatever a stranger sends that its codec takes, the owner can make a result of."""
    one = torch.full((N,), value)
    out = merged([one, torch.randn(N, generator=torch.Generator().manual_seed(2))], [1, 3])
    assert bool(torch.isfinite(out).all())
    assert float(out.abs().max()) <= max(value, 5.0)
    alone = merged([one], [1])
    assert torch.allclose(alone, one, rtol=1e-5) if value > 1e-30 else not alone.any()
