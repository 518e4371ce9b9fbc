"""Sessions that go on without their leader or an owner: what was reduced is used, nothing counts twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import types as t
from atoll.protocol.round.plan import continue_plan

from .bench import (
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
    reasons,
    result,
)
from .fakes import event_of
from .swarm import Node, Swarm
from .test_machine_swarm import in_session, leader, reached, report


@pytest.fixture
def third() -> Bench:
    """THIRD, ready, in the session of FIRST; SECOND is next in rank."""
    bench = Bench(THIRD)
    bench.local()
    bench.planned()
    return bench


def owned_by(bench: Bench, peer: bytes) -> list[int]:
    return [chunk for chunk in range(3) if bench.session.exchange.owner(chunk) == peer]


def goes_on(bench: Bench, who: bytes, open_chunks: list[int], view: int = 1, **change) -> pb.Plan:
    """A plan of `who` that continues the bench's session; it gives `open_chunks` to `who`."""
    durations = (10.0, 10.0, 10.0)
    plan = continue_plan(bench.session.plan, who, view, {who}, open_chunks, durations)
    for name, value in change.items():
        getattr(plan, name).CopyFrom(value)
    return plan


# ---- the leader leaves


def test_the_next_leader_goes_on_with_what_members_hold(member: Bench):
    (lost,) = owned_by(member, FIRST)
    assert member.lose(FIRST) == [], "whoever has seen a commit or a result will tell"
    effects = member.holding(THIRD)
    (ended,) = of(t.Ended, effects)
    assert ended.report.reason == "the leader left; view 1 goes on with it"
    (sent,) = frames(effects, "plan")
    plan = pb.Plan.FromString(sent.frame.plan.body)
    assert (plan.session.view, plan.session.leader, plan.continues.leader) == (1, SECOND, FIRST)
    assert list(plan.contributors) == list(member.plan().contributors)
    assert plan.contributors[plan.owners[lost]].peer in (SECOND, THIRD)
    (scatter,) = of(t.Scatter, effects)
    assert scatter.chunks == (lost,), "the other owners have theirs"


def test_a_result_that_a_member_holds_is_asked_for_and_not_reduced_anew(member: Bench):
    (lost,) = owned_by(member, FIRST)
    member.lose(FIRST)
    effects = member.holding(THIRD, lost, 77)
    assert [bytes(p) for s in frames(effects, "want") for p in s.peers] == [THIRD]
    assert of(t.Scatter, effects) == []
    frame, payload = result(goes_back(member), lost, b"mean", (0, 1, 2))
    stored = member.feed(event_of(KEYS[SECOND], THIRD, frame, payload))
    assert of(t.StoreResult, stored), "signed for the session that went before"


def goes_back(bench: Bench) -> pb.Plan:
    """The plan that the bench's session continues."""
    return next(p for p in bench.session.exchange.plans.values() if p.session.leader == FIRST)


def test_whoever_holds_a_result_may_leave_as_well(member: Bench):
    (lost,) = owned_by(member, FIRST)
    member.lose(FIRST)
    member.holding(THIRD, lost)
    view = member.session.id.view
    effects = member.lose(THIRD)
    (scatter,) = of(t.Scatter, effects)
    assert lost in scatter.chunks and member.session.id.view == view + 1
    assert {member.session.exchange.owner(c) for c in range(3)} == {SECOND}


def test_what_is_told_before_the_loss_is_noticed_counts(member: Bench):
    assert member.holding(THIRD) == []
    assert of(t.Ended, member.lose(FIRST))


def test_a_node_outside_the_session_holds_nothing(member: Bench):
    assert reasons(member.holding(OUTSIDER, 1)) == ["holding of a node outside the session"]


def test_a_next_leader_that_nobody_answers_ends_the_session(member: Bench):
    member.lose(FIRST)
    assert member.machine.deadline() == member.now + 5
    (ended,) = of(t.Ended, member.tick())
    assert ended.report.outcome == "aborted" and ended.report.reason == "no member answers"
    assert ended.report.missing == (FIRST,)


