"""The transfer machine on a virtual clock: any holders, losses, liars and stalls; whole or with reasons."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.peers import transfer as tr
from atoll.peers.pacing import RateCap

PIECE = 100
LIMITS = tr.Limits(8 * PIECE, 4 * PIECE)


def content_of(size: int) -> tr.Content:
    data = hashlib.shake_128(b"x").digest(size)
    pieces = [data[at : at + PIECE] for at in range(0, size, PIECE)]
    return tr.Content(size, tuple(hashlib.sha256(p).digest() for p in pieces), PIECE)


@dataclass(frozen=True)
class Holder:
    """How a holder behaves. Counts are of pieces that it sent; None: never."""

    speed: float = 1000.0
    latency: float = 0.01
    lies_at: int | None = None
    breaks_every: int | None = None
    stalls_at: int | None = None
    refuses_at: int | None = None
    comes_at: float = 0.0
    leaves_at: float | None = None
    returns_at: float | None = None

    @property
    def sound(self) -> bool:
        faults = (self.lies_at, self.breaks_every, self.stalls_at, self.refuses_at, self.leaves_at)
        return self.comes_at == 0.0 and all(fault is None for fault in faults)


@dataclass
class World:
    """Carries the machine's requests out, piece by piece, on a virtual clock."""

    holders: dict[bytes, Holder]
    content: tr.Content
    good: tuple[int, ...] = ()
    cap: RateCap | None = None
    now: float = 0.0
    kept: Counter[int] = field(default_factory=Counter)
    came: Counter[bytes] = field(default_factory=Counter)
    sent: Counter[bytes] = field(default_factory=Counter)
    asked: list[tuple[float, bytes, int, int]] = field(default_factory=list)
    dropped: dict[bytes, str] = field(default_factory=dict)
    most_in_flight: int = 0
    ends: list[tr.Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        present = [h for h, how in self.holders.items() if how.comes_at == 0.0]
        self.machine = tr.Transfer(self.content, present, self.good, self.cap, LIMITS)
        self._heap: list[tuple[float, int, int | None, tr.Event]] = []
        self._order = 0
        self._live: dict[int, bytes] = {}
        self._busy_until: dict[bytes, float] = {}
        for peer, how in self.holders.items():
            for at, event in (
                (how.comes_at or None, tr.HolderCame(peer)),
                (how.leaves_at, tr.HolderLeft(peer, "its link ended")),
                (how.returns_at, tr.HolderCame(peer)),
            ):
                if at is not None:
                    self._push(at, None, event)

    def _push(self, at: float, request: int | None, event: tr.Event) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, request, event))

    def run(self, until: float = 1e6) -> World:
        self._carry_out(self.machine.start(self.now))
        turns = 0
        while self.machine.over is None and self.now < until:
            turns += 1
            assert turns < 100_000, "the machine spins"
            next_event = self._heap[0][0] if self._heap else math.inf
            deadline = self.machine.deadline()
            assert min(next_event, deadline) < math.inf, "nothing will ever happen again"
            if deadline <= next_event:
                self.now = max(self.now, deadline)
                self._carry_out(self.machine.tick(self.now))
                continue
            self.now, _, request, event = heapq.heappop(self._heap)
            if request is None or request in self._live:
                if isinstance(event, tr.PieceCame | tr.Ended):
                    self.came[self._live[event.request]] += 1
                if isinstance(event, tr.Ended):
                    del self._live[event.request]
                self._carry_out(self.machine.handle(event, self.now))
        return self

    def _carry_out(self, effects: list[tr.Effect]) -> None:
        for effect in effects:
            match effect:
                case tr.Ask():
                    self._ask(effect)
                case tr.Cancel():
                    if (holder := self._live.pop(effect.request, None)) is not None:
                        self._busy_until[holder] = self.now
                case tr.Keep():
                    self.kept[effect.piece] += 1
                case tr.Dropped():
                    assert effect.holder not in self.dropped
                    self.dropped[effect.holder] = effect.reason
                case tr.Done() | tr.Failed():
                    self.ends.append(effect)
        self.most_in_flight = max(self.most_in_flight, self.machine.in_flight)

    def _ask(self, ask: tr.Ask) -> None:
        assert ask.holder not in self.dropped, "asked although it was dropped"
        assert ask.count >= 1 and ask.first + ask.count <= len(self.content.digests)
        how = self.holders[ask.holder]
        assert how.comes_at <= self.now
        self.asked.append((self.now, ask.holder, ask.first, ask.count))
        self._live[ask.request] = ask.holder
        at = max(self.now, self._busy_until.get(ask.holder, 0.0)) + how.latency
        self._push(at, ask.request, tr.Received(ask.request, 0))
        for piece in range(ask.first, ask.first + ask.count):
            self.sent[ask.holder] += 1
            count = self.sent[ask.holder]
            if how.refuses_at is not None and count > how.refuses_at:
                self._push(at, ask.request, tr.Ended(ask.request, "not_found", refused=True))
                break
            if how.stalls_at is not None and count > how.stalls_at:
                break
            if how.breaks_every is not None and count % how.breaks_every == 0:
                self._push(at, ask.request, tr.Ended(ask.request, "the connection broke"))
                break
            size = self.content.size(piece)
            self._push(at + size / how.speed / 2, ask.request, tr.Received(ask.request, size))
            at += size / how.speed
            digest = self.content.digests[piece]
            if how.lies_at is not None and count > how.lies_at:
                digest = b"\0" * 32
            self._push(at, ask.request, tr.PieceCame(ask.request, digest))
        self._busy_until[ask.holder] = at


