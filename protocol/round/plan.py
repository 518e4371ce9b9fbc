"""Making a plan, and checking one that somebody else made. Pure functions.

A plan says who contributes with what weight, who owns which chunk, and how long each leg may take. The
numbers that decide bits (order of members, weights, learning rate, codecs) are all in it, so a member can
check that the leader did not make them up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, leader_rank
from atoll.protocol.round import codec_choice
from atoll.protocol.round.types import RoundConfig

MAX_MEMBERS = 1024
MAX_PHASE_S = 3600.0
MAX_TOKENS = 1 << 40
"""Tokens one node can have trained on since its anchor; sums stay far from 64 bits."""
MAX_VIEW_JUMP = 1024
"""A view is at most so far beyond the next one known here: no message can use the numbers up."""
COLLECT_PART = 0.6
"""With two levels, the part of the scatter time after which whoever collects goes on with what is there."""
ALIKE = 1.15
"""Lines whose speeds differ by less are taken for equally fast: so much may a measurement be wrong."""
WEIGHT_CAP = 2
"""No weight over twice the mean (ALGORITHMS: token weights with a cap)."""


MAX_ROUNDS = 64
"""Commits without a node's contribution that count for its weight."""


@dataclass(frozen=True)
class Offered:
    """What of a node's offer is in a plan: as it said in its Ready."""

    tokens: int
    number: int
    shard: int
    rounds: int = 0


class PlanError(ValueError):
    """A plan this node does not take part in; the message is the reason that is counted."""


