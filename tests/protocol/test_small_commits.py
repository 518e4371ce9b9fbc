"""Small commits that follow each other (mode async): who votes on the next, and how many rounds they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.modes.asynchronous import ROUND
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import (
    CommitError,
    check_commit,
    check_content,
    electorate,
    make_commit,
)
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.offers import offered
from atoll.protocol.round.plan import (
    Offered,
    PlanError,
    check_continuation,
    check_plan,
    continue_plan,
    make_plan,
)

from .test_machine_parts import CONFIG, HEAD, A, B, C, D, ready, result

SMALL = replace(CONFIG, small_commits=True, door="window", door_s=2.0)
AFTER = replace(HEAD, progress=3 * ROUND)
"""A, B and C may certify what follows."""


def plan(training: set[bytes], ready_ones: set[bytes], head: Head = AFTER) -> pb.Plan:
    offers = {peer: ready(parent=head.digest) for peer in ready_ones}
    here = {A, B, C, D}
    return make_plan(SMALL, head, A, offers, here, 0, (1.0, 1.0, 1.0), training=training)


def commit(made: pb.Plan, head: Head = AFTER) -> tuple[Exchange, pb.Commit]:
    """What comes of a plan with the contributors A and D."""
    exchange = Exchange(made, A)
    for chunk in range(5):
        assert exchange.add_result(*result(exchange, chunk, list(range(len(made.contributors))))) is None
    return exchange, make_commit(head, exchange)


def test_those_who_train_on_stay_voters() -> None:
    """C has left; D is new and contributes; B is in the middle of a phase."""
    made = plan({A, B, D}, {A, D})
    assert list(made.voters) == sorted({A, B, D})
    assert made.outer_lr == SMALL.outer_lr(3), "by all who train, not by those who have come"
    check_plan(SMALL, AFTER, B, None, 0, made)
    exchange, made_commit = commit(made)
    check_commit(AFTER, exchange, made_commit)
    assert electorate(made_commit) == tuple(sorted({A, B, D}))
    assert made_commit.progress == 3 * ROUND + 2 * ROUND // 3


def test_one_who_is_new_and_trains_is_no_voter_before_it_has_contributed() -> None:
    assert list(plan({A, B, C, D}, {A}).voters) == sorted({A, B, C})


def test_in_other_modes_contributors_are_the_voters() -> None:
    offers = {A: ready(), B: ready()}
    made = make_plan(CONFIG, HEAD, A, offers, {C}, 0, (1.0, 1.0, 1.0), training={A, B, C})
    assert not made.voters
    _, made_commit = commit(made, HEAD)
    assert electorate(made_commit) == (A, B) and made_commit.progress == 0
    made.voters.extend([A, B])
    with pytest.raises(PlanError, match="voters, which are the contributors"):
        check_plan(CONFIG, HEAD, A, Offered(100, 0, 0), 0, made)


REFUSED: list[list[bytes]] = [[], [A], [B, A, D], [A, A, B, D], [A, D, b"\xff" * 38]]


@pytest.mark.parametrize("voters", REFUSED)
def test_a_plan_with_impossible_voters_is_refused(voters: list[bytes]) -> None:
    made = plan({A, B, D}, {A, D})
    made.voters[:] = voters
    with pytest.raises(PlanError, match="impossible voters"):
        check_plan(SMALL, AFTER, B, None, 0, made)


CHANGES: list[tuple[str, Callable[[pb.Commit], object]]] = [
    ("other voters than its plan", lambda c: c.voters.pop()),
    ("other voters than its plan", lambda c: c.ClearField("voters")),
    ("count of rounds", lambda c: setattr(c, "progress", c.progress + 1)),
]


@pytest.mark.parametrize(("reason", "change"), CHANGES)
def test_a_commit_that_is_not_of_its_plan_is_refused(
    reason: str, change: Callable[[pb.Commit], object]
) -> None:
    exchange, made = commit(plan({A, B, D}, {A, D}))
    change(made)
    with pytest.raises(CommitError, match=reason):
        check_commit(AFTER, exchange, made)


@pytest.mark.parametrize("voters", REFUSED[1:])
def test_a_commit_whose_plan_is_not_known_has_possible_voters(voters: list[bytes]) -> None:
    _, made = commit(plan({A, B, D}, {A, D}))
    check_content(AFTER, made, range(5))
    made.voters[:] = voters
    with pytest.raises(CommitError, match="impossible voters"):
        check_content(AFTER, made, range(5))


def test_in_a_plan_weights_go_by_attendance_where_the_manifest_says_so() -> None:
    config = replace(CONFIG, by_attendance=True, door="period", door_s=5.0)
    offers = {A: ready(), B: ready(), C: ready()}
    offers[B].rounds, offers[C].rounds = 2, 500
    made = make_plan(config, HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0))
    assert [c.rounds for c in made.contributors] == [0, 2, 64]
    assert [c.weight for c in made.contributors] == [100, 200, 4466]
    check_plan(config, HEAD, B, Offered(100, 0, 0, 2), 0, made)
    with pytest.raises(PlanError, match="did not offer"):
        check_plan(config, HEAD, B, Offered(100, 0, 0, 3), 0, made)
    with pytest.raises(PlanError, match="impossible number of rounds"):
        check_plan(CONFIG, HEAD, B, Offered(100, 0, 0, 2), 0, made)
    local = t.LocalReady(100, 10, 7, 3, rounds=99)
    assert offered(config, local) == Offered(100, 7, 3, 64) and offered(CONFIG, local) == Offered(100, 7, 3)


def test_a_plan_that_continues_one_has_its_voters() -> None:
    made = plan({A, B, D}, {A, D})
    again = continue_plan(made, D, 1, {A, D}, [0], (1.0, 1.0, 1.0))
    check_continuation(made, again)
    again.voters.pop()
    with pytest.raises(PlanError, match="other voters"):
        check_continuation(made, again)
