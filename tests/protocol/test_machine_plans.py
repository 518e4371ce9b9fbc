"""One round machine, fed by hand: Ready, plans, early and late messages, other heads, the sentence."""

from __future__ import annotations

import math
from dataclasses import replace

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, leader_of
from atoll.protocol.round import types as t
from atoll.protocol.round.door import MAX_READY
from atoll.protocol.round.plan import MAX_TOKENS, MAX_VIEW_JUMP, make_plan

from .bench import (
    CONFIG,
    FIRST,
    HEAD,
    KEYS,
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
    result,
)
from .fakes import event_of

# ---- Ready


def test_a_ready_node_tells_the_leader_at_once_and_again():
    bench = Bench(SECOND)
    (send,) = bench.local()
    assert send.peers == (FIRST,) and send.frame.ready.tokens == 100
    assert frames(bench.tick(), "ready") == [send]
    assert bench.roster() == [], "not more often"


def test_a_leader_that_never_answers_is_passed_over():
    bench = Bench(THIRD)
    bench.local()
    told = []
    while bench.machine.session is None:
        told += [s.peers[0] for s in frames(bench.tick(), "ready")]
        if not told or told[-1] != SECOND:
            assert bench.now <= 100 + 30 + 10
    assert FIRST in told and SECOND in told
    assert bench.session.leads, "in the end it leads itself, with whoever is ready"


def test_nobody_is_told_while_nobody_can_lead():
    start = replace(HEAD, version=0)
    bench = Bench(SECOND, start, replace(CONFIG, genesis_node=OUTSIDER))
    assert bench.local() == []
    assert bench.machine.deadline() == math.inf
    assert "first round" in bench.machine.situation(bench.now).because


def test_an_impossible_ready_is_dropped():
    bench = Bench(FIRST)
    assert reasons(bench.ready(SECOND, tokens=MAX_TOKENS + 1)) == [
        "ready with an impossible number of tokens"
    ]
    for k in range(MAX_READY):
        bench.ready(k.to_bytes(38, "big"))
    assert reasons(bench.ready(SECOND)) == ["too many nodes are ready"]
    bench.roster()
    assert reasons(bench.ready(SECOND)) == [], "those that are not linked are forgotten"


def test_no_ready_can_use_the_views_up():
    bench = Bench(FIRST)
    bench.local()
    bench.ready(SECOND, next_view=2**32 - 1)
    bench.ready(THIRD)
    assert bench.session.id.view == MAX_VIEW_JUMP


def test_the_view_of_a_plan_is_one_that_all_who_are_ready_still_take():
    bench = Bench(FIRST)
    bench.local()
    bench.ready(SECOND, next_view=3)
    bench.ready(THIRD)
    assert bench.session.id.view == 3


def test_a_leader_that_waits_is_due_when_the_grace_or_the_cap_ends():
    bench = Bench(FIRST)
    assert bench.machine.deadline() == math.inf
    bench.local()
    bench.ready(SECOND)
    assert bench.machine.deadline() == 130.0
    assert frames(bench.tick(), "plan")
    assert THIRD in bench.session.plan.followers


# ---- plans


def test_a_plan_is_by_its_leader_or_dropped():
    bench = Bench(SECOND)
    bench.local()
    plan = bench.plan()
    assert reasons(bench.feed(t.PlanReceived(THIRD, plan, FIRST))) == ["plan that is not by its leader"]
    assert reasons(bench.feed(t.PlanReceived(FIRST, plan, THIRD))) == ["plan that is not by its leader"]
    assert bench.machine.session is None


def test_a_plan_sent_twice_is_dropped(member: Bench):
    assert reasons(member.planned()) == ["plan sent twice"]


def test_a_plan_that_cannot_be_followed_is_declined_to_all_who_would_wait():
    bench = Bench(SECOND)
    effects = bench.planned()
    assert reasons(effects) == ["plan with tokens that this node did not offer"]
    (send,) = frames(effects, "abort")
    assert set(send.peers) == {FIRST, THIRD}
    assert send.frame.abort.session == bench.plan().session


def test_a_plan_without_this_node_is_dropped_in_silence():
    bench = Bench(SECOND)
    plan = make_plan(CONFIG, HEAD, FIRST, {FIRST: ready()}, {THIRD}, 0, (10.0, 10.0, 10.0))
    assert bench.planned(plan) == [t.Dropped(FIRST, "plan without this node")]


def test_a_newer_plan_replaces_the_session(member: Bench):
    effects = member.planned(member.plan(THIRD, view=1))
    (ended,) = of(t.Ended, effects)
    assert ended.report.outcome == "aborted" and ended.report.reason == "a newer plan came"
    assert member.session.id.view == 1
    assert reasons(member.planned()) == ["plan of a past view"]


