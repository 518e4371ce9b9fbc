"""Whoever asks the DHT for too much waits, and then hears no; others are answered."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hivemind.p2p import PeerID

from atoll.dht import pacing
from atoll.dht.pacing import Handler, Pace, TooLate, TooMuch

A, B = PeerID(b"a" * 38), PeerID(b"b" * 38)
BIG = pacing.MAX_REQUEST_BYTES


@dataclasses.dataclass
class Around:
    """A clock that stands still but for who sleeps, and what was answered."""

    now: float = 1000.0
    answered: list[tuple[PeerID, int]] = dataclasses.field(default_factory=list)
    slept: list[float] = dataclasses.field(default_factory=list)
    response: bytes = b""

    def __post_init__(self) -> None:
        self.pace = Pace(lambda: self.now, self.sleep)
        self.ask: Handler = self.pace.paced(self.handle)

    async def handle(self, request: bytes, peer: PeerID) -> bytes:
        self.answered.append((peer, len(request)))
        return self.response

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def around() -> Around:
    return Around()


async def test_a_peer_that_asks_little_is_answered_at_once(around: Around):
    for _ in range(1000):
        await around.ask(b"who is there?", A)
        around.now += 0.1
    assert len(around.answered) == 1000 and not around.slept


async def test_what_was_saved_up_goes_at_once_and_what_comes_then_waits_for_its_turn(around: Around):
    await around.ask(bytes(BIG), A)
    await around.ask(b"x", A)
    waited = pacing.LEAST_BYTES / pacing.BYTES_PER_S
    assert around.slept == [pytest.approx(waited)]
    await around.ask(b"x", A)
    assert around.slept[1:] == [pytest.approx((pacing.LEAST_BYTES + 1) / pacing.BYTES_PER_S)]
    assert [peer for peer, _ in around.answered] == [A, A, A] and around.pace.refused == 0


async def test_whose_turn_is_far_off_hears_no_after_a_while_and_others_are_answered(around: Around):
    for n in range(3):
        around.response = bytes(4 * BIG)
        await around.ask(bytes(BIG), A)
        with pytest.raises(TooMuch):
            await around.ask(b"x", A)
        assert around.pace.refused == n + 1
        around.response = b""
        await around.ask(bytes(BIG // 2), B)
        around.now += 4 * BIG / pacing.BYTES_PER_S + 1  # none of what was refused counts
    assert set(around.slept) == {pacing.PATIENCE_S}


async def test_what_is_too_large_is_not_answered_and_not_soon(around: Around):
    with pytest.raises(TooMuch):
        await around.ask(bytes(BIG + 1), A)
    assert around.slept == [pacing.PATIENCE_S] and not around.answered
    await around.ask(bytes(BIG), A)
    assert around.answered == [(A, BIG)]


async def test_long_answers_count_as_well(around: Around):
    around.response = bytes(2 * BIG)
    await around.ask(b"all records", A)
    with pytest.raises(TooMuch):
        await around.ask(b"all records", A)
    assert around.answered == [(A, 11)]


async def test_so_many_may_wait_and_no_more(around: Around):
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await asleep.wait()

    around.pace = Pace(lambda: around.now, sleep)
    ask = around.pace.paced(around.handle)
    await ask(bytes(BIG), A)
    waiting = [asyncio.create_task(ask(b"x", A)) for _ in range(pacing.MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(TooMuch):
        await ask(b"x", A)
    await ask(bytes(BIG), B)
    with pytest.raises(TooMuch):
        await ask(bytes(pacing.MAX_WAITING_BYTES), B)
    assert around.pace.refused == 2 and len(around.answered) == 2
    gone = waiting.pop()
    gone.cancel()
    asleep.set()
    with pytest.raises(TooLate):
        await gone
    await asyncio.gather(*waiting)
    assert len(around.answered) == 1 + pacing.MAX_WAITING
    asleep.clear()
    one = asyncio.create_task(ask(b"x", A))
    await asyncio.sleep(0)
    assert not one.done(), "those who waited have made room"
    one.cancel()
    with pytest.raises(TooLate):
        await one


async def test_peers_that_asked_long_ago_make_room_for_new_ones(
    around: Around, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pacing, "MAX_PEERS", 2)
    await around.ask(b"x", A)
    await around.ask(b"x", B)
    with pytest.raises(TooMuch):
        await around.ask(b"x", PeerID(b"c" * 38))
    await around.ask(b"x", A)
    around.now += 1.0
    await around.ask(b"x", PeerID(b"c" * 38))
    assert len(around.answered) == 4
