"""The result of a chunk is its encoded mean, or the contributions themselves where those are shorter."""

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.protocol.codecs import CODECS, CodecError, aggregate, result_codec
from atoll.protocol.manifest import CODEC_NAMES

N = 8192


def contributions(codec: str, count: int) -> list[Tensor]:
    rng = np.random.default_rng(count)
    made = []
    for _ in range(count):
        values = torch.from_numpy(rng.standard_normal(N).astype(np.float32))
        made.append(CODECS[codec]().encode(values, torch.empty(4 * N, dtype=torch.uint8)).clone())
    return made


@pytest.mark.parametrize("mean", [name for name in CODEC_NAMES if name != "topk"])
@pytest.mark.parametrize("contribution", CODEC_NAMES)
def test_whichever_is_shorter(contribution: str, mean: str):
    codec, widest = result_codec(contribution, mean), CODECS[mean].bound(N)
    for count in range(1, 40):
        together = count * CODECS[contribution].bound(N)
        assert codec.size(N, count) == min(widest, together) <= codec.room(N) == widest
        assert codec.gathers(N, count) == (together < widest)


def test_where_plans_choose_the_codec_it_is_a_mean():
    codec = result_codec("auto", "fp32")
    assert not codec.gathers(N, 1) and codec.size(N, 1) == 4 * N


@pytest.mark.parametrize(("contribution", "most"), [("topk", 34), ("2bit", 3), ("int4", 1), ("int8", 0)])
def test_so_many_contributions_are_gathered_beside_int8_means(contribution: str, most: int):
    codec = result_codec(contribution, "int8")
    assert [codec.gathers(N, count) for count in range(1, 50)] == [k <= most for k in range(1, 50)]


def test_everyone_makes_the_exact_mean_of_what_was_gathered():
    payloads, weights = contributions("topk", 5), [5, 1, 2, 9, 4]
    codec, out, expected = result_codec("topk", "int8"), torch.empty(N), torch.empty(N)
    result = torch.cat(payloads)
    codec.check(result, N, 5)
    codec.decode(result, weights, out)
    aggregate(CODECS["topk"](), payloads, weights, expected)
    assert torch.equal(out.view(torch.int32), expected.view(torch.int32))
    places = codec.pieces(N, 5)
    assert places is not None and all(
        torch.equal(result[p], one) for p, one in zip(places, payloads, strict=True)
    )


def test_a_mean_is_decoded_as_such_whatever_the_weights():
    codec, out, expected = result_codec("2bit", "int8"), torch.empty(N), torch.empty(N)
    payload = codec.encode(torch.linspace(-1, 1, N))
    assert codec.pieces(N, 4) is None
    codec.check(payload, N, 4)
    codec.decode(payload, [1, 2, 3, 4], out)
    CODECS["int8"]().decode(payload, expected)
    assert torch.equal(out, expected)


def test_what_no_owner_makes_is_refused():
    codec = result_codec("topk", "int8")
    result = torch.cat(contributions("topk", 3))
    for bad, count in ((result, 2), (result[:-1], 3), (result, 40), (result[:0], 3)):
        with pytest.raises(CodecError, match=f"with {count} contributions"):
            codec.check(bad, N, count)
        with pytest.raises(CodecError):
            codec.decode(bad, [1] * count, torch.empty(N))
    result[N // 4096 * 8 + 1] = 0xFF  # a position of the first contribution, out of order
    with pytest.raises(CodecError, match="ascending"):
        codec.check(result, N, 3)
    mean = codec.encode(torch.ones(N))
    mean[-1] = 0x80
    with pytest.raises(CodecError):
        codec.check(mean, N, 40)