def test_a_leader_that_yields_tells_its_members(leader: Bench):
    effects = leader.planned(leader.plan(SECOND, view=1))
    (abort,) = frames(effects, "abort")
    assert set(abort.peers) == {SECOND, THIRD}
    assert leader.session.id.leader == SECOND


def test_of_two_plans_of_one_view_the_higher_leader_stays():
    bench = Bench(THIRD)
    bench.local()
    bench.planned(bench.plan(SECOND))
    assert reasons(bench.planned(bench.plan(FIRST))) == []
    assert bench.session.id.leader == FIRST
    assert reasons(bench.planned(bench.plan(SECOND))) == ["plan of a past view"]


def test_a_newer_plan_is_declined_while_a_commit_is_voted_on(member: Bench):
    member.results()
    member.commit()
    effects = member.planned(member.plan(THIRD, view=1))
    assert reasons(effects) == ["newer plan while a commit is being voted on"]
    assert frames(effects, "abort")


def test_a_plan_of_a_leader_that_is_not_linked_ends_at_once():
    bench = Bench(SECOND)
    bench.local()
    bench.peers.pop(FIRST)
    bench.roster()
    bench.planned()
    assert bench.session.trouble == "the leader left"
    (ended,) = of(t.Ended, bench.tick())
    assert ended.report.reason == "no member answers" and ended.report.missing == (FIRST,)
    assert bench.machine.session is None
    assert bench.machine.deadline() < math.inf


# ---- early and late messages


def test_early_messages_wait_for_their_plan():
    bench = Bench(SECOND)
    bench.local()
    plan = bench.plan()
    frame, payload = result(plan, 0, b"mean", (0, 1, 2))
    owner = plan.contributors[plan.owners[0]].peer
    assert bench.feed(event_of(KEYS[SECOND], owner, frame, payload)) == []
    assert bench.feed(commit_event(plan, FIRST, FIRST)) == []
    assert bench.feed(t.AbortReceived(THIRD, pb.Abort(session=plan.session))) == []
    effects = bench.planned(plan)
    assert of(t.StoreResult, effects)
    assert bench.session.commit is not None


def test_messages_of_the_next_head_wait_for_it():
    bench = Bench(SECOND)
    head = Head(2, b"n" * 32, TRIO)
    after = Bench(SECOND, head)
    plan = after.plan()
    assert bench.feed(t.PlanReceived(FIRST, plan, FIRST)) == []
    effects = bench.feed(t.HeadChanged(head))
    assert reasons(effects) == ["plan with tokens that this node did not offer"]


def test_there_is_room_for_a_bounded_number_of_early_messages():
    bench = Bench(SECOND, config=replace(CONFIG, stash_events=4))
    vote = pb.Vote(session=pb.SessionId(parent=b"?" * 32))
    event = t.VoteReceived(FIRST, vote, pb.Signed())
    assert bench.feed(event) == []
    assert reasons(bench.feed(event)) == ["too many early messages"]


def test_messages_of_past_sessions_are_dropped_and_the_ordinary_ones_in_silence(member: Bench):
    old = pb.SessionId()
    old.CopyFrom(member.session.id)
    member.abort(FIRST)
    assert member.feed(t.VoteReceived(FIRST, pb.Vote(session=old), pb.Signed())) == []
    assert member.feed(t.WantReceived(FIRST, pb.Want(session=old))) == []
    assert member.feed(t.AbortReceived(FIRST, pb.Abort(session=old))) == []
    late = member.feed(t.ContributionArrived(FIRST, old, 0, b""))
    assert reasons(late) == ["message of a past session"]
    member.feed(t.HeadChanged(Head(2, b"n" * 32, TRIO)))
    late = member.feed(t.ContributionArrived(FIRST, old, 0, b""))
    assert reasons(late) == ["message of a past session"]


# ---- other heads


def test_a_member_that_takes_over_another_head_declines(member: Bench):
    effects = member.feed(t.HeadChanged(Head(2, b"n" * 32, TRIO)))
    (ended,) = of(t.Ended, effects)
    assert ended.report.outcome == "missed"
    (abort,) = frames(effects, "abort")
    assert set(abort.peers) == {FIRST, THIRD}
    assert member.machine.session is None


def test_a_leader_that_takes_over_another_head_ends_its_session(leader: Bench):
    effects = leader.feed(t.HeadChanged(Head(2, b"n" * 32, TRIO)))
    assert [e.report.outcome for e in of(t.Ended, effects)] == ["aborted"]
    assert frames(effects, "abort")