def test_others_tell_the_next_leader_once_and_wait_for_its_plan(third: Bench):
    (mine,) = owned_by(third, THIRD)
    third.own(mine)
    effects = third.lose(FIRST)
    (told,) = frames(effects, "holding")
    assert told.peers == (SECOND,) and list(told.frame.holding.chunks) == [mine]
    assert third.roster() == []
    (lost,) = owned_by(third, FIRST)
    effects = third.planned(goes_on(third, SECOND, [lost]))
    (ended,) = of(t.Ended, effects)
    assert "view 1 goes on with it" in ended.report.reason
    (scatter,) = of(t.Scatter, effects)
    assert scatter.chunks == (lost,)


def test_a_next_leader_that_is_not_in_the_session_says_so_and_is_passed_over(third: Bench):
    stranger = Bench(SECOND)
    third.lose(FIRST)
    message = pb.Holding(session=third.session.id)
    (answer,) = frames(stranger.feed(t.HoldingReceived(THIRD, message)), "abort")
    assert answer.peers == (THIRD,)
    effects = third.feed(t.AbortReceived(SECOND, answer.frame.abort))
    (sent,) = frames(effects, "plan")
    assert sent.frame.plan.signer == THIRD, "it is the next, and nobody else is left"


def test_a_next_leader_that_makes_no_plan_is_passed_over(third: Bench):
    third.lose(FIRST)
    assert third.machine.deadline() == third.now + 10
    (sent,) = frames(third.tick(), "plan")
    assert sent.frame.plan.signer == THIRD


def test_a_leader_that_proposes_nothing_is_followed_by_the_next(member: Bench, third: Bench):
    for bench in (member, third):
        while bench.session.trouble == "" and bench.session.id.leader == FIRST:
            effects = bench.tick()
    assert member.session.trouble == "the leader proposed nothing in time"
    assert frames(effects, "holding")
    assert of(t.Ended, member.holding(THIRD)), "its results came by then or not; it goes on"


def test_a_follower_is_left_when_no_contributor_is():
    bench = Bench(THIRD)
    plan = bench.plan()
    del plan.contributors[:]
    plan.contributors.add(peer=FIRST, tokens=100, weight=100)
    plan.followers.extend([SECOND, THIRD])
    del plan.owners[:]
    plan.owners.extend([0, 0, 0])
    bench.planned(plan)
    (ended,) = of(t.Ended, bench.lose(FIRST))
    assert ended.report.reason == "no contributor is left" and ended.report.missing == (FIRST,)


def test_a_plan_that_goes_on_is_refused_while_the_leader_is_here(third: Bench):
    effects = third.planned(goes_on(third, SECOND, []))
    assert reasons(effects) == ["plan that continues a session whose leader is here"]
    assert third.session.id.leader == FIRST


def test_a_plan_that_goes_on_has_the_same_contributors(third: Bench):
    third.lose(FIRST)
    plan = goes_on(third, SECOND, [])
    other = next(c for c in plan.contributors if c.peer != THIRD)
    other.tokens = other.weight = 101
    effects = third.planned(plan)
    assert reasons(effects) == ["plan that continues one with other contributors"]


def test_a_node_that_missed_a_session_takes_part_in_what_continues_it(third: Bench):
    fresh = Bench(THIRD)
    fresh.local()
    (scatter,) = of(t.Scatter, fresh.planned(goes_on(third, SECOND, [0])))
    assert scatter.chunks == (0, 1, 2), "it has sent nothing yet"


def test_a_node_in_another_session_takes_part_in_what_continues_one_it_missed(third: Bench):
    other = Bench(THIRD)
    other.local()
    other.planned(other.plan(SECOND))
    plan = goes_on(third, FIRST, [], view=2)
    (ended, *_) = of(t.Ended, other.planned(plan))
    assert ended.report.reason == "a newer plan came"
    assert other.session.id.view == 2


def test_a_leader_without_a_contribution_ends_what_no_contributor_can_go_on_with():
    bench = Bench(FIRST)
    bench.ready(SECOND)
    bench.ready(THIRD)
    bench.tick()
    assert {c.peer for c in bench.session.plan.contributors} == {SECOND, THIRD}
    for peer in (SECOND, THIRD):
        effects = bench.lose(peer)
    (ended,) = of(t.Ended, effects)
    assert ended.report.reason == "no contributor is left"
    assert set(ended.report.missing) == {SECOND, THIRD}


