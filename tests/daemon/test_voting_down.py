"""A leader that lies, among real drivers: honest members vote against what it made, and go on without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.protocol import audit, standing
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire as wires
from atoll.protocol.chain import leader_of
from atoll.protocol.round import plan as plans
from atoll.protocol.round import types as t

from .swarm import Make, Member, Swarm, delta

LIARS = {1: 5, 2: 8}
"""How many lie of how many: as many as leave the honest ones a majority of voters."""


@pytest.fixture(params=LIARS, ids=lambda liars: f"{liars} of {LIARS[liars]}")
async def swarm(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Swarm]:
    made = Swarm(tmp_path / "swarm", LIARS[request.param], merge="filter", audit=True)
    yield made
    await made.close()


def lies(swarm: Swarm, payload: wires.Payload, chunk: int) -> bytes:
    """Minus an int8 result: the levels, after the scales, are turned about."""
    size = swarm.manifest.chunks.size(chunk)
    return bytes(payload[:-size]) + bytes((256 - level) % 256 for level in payload[-size:])


class Liars:
    """Members that leave out whom they can, own everything, and turn the results about, where one leads."""

    def __init__(self, swarm: Swarm, members: list[Member], patch: pytest.MonkeyPatch) -> None:
        self.members, self.ids = members, {m.me for m in members}
        self.led = 0
        make_plan = plans.make_plan

        def made(
            config: Any, head: Any, me: bytes, ready: Any, here: Any, view: int, durations: Any, *more: Any
        ) -> pb.Plan:
            if me in self.ids and head.version:
                self.led += 1
                honest = sorted(set(ready) - self.ids)[: len(swarm.members) // 2 + 1 - len(members)]
                ready = {peer: said for peer, said in ready.items() if peer in self.ids | set(honest)}
                more = (set(honest), *more[1:])
                here = set(ready)
            return make_plan(config, head, me, ready, here, view, durations, *more)

        patch.setattr(plans, "make_plan", made)
        for member in members:
            self._turn(swarm, member)

    def _turn(self, swarm: Swarm, member: Member) -> None:
        reduced = member.driver._reduced

        def lying(effect: t.Reduce) -> tuple[wires.Payload, bytes, tuple[int, ...]]:
            payload, digest, left_out = reduced(effect)
            if bytes(effect.plan.session.leader) not in self.ids:
                return payload, digest, left_out
            lie = lies(swarm, payload, effect.chunk)
            return lie, audit.digest_of(lie), left_out

        async def for_it(*arguments: Any) -> tuple[str, tuple[bytes, ...]]:
            return "", ()

        member.driver._reduced = lying  # type: ignore[method-assign]
        member.driver.guard.refuses = for_it  # type: ignore[method-assign]


def train(swarm: Swarm, number: int) -> None:
    shared = delta(7)
    for place, member in enumerate(swarm.members):
        member.train(shared + 0.5 * delta(100 * number + place), 100)


def leads(swarm: Swarm) -> bytes:
    head = swarm.members[0].state.head
    leader = leader_of(head.digest, 0, [m.me for m in swarm.members])
    assert leader is not None
    return leader


async def test_what_a_lying_leader_made_is_voted_down_and_the_next_one_goes_on(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(swarm, 1)
    await swarm.version(1)
    count = next(liars for liars, of in LIARS.items() if of == len(swarm.members))
    first = next(m for m in swarm.members if m.me == leads(swarm))
    liars = Liars(swarm, [first, *[m for m in swarm.members if m is not first][: count - 1]], monkeypatch)
    honest = [m for m in swarm.members if m.me not in liars.ids]
    before = honest[0].state.parameters.copy()
    train(swarm, 2)
    await swarm.until(lambda: all(m.commits[-1].version >= 2 for m in honest))

    assert liars.led
    assert len({m.bits for m in honest}) == 1
    for member in honest:
        assert member.commits[-1].session.leader not in liars.ids and member.state.head.certified
        names = {bytes(c.peer) for c in member.commits[-1].contributors}
        assert names >= {m.me for m in honest}, "whoever the liar left out is in the next one"
    step = before - honest[0].state.parameters
    assert float(np.dot(step, delta(7))) > 0, "and it goes where they have learned to go"
    judges = [m for m in honest if any(r.refused for r in m.reports)]
    assert len(judges) == len(swarm.members) // 2 + 1 - count
    for member in judges:
        (report,) = [r for r in member.reports if r.refused]
        assert report.outcome == "aborted" and report.tokens == 0
        assert report.reason == f"{len(report.refused)} of {len(swarm.members)} voters refuse its results"
        assert set(report.refused) <= {m.me for m in judges} and member.me in report.refused
        assert any("votes against round 2" in text and "chunks" in text for text in member.said)
        assert member.driver.guard._around.standings.standings.strikes[standing.VOTED_DOWN] == count
    others = [m for m in honest if m not in judges]
    assert all(any("votes against a round led by" in text for text in m.said) for m in others)
    assert not any(r.outcome == "provisional" for m in honest for r in m.reports)
    for liar in liars.members:
        # It voted for it: it has no vote for another one, and would not take it up after a restart.
        assert [code for code, _ in liar.trouble] == ["no_vote"]
        record = liar.state.rounds.voted(2)
        assert record is None
        promised = json.loads((liar.folder / "rounds" / "promises.json").read_text())
        assert len(promised) == 1


async def test_one_that_refuses_what_most_vote_for_applies_it_with_them(swarm: Swarm) -> None:
    """Its own texts may be odd: it says so, loses nothing, and nobody stands worse for it."""
    train(swarm, 1)
    await swarm.version(1)
    odd = swarm.members[3]
    shared = delta(7)
    for place, member in enumerate(swarm.members):
        own = -3 * shared if member is odd else shared + 0.5 * delta(200 + place)
        member.train(own, 100)
    await swarm.version(2)
    assert len({m.bits for m in swarm.members}) == 1
    assert any("votes against round 2" in text for text in odd.said)
    for member in swarm.members:
        assert member.reports[-1].outcome == "certified"
        assert not member.driver.guard._around.standings.standings.strikes[standing.VOTED_DOWN]


async def test_a_member_that_has_nothing_of_its_own_judges_nothing(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(swarm, 1)
    await swarm.version(1)
    idle = swarm.members[2]
    idle.driver.feed(t.TrainingChanged(False))
    swarm_views(swarm, idle)
    looked: list[int] = []
    look = idle.driver._codec.look
    monkeypatch.setattr(idle.driver._codec, "look", lambda *a: looked.append(1) or look(*a))
    for place, member in enumerate(swarm.members):
        if member is not idle:
            member.train(delta(7) + 0.5 * delta(300 + place), 100)
    await swarm.version(2)
    assert not looked and idle.reports[-1].outcome == "certified"
    assert len({m.bits for m in swarm.members}) == 1


def swarm_views(swarm: Swarm, idle: Member) -> None:
    """Everybody hears that one does not train now."""
    for member in swarm.members:
        views = {
            other.me: t.PeerView(other.state.head.digest, other is not idle)
            for other in swarm.members
            if other is not member
        }
        member.driver.feed(t.RosterChanged(views))


async def test_members_who_differ_too_much_go_on_all_the_same(make: Make) -> None:
    """Two of which one learned the opposite of the other, and ten times as much."""
    swarm = make(2, merge="filter", audit=True)
    train(swarm, 1)
    await swarm.version(1)
    one, other = swarm.members
    one.train(10 * delta(7), 100)
    other.train(-delta(7), 100)
    await swarm.version(2)
    assert [r.outcome for r in other.reports if r.version == 2][:2] == ["aborted", "aborted"]
    assert other.reports[-1].outcome != "aborted" and one.bits == other.bits
    for member in (one, other):
        assert member.driver.guard._around.standings.standings.all_quarantined == {}


async def test_who_made_what_was_voted_down_twice_at_one_head_stands_worse_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest one whose texts are odd owns chunks in more than one session of a round."""
    swarm = make(3, merge="filter", audit=True)
    train(swarm, 1)
    await swarm.version(1)
    me, maker, third = swarm.members
    guard = me.driver.guard

    async def away(*arguments: Any) -> tuple[str, tuple[bytes, ...]]:
        return "they point away", (maker.me,)

    monkeypatch.setattr(guard._judging, "against", away)
    for view, leader in enumerate((maker, third)):
        session = pb.SessionId(parent=b"p" * 32, view=view, leader=leader.me)
        assert (await guard.refuses(pb.Commit(version=2, session=session), {}))[1] == (maker.me,)
        guard.ended(t.SessionReport(session, 2, "aborted", "most refuse its results", refused=(me.me,)))
    assert guard._around.standings.standings.strikes[standing.VOTED_DOWN] == 1
    assert guard.quarantined(maker.me) is None


