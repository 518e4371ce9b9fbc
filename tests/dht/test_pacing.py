"""Whoever asks the DHT for too much waits, and then hears no; others are answered."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from atoll.dht import pacing
from atoll.dht.discovery import MAX_FOUND
from atoll.dht.pacing import Pace, TooMuch

A, B = PeerID(b"a" * 38), PeerID(b"b" * 38)
ALL = pacing.BURST * pacing.PART_OF_BYTES
"""An answer that costs all that may be saved up."""


@dataclasses.dataclass
class Around:
    """A clock that stands still but for who sleeps, and what was answered."""

    now: float = 1000.0
    answered: list[tuple[PeerID, int]] = dataclasses.field(default_factory=list)
    slept: list[float] = dataclasses.field(default_factory=list)
    response: bytes = b""
    wrong: int = 0
    wrong_each: int = 0

    def __post_init__(self) -> None:
        self.pace = Pace(lambda: self.wrong, lambda: self.now, self.sleep)

    async def ask(self, request: bytes, peer: PeerID, stores: bool = False) -> bytes:
        who = await self.pace.turn(peer, len(request))
        return await self.pace.answer(who, peer, request, self.handle, stores)

    async def store(self, request: bytes, peer: PeerID) -> bytes:
        return await self.ask(request, peer, stores=True)

    async def handle(self, request: bytes, peer: PeerID) -> bytes:
        self.answered.append((peer, len(request)))
        self.wrong += self.wrong_each
        return self.response

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def exhaust(self, peer: PeerID, times: int = 1) -> None:
        """One request that costs so many times what may be saved up."""
        self.response = bytes(times * ALL)
        await self.ask(b"x", peer)
        self.response = b""


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    monkeypatch.setattr(pacing, "MAX_ANSWER_BYTES", 10 * ALL)
    return Around()


async def test_a_peer_that_asks_little_is_answered_at_once(around: Around):
    for _ in range(1000):
        await around.ask(b"who is there?", A)
        around.now += 0.1
    assert len(around.answered) == 1000 and not around.slept


async def test_a_node_of_the_largest_swarm_is_never_refused(around: Around):
    """What it asks of one holder of the swarm's records: it looks, announces itself, and hands over."""
    records = bytes(MAX_FOUND * 640)
    for number in range(60):
        around.response = records
        await around.ask(b"key", A)
        if number % 3 == 0:
            await around.ask(b"key", A)
            around.response = b""
            await around.store(bytes(640), A)
            around.response = records
            await around.ask(b"key", A)
        if number % 30 == 0:
            around.response = b""
            await around.store(records, A)
        around.now += 10.0
    assert around.pace.refused == 0 and sum(around.slept) < 60.0


async def test_what_was_saved_up_goes_at_once_and_what_comes_then_waits_for_its_turn(around: Around):
    await around.exhaust(A)
    await around.ask(b"x" * 8, A)
    each = (pacing.LEAST + 1) / pacing.PER_S
    assert around.slept == [pytest.approx(each, rel=1e-3)]
    await around.ask(b"x" * 8, A)
    assert around.slept[1:] == [pytest.approx(each)]
    assert [peer for peer, _ in around.answered] == [A, A, A] and around.pace.refused == 0


async def test_whose_turn_is_far_off_hears_no_after_a_while_and_others_are_answered(around: Around):
    for n in range(3):
        await around.exhaust(A, 4)
        with pytest.raises(TooMuch):
            await around.ask(b"x", A)
        assert around.pace.refused == n + 1
        await around.ask(b"x", B)
        around.now += 4 * pacing.BURST / pacing.PER_S  # none of what was refused counts
    assert set(around.slept) == {pacing.PATIENCE_S}


async def test_debt_has_an_end(around: Around):
    await around.exhaust(A, 9)
    around.now += pacing.MOST_DEBT_S
    await around.ask(b"x", A)
    assert len(around.answered) == 2 and not around.slept


async def test_records_that_are_refused_cost_far_more_than_others(around: Around):
    around.wrong_each = 10 * pacing.BURST // pacing.PER_WRONG
    await around.ask(b"x", A)
    await around.ask(b"x", A)
    assert not around.slept, "somebody else's, meanwhile"
    await around.store(b"x", A)
    with pytest.raises(TooMuch):
        await around.store(b"x", A)
    await around.store(b"x", B)


async def test_what_is_too_large_is_not_read_and_not_sent(around: Around, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TooMuch):
        await around.ask(bytes(pacing.MAX_REQUEST_BYTES + 1), A)
    assert not around.slept and not around.answered
    await around.ask(bytes(pacing.MAX_REQUEST_BYTES), A)
    monkeypatch.setattr(pacing, "MAX_ANSWER_BYTES", 10)
    around.response = bytes(10)
    assert await around.ask(b"x", B) == bytes(10)
    around.response = bytes(11)
    with pytest.raises(TooMuch):
        await around.ask(b"x", B)
    assert around.pace.refused == 2


async def test_a_question_is_for_a_few_keys_each_of_them_once(around: Around):
    ask = pacing.few_keys(around.pace, around.handle)

    def of(*keys: int) -> bytes:
        return bytes(dht_pb2.FindRequest(keys=[bytes([key]) for key in keys]).SerializeToString())

    await ask(of(*range(pacing.MAX_KEYS)), A)
    for wrong in (range(pacing.MAX_KEYS + 1), (1, 2, 1)):
        with pytest.raises(TooMuch):
            await ask(of(*wrong), A)
    assert len(around.answered) == 1


class Asleep:
    """Whoever waits does so until all are woken."""

    def __init__(self, around: Around) -> None:
        self.event = asyncio.Event()
        self.pace = around.pace = Pace(lambda: 0, lambda: around.now, self.sleep)
        self.ask = around.ask

    async def sleep(self, seconds: float) -> None:
        await self.event.wait()

    async def waits(self, size: int, peer: PeerID) -> asyncio.Task[bytes]:
        task = asyncio.create_task(self.ask(bytes(size), peer))
        await asyncio.sleep(0)
        assert not task.done()
        return task


async def test_so_many_may_wait_and_no_more(around: Around):
    asleep = Asleep(around)
    await around.exhaust(A)
    waiting = [await asleep.waits(1, A) for _ in range(pacing.MAX_WAITING)]
    with pytest.raises(TooMuch):
        await asleep.ask(b"x", A)
    await asleep.ask(b"x", B)
    waiting.pop().cancel()
    await asyncio.sleep(0)
    waiting.append(await asleep.waits(1, A))
    asleep.event.set()
    await asyncio.gather(*waiting)
    assert asleep.pace.refused == 1 and len(around.answered) == 2 + pacing.MAX_WAITING


async def test_too_many_peers_share_what_one_may_ask_for(around: Around, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pacing, "MAX_PEERS", 2)
    late, later = PeerID(b"c" * 38), PeerID(b"d" * 38)
    for peer in (A, B, late):
        await around.exhaust(peer, 4)
    with pytest.raises(TooMuch):
        await around.ask(b"x", later)
    around.now += pacing.MOST_DEBT_S + pacing.BURST / pacing.PER_S
    await around.exhaust(late, 4)
    await around.ask(b"x", later)
    assert around.pace.refused == 1, "those who asked long ago have made room"