def test_a_leader_that_starts_again_replaces_its_session(third: Bench):
    before = third.session.id
    plan = third.plan()
    plan.session.life = 7
    (ended,) = of(t.Ended, third.planned(plan))
    assert ended.report.session == before and third.session.id.life == 7
    late = third.feed(t.ContributionArrived(SECOND, before, owned_by(third, THIRD)[0], b"x"))
    assert reasons(late) == ["message of a past session"]


@pytest.mark.parametrize("noticed", [True, False])
def test_an_owner_that_starts_again_knows_the_session_no_more(leader: Bench, noticed: bool):
    """Its link is there again before any deadline, and still nobody waits for what it owned."""
    view = replace(leader.peers[THIRD], life=4)
    leader.peers[THIRD] = view
    assert leader.roster() == [], "the first one that is known"
    if noticed:
        leader.lose(THIRD)
        assert leader.session.trouble
    leader.peers[THIRD] = replace(view, since=5.0, life=5)
    effects = leader.roster()
    assert not of(t.Scatter, effects) and not of(t.SendResult, effects)
    assert leader.session.trouble == "an owner of chunks left" and THIRD not in leader.session.able
    leader.peers[THIRD] = replace(view, since=9.0, life=5)
    leader.roster()
    assert THIRD not in leader.session.able, "not in this session any more"


def test_a_member_whose_link_is_new_and_whose_process_is_not_stays(leader: Bench):
    leader.peers[THIRD] = replace(leader.peers[THIRD], life=4)
    leader.roster()
    for view in (replace(leader.peers[THIRD], since=5.0), replace(leader.peers[THIRD], since=6.0, life=0)):
        leader.peers[THIRD] = view
        leader.roster()
        assert not leader.session.trouble and THIRD in leader.session.able


def test_a_message_of_another_parent_is_not_of_this_session(third: Bench):
    other = pb.SessionId()
    other.CopyFrom(third.session.id)
    other.parent = b"p" * 32
    (mine,) = owned_by(third, THIRD)
    assert third.feed(t.ContributionArrived(SECOND, other, mine, b"x")) == [], "kept for later"
    assert third.feed(t.ChunkReduced(other, mine, (0,), b"x", b"d")) == []
    assert not third.session.exchange.owned[mine].arrived


def test_a_node_that_comes_back_to_a_head_goes_on_with_its_views(third: Bench):
    third.abort(FIRST)
    other = Head(2, b"n" * 32, TRIO)
    third.feed(t.HeadChanged(other))
    assert third.machine._next_view == 0
    third.feed(t.HeadChanged(HEAD))
    assert third.machine._next_view == 1
    for k in range(100):
        third.feed(t.HeadChanged(Head(3 + k, bytes([k]) * 32, TRIO)))
    assert len(third.machine._views) <= 64


# ---- a commit of the session that went before


def test_a_commit_that_was_seen_is_passed_on_instead_of_a_plan(third: Bench):
    third.results()
    third.commit()
    effects = third.planned(goes_on(third, SECOND, []))
    (commit,) = frames(effects, "commit")
    assert commit.peers == (SECOND,) and frames(effects, "abort")
    (again,) = frames(third.holding(SECOND), "commit")
    assert again.peers == (SECOND,)


def test_the_next_leader_goes_on_with_a_commit_that_comes_late(member: Bench):
    member.lose(FIRST)
    member.holding(THIRD)
    first = goes_back(member)
    effects = member.feed(commit_event(first, THIRD, FIRST))
    assert member.session.commit is not None
    assert frames(effects, "commit"), "the others may have none"
    for chunk in range(3):
        frame, payload = result(first, chunk, b"mean", (0, 1, 2))
        effects = member.feed(event_of(KEYS[SECOND], THIRD, frame, payload))
    assert of(t.Persist, effects)
    (vote,) = frames(member.persisted(), "vote")
    voted = pb.Vote.FromString(vote.frame.vote.body)
    assert voted.session == first.session, "whoever is still in that session counts it"


