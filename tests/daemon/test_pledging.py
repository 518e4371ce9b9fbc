"""The exchange of pledges: who is waited for, and what comes too early or too late for an attempt."""

from __future__ import annotations

import asyncio

import pytest

from atoll.daemon.rounds.pledging import Pledging
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.pledge import PledgeError, Pledges, make

from .swarm import keyring

ME, OTHER = keyring(0), keyring(1)
SWARM = b"s" * 32
DIGESTS = {0: b"d" * 32}


def plan(view: int = 0) -> pb.Plan:
    return pb.Plan(
        swarm_id=SWARM,
        session=pb.SessionId(parent=b"p" * 32, view=view, leader=ME.peer_id),
        contributors=sorted(
            (pb.Contributor(peer=keys.peer_id, offer=3) for keys in (ME, OTHER)), key=lambda c: c.peer
        ),
        owners=[0],
        codec="int8",
        scatter_s=3600.0,
    )


class Rig:
    """A node that waits for one other, for hours if it has to."""

    def __init__(self) -> None:
        self.present = {ME.peer_id, OTHER.peer_id}
        self.sent: list[tuple[bytes, pb.Frame]] = []
        held = Pledges(ME, SWARM, [(0,)])
        self.pledging = Pledging(ME, held, lambda *what: self.sent.append(what), lambda: self.present)
        self.pledging.pledge(plan(), DIGESTS)

    def begin(self, view: int = 0) -> asyncio.Task[None]:
        return asyncio.create_task(self.pledging.exchange(plan(view)))


async def done(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        await task


async def test_it_ends_with_the_last_pledge() -> None:
    rig = Rig()
    task = rig.begin()
    await asyncio.sleep(0)
    assert not task.done() and [peer for peer, _ in rig.sent] == [OTHER.peer_id]
    rig.pledging.take(OTHER.peer_id, make(OTHER, plan(), DIGESTS))
    await done(task)


async def test_who_takes_no_part_any_more_is_not_waited_for() -> None:
    rig = Rig()
    task = rig.begin()
    await asyncio.sleep(0)
    rig.present.discard(OTHER.peer_id)
    rig.pledging.changed()
    await done(task)


async def test_a_pledge_too_late_for_one_attempt_counts_in_the_next() -> None:
    rig = Rig()
    rig.present.discard(OTHER.peer_id)
    await done(rig.begin())
    signed = make(OTHER, plan(), DIGESTS)
    with pytest.raises(PledgeError, match="after contributions were shown"):
        rig.pledging.take(OTHER.peer_id, signed)
    session = plan().session
    assert rig.pledging.held.fits(OTHER.peer_id, session, 0, DIGESTS[0]) is None
    rig.present.add(OTHER.peer_id)
    await done(rig.begin(view=1))
    assert await rig.pledging.fits(OTHER.peer_id, session, 0, DIGESTS[0])


async def test_a_pledge_is_its_senders_own() -> None:
    with pytest.raises(PledgeError, match="somebody else"):
        Rig().pledging.take(ME.peer_id, make(OTHER, plan(), DIGESTS))
