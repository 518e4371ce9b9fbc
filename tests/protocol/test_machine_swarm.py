"""Whole swarms on the shipping round machine: who dies when, what is lost, and how each session ends.

The invariants are checked by swarm.py after every step; the tests say what has to come of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import leader_of, leader_rank
from atoll.protocol.round import types as t

from .swarm import Delays, Node, Swarm, genesis


def reached(swarm: Swarm, version: int) -> Callable[[], bool]:
    """Every live node has applied so many steps."""
    return lambda: all(n.head.version >= version for n in swarm.nodes if n.alive)


def in_session(node: Node) -> Callable[[], bool]:
    return lambda: node.machine.session is not None


def leader(swarm: Swarm) -> Node:
    """Who leads the round that follows the head of the first live node."""
    live = [n for n in swarm.nodes if n.alive]
    peer = leader_of(live[0].head.digest, 0, [n.id for n in live if n.training])
    assert peer is not None
    return swarm.by_id[peer]


def report(node: Node, version: int) -> t.SessionReport:
    """The last report of a session that would make this version."""
    return [r for r in node.reports if r.version == version][-1]


# ---- the good days


def test_one_node_alone_is_a_swarm():
    swarm = Swarm(1)
    swarm.run(reached(swarm, 3))
    assert swarm.nodes[0].outcomes() == ["certified"] * 3


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_swarm_certifies_with_equal_bits(size: int):
    swarm = Swarm(size, delays=Delays(inner=(1.0, 1.1)))
    swarm.run(reached(swarm, 4))
    for node in swarm.nodes:
        assert set(node.outcomes()) == {"certified"}
        assert not node.dropped
        assert node.state == swarm.nodes[0].state or node.head != swarm.nodes[0].head
    assert all(len(c.contributors) == size for c in swarm.commits.values())


def test_only_the_genesis_node_has_a_vote_on_the_first_commit():
    swarm = Swarm(3)
    first = swarm.nodes[0]
    swarm = Swarm(3, head=genesis([first.id]))
    swarm.run(reached(swarm, 2))
    for node in swarm.nodes:
        assert node.outcomes()[:2] == ["certified", "certified"]
        assert not node.dropped, "nobody sends votes that do not count"


def test_the_first_round_waits_for_as_many_nodes_as_the_manifest_asks_for():
    swarm = Swarm(3, training=lambda k: k < 2, min_peers_to_start=3)
    swarm.run(limit_s=120)
    assert [n.head.version for n in swarm.nodes] == [0, 0, 0]
    assert "3 nodes have to take part, 2 so far" in swarm.nodes[0].machine.situation(swarm.now).because
    assert "3 nodes have to take part, 2 so far" in swarm.nodes[1].machine.situation(swarm.now).because
    swarm.set_training(swarm.nodes[2], True)
    swarm.run(reached(swarm, 1))
    assert len(swarm.commits[swarm.nodes[0].head.digest].contributors) == 3


def test_an_expected_node_that_never_is_ready_does_not_make_the_first_round_spin():
    """Enough nodes train, but fewer than the minimum are ready: nothing is due until one of them is."""
    swarm = Swarm(3, training=lambda k: k < 2, min_peers_to_start=3)
    third = swarm.nodes[2]
    third.stuck = True
    swarm.set_training(third, True)
    swarm.run(limit_s=300)
    assert [n.head.version for n in swarm.nodes] == [0, 0, 0]


def test_nobody_but_the_genesis_node_begins_the_first_round():
    swarm = Swarm(3)
    swarm.kill(swarm.nodes[0])
    swarm.run(limit_s=300)
    assert all(n.head.version == 0 and not n.reports for n in swarm.nodes[1:])
    situation = swarm.nodes[1].machine.situation(swarm.now)
    assert situation.leader is None and "first round" in situation.because


def test_followers_hold_every_commit_and_send_nothing():
    swarm = Swarm(3, training=lambda k: k < 2)
    swarm.run(reached(swarm, 3))
    follower = swarm.nodes[2]
    assert set(follower.outcomes()) == {"certified"}
    assert follower.head.digest in swarm.commits
    assert all(follower.id not in r.contributed and follower.id in r.followers for r in follower.reports)


def test_a_leader_that_is_not_ready_itself_leads_the_others_after_the_cap():
    swarm = Swarm(3, head=genesis([]))
    swarm.run(reached(swarm, 1))
    head = leader(swarm)
    head.stuck = True
    swarm.feed(head, t.LocalWithdrawn())
    swarm.run(reached(swarm, 2))
    assert head.id in report(head, 2).followers
    assert report(head, 2).outcome == "certified"


def test_a_late_node_is_given_the_grace_and_then_left_out():
    slow = 2
    swarm = Swarm(3, seed=4)
    swarm.run(reached(swarm, 3))
    grace = swarm.nodes[0].machine._door.grace_s()
    assert grace < swarm.config.grace_cap_s, "it has learned from the arrivals"
    node = swarm.nodes[slow]
    node.stuck = True  # so it is expected
    swarm.feed(node, t.LocalWithdrawn())
    swarm.run(lambda: all(n.head.version >= 4 for n in swarm.nodes))
    last = report(swarm.nodes[0], 4)
    assert node.id not in last.planned and node.id in last.followers
    assert last.outcome == "certified"


# ---- deaths


def test_a_sender_that_dies_is_left_out_chunk_by_chunk():
    swarm = Swarm(3, seed=1)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    victim = next(n for n in swarm.nodes if n is not lead)
    # It owns nothing: its upload is so slow that the others' share is everything.
    for node in swarm.nodes:
        node.upload_bps = 1 if node is victim else 10**9
        swarm.tell(node)
        swarm.feed(node, t.TrainingChanged(True, node.upload_bps))
    swarm.run(in_session(lead))
    swarm.kill(victim)
    swarm.run(reached(swarm, 2))
    last = report(lead, 2)
    assert last.outcome == "certified" and victim.id in last.planned
    assert lead.outcomes()[-1] == "certified"


def test_what_an_owner_that_dies_had_to_do_goes_to_others():
    swarm = Swarm(3, seed=2)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.run(in_session(lead))
    victim = next(n for n in swarm.nodes if n is not lead)
    swarm.kill(victim)
    swarm.run(reached(swarm, 2))
    assert lead.outcomes()[-2:] == ["aborted", "certified"]
    aborted = lead.reports[-2]
    assert (
        victim.id in aborted.missing and aborted.reason == "an owner of chunks left; view 1 goes on with it"
    )
    assert report(lead, 2).session.view == 1 and report(lead, 2).planned == aborted.planned


def test_an_owner_that_is_too_slow_owns_nothing_in_the_next_view():
    swarm = Swarm(3, seed=3)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    slow = next(n for n in swarm.nodes if n is not lead)

    def results_are_lost(a: Node, b: Node, frame: pb.Frame) -> bool:
        return not (a is slow and frame.HasField("result"))

    swarm.deliver = results_are_lost
    swarm.run(reached(swarm, 2))
    assert lead.outcomes()[-2:] == ["aborted", "certified"]
    assert lead.reports[-2].missing == (slow.id,)
    assert slow.id in report(lead, 2).contributed, "it still contributes"


def test_a_leader_that_dies_before_its_plan_is_followed_by_the_next_in_rank():
    swarm = Swarm(3, seed=5)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.kill(lead)
    swarm.run(reached(swarm, 2))
    others = [n for n in swarm.nodes if n.alive]
    assert all(report(n, 2).outcome == "certified" for n in others)
    assert lead.id not in report(others[0], 2).planned


def test_a_leader_that_is_silent_is_passed_over():
    swarm = Swarm(3, seed=6)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.deliver = lambda a, b, frame: a is not lead  # it lives, but says nothing of rounds
    others = [n for n in swarm.nodes if n is not lead]
    swarm.run(lambda: all(n.head.version >= 2 for n in others))
    assert all(r.session.leader != lead.id for n in others for r in n.reports if r.version == 2)


def test_a_leader_that_dies_after_its_plan_is_blamed_and_the_round_is_tried_again():
    swarm = Swarm(3, seed=7)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    others = [n for n in swarm.nodes if n is not lead]
    swarm.deliver = lambda a, b, frame: not (a is lead and frame.HasField("result"))
    swarm.run(lambda: all(n.machine.session is not None for n in others))
    swarm.kill(lead)
    swarm.run(reached(swarm, 2))
    for node in others:
        assert [r.outcome for r in node.reports if r.version == 2] == ["aborted", "certified"]
        assert lead.id in node.reports[-2].missing


def test_a_leader_that_never_proposes_is_blamed_by_deadline():
    swarm = Swarm(3, seed=8)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    others = [n for n in swarm.nodes if n is not lead]
    swarm.deliver = lambda a, b, frame: not (a is lead and frame.HasField("commit"))
    swarm.run(reached(swarm, 2))
    for node in others:
        aborted, certified = [r for r in node.reports if r.version == 2]
        assert aborted.reason == "the leader proposed nothing in time; view 1 goes on with it"
        assert certified.session.leader != lead.id
        assert certified.phases["reduce_s"] == 0.0, "nothing was reduced anew"


def test_a_commit_whose_leader_left_is_passed_on():
    """The leader reaches one voter with its proposal and dies; that voter passes the proposal on."""
    swarm = Swarm(3, seed=9)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    one, other = [n for n in swarm.nodes if n is not lead]

    def only_one(a: Node, b: Node, frame: pb.Frame) -> bool:
        return not (a is lead and b is other and (frame.HasField("commit") or frame.HasField("vote")))

    swarm.deliver = only_one
    swarm.run(lambda: one.machine.session is not None and one.machine.session.commit is not None)
    swarm.kill(lead)
    swarm.run(reached(swarm, 2))
    assert report(one, 2).outcome == report(other, 2).outcome == "certified"
    assert report(other, 2).session.leader == lead.id


def test_a_leader_that_dies_with_its_commit_unseen_is_waited_for_only_shortly():
    swarm = Swarm(3, seed=10)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    others = [n for n in swarm.nodes if n is not lead]
    swarm.deliver = lambda a, b, frame: not (a is lead and frame.HasField("commit"))
    swarm.run(
        lambda: all(n.machine.session and not n.machine.session.exchange.missing_results() for n in others)
    )
    began = swarm.now
    swarm.kill(lead)
    swarm.run(reached(swarm, 2))
    assert swarm.now - began < swarm.config.vote_s
    for node in others:
        aborted, certified = [r for r in node.reports if r.version == 2]
        assert aborted.reason == "the leader left; view 1 goes on with it"
        assert certified.outcome == "certified" and certified.phases["reduce_s"] == 0.0


def test_votes_that_are_lost_make_the_commit_provisional_by_deadline():
    swarm = Swarm(3, seed=11)
    swarm.run(reached(swarm, 1))
    swarm.deliver = lambda a, b, frame: not frame.HasField("vote")
    swarm.run(reached(swarm, 2))
    for node in swarm.nodes:
        assert report(node, 2).outcome == "provisional"
        assert set(report(node, 2).missing) == {o.id for o in swarm.nodes if o is not node}
        assert not node.head.certified
    swarm.deliver = lambda a, b, frame: True
    swarm.run(reached(swarm, 3))
    assert all(report(n, 3).outcome == "certified" for n in swarm.nodes)


def test_voters_that_left_make_the_commit_provisional_at_once():
    swarm = Swarm(2, seed=12)
    swarm.run(reached(swarm, 1))
    survivor, other = swarm.nodes
    swarm.deliver = lambda a, b, frame: not frame.HasField("vote")
    swarm.run(lambda: survivor.machine.session is not None and survivor.machine.session.agreement.voted)
    swarm.kill(other)
    swarm.run(lambda: survivor.head.version == 2, limit_s=swarm.config.vote_s / 2)
    assert report(survivor, 2).outcome == "provisional"
    assert report(survivor, 2).missing == (other.id,)


def test_results_that_were_lost_are_asked_for():
    swarm = Swarm(3, seed=13)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    owner, member = [n for n in swarm.nodes if n is not lead]
    asked = []

    def watch(a: Node, b: Node, frame: pb.Frame) -> bool:
        asked.extend([b] if frame.HasField("want") else [])
        return not frame.HasField("vote") or b is not lead  # the leader still has the session

    swarm.deliver = watch
    swarm.run(in_session(member))
    del owner.peers[member.id], member.peers[owner.id]  # their link breaks
    swarm.roster(owner)
    swarm.roster(member)
    swarm.run(reached(swarm, 2))
    assert asked and all(node is lead for node in asked)
    assert report(member, 2).outcome in ("certified", "provisional")
    assert member.state == owner.state


def test_a_member_that_gets_no_results_misses_the_commit_and_catches_up():
    swarm = Swarm(3, seed=14)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    member = next(n for n in swarm.nodes if n is not lead)
    swarm.deliver = lambda a, b, frame: not (b is member and frame.HasField("result"))
    swarm.run(lambda: bool(member.reports[1:]))
    assert report(member, 2).outcome == "missed"
    swarm.deliver = lambda a, b, frame: True
    swarm.run(reached(swarm, 4))
    assert member.state in {n.state for n in swarm.nodes if n is not member}


def test_a_member_that_withdrew_declines_and_nobody_waits_for_it():
    swarm = Swarm(3, seed=15)
    swarm.run(reached(swarm, 4))
    lead = leader(swarm)
    member = next(n for n in swarm.nodes if n is not lead)
    swarm.run(lambda: lead.machine._door.ready(lead.head.digest, [member.id]) != {})
    swarm.feed(member, t.LocalWithdrawn())
    swarm.run(reached(swarm, 5))
    aborted, certified = [r for r in lead.reports if r.version == 5]
    assert aborted.missing == (member.id,) and "owner" in aborted.reason
    assert aborted.phases["end_s"] < 1.0, "no deadline had to pass"
    assert certified.outcome == "certified" and member.id not in certified.contributed
    assert "plan with tokens that this node did not offer" in member.dropped


def test_two_nodes_that_both_think_they_lead_do_not_split_the_members():
    """One node does not see the other as training for a moment: both plan the same view."""
    for seed in range(30):
        swarm = Swarm(4, seed=seed, catches_up=False, delays=Delays(inner=(1.0, 1.0)))
        swarm.run(reached(swarm, 1))
        first = leader(swarm)
        rest = [n for n in swarm.nodes if n is not first]
        second = max(rest, key=lambda n: leader_rank(n.head.digest, 0, n.id))
        for node in rest:
            if node is second or seed % 2:
                node.peers[first.id] = replace(node.peers[first.id], training=False)
                swarm.roster(node)
        swarm.run(reached(swarm, 2))
        assert len({n.head.digest for n in swarm.nodes if n.head.version == 2}) == 1


def test_a_node_that_is_behind_begins_no_round_of_its_own():
    swarm = Swarm(3, seed=16)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    behind = next(n for n in swarm.nodes if n is not lead)
    rounds = ("plan", "commit", "result", "vote", "contribution")
    swarm.deliver = lambda a, b, frame: b is not behind or frame.WhichOneof("message") not in rounds
    swarm.run(lambda: behind.head.version >= 2)
    assert not [r for r in behind.reports if r.session.leader == behind.id and r.version == 2]


def test_a_peer_that_claims_to_be_ahead_delays_a_round_but_does_not_stop_it():
    swarm = Swarm(2, seed=17, catches_up=False)
    swarm.run(reached(swarm, 1))
    liar = b"\0" * 38
    for node in swarm.nodes:
        node.peers[liar] = t.PeerView(b"\1" * 32, True, 0, ahead=True)
        swarm.roster(node)
    swarm.by_id[liar] = swarm.nodes[0]
    swarm.run(reached(swarm, 3))


# ---- any order


def check(swarm: Swarm) -> None:
    """After the faults: everyone converges, and every session that began has ended."""
    swarm.deliver = lambda a, b, frame: True
    live = [n for n in swarm.nodes if n.alive]
    version = max(n.head.version for n in live)
    swarm.run(reached(swarm, version + 2))
    swarm.run(lambda: len({n.head.digest for n in live}) == 1)
    for node in live:
        open_session = node.machine.session
        ended = {r.session.SerializeToString(deterministic=True) for r in node.reports}
        now_open = {open_session.id.SerializeToString(deterministic=True)} if open_session else set()
        assert set(node.seen) == ended | now_open


WHOLE_SWARMS = settings(max_examples=settings.default.max_examples)


@WHOLE_SWARMS
@given(seed=st.integers(0, 2**32), size=st.integers(2, 5), skew=st.floats(0.0, 1.2))
def test_any_order_of_deliveries_certifies_everything(seed: int, size: int, skew: float):
    """Plans, contributions, results, commits and votes overtake each other; none is later than it may be."""
    delays = Delays(control=(0.0, 0.05 + skew), bulk=(0.0, 0.05 + skew), work=(0.0, 0.05 + skew / 4))
    swarm = Swarm(size, seed=seed, delays=delays, catches_up=False)
    swarm.run(reached(swarm, 3))
    for node in swarm.nodes:
        assert set(node.outcomes()) == {"certified"}


@WHOLE_SWARMS
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(3, 5),
    deaths=st.lists(st.floats(0.0, 8.0), max_size=2),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    pauses=st.lists(st.tuples(st.integers(1, 4), st.floats(0.0, 8.0)), max_size=3),
)
@example(seed=0, size=3, deaths=[2.0, 2.0], loss=0.0, pauses=[])
def test_any_deaths_losses_and_pauses_end_in_one_head(
    seed: int, size: int, deaths: list[float], loss: float, pauses: list[tuple[int, float]]
):
    swarm = Swarm(size, seed=seed)
    swarm.deliver = lambda a, b, frame: swarm.random.random() >= loss
    for k, at in enumerate(deaths):
        swarm.at(at, lambda k=k: swarm.kill(swarm.nodes[k + 1]))
    for k, at in pauses:
        node = swarm.nodes[k % size]
        swarm.at(at, lambda node=node: node.alive and swarm.set_training(node, not node.training))
    swarm.run(limit_s=60.0)
    for node in swarm.nodes:
        if node.alive and not node.training:
            swarm.set_training(node, True)
    check(swarm)


def stuck_in_round_four(**config: object) -> tuple[float, t.SessionReport]:
    """How long after version 3 a round without one of three nodes began, and its report."""
    swarm = Swarm(3, seed=4, **config)
    swarm.run(reached(swarm, 3))
    for node in swarm.nodes[2:]:
        node.stuck = True
        swarm.feed(node, t.LocalWithdrawn())
    since = swarm.now
    swarm.run(lambda: all(n.head.version >= 4 for n in swarm.nodes))
    return swarm.now - since, report(swarm.nodes[0], 4)


def test_with_periods_a_round_begins_so_long_after_the_one_before():
    waited, last = stuck_in_round_four(door="period", door_s=12.0)
    assert 11.0 < waited < 16.0 and last.outcome == "certified" and len(last.planned) == 2


def test_with_dbw_a_round_begins_with_as_many_as_are_worth_it():
    """No node says how long its phase is: the cap holds, as it does for everyone who waits in vain."""
    waited, _ = stuck_in_round_four(door="dbw")
    assert waited >= 19.0


def test_how_long_a_session_took_is_known_to_the_door():
    swarm = Swarm(2, seed=1, door="dbw")
    swarm.run(reached(swarm, 2))
    assert all(0 < n.machine._door.exchange_s < 10 and n.machine._door.opened_at > 0 for n in swarm.nodes)


def test_with_small_commits_a_phase_is_as_long_as_the_trainer_says():
    """Measured since the last commit, which was another node's, it would be nearly nothing."""
    swarm = Swarm(2, seed=1, door="window", door_s=1.0, small_commits=True)
    swarm.run(reached(swarm, 1))
    machine = swarm.nodes[0].machine
    swarm.run(lambda: machine.session is None and not machine.applying)
    machine.handle(t.LocalReady(10, 5, 1, phase_s=60.0), swarm.now)
    assert machine._inner_s == 60.0
