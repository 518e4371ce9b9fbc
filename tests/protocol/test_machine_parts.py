"""The pure parts of the round machine: door, plan, commit, ballot, exchange, stash."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t
from atoll.protocol.round.ballot import Ballot
from atoll.protocol.round.commit import (
    CommitError,
    accepted_tokens,
    check_commit,
    check_content,
    contribution_of,
    electorate,
    make_commit,
)
from atoll.protocol.round.door import MAX_READY, Door
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.plan import (
    MAX_MEMBERS,
    MAX_TOKENS,
    MAX_VIEW_JUMP,
    Offered,
    PlanError,
    alike,
    check_plan,
    chunk_shares,
    continue_plan,
    make_plan,
    members_of,
    owners,
    weights,
)
from atoll.protocol.round.stash import Stash, session_of

from .swarm import SWARM, genesis

KEYS = sorted((FakeKeyring(f"part-{k}") for k in range(4)), key=lambda k: k.peer_id)
A, B, C, D = (key.peer_id for key in KEYS)
HEAD = replace(genesis([A, B, C]), version=3, cumulative_tokens=1000)
CONFIG = t.RoundConfig(
    swarm_id=SWARM,
    chunks=5,
    codec="int8",
    result_codec="fp32",
    outer_lr=lambda n: n / 16,
    genesis_node=A,
)


def ready(tokens: int = 100, parent: bytes = HEAD.digest, upload_bps: int = 0, view: int = 0) -> pb.Ready:
    return pb.Ready(parent=parent, tokens=tokens, upload_bps=upload_bps, next_view=view)


# ---- the door


def test_the_door_closes_when_all_are_ready():
    door = Door(1.0, 60.0)
    door.put(A, ready(), 0.0)
    assert not door.decide(HEAD.digest, {A, B}, 1, 0.0).close
    door.put(B, ready(), 5.0)
    verdict = door.decide(HEAD.digest, {A, B}, 1, 5.0)
    assert verdict.close and verdict.because == "all are ready"


def test_the_door_stays_shut_below_the_minimum_and_without_anybody():
    door = Door(1.0, 60.0)
    assert door.decide(HEAD.digest, {A}, 2, 0.0).because == "2 nodes have to take part, 1 so far"
    assert door.decide(HEAD.digest, {A}, 1, 0.0).because == "nobody is ready yet"
    door.put(A, ready(), 0.0)
    verdict = door.decide(HEAD.digest, {A, B}, 2, 1e9)
    assert not verdict.close and verdict.until is None, "there is no time at which it would close"


def test_a_quorum_gives_the_grace_and_fewer_give_the_cap():
    door = Door(1.0, 60.0)
    door.put(A, ready(), 10.0)
    assert door.decide(HEAD.digest, {A, B, C}, 1, 10.0).until == 70.0
    door.put(B, ready(), 11.0)
    assert door.decide(HEAD.digest, {A, B, C}, 1, 11.0).until == 70.0, "nothing learned: the grace is the cap"
    for _ in range(3):
        door.closed(HEAD.digest, [A, B])
    assert door.grace_s() == pytest.approx(0.5 + 3 * 1.4826 * 0.5)
    verdict = door.decide(HEAD.digest, {A, B, C}, 1, 11.0)
    assert verdict.until == 10.0 + door.grace_s()
    assert door.decide(HEAD.digest, {A, B, C}, 1, 13.0).close


def test_grace_has_a_floor_and_a_cap():
    door = Door(2.0, 60.0)
    for _ in range(4):
        door.put(A, ready(), 0.0)
        door.closed(HEAD.digest, [A])
    assert door.grace_s() == 2.0
    door.put(B, ready(), 1e6)
    for _ in range(40):
        door.closed(HEAD.digest, [A, B])
    assert door.grace_s() == 60.0


def test_a_repeated_ready_keeps_its_first_arrival_until_the_parent_changes():
    door = Door(1.0, 10.0)
    door.put(A, ready(), 0.0)
    door.put(A, ready(tokens=7), 5.0)
    assert door.decide(HEAD.digest, {A, B}, 1, 0.0).until == 10.0
    assert door.ready(HEAD.digest, {A})[A].tokens == 7
    door.put(A, ready(parent=b"x" * 32), 6.0)
    assert not door.ready(HEAD.digest, {A})
    door.put(A, ready(), 7.0)
    door.restart(b"x" * 32, 8.0)
    assert door.decide(HEAD.digest, {A, B}, 1, 0.0).until == 17.0
    door.restart(HEAD.digest, 8.0)
    assert door.decide(HEAD.digest, {A, B}, 1, 0.0).until == 18.0


def test_the_door_is_bounded_and_forgets_who_is_gone():
    door = Door(1.0, 60.0)
    peers = [k.to_bytes(4, "big") for k in range(MAX_READY)]
    assert all(door.put(peer, ready(), 0.0) for peer in peers)
    assert not door.put(A, ready(), 0.0)
    assert door.put(peers[0], ready(), 0.0)
    door.keep(peers[:10])
    assert door.put(A, ready(), 0.0)
    door.remove(A)
    assert A not in door.ready(HEAD.digest, {A})


# ---- plans


@given(st.lists(st.integers(0, MAX_TOKENS), min_size=1, max_size=20))
def test_weights_follow_tokens_up_to_twice_the_mean(tokens: list[int]):
    shares = weights(tokens)
    for share, own in zip(shares, tokens, strict=True):
        assert 1 <= share <= max(1, 2 * sum(tokens) // len(tokens))
        assert share <= max(own, 1)


@given(
    st.integers(1, 60),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_owners_cover_all_chunks_and_exclude_whom_they_can(
    chunks: int, speeds: list[int], excluded: set[int]
):
    table = owners(chunks, speeds, excluded)
    assert len(table) == chunks and set(table) <= set(range(len(speeds)))
    if set(range(len(speeds))) - excluded:
        assert not set(table) & excluded
    assert table == owners(chunks, speeds, excluded)


def test_owners_share_by_speed():
    assert owners(6, [0, 0, 0]) == [0, 1, 2, 0, 1, 2]
    assert chunk_shares([100, 0, 0]) == [1 / 3] * 3, "an unknown speed counts as the slowest known"
    assert chunk_shares([100, 5, 0]) == [1, 0, 0], "nothing makes the slowest sooner done than owning nothing"
    table = owners(12, [100, 100, 100, 60])
    assert [table.count(i) for i in range(4)] == [4, 4, 4, 0]
    table = owners(100, [100, 80, 90])
    assert [table.count(i) for i in range(3)] == [48, 19, 33]


@given(st.lists(st.integers(1, 10**9), min_size=3, max_size=40), st.sets(st.integers(0, 39)))
def test_shares_reach_the_bound_of_the_lines(speeds: list[int], excluded: set[int]):
    """T = max(1 / slowest, (owners + N - 2) / sum of owners' speeds) payloads: nobody can do with less."""
    count = len(speeds)
    shares = chunk_shares(speeds, excluded)
    able = [i for i in range(count) if i not in excluded] or list(range(count))
    assert sum(shares) == pytest.approx(1) and all(not shares[i] for i in set(range(count)) - set(able))
    assume(len(able) > 1)
    taken = max((1 + (count - 2) * w) / speed for w, speed in zip(shares, speeds, strict=True))
    bound = max(1 / min(speeds), (len(able) + count - 2) / sum(speeds[i] for i in able))
    assert taken <= bound * (1 + 1e-9)


def test_a_plan_goes_by_the_slower_direction():
    offers = {
        peer: pb.Ready(tokens=1, upload_bps=up, download_bps=down)
        for peer, up, down in ((A, 100, 900), (B, 900, 20), (C, 500, 0))
    }
    made = make_plan(CONFIG, HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0))
    assert list(made.owners) == owners(CONFIG.chunks, [100, 20, 500])