def names(count: int) -> list[bytes]:
    return [b"holder-%d" % n for n in range(count)]


def world(size: int, *holders: Holder, **more: object) -> World:
    named = dict(zip(names(len(holders)), holders, strict=True))
    return World(named, content_of(size), **more)  # type: ignore[arg-type]


def check(w: World) -> None:
    """What holds at the end of every transfer."""
    pieces = set(range(len(w.content.digests)))
    assert len(w.ends) == 1
    assert w.most_in_flight <= LIMITS.in_flight_bytes
    assert all(count == 1 for count in w.kept.values()), "a piece was written twice"
    assert not set(w.kept) & set(w.good), "a piece that was here was written again"
    assert w.machine.handle(tr.HolderCame(b"late"), w.now) == [] and w.machine.deadline() == math.inf
    match w.machine.over:
        case tr.Done():
            assert set(w.kept) | set(w.good) == pieces
        case tr.Failed(reasons):
            assert set(reasons) == {h for h, how in w.holders.items() if how.comes_at <= w.now}
            assert all(reasons.values())
            assert not any(how.sound for how in w.holders.values())
    for holder, reason in w.dropped.items():
        if reason == tr.DAMAGED:
            assert w.holders[holder].lies_at is not None


maybe = st.none() | st.integers(0, 12)
behaviours = st.builds(
    Holder,
    speed=st.sampled_from([5.0, 100.0, 1000.0, 1e5]),
    latency=st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    lies_at=maybe,
    breaks_every=st.none() | st.integers(1, 9),
    stalls_at=maybe,
    refuses_at=maybe,
    comes_at=st.sampled_from([0.0, 0.0, 0.5, 20.0]),
    leaves_at=st.none() | st.floats(1.0, 60.0),
    returns_at=st.none() | st.floats(60.0, 120.0),
)