def weights(tokens: Sequence[int], rounds: Sequence[int] = ()) -> list[int]:
    """Weight of each contributor: its tokens, at most twice the mean, at least 1.

    `rounds`: commits since each contributed last, where weights go by attendance. Tokens are multiplied by
    them: in expectation the inverse of how often a node attends, so that those who come seldom are not
    drowned out (FedFix, 2206.10189, section 3.3).
    """
    said = [t * max(1, r) for t, r in zip(tokens, rounds, strict=True)] if rounds else list(tokens)
    cap = max(1, WEIGHT_CAP * sum(said) // len(said))
    return [max(1, min(t, cap)) for t in said]


def alike(speed_bps: Sequence[int]) -> list[int]:
    """Speeds of which those that are as good as equal are equal: shares follow lines, not their noise."""
    evened = list(speed_bps)
    order = sorted((i for i in range(len(evened)) if evened[i]), key=lambda i: -evened[i])
    while order:
        group = [i for i in order if evened[i] * ALIKE >= evened[order[0]]]
        mean = sum(evened[i] for i in group) // len(group)
        for i in group:
            evened[i] = mean
        order = order[len(group) :]
    return evened


def chunk_shares(speed_bps: Sequence[int], excluded: Collection[int] = ()) -> list[float]:
    """What part of the values each member should own, so that all are done soonest; their sum is 1.

    `speed_bps`: the slower of up and down; unknown ones (0) count as the slowest known. `excluded` members
    own nothing unless nobody else is left.

    A member that owns the share w sends (1 - w) of a payload to the others and w to each of N - 1, and
    receives as much: 1 + (N - 2) w payloads. With n owners all are done at T = max(1 / slowest, (n + N - 2) /
    sum of the owners' speeds), where w = (T · speed - 1) / (N - 2): if the slowest decides, it owns nothing.
    """
    count = len(speed_bps)
    able = [i for i in range(count) if i not in excluded] or list(range(count))
    known = [speed for speed in speed_bps if speed > 0]
    speed = [s or min(known, default=1) for s in speed_bps]
    if count <= 2 or len(able) == 1:
        return [1 / len(able) if i in able else 0.0 for i in range(count)]
    time = max(1 / min(speed), (len(able) + count - 2) / sum(speed[i] for i in able))
    shares = [max(0.0, time * speed[i] - 1) if i in able else 0.0 for i in range(count)]
    whole = sum(shares)
    return [share / whole for share in shares]


def owners(chunks: int, speed_bps: Sequence[int], excluded: Collection[int] = ()) -> list[int]:
    """Owner of each chunk: as near to `chunk_shares` as whole chunks allow, interleaved; a pure function."""
    shares = chunk_shares(speed_bps, excluded)
    able = [i for i, share in enumerate(shares) if share > 0]
    given = dict.fromkeys(able, 0)
    result = []
    for _ in range(chunks):
        # Sainte-Laguë: whoever is furthest behind its share; the first in member order if equal.
        owner = min(able, key=lambda i: ((given[i] + 0.5) / shares[i], i))
        given[owner] += 1
        result.append(owner)
    return result


def grid(speed_bps: Sequence[int], excluded: Collection[int]) -> list[int]:
    """Members in rows of like speed, the fastest first: those of a row own, or collect, the same chunks."""
    last = set(excluded)
    return sorted(range(len(speed_bps)), key=lambda i: (i in last, -speed_bps[i], i))


def row_owners(
    chunks: int, order: Sequence[int], groups: int, speed_bps: Sequence[int], excluded: Collection[int]
) -> list[int]:
    """Owner of each chunk with two levels: rows share by their slowest member, and take turns within.

    A row that has no member of some group, or one that is to own nothing, owns nothing. Empty where all rows
    are like that.
    """
    rows = [order[k : k + groups] for k in range(0, len(order), groups)]
    unfit = [k for k, row in enumerate(rows) if len(row) < groups or set(row) & set(excluded)]
    if len(unfit) == len(rows):
        return []
    given = [0] * len(rows)
    result = []
    for row in owners(chunks, [min(speed_bps[i] for i in row) for row in rows], unfit):
        result.append(rows[row][given[row] % len(rows[row])])
        given[row] += 1
    return result


def due_chunks(plan: pb.Plan) -> tuple[int, ...]:
    """The chunks that a plan is about: those that have an owner."""
    return tuple(chunk for chunk, owner in enumerate(plan.owners) if owner < len(plan.contributors))


def owner_of(plan: pb.Plan, chunk: int) -> bytes:
    """Who reduces a chunk."""
    return bytes(plan.contributors[plan.owners[chunk]].peer)


def members_of(plan: pb.Plan) -> set[bytes]:
    """Contributors and followers."""
    return {bytes(c.peer) for c in plan.contributors} | {bytes(peer) for peer in plan.followers}


def outranks(new: pb.SessionId, old: pb.SessionId) -> bool:
    """Whether `new` replaces `old`, both for one parent and view.

    Two nodes that both think they lead: everyone follows the same one. Or one that leads again after its
    process was started again.
    """
    if new.leader == old.leader:
        return bool(new.view == old.view and new.life != old.life)
    ranks = [leader_rank(s.parent, s.fragment, s.leader) for s in (new, old)]
    return bool(new.view == old.view) and ranks[0] > ranks[1]


def make_plan(
    config: RoundConfig,
    head: Head,
    leader: bytes,
    ready: Mapping[bytes, pb.Ready],
    followers: Collection[bytes],
    view: int,
    durations: tuple[float, float, float],
    no_owners: Collection[bytes] = (),
    life: int = 0,
    inner_s: float = 0.0,
    training: Collection[bytes] = (),
) -> pb.Plan:
    """The leader's plan for one session with all who are `ready`; `durations` of scatter, reduce, vote.

    `inner_s`: how long an inner phase takes; 0.0: not known. `training`: who trains, ready or not.
    """
    members = sorted(ready)
    rounds = [min(ready[m].rounds, MAX_ROUNDS) if config.by_attendance else 0 for m in members]
    shares = weights([ready[m].tokens for m in members], rounds if config.by_attendance else ())
    voters = sorted({*members, *(set(head.electorate) & set(training))}) if config.small_commits else []
    # What forwarders and relays would have to carry is better owned by those whom everybody reaches.
    unreachable = {bytes(peer) for m in members for peer in ready[m].unreachable}
    kept = {m for m in members if m in no_owners or ready[m].relayed} | unreachable
    excluded = [i for i, m in enumerate(members) if m in kept]
    speeds = alike([_speed(ready[m]) for m in members])
    groups, order, table = 0, list[int](), list[int]()
    due = config.due(head.version)
    if len(members) > max(config.two_level_above, 3):
        groups, order = round(math.sqrt(len(members))), grid(speeds, excluded)
        table = row_owners(len(due), order, groups, speeds, excluded)
    if not table:  # a small swarm, or one in which nearly everybody is hard to reach
        groups, order, table = 0, [], owners(len(due), speeds, excluded)
    receive_only = sorted(set(followers) - set(members))
    choice = codec_choice.Choice(config.codec)
    said, carriers = [ready[m] for m in members], _carriers(table, order, groups)
    values = config.values * len(due) // config.chunks
    if config.codec == codec_choice.AUTO:
        choice = codec_choice.choose(said, carriers, len(receive_only), values, config.result_codec, inner_s)
    own = codec_choice.budgets(choice.codec, said) if config.by_roughness else [""] * len(members)
    # A commit comes when its leader has all results; the slowest line needs at most their whole time after.
    results = values * codec_choice.BITS[config.result_codec]
    spread_s = codec_choice.exchange_s(said, carriers, len(receive_only), 0.0, results)
    owned = dict(zip(due, table, strict=True))
    return pb.Plan(
        swarm_id=config.swarm_id,
        session=pb.SessionId(
            parent=head.digest, fragment=config.fragment(head.version), view=view, leader=leader, life=life
        ),
        version=head.version,
        contributors=[
            pb.Contributor(
                peer=m,
                tokens=ready[m].tokens,
                weight=w,
                offer=ready[m].offer,
                shard=ready[m].shard,
                rounds=r,
                codec=c,
            )
            for m, w, r, c in zip(members, shares, rounds, own, strict=True)
        ],
        followers=receive_only,
        # Nobody owns what is not of this fragment.
        owners=[owned.get(chunk, len(members)) for chunk in range(config.chunks)],
        groups=groups,
        grid=order,
        codec=choice.codec,
        exchange_s=choice.exchange_s,
        inner_s=choice.inner_s,
        result_codec=config.result_codec,
        outer_lr=config.outer_lr(len(voters) or len(members)),
        voters=voters,
        amendment=config.amendment,
        scatter_s=_scatter_s(durations[0], groups),
        reduce_s=durations[1],
        vote_s=min(MAX_PHASE_S, durations[2] + spread_s),
    )


def _carriers(table: Sequence[int], order: Sequence[int], groups: int) -> Sequence[int]:
    """Who carries the chunks, for a forecast: with two levels an owner's whole row does, evenly."""
    if not groups:
        return table
    rows = {index: k // groups for k, index in enumerate(order)}
    return [index for owner in table for index in order[rows[owner] * groups : (rows[owner] + 1) * groups]]


def _scatter_s(seconds: float, groups: int) -> float:
    """With two levels, what is left after contributions have come is for the means of groups."""
    return min(MAX_PHASE_S, seconds / COLLECT_PART) if groups else seconds


def _speed(ready: pb.Ready) -> int:
    """The slower of up and down, bits per second; 0 where neither is known."""
    return int(min((speed for speed in (ready.upload_bps, ready.download_bps) if speed), default=0))


def continue_plan(
    plan: pb.Plan,
    leader: bytes,
    view: int,
    able: Collection[bytes],
    open_chunks: Collection[int],
    durations: tuple[float, float, float],
    life: int = 0,
) -> pb.Plan:
    """The plan that goes on with the session of `plan`: same contributors and weights, other owners.

    `open_chunks`, which nobody can be expected to deliver, go to the `able` contributors, evenly: to those
    that own some in `plan`, if there are any; whoever owns nothing is slow, or hard to reach.
    """
    new = pb.Plan()
    new.CopyFrom(plan)
    new.session.view, new.session.leader, new.session.life = view, leader, life
    new.continues.CopyFrom(plan.session)
    places = [i for i, c in enumerate(plan.contributors) if c.peer in able]
    places = [i for i in places if i in plan.owners] or places
    for turn, chunk in enumerate(sorted(open_chunks)):
        new.owners[chunk] = places[turn % len(places)]
    new.scatter_s, new.reduce_s, new.vote_s = _scatter_s(durations[0], plan.groups), *durations[1:]
    return new


def check_continuation(previous: pb.Plan, plan: pb.Plan) -> None:
    """Raises PlanError unless `plan` has contributors, groups and codec of `previous`: sums would mix."""
    if list(plan.contributors) != list(previous.contributors):
        raise PlanError("plan that continues one with other contributors")
    if plan.groups != previous.groups or list(plan.grid) != list(previous.grid):
        raise PlanError("plan that continues one with other groups")
    if list(plan.voters) != list(previous.voters) or plan.outer_lr != previous.outer_lr:
        raise PlanError("plan that continues one with other voters")
    if plan.amendment != previous.amendment:
        raise PlanError("plan that continues one by another manifest")
    if plan.codec != previous.codec:
        raise PlanError("plan that continues one with another codec")


def check_plan(
    config: RoundConfig, head: Head, me: bytes, offered: Offered | None, next_view: int, plan: pb.Plan
) -> None:
    """Raises PlanError unless this node, at `head`, can take part."""
    session = plan.session
    if plan.swarm_id != config.swarm_id or session.fragment != config.fragment(head.version):
        raise PlanError("plan of another swarm or fragment")
    if session.parent != head.digest or plan.version != head.version:
        raise PlanError("plan for another head")
    if session.view < next_view:
        raise PlanError("plan of a past view")
    if session.view > next_view + MAX_VIEW_JUMP:
        raise PlanError("plan of an impossible view")
    if plan.amendment != config.amendment:
        raise PlanError("plan by another version of the manifest")
    if head.version == 0 and session.leader != config.genesis_node:
        raise PlanError("only the genesis node may lead the first round")
    _check_members(config, plan, me, offered)
    if len(plan.owners) != config.chunks or max(plan.owners) > len(plan.contributors):
        raise PlanError("plan with a wrong table of owners")
    if due_chunks(plan) != tuple(config.due(head.version)):
        raise PlanError("plan with owners of chunks that are not due")
    if not _is_grid(plan):
        raise PlanError("plan with groups that are not of its contributors")
    if plan.result_codec != config.result_codec or not codec_choice.is_sound(plan, config.codec):
        raise PlanError("plan with another codec than the manifest's")
    if not codec_choice.are_sound(plan, config.by_roughness):
        raise PlanError("plan with codecs of members that the manifest does not allow")
    _check_voters(config, head, plan)
    if plan.outer_lr != config.outer_lr(len(plan.voters) or len(plan.contributors)):
        raise PlanError("plan with another learning rate than the manifest's")
    if not all(0 < s <= MAX_PHASE_S for s in (plan.scatter_s, plan.reduce_s, plan.vote_s)):
        raise PlanError("plan with impossible durations")


def _is_grid(plan: pb.Plan) -> bool:
    """Whether each contributor has one place, or there are no groups."""
    count = len(plan.contributors)
    if not plan.groups:
        return not plan.grid
    return 2 <= plan.groups <= count == len(plan.grid) and sorted(plan.grid) == list(range(count))


def _check_voters(config: RoundConfig, head: Head, plan: pb.Plan) -> None:
    """With small commits the contributors, and of those who vote on this one whoever is still here."""
    voters, members = list(plan.voters), {bytes(c.peer) for c in plan.contributors}
    if not config.small_commits:
        if voters:
            raise PlanError("plan with voters, which are the contributors")
    elif voters != sorted(set(voters)) or not members <= set(voters) <= members | set(head.electorate):
        raise PlanError("plan with impossible voters")


def _check_members(config: RoundConfig, plan: pb.Plan, me: bytes, offered: Offered | None) -> None:
    members = [c.peer for c in plan.contributors]
    if not members or members != sorted(set(members)) or len(members) + len(plan.followers) > MAX_MEMBERS:
        raise PlanError("plan without a sorted list of contributors")
    if set(members) & set(plan.followers):
        raise PlanError("plan with a node in two roles")
    if any(c.tokens > MAX_TOKENS for c in plan.contributors):
        raise PlanError("plan with an impossible number of tokens")
    rounds = [c.rounds for c in plan.contributors]
    if max(rounds) > (MAX_ROUNDS if config.by_attendance else 0):
        raise PlanError("plan with an impossible number of rounds")
    said = rounds if config.by_attendance else ()
    if [c.weight for c in plan.contributors] != weights([c.tokens for c in plan.contributors], said):
        raise PlanError("plan with weights that do not follow from the tokens")
    mine = next((c for c in plan.contributors if c.peer == me), None)
    if mine is None:
        if me not in plan.followers:
            raise PlanError("plan without this node")
    elif Offered(mine.tokens, mine.offer, mine.shard, mine.rounds) != offered:
        raise PlanError("plan with tokens that this node did not offer")
