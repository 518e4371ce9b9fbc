"""How long a phase is, where it stands in the run, and what is evaluated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from atoll.daemon.rhythm import Phase, Rhythm, rhythm_of
from atoll.daemon.training.channel import Progress
from atoll.peers.roster import Roster
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.modes.asynchronous import ROUND


def head(version: int, rounds: float = 0.0) -> Head:
    return Head(version, b"d" * 32, (), progress=int(rounds * ROUND))


def test_phases_are_as_long_as_a_node_is_fast() -> None:
    rhythm = Rhythm(100, speeds=lambda: [0.0, 300.0, 1200.0])
    assert rhythm.length(0) == 100, "its own speed is not known yet"
    assert [rhythm.length(own) for own in (1200, 600, 400, 10, 5000)] == [100, 50, 33, 12, 100]
    assert Rhythm(100).length(10) == 100, "nobody asked for it"
    assert Rhythm(100, speeds=lambda: []).length(10) == 100, "there is nobody else"
    assert Rhythm(3, speeds=lambda: [1e9]).length(1) == 1


def test_who_begins_in_the_middle_takes_part_of_what_the_others_have_left() -> None:
    def first(*left: float, steps: int = 90) -> int:
        return Rhythm(steps, left=lambda at: left if at == head(7) else ()).first_length(0, head(7))

    assert [first(1.0), first(0.5), first(0.2, 0.5, 1.0)] == [60, 30, 30]
    assert first() == 90, "nobody trains from this head"
    assert [first(0.2), first(0.1), first(0.0)] == [12, 90, 90], (
        "too late for this one: the next has it whole"
    )
    assert [first(1.0, steps=1), first(1.0, steps=2)] == [1, 1]
    rhythm = Rhythm(90, speeds=lambda: [200.0], left=lambda at: [0.5])
    assert rhythm.first_length(100, head(7)) == 15, "and it is a slow one"
    assert rhythm.length(100) == 45 and Rhythm(90).first_length(0, head(7)) == 90


@pytest.mark.parametrize(
    ("mode", "holds", "first"),
    [
        ("", False, 30),
        ("", True, 90),
        ("fedavg", False, 30),
        ("streaming", False, 45),
        ("eager", False, 90),
        ("async", False, 90),
    ],
)
def test_of_the_others_count_those_who_train_from_the_same_head(mode: str, holds: bool, first: int) -> None:
    roster = Roster()
    for name, digest, state, step in (
        (b"a", b"d" * 32, pb.TRAINING, 45),
        (b"b", b"e" * 32, pb.TRAINING, 9),
        (b"c", b"d" * 32, pb.FOLLOWING, 9),
        (b"f", b"d" * 32, pb.TRAINING, 90),
    ):
        status = pb.NodeStatus(version=7, digest=digest, state=state, step=step, steps=90)
        roster.up(name * 38, pb.Hello(status=status), 0.0)
    body = pb.Manifest(sync=pb.Sync(mode=mode), inner=pb.Inner(steps=90))
    manifest: Any = SimpleNamespace(
        body=body,
        segment_steps=45 if mode == "streaming" else 90,
        small_commits=mode == "async",
        holds=holds,
    )
    assert rhythm_of(manifest, roster).first_length(0, head(7)) == first


def test_a_phase_begins_after_the_rounds_of_the_chain() -> None:
    assert Rhythm(20).origin(head(7, 3)) == 140
    small = Rhythm(20, small_commits=True)
    assert [small.origin(head(7, r)) for r in (0, 0.25, 3)] == [0, 5, 60]


def test_with_small_commits_a_round_is_evaluated_once() -> None:
    assert [Rhythm(1).take_evaluation(head(v), 3) for v in range(5)] == [True, False, False, True, False]
    small = Rhythm(1, small_commits=True)
    due = [small.take_evaluation(head(9, r), 2) for r in (0.5, 1, 1.75, 2.25, 2.5, 3.75, 4)]
    assert due == [True, False, False, True, False, False, True]


def test_a_speed_is_not_that_of_half_a_second() -> None:
    phase = Phase()
    phase.progressed(Progress(2, 10, 3.0, 200, 100.0))
    assert (phase.step, phase.steps, phase.loss, phase.tokens_per_s, phase.step_s) == (2, 10, 3.0, 100.0, 1.0)
    phase.progressed(Progress(4, 10, 2.0, 400, 200.0))
    assert phase.tokens_per_s == 130.0
    phase.progressed(Progress(1, 10, 2.5, 1100, 130.0, 11))
    assert phase.step_s == pytest.approx(100 / 130), "of all that is carried, not of this phase alone"
    phase.progressed(Progress(5, 10, 2.5, 400, 0.0))
    assert phase.tokens_per_s == 130.0 and phase.loss == 2.5