def test_who_is_relayed_or_much_too_slow_owns_nothing():
    speeds = {A: (50, 60), B: (50, 60), C: (1, 60), D: (900, 900)}
    offers = {p: pb.Ready(tokens=1, upload_bps=u, download_bps=d) for p, (u, d) in speeds.items()}
    offers[D].relayed = True
    made = make_plan(replace(CONFIG, chunks=40), HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0))
    assert [list(made.owners).count(k) for k in range(4)] == [20, 20, 0, 0]
    relayed = {p: pb.Ready(tokens=1, relayed=True) for p in (A, B, C)}
    made = make_plan(CONFIG, HEAD, A, relayed, set(), 0, (1.0, 1.0, 1.0))
    assert set(made.owners) == {0, 1, 2}, "nobody else is there"


def test_what_an_owner_leaves_goes_to_owners():
    speeds = {A: 50, B: 50, C: 1, D: 50}
    offers = {p: pb.Ready(tokens=1, upload_bps=speed) for p, speed in speeds.items()}
    made = make_plan(replace(CONFIG, chunks=12), HEAD, A, offers, set(), 0, (1.0, 1.0, 1.0))
    of_d = [chunk for chunk, owner in enumerate(made.owners) if owner == 3]
    again = continue_plan(made, A, 1, {A, B, C}, of_d, (1.0, 1.0, 1.0))
    assert set(again.owners) == {0, 1}, "the slow one gets nothing"
    assert set(continue_plan(made, C, 1, {C}, range(12), (1.0, 1.0, 1.0)).owners) == {2}