def test_results_of_a_session_it_missed_are_taken_when_the_commit_names_them(third: Bench):
    fresh = Bench(THIRD)
    fresh.local()
    plan = goes_on(third, SECOND, [1])
    fresh.planned(plan)
    frame, payload = result(third.session.plan, 0, b"mean", (0, 1, 2))
    stray = fresh.feed(event_of(KEYS[THIRD], SECOND, frame, payload))
    assert stray == [], "by an owner in a session that this node knows nothing of"
    fresh.feed(commit_event(plan, SECOND, SECOND))
    assert of(t.StoreResult, fresh.feed(event_of(KEYS[THIRD], SECOND, frame, payload)))
    other, payload = result(third.session.plan, 2, b"another mean", (0, 1, 2))
    refused = fresh.feed(event_of(KEYS[THIRD], SECOND, other, payload))
    assert reasons(refused) == ["result of a plan that is not known here"]


def test_a_commit_that_comes_with_the_plan_ends_the_going_on(third: Bench):
    """What came early is read after the plan: it may be the commit, when nobody is left to go on with."""
    fresh = Bench(THIRD)
    fresh.local()
    plan = fresh.plan()
    frame = commit_event(plan, SECOND, FIRST)
    fresh.feed(frame)
    fresh.peers = {OUTSIDER: t.PeerView(HEAD.digest, True)}
    fresh.roster()
    effects = fresh.planned(plan)
    assert fresh.session.commit is not None and fresh.session.resume is None
    assert fresh.session.id == plan.session and of(t.Ended, effects) == []


def test_what_the_disk_says_of_another_commit_is_no_vote(member: Bench):
    member.results()
    member.commit()
    assert member.feed(t.Persisted(member.session.id, b"other" * 8)) == []
    assert frames(member.persisted(), "vote")


# ---- an owner leaves or is slow


def test_the_leader_asks_and_gives_to_others_what_nobody_holds(leader: Bench):
    (mine,) = owned_by(leader, SECOND)
    effects = leader.lose(SECOND)
    (asked,) = frames(effects, "inquiry")
    assert set(asked.peers) == {SECOND, THIRD}
    (ended,) = of(t.Ended, leader.holding(THIRD))
    assert ended.report.reason == "an owner of chunks left; view 1 goes on with it"
    assert leader.session.exchange.owner(mine) in (FIRST, THIRD)


def test_members_answer_their_leader_and_nobody_else(member: Bench):
    (mine,) = owned_by(member, SECOND)
    member.own(mine)
    message = pb.Inquiry(session=member.session.id)
    (answer,) = frames(member.feed(t.InquiryReceived(FIRST, message)), "holding")
    assert list(answer.frame.holding.chunks) == [mine]
    assert reasons(member.feed(t.InquiryReceived(THIRD, message))) == ["inquiry of a node that does not lead"]
    member.results()
    member.commit()
    effects = member.feed(t.InquiryReceived(FIRST, message))
    assert frames(effects, "commit") and frames(effects, "holding")


def test_nothing_happens_when_an_owner_leaves_that_has_delivered(leader: Bench):
    (mine,) = owned_by(leader, SECOND)
    leader.result(mine)
    assert leader.lose(SECOND) == []


def test_an_owner_goes_on_with_what_it_has_collected(leader: Bench):
    (mine,) = owned_by(leader, FIRST)
    before = leader.session.id
    leader.feed(t.ContributionArrived(SECOND, before, mine, b"x"))
    leader.lose(SECOND)
    leader.holding(THIRD)
    assert leader.session.id != before
    leader.feed(t.ContributionArrived(FIRST, leader.session.id, mine, b"y"))
    effects = leader.feed(t.ContributionArrived(THIRD, before, mine, b"z"))
    (reduce,) = of(t.Reduce, effects)
    assert sorted(part.payload for part in reduce.parts) == [b"x", b"y", b"z"]
    again = leader.feed(t.ContributionArrived(THIRD, leader.session.id, mine, b"z"))
    assert again == [], "of a member that did not know the first plan"


def test_a_reduction_that_was_under_way_is_used(leader: Bench):
    (mine,) = owned_by(leader, FIRST)
    before = leader.session.id
    for peer in (FIRST, SECOND, THIRD):
        effects = leader.feed(t.ContributionArrived(peer, before, mine, b"x"))
    (reduce,) = of(t.Reduce, effects)
    leader.lose(SECOND)
    leader.holding(THIRD)
    done = leader.feed(t.ChunkReduced(reduce.plan.session, mine, (0, 1, 2), b"mean", b"d" * 32))
    (sent,) = of(t.SendResult, done)
    assert sent.session == leader.session.id