def test_a_commit_in_hand_is_missed_when_another_head_is_taken_over(member: Bench):
    member.commit()
    effects = member.feed(t.HeadChanged(Head(2, b"n" * 32, TRIO)))
    assert [e.report.outcome for e in of(t.Ended, effects)] == ["missed"]
    assert not frames(effects, "abort")
    assert member.feed(t.Persisted(member.plan().session, b"c" * 32)) == [], "its disk was late"


def test_no_session_begins_while_another_head_is_fetched():
    bench = Bench(FIRST)
    bench.feed(t.CatchingUp(True))
    bench.local()
    bench.ready(SECOND)
    bench.ready(THIRD)
    assert bench.machine.catching_up
    assert bench.machine.session is None and bench.machine.deadline() == math.inf
    assert bench.machine.situation(bench.now).because == "the swarm is further; this node is catching up"
    effects = bench.planned(bench.plan(SECOND))
    assert reasons(effects) == ["plan while another head is being fetched"]
    assert frames(bench.feed(t.CatchingUp(False)), "plan")


def test_a_leader_that_knows_itself_behind_holds_back_for_a_while():
    bench = Bench(FIRST)
    bench.peers[THIRD] = t.PeerView(b"n" * 32, True, 0, ahead=True)
    bench.roster()
    bench.local()
    bench.ready(SECOND)
    assert bench.machine.session is None
    assert bench.machine.deadline() == 110.0
    assert bench.machine.situation(bench.now).because == "the swarm is further; this node is catching up"
    bench.tick()
    assert bench.session.leads


def test_a_leader_that_is_behind_and_waits_for_others_is_due_at_the_later_time():
    bench = Bench(FIRST, config=replace(CONFIG, grace_cap_s=3.0))
    bench.peers[OUTSIDER] = t.PeerView(b"n" * 32, True, 0, ahead=True)
    bench.roster()
    bench.local()
    assert bench.machine.deadline() == 110.0


def test_a_session_that_ended_behind_the_swarm_holds_back_anew():
    bench = Bench(FIRST)
    bench.local()
    bench.ready(SECOND)
    bench.ready(THIRD)
    bench.now += 1
    bench.peers[OUTSIDER] = t.PeerView(b"n" * 32, True, 0, ahead=True)
    bench.roster()
    bench.now += 3
    bench.lose(SECOND)
    (ended,) = of(t.Ended, bench.tick())
    assert ended.report.reason == "no member answers"
    assert bench.machine.session is None and bench.machine.deadline() == bench.now + 10


# ---- the sentence


def test_every_phase_says_what_it_waits_for(member: Bench, leader: Bench):
    fresh = Bench(SECOND)
    assert fresh.machine.situation(100.0).phase == "inner"
    fresh.local()
    said = fresh.machine.situation(100.0)
    assert (said.phase, said.leader) == ("waiting", FIRST)
    assert said.because == "the node that leads this round has not begun it" and said.until == 140.0
    head = Bench(FIRST)
    head.local()
    said = head.machine.situation(100.0)
    assert said.because == "2 of 3 peers are still training" and (said.ready, said.expected) == (1, 3)
    said = member.machine.situation(100.0)
    assert (said.phase, said.leader, said.until) == ("exchange", FIRST, 110.0)
    member.results()
    member.commit()
    assert member.machine.situation(100.0).phase == "commit"
    member.persisted()
    member.vote(FIRST)
    assert member.machine.situation(100.0).phase == "applying"
    few = Bench(SECOND, replace(HEAD, version=0), replace(CONFIG, min_peers_to_start=4))
    few.local()
    assert few.machine.situation(100.0).because == "4 nodes have to take part, 3 so far"


def test_what_waits_without_a_limit_names_no_time():
    """Before the first round everybody waits for the genesis node for as long as it takes."""
    bench = Bench(SECOND, replace(HEAD, version=0), replace(CONFIG, genesis_node=FIRST))
    bench.local()
    said = bench.machine.situation(100.0)
    assert said.because == "the node that leads this round has not begun it" and said.until is None


def test_a_leader_that_withdrew_leads_no_less():
    bench = Bench(FIRST)
    bench.local()
    bench.feed(t.LocalWithdrawn())
    assert bench.machine.situation(bench.now).phase == "inner"
    bench.ready(SECOND)
    bench.ready(THIRD)
    bench.tick()
    assert bench.session.exchange.me is None and FIRST in bench.session.plan.followers


def test_ranks_are_what_the_benches_assume():
    assert leader_of(HEAD.digest, 0, TRIO) == FIRST