async def test_a_session_that_ends_while_its_commit_is_judged_gets_no_vote(make: Make) -> None:
    swarm = make(3, merge="filter", audit=True)
    train(swarm, 1)
    await swarm.version(1)
    slow, *others = swarm.members
    release, judging = asyncio.Event(), asyncio.Event()
    calls: list[pb.Commit] = []

    def first(member: Member, answer: Callable[[], Awaitable[str]]) -> None:
        refuses = member.driver.guard.refuses
        asked: list[pb.Commit] = []

        async def judged(commit: pb.Commit, results: Any) -> tuple[str, tuple[bytes, ...]]:
            asked.append(commit)
            if len(asked) == 1:
                return await answer(), ()
            calls.append(commit)
            return await refuses(commit, results)

        member.driver.guard.refuses = judged  # type: ignore[method-assign]

    async def late() -> str:
        judging.set()
        await release.wait()
        return ""

    async def no() -> str:
        await judging.wait()
        return "it points away"

    first(slow, late)
    for member in others:
        first(member, no)
    train(swarm, 2)
    await swarm.until(lambda: any(r.outcome == "aborted" for r in slow.reports))
    release.set()
    await swarm.version(2)
    assert slow.reports[-1].outcome == "certified" and len(calls) == 3
    assert slow.trouble == [], "its one vote was not spent on what was voted down"