def test_owners_that_are_too_slow_own_nothing_from_then_on(leader: Bench):
    slow = owned_by(leader, SECOND)
    mine = owned_by(leader, FIRST)
    leader.own(mine[0])
    leader.result(owned_by(leader, THIRD)[0])
    leader.tick()
    assert frames(leader.tick(), "inquiry")
    leader.holding(THIRD)
    (ended,) = of(t.Ended, leader.holding(SECOND))
    assert ended.report.reason.startswith("owners of chunks did not deliver")
    assert leader.session.exchange.owner(slow[0]) in (FIRST, THIRD)
    assert leader.session.unfit == {SECOND}


def test_when_no_owner_delivers_the_session_ends(leader: Bench):
    leader.tick()
    (ended,) = of(t.Ended, leader.tick())
    assert ended.report.reason == "no owner of chunks delivered"
    assert set(ended.report.missing) == {FIRST, SECOND, THIRD}


def test_an_abort_of_a_session_that_was_continued_means_nothing(third: Bench):
    before = third.session.id
    third.lose(FIRST)
    third.planned(goes_on(third, SECOND, []))
    assert third.feed(t.AbortReceived(FIRST, pb.Abort(session=before, reason="late"))) == []
    assert third.session.id.leader == SECOND


def test_late_answers_are_the_ordinary_end(member: Bench):
    session = member.session.id
    member.abort(FIRST)
    member.local()
    member.feed(t.PlanReceived(FIRST, member.plan(view=3), FIRST))
    assert member.feed(t.InquiryReceived(FIRST, pb.Inquiry(session=session))) == []


# ---- members that can't reach each other


def test_what_not_everybody_reaches_owns_nothing():
    bench = Bench(FIRST)
    bench.peers[THIRD] = t.PeerView(bench.head.digest, True, direct=False)
    bench.roster()
    bench.local()
    bench.ready(SECOND)
    (sent,) = frames(bench.ready(THIRD, unreachable=[FIRST]), "plan")
    plan = pb.Plan.FromString(sent.frame.plan.body)
    assert {plan.contributors[o].peer for o in plan.owners} == {SECOND}


def test_a_node_says_whom_it_has_no_link_to():
    bench = Bench(SECOND)
    bench.peers[THIRD] = t.PeerView(bench.head.digest, True, direct=False)
    bench.roster()
    (told,) = frames(bench.local(), "ready")
    assert list(told.frame.ready.unreachable) == [THIRD]


# ---- whole swarms


def test_a_leader_that_dies_in_mid_session_is_followed_without_a_new_exchange():
    swarm = Swarm(4, seed=5)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.run(in_session(lead))
    swarm.kill(lead)
    swarm.run(reached(swarm, 2))
    for node in swarm.nodes:
        if node.alive:
            aborted, certified = [r for r in node.reports if r.version == 2]
            assert aborted.reason == "the leader left; view 1 goes on with it"
            assert certified.outcome == "certified" and certified.session.view == 1


def test_durations_follow_what_rounds_take():
    swarm = Swarm(3, seed=6)
    swarm.run(reached(swarm, 6))
    lead = leader(swarm)
    swarm.run(in_session(lead))
    plan, floor = lead.machine.session.plan, swarm.config.leg_floor_s
    for leg_s in (plan.scatter_s, plan.reduce_s, plan.vote_s):
        assert floor <= leg_s < 2 * floor, "what half a second takes, with room"


def test_a_leg_that_was_too_short_is_given_more_time():
    swarm = Swarm(3, seed=7)
    swarm.run(reached(swarm, 6))
    slow = swarm.nodes[1]

    def silent(a: Node, b: Node, frame: pb.Frame) -> bool:
        return not (a is slow and frame.HasField("contribution"))

    swarm.deliver = silent
    swarm.run(reached(swarm, 7))
    lates = [node for node in swarm.nodes if slow.id in report(node, 7).late]
    assert lates
    swarm.deliver = lambda a, b, frame: True
    for node in lates:
        assert node.machine._legs.durations()[0] == 2 * swarm.config.leg_floor_s
