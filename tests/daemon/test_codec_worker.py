"""Error feedback: what a coarse codec loses is not lost for good, and only what was accepted counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.protocol import manifest
from atoll.protocol.codecs import CODECS, CodecError
from atoll.protocol.outer import Float32
from atoll.protocol.round.types import Part
from atoll.protocol.schema import ChunkTable

TABLE = ChunkTable(3 * 4096, 8192, 4096)
CODED = pytest.mark.parametrize("codec", ["int4", "2bit", "topk"])
ZEROS = np.zeros(TABLE.total, np.float32)


def values(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(TABLE.total).astype(np.float32)


def decoded(codec: str, payloads: list[bytes]) -> Float32:
    out = torch.empty(TABLE.total)
    for chunk, payload in enumerate(payloads):
        CODECS[codec]().decode(
            torch.frombuffer(bytearray(payload), dtype=torch.uint8), out[TABLE.span(chunk)]
        )
    return out.numpy()


def encoded(worker: CodecWorker, local: Float32, offer: int) -> list[bytes]:
    return [worker.encode(ZEROS, local, chunk, offer) for chunk in range(len(TABLE))]


def test_payloads_of_several_codecs_are_told_apart_by_their_length():
    worker, size = CodecWorker("auto", "fp32", TABLE, feedback=0.5), TABLE.size(0)
    wide = worker.encode(ZEROS, -values(1), 0, 1)
    narrow = worker.encode(ZEROS, -values(2), 0, 2, "int4")
    assert len(narrow) < 0.6 * len(wide)
    for payload, codec in ((wide, "int8"), (narrow, "int4")):
        worker.check(payload, size)
        worker.check(payload, size, codec)
    for payload, codec in ((wide, "int4"), (narrow, "int8"), (wide[:-1], None)):
        with pytest.raises(CodecError):
            worker.check(payload, size, codec)
    mean = np.frombuffer(
        worker.reduce([Part((0,), 1, wide), Part((1,), 3, narrow)], [1, 3], size), np.float32
    )
    expected = (values(1)[:size] + 3 * values(2)[:size]) / 4
    assert np.linalg.norm(mean - expected) < 0.15 * np.linalg.norm(expected)
    worker.settle(ZEROS, -values(2), (0,), 2)  # what int4 lost, with the feedback of int8's own loss
    again = worker.encode(ZEROS, ZEROS, 0, 3, "int8")
    worker.check(again, size, "int8")
    assert np.frombuffer(worker.reduce([Part((0,), 1, again)], [1], size), np.float32).any()


@CODED
def test_what_was_lost_comes_with_the_next_contribution(codec: str):
    worker = CodecWorker(codec, "int8", TABLE, feedback=0.5)
    first = decoded(codec, encoded(worker, -values(1), 1))
    worker.settle(ZEROS, -values(1), (0, 1), 1)
    second = encoded(worker, -values(2), 2)
    carried = values(2) + np.float32(0.5) * (values(1) - first)
    assert second == encoded(CodecWorker(codec, "int8", TABLE), -carried, 1)


@CODED
def test_only_accepted_chunks_count_as_sent(codec: str):
    worker = CodecWorker(codec, "int8", TABLE, feedback=0.9)
    fresh = encoded(CodecWorker(codec, "int8", TABLE), -values(2), 1)
    encoded(worker, -values(1), 1)
    assert encoded(worker, -values(2), 2) == fresh, "the round did without it"
    worker.settle(ZEROS, -values(1), (0, 1), 1)
    assert encoded(worker, -values(2), 3) == fresh, "another snapshot is here now"
    worker.settle(ZEROS, -values(2), (1,), 3)
    after = encoded(worker, -values(2), 4)
    assert after[0] == fresh[0] and after[1] != fresh[1]
    worker.settle(ZEROS, -values(2), (1,), 4)
    once = encoded(worker, -values(2), 5)
    worker.settle(ZEROS, -values(2), (), 5)
    worker.settle(ZEROS, -values(2), (0,), 4)
    assert encoded(worker, -values(2), 6) == once


@CODED
def test_without_decay_the_sum_of_what_was_sent_follows_what_was_learned(codec: str):
    """The error stays as large as that of a few rounds, however many there are; without feedback it grows."""
    sums, plain, learned = ZEROS.copy(), ZEROS.copy(), ZEROS.copy()
    worker, other = (CodecWorker(codec, "int8", TABLE, feedback=f) for f in (0.9999, 0.0))
    rounds = 150
    for offer in range(rounds):
        local = -(values(7) + 0.1 * values(offer)) / rounds
        learned -= local
        sums += decoded(codec, encoded(worker, local, offer))
        worker.settle(ZEROS, local, (0, 1), offer)
        plain += decoded(codec, encoded(other, local, offer))
    error, without = (np.linalg.norm(x - learned) / np.linalg.norm(learned) for x in (sums, plain))
    assert error < {"int4": 0.01, "2bit": 0.02, "topk": 0.5}[codec] and error < without / 2


def test_without_feedback_nothing_is_kept():
    worker = CodecWorker("2bit", "int8", TABLE)
    encoded(worker, -values(1), 1)
    worker.settle(ZEROS, -values(1), (0, 1), 1)
    assert encoded(worker, -values(1), 2) == encoded(CodecWorker("2bit", "int8", TABLE), -values(1), 1)
    assert worker._lost.size == 0 and not worker._sent


@pytest.mark.parametrize("codec", manifest.RANDOM_CODECS)
def test_random_rounding_draws_anew_for_each_offer_and_the_same_for_one(codec: str):
    """What goes again has to be what went before: an owner may have either."""
    ours, again, theirs, nearest = (
        CodecWorker(codec, "int8", TABLE, seed=seed) for seed in (b"me", b"me", b"you", None)
    )
    first = encoded(ours, -values(1), 1)
    assert first == encoded(again, -values(1), 1) == encoded(ours, -values(1), 1)
    others = [encoded(ours, -values(1), 2), encoded(theirs, -values(1), 1), encoded(nearest, -values(1), 1)]
    assert all(first != other for other in others)
    step = np.abs(decoded(codec, others[2]) - values(1)).max() * 2
    draws = [decoded(codec, encoded(ours, -values(1), offer)) for offer in range(100)]
    assert np.abs(np.mean(draws, axis=0) - values(1)).max() < 0.25 * step


def test_codecs_that_round_at_random_are_those_of_the_manifest():
    assert {name for name, kind in CODECS.items() if kind.stochastic} == set(manifest.RANDOM_CODECS)


def test_rda_gives_a_mean_the_length_of_what_it_is_made_of():
    size = TABLE.size(0)
    plain, other = CodecWorker("int8", "fp32", TABLE), CodecWorker("int8", "fp32", TABLE, merge="rda")
    parts = [Part((k,), 1, plain.encode(ZEROS, -values(k), 0, 1)) for k in range(4)]
    mean, result = (np.frombuffer(w.reduce(parts, [1] * 4, size), np.float32) for w in (plain, other))
    norms = [float(np.linalg.norm(values(k)[:size])) for k in range(4)]
    assert np.linalg.norm(mean) == pytest.approx(np.mean(norms) / 2, rel=0.05), "they are orthogonal"
    assert np.linalg.norm(result) == pytest.approx(np.mean(norms), rel=0.05)
    cosine = np.dot(mean, result) / np.linalg.norm(mean) / np.linalg.norm(result)
    assert cosine > 0.999


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_rda_takes_whatever_its_codec_takes(codec: str):
    size, worker = TABLE.size(0), CodecWorker(codec, "int8", TABLE, merge="rda")
    huge = worker.encode(ZEROS, np.full(TABLE.total, -1e37, np.float32), 0, 1)
    worker.check(huge, size)
    result = worker.reduce([Part((0,), 1, huge), Part((1,), 1, huge)], [1, 1], size)
    worker.check_result(result, size, 2)
