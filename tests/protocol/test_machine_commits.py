"""One round machine, fed by hand: contributions, results, commits, votes, aborts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import commit_digest
from atoll.protocol.round import types as t
from atoll.protocol.round.plan import make_plan

from .bench import (
    CONFIG,
    FIRST,
    HEAD,
    OUTSIDER,
    SECOND,
    THIRD,
    TRIO,
    Bench,
    commit_event,
    frames,
    of,
    ready,
    reasons,
)

# ---- contributions and results


def test_a_refused_contribution_is_not_waited_for(member: Bench):
    chunk = next(iter(member.session.exchange.owned))
    for peer in (FIRST, SECOND):
        assert member.feed(t.ContributionArrived(peer, member.session.id, chunk, b"x")) == []
    effects = member.feed(t.ContributionRejected(THIRD, member.session.id, chunk, "a level is -128"))
    assert reasons(effects) == ["a level is -128"]
    (reduce,) = of(t.Reduce, effects)
    assert [part.payload for part in reduce.parts] == [b"x", b"x"]
    late = member.feed(t.ContributionArrived(THIRD, member.session.id, chunk, b"x"))
    assert reasons(late) == ["late contribution"]


def test_answers_for_another_session_mean_nothing(member: Bench):
    other = pb.SessionId(parent=HEAD.digest, view=9, leader=FIRST)
    assert member.feed(t.ChunkReduced(other, 0, (0,), b"", b"")) == []
    assert member.feed(t.Persisted(other, b"c" * 32)) == []
    assert Bench(FIRST).feed(t.Persisted(other, b"c" * 32)) == []


def test_a_result_may_come_twice_but_not_otherwise(member: Bench):
    chunk = next(c for c in range(3) if c not in member.session.exchange.owned)
    assert of(t.StoreResult, member.result(chunk))
    assert member.result(chunk) == []
    assert reasons(member.result(chunk, b"other")) == ["second, different result of a chunk"]


def test_a_result_that_differs_from_one_of_an_earlier_life_is_not_sent(member: Bench):
    chunk = next(iter(member.session.exchange.owned))
    member.result(chunk, b"before the restart")
    effects = member.own(chunk)
    assert reasons(effects) == ["second, different result of a chunk"]
    assert not of(t.SendResult, effects)


@pytest.mark.parametrize("noticed", [True, False])
def test_what_was_under_way_goes_again_when_the_link_is_another(member: Bench, noticed: bool):
    """Bytes that the old link had taken may be lost, whether or not this node noticed that it was gone."""
    exchange = member.session.exchange
    theirs = [c for c in range(3) if exchange.owner(c) == THIRD]
    mine = next(iter(exchange.owned))
    assert theirs and member.own(mine)
    if noticed:
        view = member.peers[THIRD]
        assert member.lose(THIRD) == []
        member.peers[THIRD] = view
    else:
        member.peers[THIRD] = replace(member.peers[THIRD], since=7.0)
    effects = member.roster()
    (scatter,) = of(t.Scatter, effects)
    assert list(scatter.chunks) == theirs and scatter.plan == member.session.plan
    (send,) = of(t.SendResult, effects)
    assert send.peers == (THIRD,) and send.chunk == mine
    assert member.roster() == [], "once"
    member.result(theirs[0])
    member.peers[THIRD] = replace(member.peers[THIRD], since=9.0)
    assert not of(t.Scatter, member.roster()), "it has all of this node's contributions"
    member.results()
    member.commit()
    member.peers[THIRD] = replace(member.peers[THIRD], since=11.0)
    assert not of(t.SendResult, member.roster()), "whoever lacks a result of a commit asks for it"


def test_results_are_sent_again_to_members_that_want_them(member: Bench):
    member.result(0)
    want = pb.Want(session=member.session.id, chunks=[0, 1, 99])
    (send,) = of(t.SendResult, member.feed(t.WantReceived(THIRD, want)))
    assert send.peers == (THIRD,) and send.chunk == 0
    assert reasons(member.feed(t.WantReceived(OUTSIDER, want))) == ["want of a node outside the session"]


def test_a_session_without_a_contribution_is_aborted_and_tried_again(leader: Bench):
    for chunk in range(3):
        effects = (
            leader.own(chunk, ()) if chunk in leader.session.exchange.owned else leader.result(chunk, b"", ())
        )
    (ended,) = of(t.Ended, effects)
    assert ended.report.outcome == "aborted" and ended.report.reason == "no contribution arrived"
    assert {f.frame.WhichOneof("message") for f in of(t.Send, effects)} == {"abort", "plan"}
    assert leader.session.id.view == 1, "everyone is still ready"


# ---- commits and votes


def test_a_member_votes_for_what_it_made_durable(member: Bench):
    member.results()
    (persist,) = of(t.Persist, member.commit())
    assert not frames([persist], "vote")
    effects = member.persisted()
    (vote,) = frames(effects, "vote")
    assert set(vote.peers) == {FIRST, THIRD}
    (ended, apply) = member.vote(FIRST)
    assert isinstance(ended, t.Ended) and ended.report.outcome == "certified"
    assert isinstance(apply, t.Apply) and apply.certified
    assert [v.signer for v in apply.votes] == sorted([FIRST, SECOND])
    assert member.machine.applying and member.machine.deadline() == math.inf


def test_votes_that_come_before_the_commit_count(member: Bench):
    member.results()
    event = commit_event(member.session.plan, FIRST, FIRST)
    digest = commit_digest(event.signed.body)
    assert member.vote(FIRST, digest) == []
    member.feed(event)
    assert of(t.Apply, member.persisted())


def test_a_node_outside_the_electorate_holds_the_commit_and_sends_no_vote():
    bench = Bench(SECOND, replace(HEAD, electorate=(FIRST,)))
    bench.local()
    bench.planned()
    bench.results()
    bench.commit()
    assert bench.persisted() == []
    assert reasons(bench.vote(THIRD)) == ["vote of a node outside the electorate"]
    assert of(t.Apply, bench.vote(FIRST))


def test_two_votes_of_one_node_are_noticed(member: Bench):
    member.results()
    member.commit()
    member.vote(THIRD)
    assert reasons(member.vote(THIRD, b"x" * 32)) == ["second, different vote"]


def test_commits_that_break_a_rule_are_dropped(member: Bench):
    assert reasons(member.commit(signer=THIRD)) == ["commit that is not by the session's leader"]
    assert reasons(member.commit(cumulative_tokens=1)) == ["commit with a wrong sum of tokens"]
    assert member.session.commit is None
    assert reasons(member.commit(sender=THIRD)) == [], "whoever passes it on"
    assert member.commit() == [], "again the same"
    member.session.plan.outer_lr = 0.25  # another commit by the leader, whatever it says
    assert reasons(member.commit()) == ["second, different commit in one session"]


def test_missing_results_get_a_moment_and_are_then_asked_for_once(member: Bench):
    assert member.commit() == []
    effects = member.tick()
    assert member.now == 101.0
    (want,) = frames(effects, "want")
    assert want.peers == (FIRST,) and list(want.frame.want.chunks) == [0, 1, 2]
    assert member.machine.deadline() == 110.0
    assert frames(member.results(), "want") == []
    assert member.session.agreement.persisting


def test_a_result_that_differs_from_the_commit_is_asked_for_at_once(member: Bench):
    chunk = next(c for c in range(3) if c not in member.session.exchange.owned)
    member.result(chunk, b"the owner told me otherwise")
    (want,) = frames(member.commit(), "want")
    assert list(want.frame.want.chunks) == [chunk]


def test_results_of_an_owner_that_left_are_asked_of_whoever_holds_them(member: Bench):
    member.commit()
    (want,) = frames(member.lose(THIRD), "want")
    assert want.peers == (FIRST,)
    gone = frames(member.lose(FIRST), "want")
    assert gone == [], "nobody is left who holds them"
    member.peers[THIRD] = t.PeerView(HEAD.digest, True)
    member.roster()
    (want,) = frames(member.vote(THIRD), "want")
    assert want.peers == (THIRD,), "a voter holds them all"
    assert frames(member.roster(), "want") == []


def test_a_commit_is_passed_on_once_when_its_leader_leaves(member: Bench):
    member.results()
    member.commit()
    (passed,) = frames(member.lose(FIRST), "commit")
    assert set(passed.peers) == {FIRST, THIRD}
    assert frames(member.roster(), "commit") == []


def test_a_tick_before_its_time_does_nothing(member: Bench, leader: Bench):
    assert Bench(SECOND).machine.tick(100.0) == []
    assert leader.machine.tick(100.0) == member.machine.tick(100.0) == []
    member.commit()
    assert member.machine.tick(100.0) == []


def test_a_commit_whose_results_never_come_is_missed(member: Bench):
    member.commit()
    member.tick()
    (ended,) = of(t.Ended, member.tick())
    assert ended.report.outcome == "missed"
    assert ended.report.missing == ()
    assert member.machine.session is None


def test_a_vote_that_is_not_answered_makes_the_commit_provisional(member: Bench):
    member.results()
    member.commit()
    member.persisted()
    effects = member.tick()
    (ended,) = of(t.Ended, effects)
    assert ended.report.outcome == "provisional" and set(ended.report.missing) == {FIRST, THIRD}
    (apply,) = of(t.Apply, effects)
    assert not apply.certified


def test_a_node_without_a_vote_left_holds_the_commit(member: Bench):
    """Its disk knows of a vote for another commit of this parent."""
    member.results()
    member.commit()
    effects = member.persisted(may_vote=False)
    assert not frames(effects, "vote") and not of(t.Ended, effects)
    assert not of(t.Ended, member.vote(FIRST))
    (apply,) = of(t.Apply, member.vote(THIRD))
    assert apply.certified and {vote.signer for vote in apply.votes} == {FIRST, THIRD}


def test_nobody_waits_for_the_vote_that_a_node_can_not_give():
    member = Bench(SECOND, replace(HEAD, electorate=tuple(sorted((FIRST, SECOND)))))
    member.local()
    member.planned()
    member.results()
    member.commit()
    member.vote(FIRST)
    (ended,) = of(t.Ended, member.persisted(may_vote=False))
    assert (ended.report.outcome, ended.report.reason) == ("provisional", "this node has no vote left for it")


# ---- aborts


def test_the_leader_ends_its_session(member: Bench):
    (ended,) = of(t.Ended, member.abort(FIRST, missing=(THIRD,)))
    assert ended.report.outcome == "aborted" and ended.report.missing == (THIRD,)
    assert member.machine._company.no_owners == {THIRD}
    assert member.machine._company.suspects == set()


def test_an_abort_does_not_take_a_commit_back(member: Bench):
    member.commit()
    assert member.abort(FIRST) == []
    assert member.session.commit is not None


def test_an_abort_of_a_stranger_is_dropped(member: Bench):
    assert reasons(member.abort(OUTSIDER)) == ["abort of a node outside the session"]


def test_a_member_that_declines_is_not_waited_for(leader: Bench):
    assert THIRD in [c.peer for c in leader.session.plan.contributors]
    assert frames(leader.abort(THIRD), "inquiry"), "it owns a chunk"
    (ended,) = of(t.Ended, leader.holding(SECOND))
    assert ended.report.missing == (THIRD,)
    assert THIRD not in leader.machine._door.ready(HEAD.digest, TRIO), "until it is ready again"
    assert leader.session.id.view == 1
    owners = {leader.session.exchange.owner(c) for c in range(3)}
    assert owners == {FIRST, SECOND}


def test_a_member_that_declines_and_owns_nothing_is_only_left_out(member: Bench):
    (chunk,) = member.session.exchange.owned
    effects = member.abort(THIRD)
    assert of(t.Ended, effects) == []
    for peer in (FIRST, SECOND):
        effects = member.feed(t.ContributionArrived(peer, member.session.id, chunk, b"x"))
    assert of(t.Reduce, effects)


def test_a_contributor_whose_bytes_were_refused_says_ready_again_before_it_is_planned(leader: Bench):
    (chunk,) = leader.session.exchange.owned
    leader.feed(t.ContributionRejected(THIRD, leader.session.id, chunk, "bad"))
    leader.lose(SECOND)
    leader.tick()
    assert leader.machine.session is None
    assert THIRD not in leader.machine._door.ready(HEAD.digest, TRIO)


def test_a_follower_whose_session_is_aborted_has_nothing_to_offer():
    bench = Bench(SECOND)
    bench.planned(make_plan(CONFIG, HEAD, FIRST, {FIRST: ready()}, {SECOND}, 0, (10.0, 10.0, 10.0)))
    effects = bench.abort(FIRST)
    assert of(t.Ended, effects) and not frames(effects, "ready")
