"""The codec that a plan chooses: the widest that leaves nine tenths of a round to the inner phase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.codecs import CODECS
from atoll.protocol.round import codec_choice as cc
from atoll.protocol.round.plan import (
    MAX_PHASE_S,
    Offered,
    PlanError,
    check_continuation,
    check_plan,
    continue_plan,
    make_plan,
)

from .test_machine_parts import CONFIG, HEAD, A, B, C

VALUES = 1_000_000
CONFIG_AUTO = replace(CONFIG, codec=cc.AUTO, result_codec="int8", values=VALUES, chunks=30)


def made(mbit: float, inner_s: float, config: object = CONFIG_AUTO) -> pb.Plan:
    bps = int(1e6 * mbit)
    offers = {peer: pb.Ready(tokens=1, upload_bps=bps, download_bps=bps) for peer in (A, B, C)}
    return make_plan(config, HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0), inner_s=inner_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["int8", cc.AUTO])
def test_the_slowest_line_has_time_for_the_results_after_a_commit(codec: str):
    """The leader's line is fast: it proposes long before the slowest member has all results."""
    config = replace(CONFIG_AUTO, codec=codec)
    speeds = {A: 200_000_000, B: 200_000_000, C: 1_000_000}
    offers = {p: pb.Ready(tokens=1, upload_bps=s, download_bps=s) for p, s in speeds.items()}
    plan = make_plan(config, HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0))
    owned = sum(plan.owners[chunk] == sorted(speeds).index(C) for chunk in range(30)) / 30
    assert plan.vote_s >= 1.0 + (1 - owned) * cc.BITS["int8"] * VALUES / 1e6 - 1e-6
    unknown = {peer: pb.Ready(tokens=1) for peer in speeds}
    assert make_plan(config, HEAD, A, unknown, set(), 0, (1.0, 1.0, 1.0)).vote_s == 1.0
    huge = replace(config, values=10**12)
    assert make_plan(huge, HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0)).vote_s == MAX_PHASE_S


def test_sizes_are_those_of_the_codecs():
    assert cc.BITS.keys() == CODECS.keys()
    for name, bits in cc.BITS.items():
        assert 8 * CODECS[name]().bound(1 << 20) / (1 << 20) == pytest.approx(bits, rel=0.03), name


def test_an_exchange_is_as_long_as_its_busiest_line():
    fast, slow = pb.Ready(upload_bps=1000, download_bps=1000), pb.Ready(upload_bps=100, download_bps=400)
    assert cc.exchange_s([fast] * 3, [0, 1, 2], 0, 900, 900) == pytest.approx(
        (2 / 3 * 900 + 2 / 3 * 900) / 1000
    )
    assert cc.exchange_s([fast, fast, slow], [0, 1], 0, 900, 900) == pytest.approx(9.0), (
        "its own contribution"
    )
    assert cc.exchange_s([fast, fast, slow], [2, 2], 0, 900, 90) == pytest.approx(4.5), (
        "it takes in the others'"
    )
    assert cc.exchange_s([fast, pb.Ready()], [0, 1], 0, 900, 900) == pytest.approx(0.9)
    assert cc.exchange_s([pb.Ready()] * 2, [0, 1], 0, 900, 900) == 0, "nothing is known"
    alone = cc.exchange_s([fast], [0], 4, 900, 900)
    assert alone == pytest.approx(3.6), "followers receive results"


@pytest.mark.parametrize(
    ("mbit", "inner_s", "codec", "words"),
    [
        (100, 60, "int8", "the widest"),
        (1, 98, "int8", "10.0 s|11 s, 10 %"),
        (1, 90, "int4", "a wider codec would take more than a tenth"),
        (1, 10, "int4", "narrower ones are not chosen"),
        (0, 60, "int8", "no line has been measured yet"),
        (1, 0, "int8", "no inner phase has been measured yet"),
    ],
)
def test_the_widest_codec_that_takes_a_tenth_of_the_round(
    mbit: float, inner_s: float, codec: str, words: str
):
    plan = made(mbit, inner_s)
    assert plan.codec == codec
    check_plan(CONFIG_AUTO, HEAD, A, Offered(1, 0, 0), 0, plan)
    said = cc.reason(plan, cc.AUTO)
    assert any(word in said for word in words.split("|")), said
    assert said.count(". ") == 0 and said.endswith("."), "one sentence"


def test_members_accept_exactly_what_the_manifest_allows():
    for codec in CODECS:
        plan = made(1, 10)
        plan.codec = codec
        if codec in cc.CHOICES:
            check_plan(CONFIG_AUTO, HEAD, A, Offered(1, 0, 0), 0, plan)
        else:
            with pytest.raises(PlanError, match="codec"):
                check_plan(CONFIG_AUTO, HEAD, A, Offered(1, 0, 0), 0, plan)
    for seconds in (float("nan"), float("inf"), -1.0, 2e9):
        plan = made(1, 10)
        plan.inner_s = seconds
        with pytest.raises(PlanError, match="codec"):
            check_plan(CONFIG_AUTO, HEAD, A, Offered(1, 0, 0), 0, plan)
    fixed = replace(CONFIG_AUTO, codec="int4")
    plan = made(1, 10, fixed)
    assert plan.codec == "int4" and not plan.exchange_s and not cc.reason(plan, "int4")
    check_plan(fixed, HEAD, A, Offered(1, 0, 0), 0, plan)
    plan.exchange_s = 1.0
    with pytest.raises(PlanError, match="codec"):
        check_plan(fixed, HEAD, A, Offered(1, 0, 0), 0, plan)


def test_a_session_goes_on_with_its_codec():
    plan = made(1, 10)
    again = continue_plan(plan, B, 1, {A, B}, [0], (1.0, 1.0, 1.0))
    assert again.codec == "int4"
    check_continuation(plan, again)
    again.codec = "int8"
    with pytest.raises(PlanError, match="another codec"):
        check_continuation(plan, again)
