"""The simulator's sparse contributions: results gather them in the shipping layout, and sums are exact."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.payloads import Payloads
from atoll.protocol.codecs import CodecError
from atoll.protocol.outer import Float32
from atoll.protocol.round.types import Part


def contribution(node: int, tokens: int) -> Float32:
    values = np.zeros(facts.VALUES, np.float32)
    values[node], values[facts.TAG], values[facts.PARENT] = tokens, 1, 77
    return values


@pytest.mark.parametrize("gathers", [False, True])
def test_a_sum_is_the_same_whatever_the_layout(gathers: bool) -> None:
    payloads = Payloads(gathers)
    given = [contribution(k, 50 + k) for k in range(9)]
    sent = [payloads.contribution(values) for values in given]
    for values, payload in zip(given, sent, strict=True):
        payloads.check(payload)
        assert np.array_equal(payloads.values(payload), values)
    # The group of 2, 5 and 8 comes as one part.
    group = payloads.reduce([Part((k,), 1, sent[k]) for k in (2, 5, 8)])
    payloads.check(group, 3)
    alone = [Part((k,), 1, sent[k]) for k in (0, 1, 3, 4, 6, 7)]
    result = payloads.reduce([Part((2, 5, 8), 3, group, partial=True), *alone])
    payloads.check(result, 9)
    assert np.array_equal(payloads.total(result, 9), np.sum(given, axis=0))
    assert len(result) == payloads.results.size(facts.VALUES, 9) == (9 * len(sent[0]) if gathers else 1024)
    assert not gathers or result == b"".join(sent), "in member order"
    assert payloads.reduce([]) == b""


@pytest.mark.parametrize("gathers", [False, True])
def test_a_liar_changes_one_value(gathers: bool) -> None:
    payloads = Payloads(gathers)
    sent = [payloads.contribution(contribution(k, 50)) for k in (1, 2)]
    spoilt = payloads.spoilt(sent[0], 1, 999)
    payloads.check(spoilt)
    assert payloads.values(spoilt)[1] == 999 and payloads.values(spoilt)[facts.TAG] == 1
    group = payloads.reduce([Part((1,), 1, sent[0]), Part((2,), 1, sent[1])])
    for slot, value in ((1, -7), (2, -9)):
        spoilt = payloads.spoilt(group, slot, value)
        payloads.check(spoilt, 2)
        total = payloads.total(spoilt, 2)
        assert total[slot] == value and total[3 - slot] == 50 and total[facts.TAG] == 2
    assert not gathers or payloads.spoilt(group, 5, 1) == group


def test_what_no_node_makes_is_refused() -> None:
    payloads = Payloads(gathers=True)
    good = payloads.contribution(contribution(3, 60))
    for bad in (good[:-1], b"\xff" * len(good), good + good):
        with pytest.raises(CodecError):
            payloads.check(bad)
        with pytest.raises(CodecError):
            payloads.check(bad, 1)