def plan(view: int = 0, leader: bytes = A, **members: int) -> pb.Plan:
    peers = {"a": A, "b": B, "c": C, "d": D}
    given_ready = {peers[name]: ready(tokens) for name, tokens in (members or {"a": 100, "b": 50}).items()}
    return make_plan(CONFIG, HEAD, leader, given_ready, {A, B, C}, view, (10.0, 10.0, 10.0))


def test_a_plan_lists_members_in_order_and_the_rest_follow():
    made = plan()
    assert [c.peer for c in made.contributors] == [A, B]
    assert list(made.followers) == [C]
    assert members_of(made) == {A, B, C}
    assert made.outer_lr == 2 / 16
    check_plan(CONFIG, HEAD, A, Offered(100, 0, 0), 0, made)
    check_plan(CONFIG, HEAD, C, None, 0, made)


def alter(change: Callable[[pb.Plan], object]) -> pb.Plan:
    made = copy.deepcopy(plan())
    change(made)
    return made


def _many(p: pb.Plan) -> None:
    p.followers.extend(k.to_bytes(38, "big") for k in range(MAX_MEMBERS))


REFUSED_PLANS = [
    ("another swarm", lambda p: setattr(p, "swarm_id", b"x" * 32)),
    ("another swarm or fragment", lambda p: setattr(p.session, "fragment", 1)),
    ("another head", lambda p: setattr(p.session, "parent", b"x" * 32)),
    ("another head", lambda p: setattr(p, "version", 4)),
    ("past view", lambda p: setattr(p.session, "view", 0)),
    ("impossible view", lambda p: setattr(p.session, "view", 2 + MAX_VIEW_JUMP)),
    ("sorted list", lambda p: p.ClearField("contributors")),
    ("sorted list", lambda p: p.contributors.extend([p.contributors[0]])),
    ("sorted list", _many),
    ("two roles", lambda p: p.followers.append(A)),
    ("impossible number of tokens", lambda p: setattr(p.contributors[0], "tokens", MAX_TOKENS + 1)),
    ("weights", lambda p: setattr(p.contributors[0], "weight", 99)),
    ("did not offer", lambda p: (setattr(p.contributors[0], "tokens", 101), _reweigh(p))),
    ("did not offer", lambda p: setattr(p.contributors[0], "shard", 1)),
    ("owners", lambda p: p.owners.append(0)),
    ("owners", lambda p: p.owners.__setitem__(0, 2)),
    ("codec", lambda p: setattr(p, "codec", "fp32")),
    ("codec", lambda p: setattr(p, "result_codec", "int8")),
    ("learning rate", lambda p: setattr(p, "outer_lr", 0.5)),
    ("learning rate", lambda p: setattr(p, "outer_lr", float("nan"))),
    ("durations", lambda p: setattr(p, "scatter_s", 0.0)),
    ("durations", lambda p: setattr(p, "reduce_s", float("nan"))),
    ("durations", lambda p: setattr(p, "vote_s", 1e9)),
]


