"""One round machine, fed by hand: voters that are against a commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import commit_digest
from atoll.protocol.round import types as t
from atoll.protocol.round.plan import make_plan

from .bench import CONFIG, FIRST, HEAD, OUTSIDER, SECOND, THIRD, TRIO, Bench, commit_event, frames, of, ready
from .bench import reasons as dropped


@pytest.fixture
def voting(member: Bench) -> Bench:
    """SECOND with FIRST's commit and all results, which its disk has not taken yet."""
    member.results()
    member.commit()
    return member


def test_who_is_against_a_commit_says_so_and_stays(voting: Bench):
    effects = voting.persisted(refusal="it points away")
    assert not frames(effects, "vote") and not of(t.Ended, effects)
    (said,) = frames(effects, "abort")
    assert set(said.peers) == {FIRST, THIRD}
    assert said.frame.abort.commit == voting.session.commit[2] and said.frame.abort.reason == "it points away"
    assert not of(t.Ended, voting.vote(FIRST))
    (ended, apply) = voting.vote(THIRD)
    assert isinstance(ended, t.Ended) and ended.report.outcome == "certified"
    assert ended.report.refused == (SECOND,) and ended.report.tokens > 0
    assert isinstance(apply, t.Apply) and apply.certified, "most were for it: it holds all of it"


def test_a_commit_that_most_are_against_is_given_up_at_once(voting: Bench):
    voting.persisted(refusal="it points away", accused=(THIRD,))
    effects = voting.refuse(FIRST)
    (ended,) = of(t.Ended, effects)
    assert (ended.report.outcome, ended.report.reason) == ("aborted", "2 of 3 voters refuse its results")
    assert ended.report.refused == tuple(sorted((FIRST, SECOND)))
    assert ended.report.tokens == 0 and not of(t.Apply, effects)
    company = voting.machine._company
    assert company.suspects == {FIRST} and company.no_owners == {FIRST, THIRD}
    assert company.leader(HEAD) == SECOND and voting.machine.offer == 0, "nothing is lost for the next try"


def test_a_member_that_lacks_results_hears_that_they_are_refused(member: Bench):
    event = commit_event(member.session.plan, FIRST, FIRST)
    assert member.refuse(THIRD, commit_digest(event.signed.body)) == [], "it comes before the commit"
    assert not of(t.Ended, member.feed(event))
    (ended,) = of(t.Ended, member.refuse(FIRST))
    assert ended.report.outcome == "aborted"


def test_a_leader_whose_commit_is_refused_leaves_the_next_try_to_another(leader: Bench):
    leader.results()
    leader.persisted()
    leader.refuse(SECOND)
    effects = leader.refuse(THIRD)
    (ended,) = of(t.Ended, effects)
    assert ended.report.outcome == "aborted" and leader.machine.session is None
    assert leader.machine._company.suspects == {FIRST}
    (said,) = frames(effects, "ready")
    assert said.peers == (SECOND,)


def test_where_everybody_was_refused_the_first_in_rank_tries_again(leader: Bench):
    leader.machine._company.suspects |= set(TRIO)
    assert leader.machine._company.leader(HEAD) == FIRST


def test_whoever_is_against_it_does_not_go_on_with_it_alone(voting: Bench):
    voting.persisted(refusal="it points away")
    voting.vote(FIRST)
    (ended,) = of(t.Ended, voting.tick())
    assert ended.report.outcome == "aborted", "THIRD says nothing"


def that_voted(voters: tuple[bytes, ...]) -> Bench:
    """SECOND, which has voted for a commit, as FIRST has; `voters`: of its parent."""
    member = Bench(SECOND, replace(HEAD, electorate=voters))
    member.local()
    member.planned()
    member.results()
    member.commit()
    member.persisted()
    member.vote(FIRST)
    return member


def test_others_go_on_with_it_where_more_are_for_it_than_against():
    voters = tuple(sorted((*TRIO, OUTSIDER, b"gone")))
    member = that_voted(voters)
    (ended,) = of(t.Ended, member.refuse(THIRD))
    assert (ended.report.outcome, ended.report.refused) == ("provisional", (THIRD,))


def test_a_voter_outside_the_session_does_not_abort_it():
    member = that_voted(tuple(sorted((*TRIO, OUTSIDER))))
    assert not of(t.Ended, member.refuse(OUTSIDER))
    (ended,) = of(t.Ended, member.refuse(THIRD))
    assert ended.report.outcome == "provisional", "of the three in the session one is against it"


def test_who_was_against_it_and_left_still_is(voting: Bench):
    voting.persisted()
    voting.refuse(THIRD)
    assert not of(t.Ended, voting.lose(THIRD))
    (ended,) = of(t.Ended, voting.lose(FIRST))
    assert (ended.report.outcome, ended.report.refused) == ("aborted", (THIRD,))