@settings(max_examples=400, deadline=None)
@given(
    size=st.integers(0, 40 * PIECE),
    holders=st.lists(st.one_of(behaviours, st.just(Holder())), min_size=1, max_size=7),
    data=st.data(),
    rate=st.sampled_from([0, 0, 50, 5000]),
)
def test_whole_or_failed_with_all_named(
    size: int, holders: list[Holder], data: st.DataObject, rate: int
) -> None:
    pieces = -(-size // PIECE)
    good = data.draw(st.sets(st.integers(0, pieces - 1))) if pieces else set()
    w = world(size, *holders, good=tuple(sorted(good)), cap=RateCap(rate))
    check(w.run())
    again = world(size, *holders, good=tuple(sorted(good)), cap=RateCap(rate))
    again.run()
    assert again.asked == w.asked and again.now == w.now, "the same events gave other requests"


def test_fast_holders_bring_more() -> None:
    w = world(100 * PIECE, Holder(speed=10_000), Holder(speed=1000), Holder(speed=100)).run()
    fast, middle, slow = (w.came[name] for name in names(3))
    check(w)
    assert fast > 3 * middle > 3 * slow > 0
    # The fast ones alone would need 0.91 s; the slow one, which sends a piece a second, keeps nobody waiting.
    assert w.now < 2.5


def test_several_holders_are_asked_at_once() -> None:
    w = world(40 * PIECE, *[Holder()] * 4).run()
    check(w)
    assert all(w.came[name] >= 8 for name in names(4))
    assert w.now < 1.5  # alone: 4 s


def test_a_piece_that_a_stalled_holder_sits_on_is_asked_of_another() -> None:
    w = world(10 * PIECE, Holder(), Holder(stalls_at=1)).run()
    check(w)
    assert isinstance(w.machine.over, tr.Done) and w.now < 5.0
    assert w.machine.reasons == {}, "it was given up, not only relieved"


def test_many_slow_holders_do_not_starve_a_fast_one() -> None:
    w = world(40 * PIECE, *[Holder(speed=1)] * 9, Holder(speed=1000)).run()
    check(w)
    assert w.came[names(10)[9]] >= 35 and w.now < 60.0


def test_a_liar_is_dropped_and_named() -> None:
    w = world(20 * PIECE, Holder(), Holder(lies_at=2)).run()
    check(w)
    assert w.dropped == {names(2)[1]: tr.DAMAGED}
    assert isinstance(w.machine.over, tr.Done)


def test_a_refusal_is_for_good_and_a_break_is_not() -> None:
    w = world(20 * PIECE, Holder(breaks_every=4), Holder(refuses_at=3)).run()
    check(w)
    assert isinstance(w.machine.over, tr.Done)
    assert w.dropped == {names(2)[1]: "not_found"}


def test_a_holder_that_only_breaks_is_given_up() -> None:
    w = world(PIECE, Holder(breaks_every=1)).run()
    check(w)
    assert w.machine.over == tr.Failed({names(1)[0]: "the connection broke"})
    assert len(w.asked) == tr.MAX_STRIKES
    assert w.now == pytest.approx(3.03)  # after pauses of one and two seconds


def test_the_only_holder_stalls() -> None:
    w = world(5 * PIECE, Holder(stalls_at=2)).run()
    check(w)
    assert isinstance(w.machine.over, tr.Failed) and "sent nothing" in w.machine.over.reasons[names(1)[0]]
    assert w.now < 3 * tr.STALL_CAP_S + 10


def test_holders_come_and_go() -> None:
    w = world(
        60 * PIECE,
        Holder(speed=100, leaves_at=5.0, returns_at=20.0),
        Holder(speed=100, comes_at=4.0, leaves_at=30.0),
    ).run()
    check(w)
    assert isinstance(w.machine.over, tr.Done)
    assert not [at for at, name, *_ in w.asked if name == names(2)[0] and 5.0 <= at < 20.0]


def test_nobody_left_is_a_failure_and_nobody_at_the_start_too() -> None:
    w = world(10 * PIECE, Holder(speed=10, leaves_at=3.0)).run()
    check(w)
    assert w.machine.over == tr.Failed({names(1)[0]: "its link ended"})
    assert world(10).machine.start(0.0) == [tr.Failed({})]


def test_what_is_here_is_not_asked_for() -> None:
    w = world(10 * PIECE, Holder(), good=(0, 3, 4, 9)).run()
    check(w)
    assert sorted(w.kept) == [1, 2, 5, 6, 7, 8]
    assert world(10 * PIECE, good=tuple(range(10))).machine.start(0.0) == [tr.Done()]
    assert world(0).machine.start(0.0) == [tr.Done()]


def test_the_cap_spreads_the_requests() -> None:
    w = world(20 * PIECE, Holder(speed=1e6), Holder(speed=1e6), cap=RateCap(PIECE)).run()
    check(w)
    assert 19.0 <= w.now < 20.0
    assert all(count == 1 for _, _, _, count in w.asked)


def test_requests_that_are_not_known_are_nothing() -> None:
    machine = tr.Transfer(content_of(PIECE), [b"a"], limits=LIMITS)
    machine.start(0.0)
    for event in (tr.Received(9, 5), tr.PieceCame(9, b""), tr.Ended(9, "x"), tr.HolderLeft(b"z", "x")):
        assert machine.handle(event, 0.0) == []


def test_a_content_has_a_digest_for_each_piece_and_a_name() -> None:
    with pytest.raises(ValueError, match="pieces"):
        tr.Content(201, (b"x" * 32,) * 2, 100)
    one = content_of(250)
    assert [one.size(p) for p in range(3)] == [100, 100, 50] and one.span_bytes(1, 3) == 150
    assert one.id == content_of(250).id != content_of(249).id


def trickle(content: tr.Content, rate: int) -> tuple[tr.Transfer, float]:
    """One holder that sends `rate` bytes each second, never silent, until the transfer is over."""
    machine, now = tr.Transfer(content, [b"slow"]), 0.0
    open_asks = {e.request: e for e in machine.start(now) if isinstance(e, tr.Ask)}
    sent: Counter[int] = Counter()
    while machine.over is None and now < 24 * 3600:
        now += 1.0
        effects = machine.tick(now)
        for request, ask in list(open_asks.items())[:1]:
            sent[request] += rate
            effects += machine.handle(tr.Received(request, rate), now)
            if sent[request] >= content.size(ask.first):
                effects += machine.handle(tr.PieceCame(request, content.digests[ask.first]), now)
                open_asks.pop(request)
        for effect in effects:
            if isinstance(effect, tr.Ask):
                open_asks[effect.request] = effect
            elif isinstance(effect, tr.Cancel):
                open_asks.pop(effect.request, None)
    return machine, now


def test_a_holder_that_trickles_is_given_up_and_a_slow_line_is_not() -> None:
    large = tr.Content(4 << 20, tuple(bytes([n]) * 32 for n in range(4)))
    machine, now = trickle(large, tr.SLOW_BYTES_PER_S // 2)
    assert isinstance(machine.over, tr.Failed) and "too slow" in machine.over.reasons[b"slow"]
    assert now < tr.MAX_STRIKES * (tr.SLOW_WINDOW_S + 5.0)
    assert isinstance(trickle(large, tr.SLOW_BYTES_PER_S * 11 // 10)[0].over, tr.Done)


def test_the_least_rate_is_less_for_small_files() -> None:
    small = tr.Content(3000, (b"x" * 32,))
    assert isinstance(trickle(small, 110)[0].over, tr.Done)
    assert isinstance(trickle(small, 1)[0].over, tr.Failed)


def test_holders_that_share_a_line_need_the_least_rate_only_together() -> None:
    content = tr.Content(16 << 20, tuple(bytes([n]) * 32 for n in range(16)))
    machine = tr.Transfer(content, [b"holder-%d" % n for n in range(8)])
    asks = [e for e in machine.start(0.0) if isinstance(e, tr.Ask)]
    assert len(asks) == 8
    for second in range(1, 90):
        for ask in asks:
            rate = tr.SLOW_BYTES_PER_S // 8
            assert not machine.handle(tr.Received(ask.request, rate), float(second))
        assert not any(isinstance(effect, tr.Dropped) for effect in machine.tick(float(second)))
    assert machine.reasons == {} and all(h.strikes == 0 for h in machine._holders.values())