def _reweigh(p: pb.Plan) -> None:
    for c, weight in zip(p.contributors, weights([c.tokens for c in p.contributors]), strict=True):
        c.weight = weight


@pytest.mark.parametrize(("reason", "change"), REFUSED_PLANS)
def test_a_plan_that_breaks_a_rule_is_refused_with_its_reason(
    reason: str, change: Callable[[pb.Plan], object]
):
    made = alter(lambda p: setattr(p.session, "view", 1))
    check_plan(CONFIG, HEAD, A, Offered(100, 0, 0), 1, made)
    change(made)
    with pytest.raises(PlanError, match=reason):
        check_plan(CONFIG, HEAD, A, Offered(100, 0, 0), 1, made)


def test_a_plan_without_this_node_and_a_foreign_first_leader_are_refused():
    with pytest.raises(PlanError, match="without this node"):
        check_plan(CONFIG, HEAD, D, None, 0, plan())
    start = replace(HEAD, version=0)
    first = make_plan(CONFIG, start, B, {A: ready(), B: ready()}, set(), 0, (10.0, 10.0, 10.0))
    with pytest.raises(PlanError, match="only the genesis node"):
        check_plan(CONFIG, start, A, Offered(100, 0, 0), 0, first)


# ---- results and commits


def exchange(me: bytes = A, made: pb.Plan | None = None) -> Exchange:
    return Exchange(made or plan(), me)


def result(
    ex: Exchange, chunk: int, members: list[int], text: bytes = b"r"
) -> tuple[pb.ChunkResult, pb.Signed]:
    digest = hashlib.sha256(text).digest()
    message = pb.ChunkResult(
        session=ex.plan.session, chunk=chunk, contributors=members, payload_digest=digest
    )
    owner = next(key for key in KEYS if key.peer_id == ex.owner(chunk)) if chunk < 5 else KEYS[0]
    return message, owner.sign("result", message.SerializeToString())


def whole() -> Exchange:
    ex = exchange()
    for chunk in range(5):
        assert ex.add_result(*result(ex, chunk, [0, 1] if chunk else [1])) is None
    return ex


def test_lines_that_measure_about_the_same_are_equal():
    assert alike([0, 980, 1000, 935, 1024, 0, 500, 470, 10]) == [0, 984, 984, 984, 984, 0, 485, 485, 10]
    assert alike([]) == [] and alike([0, 0]) == [0, 0] and alike([7]) == [7]
    ready = {
        peer: pb.Ready(parent=HEAD.digest, tokens=1, upload_bps=b)
        for peer, b in ((A, 95), (B, 100), (C, 105))
    }
    shared = make_plan(CONFIG, HEAD, A, ready, (), 0, (1.0, 1.0, 1.0))
    assert sorted(map(list(shared.owners).count, range(3))) == [1, 2, 2]


def test_an_owner_reduces_when_everyone_came_was_refused_or_is_lost():
    made = plan(a=100, b=50, c=70)
    ex = exchange(A, made)
    chunk = next(iter(ex.owned))
    assert ex.contribute(B, chunk, b"b") is None
    assert ex.contribute(B, chunk, b"b") is None, "its link may have broken"
    assert ex.contribute(D, chunk, b"d") == "contribution to a chunk that is not owned here"
    foreign = next(c for c in range(5) if c not in ex.owned)
    assert ex.contribute(B, foreign, b"b") == "contribution to a chunk that is not owned here"
    assert ex.due() == []
    ex.refuse(C, chunk, "bad scale")
    ex.refuse(D, chunk, "not even a member")
    assert ex.due() == []
    ex.lose([A, D])
    assert ex.due() == [t.Reduce(made, chunk, (t.Part((1,), 50, b"b"),))]
    assert ex.due() == [], "once"
    assert ex.contribute(A, chunk, b"a") == "late contribution"
    assert ex.rejected[C] == "bad scale" and ex.late == {A}


