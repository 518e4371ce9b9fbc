"""When a round begins without those who are still training, by the rules of modes/doors.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.modes.doors import DBW, PERIOD, WINDOW, best_quorum
from atoll.protocol.round.door import MAX_PHASE_MS, Door
from atoll.protocol.round.plan import weights

HEAD = b"h" * 32
A, B, C, D = (bytes([k]) * 38 for k in range(4))
ALL_FOUR = {A, B, C, D}


def ready(phase_ms: int = 0, parent: bytes = HEAD) -> pb.Ready:
    return pb.Ready(parent=parent, tokens=1, phase_ms=phase_ms)


def test_the_best_quorum_leaves_out_who_costs_more_than_it_brings() -> None:
    assert best_quorum([], 1.0) == 0
    assert best_quorum([100, 101, 102, 160], 0) == 3, "3 / 102 s is more than 4 / 160 s"
    assert best_quorum([100, 101, 102, 160], 100) == 4, "where the averaging takes long, one more is worth it"
    assert best_quorum([5, 5, 5], 0) == 3
    assert best_quorum([0, 0], 0) == 2


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=12), st.floats(0, 1e3))
def test_no_other_number_learns_more_per_second(phases_s: list[float], exchange_s: float) -> None:
    k = best_quorum(phases_s, exchange_s)
    ordered = sorted(phases_s)
    best = k / (ordered[k - 1] + exchange_s)
    assert all(n / (phase + exchange_s) <= best for n, phase in enumerate(ordered, 1))


def test_other_bounds_of_the_grace_are_learned_anew_and_the_same_are_not() -> None:
    door = Door(1.0, 60.0)
    for peer, at in ((A, 0.0), (B, 4.0), (C, 4.1), (D, 4.2)):
        door.put(peer, ready(), at)
    door.closed(HEAD, ALL_FOUR)
    learned = door.grace_s()
    assert 1.0 < learned < 60.0
    door.limit(1.0, 60.0)
    assert door.grace_s() == learned
    door.limit(1.0, 90.0)
    assert door.grace_s() == 90.0, "nothing is known yet: the cap"


def test_with_dbw_the_door_closes_when_as_many_are_ready() -> None:
    door = Door(1.0, 60.0, DBW)
    old = b"o" * 32
    for peer, phase_ms in ((A, 10_000), (B, 11_000), (C, 12_000), (D, 50_000)):
        door.put(peer, ready(phase_ms, old), 0.0)
    door.put(A, ready(10_000), 10.0)
    door.put(B, ready(11_000), 11.0)
    assert door.decide(HEAD, ALL_FOUR, 1, 11.0).until == 70.0, "two: the third is worth waiting for"
    door.put(C, ready(12_000), 12.0)
    verdict = door.decide(HEAD, ALL_FOUR, 1, 12.0)
    assert verdict.close and verdict.because == "1 of 4 did not come in time"
    door.exchange_s = 200.0
    assert not door.decide(HEAD, ALL_FOUR, 1, 12.0).close, "a round is dear: the fourth is waited for"


def test_with_dbw_a_phase_that_is_not_known_waits_for_the_cap() -> None:
    door = Door(1.0, 60.0, DBW)
    door.put(A, ready(), 10.0)
    assert door.decide(HEAD, {A, B}, 1, 10.0).until == 70.0
    door.put(A, ready(MAX_PHASE_MS * 4), 10.0)
    assert door.decide(HEAD, {A, B}, 1, 10.0).close, "the one that is known is here"


def test_with_periods_the_door_closes_so_long_after_the_commit_before() -> None:
    door = Door(1.0, 60.0, PERIOD, 20.0)
    door.opened_at = 100.0
    assert not door.decide(HEAD, {A, B}, 1, 119.0).close
    door.put(A, ready(), 105.0)
    assert door.decide(HEAD, {A, B}, 1, 110.0).until == 120.0
    assert door.decide(HEAD, {A, B}, 1, 120.0).close
    door.put(B, ready(), 111.0)
    assert door.decide(HEAD, {A, B}, 1, 111.0).close, "nobody is left to wait for"
    door.opened_at = 90.0
    door.remove(B)
    door.put(A, ready(parent=b"n" * 32), 130.0)
    assert door.decide(b"n" * 32, {A, B}, 1, 130.0).close, "who comes after the period is not kept waiting"


def test_with_a_window_those_who_come_soon_after_the_first_are_taken_together() -> None:
    door = Door(1.0, 60.0, WINDOW, 2.0)
    door.put(A, ready(), 10.0)
    assert door.decide(HEAD, ALL_FOUR, 1, 10.0).until == 12.0
    assert door.decide(HEAD, ALL_FOUR, 1, 12.0).close
    assert not door.decide(HEAD, ALL_FOUR, 2, 12.0).close, "before round 1 so many are needed"
    door.put(A, ready(50_000), 10.0)
    assert door.decide(HEAD, ALL_FOUR, 1, 12.0).until == 17.5, "15 % of a phase"
    door.put(A, ready(MAX_PHASE_MS), 10.0)
    assert door.decide(HEAD, ALL_FOUR, 1, 12.0).until == 70.0, "at most the cap"


def test_who_comes_seldom_weighs_as_much_as_it_misses() -> None:
    assert weights([100, 100, 100], [1, 1, 2]) == [100, 100, 200]
    assert weights([100, 100, 100], [1, 1, 40]) == [100, 100, 2800], "at most twice the mean"
    assert weights([100, 50], [0, 0]) == [100, 50]
    assert weights([100, 50]) == [100, 50]


@pytest.mark.parametrize("rounds", [[1, 1, 1], [3, 3, 3]])
def test_where_all_attend_alike_tokens_weigh(rounds: list[int]) -> None:
    found = weights([100, 50, 150], rounds)
    assert [w / sum(found) for w in found] == [1 / 3, 1 / 6, 1 / 2]
