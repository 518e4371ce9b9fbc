"""Members who lie, among real drivers: what they send, and what they make of what others sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.protocol import audit, pledge, standing
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire as wires
from atoll.protocol.round import types as t

from .swarm import Member, Swarm, delta


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    made = Swarm(tmp_path / "swarm", 5, merge="filter", audit=True)
    yield made
    await made.close()


async def one_round(swarm: Swarm, deltas: dict[int, np.ndarray] | None = None) -> None:
    target = max(m.state.head.version for m in swarm.members) + 1
    shared = delta(7)
    for number, member in enumerate(swarm.members):
        own = shared + 0.5 * delta(100 * target + number)
        member.train(own if deltas is None else deltas.get(number, own), 100)
    await swarm.version(target)
    # Nobody waits for audits: the next round may begin before they end.
    await until(lambda: not any(_auditing(m) for m in swarm.members))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def _auditing(member: Member) -> bool:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in member.driver._tasks]
    return any(name.endswith("_look") for name in names)


def why(member: Member, other: Member) -> str | None:
    return member.driver.guard.quarantined(other.me)


async def test_honest_members_pass_every_audit(swarm: Swarm) -> None:
    for _ in range(4):
        await one_round(swarm)
    assert len({m.bits for m in swarm.members}) == 1
    assert sum(m.driver.guard.auditor.done for m in swarm.members) == 4 * 5
    for member in swarm.members:
        assert sum(member.driver.guard._around.standings.standings.strikes.values()) == 0
        assert member.driver.dropped.reasons.total() == 0


async def test_an_owner_whose_results_are_lies_is_found_and_left_out(swarm: Swarm) -> None:
    liar, honest = swarm.members[2], [m for m in swarm.members if m is not swarm.members[2]]
    reduced = liar.driver._reduced

    def lying(effect: t.Reduce) -> tuple[wires.Payload, bytes, tuple[int, ...]]:
        payload, _, left_out = reduced(effect)
        size = swarm.manifest.chunks.size(effect.chunk)
        levels = payload[-size:]  # of int8, after the scales: each is turned about
        false = bytes(payload[:-size]) + bytes((256 - level) % 256 for level in levels)
        return false, audit.digest_of(false), left_out

    liar.driver._reduced = lying  # type: ignore[method-assign]
    for _ in range(5):
        await one_round(swarm)
        if all(why(m, liar) for m in honest):
            break
    await until(lambda: all(why(m, liar) == standing.LIED for m in honest))
    assert any("lied in round" in text for m in honest for text in m.said)
    assert not any(why(m, other) for m in honest for other in honest)
    # Its word counts for nothing, and the others go on without it.
    swarm.roster_changed()
    target = max(m.state.head.version for m in honest) + 1
    for number, member in enumerate(swarm.members):
        member.train(delta(7) + 0.5 * delta(9000 + number), 100)
    await until(lambda: all(m.commits[-1].version >= target for m in honest))
    names = [bytes(c.peer) for c in honest[0].commits[-1].contributors]
    assert liar.me not in names and len(names) == 4


async def test_who_shows_no_record_stands_worse_with_everybody(swarm: Swarm) -> None:
    silent, honest = swarm.members[1], [m for m in swarm.members if m is not swarm.members[1]]
    silent.driver.guard.served = lambda kind, version, chunk: None  # type: ignore[method-assign]
    for _ in range(8):
        await one_round(swarm)
        if all(why(m, silent) for m in honest):
            break
    assert {why(m, silent) for m in honest} == {standing.NO_RECORD}


async def test_contributions_that_were_not_pledged_are_not_averaged(swarm: Swarm) -> None:
    liar, other = swarm.members[3], swarm.members[0]
    encode, seen = liar.driver._codec.encode, set[int]()

    def other_than_pledged(anchor: Any, local: Any, chunk: int, *more: Any) -> bytes:
        payload = encode(anchor, local, chunk, *more)
        again = chunk in seen
        seen.add(chunk)
        return payload[:-1] + bytes([payload[-1] ^ 1]) if again else payload

    liar.driver._codec.encode = other_than_pledged  # type: ignore[method-assign]
    await one_round(swarm)
    chunks = other.commits[-1].chunks
    index = [bytes(c.peer) for c in other.commits[-1].contributors].index(liar.me)
    mine = {c for c, peer in other.driver.guard._owners[1].items() if peer == liar.me}
    assert all((index in chunk.contributors) == (c in mine) for c, chunk in enumerate(chunks))
    assert other.driver.dropped.reasons["contribution that was not pledged"] > 0
    assert other.driver.guard._around.standings.standings.score(liar.me) < 1


async def test_a_contribution_against_all_others_is_left_out_and_told_in_the_result(swarm: Swarm) -> None:
    for _ in range(6):
        await one_round(swarm, {4: -delta(7)})
    commit = swarm.members[0].commits[0]
    index = [bytes(c.peer) for c in commit.contributors].index(swarm.members[4].me)
    assert not any(index in chunk.contributors for chunk in commit.chunks)
    assert all(why(m, swarm.members[4]) == standing.DISAGREES for m in swarm.members[:4])
    assert len({m.bits for m in swarm.members}) == 1


async def test_a_false_alarm_is_the_accusers_wrong(swarm: Swarm) -> None:
    await one_round(swarm)
    accuser, judge = swarm.members[0], swarm.members[1]
    chunk, owner = next(
        (c, peer) for c, peer in judge.driver.guard._owners[1].items() if peer not in (accuser.me, judge.me)
    )
    said = pb.Accusation(version=1, chunk=chunk, owner=owner, proof=True)
    await judge.driver.received(accuser.me, pb.Frame(accusation=said), b"")
    score = judge.driver.guard._around.standings.standings.score
    await until(lambda: score(accuser.me) < 1)
    assert score(owner) == 1


async def test_two_pledges_of_one_offer_are_proof(swarm: Swarm) -> None:
    liar, judge = swarm.members[2], swarm.members[0]
    keys = swarm._keys[2]
    for digest in (b"a" * 32, b"b" * 32):
        body = pb.Pledge(
            swarm_id=swarm.manifest.swarm_id,
            parent=b"p" * 32,
            offer=1,
            codec="int8",
            digests=[digest] * len(swarm.manifest.chunks),
        )
        signed = keys.sign(pledge.KIND, body.SerializeToString())
        await judge.driver.received(liar.me, pb.Frame(pledge=signed), b"")
    assert why(judge, liar) == standing.TWO_PLEDGES


@pytest.mark.parametrize("told", [True, False], ids=["told otherwise", "told nothing"])
async def test_a_second_pledge_makes_no_liar_of_an_honest_owner(swarm: Swarm, told: bool) -> None:
    """Accuser and contributor agree: the contributor pledges to the accuser what it never sent the owner."""
    await one_round(swarm)
    accuser, judge, partner = swarm.members[:3]
    chunk, owner = next(
        (c, peer)
        for c, peer in judge.driver.guard._owners[1].items()
        if peer not in (accuser.me, judge.me, partner.me)
    )
    honest = next(m for m in swarm.members if m.me == owner)
    kept = honest.driver.guard.served("audit", 1, chunk)
    assert kept is not None
    record, payloads = audit.unpack(memoryview(kept.path.read_bytes()))
    place = [bytes(signed.signer) for signed in record.pledges].index(partner.me)
    other = bytes([payloads[place][0] ^ 1]) + bytes(payloads[place][1:])
    body = pb.Pledge.FromString(record.pledges[place].body)
    body.digests[chunk] = audit.digest_of(other)
    record.pledges[place].CopyFrom(swarm._keys[2].sign(pledge.KIND, body.SerializeToString()))
    proof = accuser.driver.guard._around.records.path("proof", 1, chunk)
    proof.write_bytes(b"".join([*payloads[:place], other, *payloads[place + 1 :], audit.tail(record)]))
    if not told:
        del judge.driver.guard.pledging.held._held[partner.me]
    said = pb.Accusation(version=1, chunk=chunk, owner=owner, proof=True)
    await judge.driver.received(accuser.me, pb.Frame(accusation=said), b"")
    auditor = judge.driver.guard.auditor
    await until(lambda: auditor._accusations.empty() and not auditor._one.locked())
    standings = judge.driver.guard._around.standings.standings
    if told:
        await until(lambda: standings.strikes[standing.TWO_PLEDGES] > 0)
    assert why(judge, partner) == (standing.TWO_PLEDGES if told else None)
    assert standings.score(owner) == standings.score(accuser.me) == 1