def test_contributions_are_reduced_in_member_order_whatever_their_arrival():
    ex = exchange(A, plan(a=100, b=50, c=70))
    chunk = next(iter(ex.owned))
    for peer in (C, A, B):
        ex.contribute(peer, chunk, peer[-1:])
    assert ex.due()[0].members == (0, 1, 2)


def test_expiry_names_who_was_late():
    ex = exchange(A, plan(a=100, b=50, c=70))
    for chunk in ex.owned:
        ex.contribute(A, chunk, b"a")
    ex.expire()
    assert ex.late == {B, C}
    assert len(ex.due()) == len(ex.owned)


def test_results_are_taken_from_their_owner_only():
    ex = exchange()
    message, signed = result(ex, 0, [0])
    forged = KEYS[3].sign("result", message.SerializeToString())
    assert ex.add_result(message, forged) == "result that is not by the owner of the chunk"
    assert ex.add_result(*result(ex, 5, [0])) == "result of a chunk that the plan does not have"
    later = pb.ChunkResult.FromString(message.SerializeToString())
    later.session.view += 1
    assert ex.add_result(later, signed) == "result of a plan that is not known here"
    assert ex.add_result(*result(ex, 0, [1, 0])) == "result with impossible contributors"
    assert ex.add_result(*result(ex, 0, [0, 2])) == "result with impossible contributors"
    assert ex.add_result(message, signed) is None
    assert ex.add_result(message, signed) is None, "the same again is no offence"
    assert ex.add_result(*result(ex, 0, [0], b"x")) == "second, different result of a chunk"
    assert ex.missing_results() == [1, 2, 3, 4]
    assert ex.missing_owners() == {A, B}
    assert ex.contributed() == {A}
    assert ex.forget([0, 1]) == {0}


def test_a_commit_follows_from_the_results():
    ex = whole()
    commit = make_commit(HEAD, ex)
    check_commit(HEAD, ex, commit)
    # chunk 0: 50 tokens; the four others 150 each; over five chunks
    assert accepted_tokens(commit) == (50 + 4 * 150) // 5
    assert commit.cumulative_tokens == 1000 + 130
    assert electorate(commit) == (A, B)
    assert ex.mismatched(commit) == []
    ex.results[2] = result(ex, 2, [0, 1], b"other")
    ex.results[3] = result(ex, 3, [0])
    del ex.results[4]
    assert ex.mismatched(commit) == [2, 3, 4]


def _empty(c: pb.Commit) -> None:
    for chunk in c.chunks:
        chunk.ClearField("contributors")
    c.cumulative_tokens = 1000


REFUSED_COMMITS = [
    ("another version", lambda c: setattr(c, "version", 9)),
    ("another version", lambda c: setattr(c, "swarm_id", b"x")),
    ("not of its plan", lambda c: setattr(c.contributors[0], "tokens", 1)),
    ("not of its plan", lambda c: c.chunks.add()),
    ("codec or learning rate", lambda c: setattr(c, "outer_lr", 1.0)),
    ("codec or learning rate", lambda c: setattr(c, "result_codec", "int8")),
    ("impossible contributors", lambda c: c.chunks[0].contributors.append(0)),
    ("impossible contributors", lambda c: c.chunks[0].contributors.append(7)),
    ("without a contribution", _empty),
    ("sum of tokens", lambda c: setattr(c, "cumulative_tokens", 1)),
]