def test_who_had_voted_before_it_started_again_says_nothing_more(voting: Bench):
    voting.vote(SECOND)
    effects = voting.persisted(refusal="it points away")
    assert effects == [], "neither that it is against it, nor a vote whose record the disk does not have"
    assert of(t.Apply, voting.vote(FIRST))


def test_a_voter_says_one_thing(voting: Bench):
    voting.persisted()
    assert dropped(voting.refuse(OUTSIDER)) == ["refusal of a node outside the electorate"]
    assert voting.refuse(THIRD) == []
    assert voting.refuse(THIRD) == []
    assert dropped(voting.vote(THIRD)) == ["vote after a refusal"]
    assert of(t.Apply, voting.vote(FIRST))


def test_a_vote_is_not_taken_back(voting: Bench):
    voting.vote(FIRST)
    assert dropped(voting.refuse(FIRST)) == ["refusal after a vote"]
    assert voting.session.agreement.ballot.refusals(voting.session.commit[2]) == ()


def test_a_node_outside_the_electorate_has_nothing_to_refuse():
    bench = Bench(SECOND, replace(HEAD, electorate=(FIRST,)))
    bench.local()
    bench.planned()
    bench.results()
    bench.commit()
    assert bench.persisted(refusal="it points away") == []
    assert of(t.Apply, bench.vote(FIRST))


# ---- whoever was left out of the session


def refused(
    bench: Bench,
    voter: bytes,
    leader: bytes = FIRST,
    parent: bytes = HEAD.digest,
    commit: bytes = b"c" * 32,
) -> list[t.Effect]:
    session = pb.SessionId(parent=parent, view=0, leader=leader)
    return bench.feed(t.AbortReceived(voter, pb.Abort(session=session, reason="no", commit=commit)))


def test_who_was_left_out_passes_over_a_leader_that_can_not_win():
    bench = Bench(SECOND)
    bench.local()
    effects = refused(bench, THIRD)
    assert bench.machine._company.suspects == {FIRST}, (
        "of three voters one refuses, and this node has no vote"
    )
    assert not frames(effects, "ready"), "it is next itself"
    assert bench.machine.deadline() < float("inf")
    bench.head = replace(HEAD, version=2, digest=b"n" * 32)
    bench.feed(t.HeadChanged(bench.head))
    assert bench.machine._company.suspects == set()


def test_it_does_not_where_a_majority_may_still_be_for_it():
    bench = Bench(THIRD, replace(HEAD, electorate=tuple(sorted((*TRIO, OUTSIDER, b"fifth")))))
    bench.local()
    assert refused(bench, SECOND) == [] and bench.machine._company.suspects == set()
    (said,) = frames(refused(bench, OUTSIDER), "ready")
    assert said.peers == (SECOND,)


def test_refusals_of_different_commits_are_not_added_up():
    bench = Bench(THIRD, replace(HEAD, electorate=tuple(sorted((*TRIO, OUTSIDER, b"fifth")))))
    bench.local()
    refused(bench, SECOND)
    refused(bench, OUTSIDER, commit=b"invented" * 4)
    assert bench.machine._company.suspects == set()
    refused(bench, SECOND, commit=b"invented" * 4)
    assert bench.machine._company.suspects == {FIRST}


def test_where_members_trust_each_other_nobody_is_against_anything():
    bench = Bench(SECOND, config=replace(CONFIG, holds=False))
    bench.local()
    said = "refusal in a swarm whose members trust each other"
    assert dropped(refused(bench, THIRD)) == [said] and bench.machine._company.suspects == set()
    bench.planned()
    bench.results()
    bench.commit()
    bench.persisted()
    assert dropped(bench.refuse(FIRST)) == dropped(bench.refuse(THIRD)) == [said]
    assert of(t.Apply, bench.vote(FIRST))


def test_what_others_say_of_other_sessions_means_nothing():
    bench = Bench(SECOND)
    bench.local()
    for effects in (
        refused(bench, OUTSIDER),
        refused(bench, THIRD, leader=THIRD),
        refused(bench, THIRD, parent=b"other" * 6),
    ):
        assert effects == [] and bench.machine._company.suspects == set()


def test_an_offer_stands_until_it_is_taken_back(member: Bench):
    bench = Bench(SECOND)
    assert bench.machine.offer is None
    bench.planned(make_plan(CONFIG, HEAD, FIRST, {FIRST: ready()}, {SECOND}, 0, (10.0, 10.0, 10.0)))
    assert bench.machine.offer is None, "a follower that has nothing"
    assert member.machine.offer == 0
    member.feed(t.LocalWithdrawn())
    assert member.machine.offer is None


def test_voters_who_are_here_are_those_of_this_head_that_are_alive(member: Bench):
    assert member.machine.voters == set(TRIO)
    member.peers[THIRD] = t.PeerView(b"elsewhere" * 4, True)
    member.roster()
    assert member.machine.voters == {FIRST, SECOND}
    member.lose(FIRST)
    assert member.machine.voters == {SECOND}
