"""Rounds with two levels: who collects for whom, that nobody is in a mean twice, and who is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.grid import Grid
from atoll.protocol.round.plan import (
    Offered,
    PlanError,
    check_continuation,
    check_plan,
    continue_plan,
    grid,
    make_plan,
    row_owners,
)

from .swarm import SWARM, Node, Swarm, genesis
from .test_machine_swarm import in_session, leader, reached

KEYS = sorted((FakeKeyring(f"grid-{k}") for k in range(9)), key=lambda k: k.peer_id)
PEERS = [key.peer_id for key in KEYS]
FOLLOWERS = [FakeKeyring(f"follower-{k}").peer_id for k in range(4)]
HEAD = genesis(PEERS)
CONFIG = t.RoundConfig(
    swarm_id=SWARM,
    chunks=3,
    codec="int8",
    result_codec="fp32",
    outer_lr=lambda n: 0.5,
    genesis_node=PEERS[0],
    two_level_above=3,
)
OWNERS = (0, 4, 8)
"""One in each row and in each group. Rows are 0 1 2, 3 4 5 and 6 7 8, groups 0 3 6, 1 4 7 and 2 5 8."""


def plan(owners: Sequence[int] = OWNERS, **fields: object) -> pb.Plan:
    return pb.Plan(
        session=pb.SessionId(parent=HEAD.digest, leader=PEERS[0]),
        contributors=[pb.Contributor(peer=peer, tokens=1 + k, weight=1 + k) for k, peer in enumerate(PEERS)],
        followers=FOLLOWERS,
        owners=owners,
        groups=3,
        grid=range(9),
        **fields,  # type: ignore[arg-type]
    )


def exchange(me: int, previous: Exchange | None = None, owners: Sequence[int] = OWNERS) -> Exchange:
    made = plan(owners)
    made.session.view = 1 if previous else 0
    return Exchange(made, PEERS[me], previous)


def parts(ex: Exchange) -> list[tuple[tuple[tuple[int, ...], int, bool], ...]]:
    """Members, weight and kind of what is reduced now."""
    return [tuple((p.members, p.weight, p.partial) for p in reduce.parts) for reduce in ex.due()]


def collects(me: int = 1, chunk: int = 0) -> Exchange:
    """A collector that has heard its whole group, and not averaged yet."""
    ex = exchange(me)
    for k in ex.grid.members(ex.group):
        assert ex.contribute(PEERS[k], chunk, b"%d" % k) is None
    return ex


# ---- the plan


def test_members_deal_with_their_group_and_their_row():
    ex = exchange(1)
    assert ex.due_sends() == ((0, PEERS[1]), (1, PEERS[4]), (2, PEERS[7]))
    assert ex.due_sends() == (), "once"
    assert exchange(7).due_sends() == ((2, PEERS[7]), (0, PEERS[1]), (1, PEERS[4])), "not all begin with one"
    assert set(ex.collected) == {0} and not ex.owned
    assert set(exchange(4).owned) == {1} and not exchange(4).collected
    follower = Exchange(plan(), FOLLOWERS[1])
    assert follower.due_sends() == () and follower.counterpart(2) == PEERS[7]


def test_rows_are_of_like_speed_and_share_by_their_slowest():
    speeds = [10, 1000, 10, 1000, 1000, 10, 1000, 10, 500]
    order = grid(speeds, excluded=[3])
    assert order[:4] == [1, 4, 6, 8] and order[-1] == 3
    owners = row_owners(12, order, 3, speeds, [3])
    assert {owners.count(i) for i in (1, 4, 6)} == {4}, "the other rows are slow, or have one that is relayed"
    hidden = range(2, 9)
    assert row_owners(12, grid(speeds, hidden), 3, speeds, hidden) == [], "one in each row is hard to reach"
    short = row_owners(12, grid(speeds[:8], ()), 3, speeds[:8], ())
    assert not {7, 2, 5} & set(short), "the last row has nobody of one group"


def test_a_big_swarm_gets_a_plan_with_groups_and_checks_it():
    ready = {peer: pb.Ready(tokens=100) for peer in PEERS}
    made = make_plan(CONFIG, HEAD, PEERS[0], ready, FOLLOWERS, 0, (1.0, 1.0, 1.0))
    assert made.groups == 3 and sorted(made.grid) == list(range(9))
    offered = Offered(100, 0, 0)
    check_plan(CONFIG, HEAD, PEERS[1], offered, 0, made)
    small = {peer: ready[peer] for peer in PEERS[:3]}
    assert not make_plan(CONFIG, HEAD, PEERS[0], small, (), 0, (1.0, 1.0, 1.0)).grid
    for groups, order in ((0, range(9)), (1, range(9)), (10, range(9)), (3, range(8)), (3, [0] * 9), (3, [])):
        wrong = pb.Plan()
        wrong.CopyFrom(made)
        wrong.groups = groups
        del wrong.grid[:]
        wrong.grid.extend(order)
        with pytest.raises(PlanError, match="groups"):
            check_plan(CONFIG, HEAD, PEERS[1], offered, 0, wrong)
        with pytest.raises(PlanError, match="other groups"):
            check_continuation(made, wrong)
    assert made.scatter_s == pytest.approx(1 / 0.6), "the rest is for the means of groups"
    relayed = {peer: pb.Ready(tokens=100, relayed=k > 0) for k, peer in enumerate(PEERS)}
    alone = make_plan(CONFIG, HEAD, PEERS[0], relayed, (), 0, (1.0, 1.0, 1.0))
    assert not alone.groups and set(alone.owners) == {0}, "one level, or relayed nodes would own or collect"
    goes_on = continue_plan(made, PEERS[1], 1, PEERS[1:], [0], (1.0, 1.0, 1.0))
    check_continuation(made, goes_on)


def test_the_forecast_of_the_exchange_knows_that_rows_share_the_work():
    """Each member sends and receives about a contribution and a result, whatever the number of groups."""
    config = replace(CONFIG, codec="auto", result_codec="int8", values=1_000_000)
    ready = {peer: pb.Ready(tokens=1, upload_bps=10**7, download_bps=10**7) for peer in PEERS}
    made = make_plan(config, HEAD, PEERS[0], ready, (), 0, (1.0, 1.0, 1.0), inner_s=1e6)
    assert made.groups == 3 and made.codec == "int8"
    assert made.exchange_s == pytest.approx(2 * 8 * 1.008e6 / 1e7, rel=0.15)


def test_a_row_without_somebody_of_a_group_has_its_owner_collect():
    made = plan()
    made.contributors.pop()
    del made.grid[8:]
    places = Grid(made)
    assert places.collector(6, 2) == 6 and places.collector(6, 1) == 7
    assert places.collector(3, 2, gone={5}) == 3, "nor one that has left"


# ---- collecting and averaging


def test_a_collector_averages_its_group_for_the_owner():
    ex = collects()
    assert parts(ex) == [(((1,), 2, False), ((4,), 5, False), ((7,), 8, False))]
    assert ex.due() == [] == ex.due_partials()
    ex.averaged(0, (1, 4, 7), b"mean")
    assert ex.due_partials() == [(0, PEERS[0], t.Part((1, 4, 7), 15, b"mean", True))]
    assert ex.due_partials() == []
    assert ex.contribute(PEERS[4], 0, b"4") is None, "its link may have broken"
    assert ex.contribute(PEERS[3], 0, b"3") == "contribution to a chunk that is not owned here"
    assert ex.contribute(PEERS[4], 1, b"4") == "contribution to a chunk that is not owned here"
    assert ex.contribute(PEERS[2], 0, b"m", (2, 5)) == "contribution to a chunk that is not owned here"


def test_an_owner_takes_its_group_one_by_one_and_a_mean_of_each_other():
    ex = exchange(0)
    for k in (6, 0, 3):
        assert ex.contribute(PEERS[k], 0, b"%d" % k) is None
    assert ex.contribute(PEERS[2], 0, b"m", (2, 8)) is None, "one of that group was late"
    assert ex.contribute(PEERS[1], 0, b"m", ()) is None, "nothing came of this one"
    assert parts(ex) == [(((0,), 1, False), ((2, 8), 12, True), ((3,), 4, False), ((6,), 7, False))]
    assert ex.contribute(PEERS[5], 0, b"5") == "late contribution"
    assert ex.contribute(PEERS[2], 0, b"m", (2, 8)) is None


@pytest.mark.parametrize(
    ("sender", "members"),
    [(2, (2, 2)), (2, (8, 2)), (2, (2, 3)), (2, (2, 9)), (5, (5, 8)), (3, (3,)), (0, (0,))],
)
def test_a_mean_has_to_be_of_the_senders_group(sender: int, members: tuple[int, ...]):
    ex = exchange(0)
    assert ex.contribute(PEERS[sender], 0, b"m", members) == "mean of others than the sender collects for"
    assert not ex.owned[0].members


def test_nobody_is_in_a_mean_twice():
    ex = exchange(0)
    ex.contribute(PEERS[5], 0, b"5")
    ex.contribute(PEERS[2], 0, b"m", (2, 5, 8))
    ex.contribute(PEERS[8], 0, b"8")
    ex.contribute(PEERS[2], 0, b"n", (2, 5))
    ex.lose([PEERS[k] for k in (0, 1, 3, 4, 6, 7)])
    assert parts(ex) == [(((2, 5, 8), 18, True),)]


def test_a_mean_that_the_codec_refuses_is_not_waited_for():
    ex = exchange(0)
    ex.refuse(PEERS[2], 0, "not finite")
    ex.refuse(PEERS[4], 0, "not finite")
    assert ex.owned[0].waiting == {0, 1, 3, 6, 7}
    collector = exchange(1)
    collector.refuse(PEERS[4], 0, "not finite")
    assert collector.collected[0].waiting == {1, 7}


def test_deadlines_pass_for_collectors_and_owners():
    ex = exchange(1)
    assert ex.waits() == (True, False) and exchange(0).waits() == (False, True)
    ex.contribute(PEERS[1], 0, b"1")
    ex.expire()
    assert ex.waits() == (True, False)
    ex.expire(collected=True)
    assert ex.late == {PEERS[4], PEERS[7]} and parts(ex) == [(((1,), 2, False),)]


def test_a_group_that_is_late_is_late_by_its_collector():
    owner = exchange(0)
    owner.contribute(PEERS[0], 0, b"0")
    owner.contribute(PEERS[1], 0, b"m", (1, 4, 7))
    owner.expire()
    assert owner.late == {PEERS[3], PEERS[6], PEERS[2]}
    left = exchange(0)
    left.lose([PEERS[1]])
    left.expire()
    assert left.late >= {PEERS[4], PEERS[7]}, "nobody collects for them any more"


# ---- who has left


def test_the_group_of_a_collector_that_left_deals_with_the_owner():
    member = exchange(4)
    assert (0, PEERS[1]) in member.due_sends()
    member.lose([PEERS[1]])
    assert member.due_sends() == ((0, PEERS[0]),) and member.counterpart(0) == PEERS[0]
    owner = exchange(0)
    assert owner.audience(0) == {PEERS[k] for k in (1, 2, 3, 6)} | {FOLLOWERS[0], FOLLOWERS[3]}
    owner.lose([PEERS[1]])
    assert owner.audience(0) >= {PEERS[4], PEERS[7], FOLLOWERS[1]}
    assert exchange(1).audience(0) == {PEERS[4], PEERS[7], FOLLOWERS[1]}
    assert exchange(1).audience(1) == set()


def test_a_collector_that_becomes_the_owner_keeps_what_it_has():
    # One by one, as a mean that is made, and as one under way.
    ex = exchange(1, collects(), owners=(1, 4, 8))
    assert ex.owned[0].members == {1, 4, 7} == set(range(9)) - ex.owned[0].waiting - {0, 2, 3, 5, 6, 8}
    made = collects()
    made.due()
    made.averaged(0, (1, 4, 7), b"mean")
    ex = exchange(1, made, owners=(1, 4, 8))
    assert ex.owned[0].arrived == {1: t.Part((1, 4, 7), 15, b"mean", True)}
    under_way = collects()
    under_way.due()
    ex = exchange(1, under_way, owners=(1, 4, 8))
    assert ex.owned[0].waiting == set(range(9))
    ex.averaged(0, (1, 4, 7), b"mean")
    assert ex.owned[0].waiting == {0, 2, 3, 5, 6, 8}
    assert ex.owned[0].arrived == {1: t.Part((1, 4, 7), 15, b"mean", True)}


def test_another_owner_in_the_row_gets_the_mean_again():
    made = collects()
    made.due()
    made.averaged(0, (1, 4, 7), b"mean")
    made.due_partials()
    ex = exchange(1, made, owners=(2, 4, 8))
    assert [(chunk, peer) for chunk, peer, _ in ex.due_partials()] == [(0, PEERS[2])]
    assert ex.due_sends() == ((0, PEERS[1]), (1, PEERS[4]), (2, PEERS[7])), "it had not sent its own"
    other = exchange(1, made, owners=(5, 4, 8))
    assert not other.due_partials() and not other.collected
    other.averaged(0, (1, 4, 7), b"mean")
    assert not other.due_partials(), "that row collects anew"


def test_a_mean_that_was_not_sent_yet_goes_to_the_next_owner():
    made = collects()
    made.due()
    made.averaged(0, (1, 4, 7), b"mean")
    ex = exchange(1, made, owners=(2, 4, 8))
    assert [(chunk, peer) for chunk, peer, _ in ex.due_partials()] == [(0, PEERS[2])]


def test_an_owner_that_becomes_a_collector_keeps_its_group():
    first = exchange(0)
    first.contribute(PEERS[3], 0, b"3")
    first.contribute(PEERS[5], 0, b"5")
    ex = exchange(0, first, owners=(1, 4, 8))
    assert ex.collected[0].members == {3} and ex.collected[0].waiting == {0, 6}
    second = exchange(0, exchange(0, owners=(4, 4, 4)), owners=(1, 4, 8))
    assert second.collected[0].waiting == {0, 3, 6}


def test_what_went_another_way_goes_again():
    ex = collects()
    ex.due_sends()
    ex.due()
    ex.averaged(0, (1, 4, 7), b"mean")
    ex.due_partials()
    ex.renew([PEERS[7]])
    assert ex.due_sends() == ((2, PEERS[7]),) and not ex.due_partials()
    ex.renew([PEERS[0]])
    assert len(ex.due_partials()) == 1


def test_a_group_sends_again_when_owner_and_collector_change_places():
    """What an owner was averaging is lost with its plan: its group has to come again, by way of it."""
    slow, member = exchange(0), exchange(3)
    member.due_sends()
    slow.expire()
    slow.due()
    assert exchange(3, member, owners=(1, 4, 8)).due_sends() == ((0, PEERS[0]),)
    ex = exchange(0, slow, owners=(1, 4, 8))
    assert ex.collected[0].waiting == {0, 3, 6}
    # And whom a collector did not wait for is waited for by the owner that it becomes.
    late = exchange(7)
    late.due_sends()
    assert exchange(7, late, owners=(1, 4, 8)).due_sends() == ((0, PEERS[1]),)


def test_a_collector_that_comes_back_collects_again():
    member = exchange(4)
    member.due_sends()
    assert member.lose([PEERS[1]]) and not member.lose([PEERS[1]])
    assert member.due_sends() == ((0, PEERS[0]),)
    assert member.lose([])
    assert member.due_sends() == ((0, PEERS[1]),)


def test_whoever_comes_past_its_collector_gets_the_result_the_same_way():
    owner = exchange(0)
    assert owner.contribute(PEERS[4], 0, b"4") is None
    assert PEERS[4] in owner.audience(0) and PEERS[7] not in owner.audience(0)


def test_members_that_a_mean_lacks_are_late():
    owner = exchange(0)
    owner.lose([PEERS[7]])
    assert owner.contribute(PEERS[1], 0, b"m", (1,)) is None
    assert owner.late == {PEERS[4]}, "the other one has left"


# ---- whole swarms


def whole(seed: int, size: int = 9, followers: int = 0) -> Swarm:
    """Votes are those of everybody; the last ones follow."""
    return Swarm(size, seed=seed, two_level_above=3, chunks=8, training=lambda k: k < size - followers)


@pytest.mark.parametrize(("size", "followers"), [(4, 0), (9, 0), (11, 3)])
def test_a_swarm_with_two_levels_certifies_with_everybody_in_it(size: int, followers: int):
    swarm = whole(1, size, followers)
    swarm.run(reached(swarm, 3))
    for node in swarm.nodes:
        assert set(node.outcomes()) == {"certified"} and not node.dropped
        assert all(len(report.contributed) == size - followers for report in node.reports)
    assert {report.groups for report in swarm.nodes[0].reports} == {2 if size == 4 else 3}


@pytest.mark.parametrize("seed", range(6))
def test_collectors_and_owners_that_die_stop_nobody(seed: int):
    swarm = whole(seed)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.run(in_session(lead))
    for node in [node for node in swarm.nodes if node is not lead][seed % 3 :: 4]:
        swarm.kill(node)
    swarm.run(reached(swarm, 3))
    live = [node for node in swarm.nodes if node.alive]
    assert len({node.state for node in live if node.head == live[0].head}) == 1


def test_a_group_whose_collector_died_is_in_the_round_that_it_died_in():
    swarm = whole(3)
    swarm.run(reached(swarm, 1))
    lead = leader(swarm)
    swarm.run(in_session(lead))
    session = lead.machine.session
    assert session is not None
    ex = session.exchange
    places = {node.id: ex.index[node.id] for node in swarm.nodes}
    groups = {node.id: ex.grid.group(places[node.id]) for node in swarm.nodes}

    def collects(node: Node) -> list[int]:
        """Chunks of others that a node collects."""
        owners = enumerate(ex.plan.owners)
        found = [(c, ex.grid.collector(owner, groups[node.id])) for c, owner in owners]
        return [c for c, at in found if at == places[node.id] and ex.plan.owners[c] != at]

    owners = {ex.owner(chunk) for chunk in range(8)}
    rest = [node for node in swarm.nodes if node.id not in owners and node is not lead]
    victim = next(node for node in rest if collects(node))
    began = swarm.now
    swarm.kill(victim)
    swarm.run(reached(swarm, 2))
    commit = swarm.commits[lead.head.digest]
    index = {bytes(c.peer): k for k, c in enumerate(commit.contributors)}
    living = {index[node.id] for node in swarm.nodes if node is not victim}
    assert all(living <= set(commit.chunks[chunk].contributors) for chunk in collects(victim))
    assert swarm.now - began < ex.plan.scatter_s * 0.6, "and nobody's deadline was waited for"