@pytest.mark.parametrize(("reason", "change"), REFUSED_COMMITS)
def test_a_commit_that_breaks_a_rule_is_refused_with_its_reason(
    reason: str, change: Callable[[pb.Commit], object]
):
    ex = whole()
    commit = make_commit(HEAD, ex)
    change(commit)
    with pytest.raises(CommitError, match=reason):
        check_commit(HEAD, ex, commit)


def test_a_commit_whose_plan_is_not_known_has_weights_that_make_a_mean():
    commit = make_commit(HEAD, whole())
    check_content(HEAD, commit, range(len(commit.chunks)))
    with pytest.raises(CommitError, match="another fragment"):
        check_content(HEAD, commit, range(1, len(commit.chunks)))
    commit.contributors[0].weight = 0
    with pytest.raises(CommitError, match="without a weight"):
        check_content(HEAD, commit, range(len(commit.chunks)))


# ---- votes


def test_a_node_finds_its_contribution_in_a_commit():
    commit = pb.Commit(
        contributors=[pb.Contributor(peer=A, offer=7), pb.Contributor(peer=B, offer=9)],
        chunks=[pb.CommittedChunk(contributors=[0, 1]), pb.CommittedChunk(contributors=[1])],
    )
    assert contribution_of(commit, A) == (7, [0])
    assert contribution_of(commit, B) == (9, [0, 1])
    assert contribution_of(commit, C) == (0, [])


def test_votes_count_once_and_only_for_the_electorate():
    ballot = Ballot((A, B, C))
    one, other = b"1" * 32, b"2" * 32
    vote = {key.peer_id: key.sign("vote", b"") for key in KEYS}
    assert not ballot.heard()
    assert ballot.put(one, vote[D]) == "vote of a node outside the electorate"
    assert ballot.put(one, vote[A]) is None
    assert ballot.put(one, vote[A]) is None
    assert ballot.heard() and not ballot.certified(one)
    assert ballot.put(other, vote[A]) == "second, different vote"
    assert ballot.put(one, vote[C]) is None
    assert ballot.certified(one) and not ballot.certified(other)
    assert [v.signer for v in ballot.votes(one)] == [A, C]
    assert ballot.missing() == (B,)


# ---- the stash


def early(sender: bytes, size: int = 0) -> t.ContributionArrived:
    return t.ContributionArrived(sender, pb.SessionId(parent=b"p"), 0, bytes(size))


def test_the_stash_is_bounded_in_all_and_for_each_sender():
    stash = Stash(8, 1000, 60.0)
    assert stash.put(early(A), 0.0) and stash.put(early(A), 0.0)
    assert not stash.put(early(A), 0.0), "a quarter of the places"
    assert stash.put(early(B, 250), 0.0)
    assert not stash.put(early(B, 1), 0.0), "a quarter of the bytes"
    assert stash.put(early(C, 250), 0.0) and stash.put(early(D, 250), 0.0)
    assert stash.put(t.WantReceived(C, pb.Want()), 0.0) and stash.put(t.WantReceived(D, pb.Want()), 0.0)
    assert stash.put(early(b"e", 250), 0.0)
    assert not stash.put(early(b"f"), 0.0), "eight in all"
    assert len(stash.take_all()) == 8
    assert stash.take_all() == []
    assert stash.put(early(A), 0.0)


def test_the_stash_forgets_what_nobody_asked_for():
    stash = Stash(4, 1000, 60.0)
    assert stash.put(early(A), 0.0)
    assert not stash.put(early(A), 59.0)
    assert stash.put(early(A), 60.0)
    ((since, event),) = stash.take_all()
    assert since == 60.0
    assert stash.put(event, 100.0, since)
    assert stash.put(early(A), 120.0), "what came back kept the time it came first"


def test_every_early_event_names_its_session():
    session = pb.SessionId(parent=b"p", view=3)
    assert session_of(t.ContributionArrived(A, session, 0, b"")) == session
    assert session_of(t.VoteReceived(A, pb.Vote(session=session), pb.Signed())) == session
