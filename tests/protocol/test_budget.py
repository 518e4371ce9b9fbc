"""Nodes whose loss is rough send more bits in a narrow round (EF21-W)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.modes.budget import Roughness, roughest
from atoll.protocol.round.codec_choice import codec_of
from atoll.protocol.round.plan import Offered, PlanError, check_plan, make_plan

from .test_machine_parts import CONFIG, HEAD, A, B, C, D

AUTO = replace(CONFIG, codec="auto", values=1 << 24, by_roughness=True)


def test_the_roughest_third_is_chosen() -> None:
    assert roughest([1.0, 5.0, 3.0]) == [False, True, False]
    assert roughest([1.0, 5.0, 3.0, 9.0, 0.0, 2.0]) == [False, True, False, True, False, False]
    assert roughest([0.0, 0.0, 0.0]) == [False] * 3, "nothing is known"
    assert roughest([float("nan"), float("inf"), -1.0]) == [False] * 3, "nobody else's word for nonsense"
    assert roughest([7.0, 7.0, 7.0]) == [True, False, False]
    assert roughest([1.0, 2.0]) == [False, False] and roughest([]) == []


def test_it_is_how_fast_a_pseudo_gradient_changes() -> None:
    roughness, start = Roughness(), np.zeros(4, np.float32)
    gradient = np.array([1, 0, 0, 0], np.float32)
    assert roughness.of(gradient, start) == 0.0, "one says nothing"
    assert roughness.of(gradient, start) == 0.0, "nothing moved"
    assert roughness.of(3 * gradient, start + 1) == pytest.approx(2 / 2)
    gradient[:] = 9.0  # what is remembered is a copy
    assert roughness.of(np.zeros(4, np.float32), start + 3) == pytest.approx(3 / 4)


def plan(inner_s: float, upload_bps: int = 1_000_000) -> pb.Plan:
    offers = {
        peer: pb.Ready(parent=HEAD.digest, tokens=100, upload_bps=upload_bps, roughness=rough)
        for peer, rough in ((A, 1.0), (B, 4.0), (C, 2.0))
    }
    return make_plan(AUTO, HEAD, A, offers, {D}, 0, (1.0, 1.0, 1.0), inner_s=inner_s)


def test_in_a_narrow_round_they_send_the_wide_codec() -> None:
    made = plan(1.0)
    assert made.codec == "int4" and codec_of(made, B) == "int8"
    assert codec_of(made, A) == codec_of(made, C) == "int4"
    check_plan(AUTO, HEAD, A, Offered(100, 0, 0), 0, made)
    wide = plan(1e6)
    assert wide.codec == "int8" and not any(c.codec for c in wide.contributors)


CHANGES: list[Callable[[pb.Plan], object]] = [
    lambda p: setattr(p.contributors[0], "codec", "int8"),
    lambda p: setattr(p.contributors[1], "codec", "fp32"),
    lambda p: setattr(p, "codec", "int8"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_that_deals_out_other_codecs_is_refused(change: Callable[[pb.Plan], object]) -> None:
    made = plan(1.0)
    change(made)
    with pytest.raises(PlanError, match="codecs of members"):
        check_plan(AUTO, HEAD, A, Offered(100, 0, 0), 0, made)


def test_without_the_rule_in_the_manifest_there_are_none() -> None:
    with pytest.raises(PlanError, match="codecs of members"):
        check_plan(replace(AUTO, by_roughness=False), HEAD, A, Offered(100, 0, 0), 0, plan(1.0))