async def test_what_was_voted_down_is_no_measure_of_what_is_usual(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it then gives way, and judges nothing, the one before would be taken for the one applied."""
    swarm = make(2, merge="filter", audit=True)
    train(swarm, 1)
    await swarm.version(1)
    guard = swarm.members[1].driver.guard
    guard._judging._last = 0, 1000.0
    monkeypatch.setattr(guard, "_gives_way", lambda parent: True)
    train(swarm, 2)
    await swarm.version(2)
    limit = guard._judging._norms.limit(0)
    assert limit is not None and limit < 1000


async def test_who_is_left_of_many_voters_goes_on_though_two_differ_too_much(make: Make) -> None:
    """Four were in the last round, and two of them are gone."""
    swarm = make(4, merge="filter", audit=True)
    train(swarm, 1)
    await swarm.version(1)
    gone = swarm.members[2:]
    for member in gone:
        await swarm.lose(member)
    one, other = swarm.members
    assert len(one.state.head.electorate) == 4 and one.driver.machine.voters == {one.me, other.me}
    one.train(10 * delta(7), 100)
    other.train(-delta(7), 100)
    await swarm.version(2)
    assert one.bits == other.bits and other.reports[-1].outcome == "provisional"


async def test_a_refused_leader_is_not_followed_again_at_this_head(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(swarm, 1)
    await swarm.version(1)
    first = next(m for m in swarm.members if m.me == leads(swarm))
    liars = Liars(swarm, [first], monkeypatch)
    judges: list[Member] = []

    def refused() -> bool:
        judges[:] = [m for m in swarm.members if m.driver.guard._against[1]]
        return bool(judges)

    parent = first.state.head.digest
    train(swarm, 2)
    await swarm.until(refused)
    again = pb.Plan(session=pb.SessionId(parent=parent, view=9, leader=first.me))
    elsewhere = pb.Plan(session=pb.SessionId(parent=b"n" * 32, view=9, leader=first.me))
    for member in judges:
        assert "refused at this head" in (member.driver.guard.leads(again) or "")
        assert member.driver.guard.leads(elsewhere) is None
    await swarm.until(lambda: all(m.commits[-1].version >= 2 for m in swarm.members if m is not first))
    assert liars.led == 1
