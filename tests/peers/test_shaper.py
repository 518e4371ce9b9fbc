"""The caps: what goes stays at the rate, in small bursts, and control never waits. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from atoll.peers.line import FRAMING, Caps, Kind, Line, LinkUse
from atoll.peers.shaper import BURST_BYTES, MAX_SLICE_BYTES, Rank, Shaper

LATE_S = 0.0011
"""How late the timers of this loop are."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only where nothing else is to be done, and a little more than was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def jump(timeout: float | None = None) -> Any:
            if timeout:
                self.now += timeout + LATE_S
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self.now


def run(body: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(body(loop), 10_000))
    finally:
        loop.close()


async def send(shaper: Shaper, size: int, went: list[tuple[float, int]], loop: VirtualLoop) -> None:
    turn, step = shaper.turn(), shaper.slice_bytes(1 << 18)
    for start in range(0, size, step):
        part = min(step, size - start)
        await shaper.take(part, turn)
        went.append((loop.now, part))


@pytest.mark.parametrize("mbit", [0.5, 2, 20, 100, 400])
def test_several_senders_hold_the_rate_together_and_in_small_bursts(mbit: float) -> None:
    async def body(loop: VirtualLoop) -> None:
        rate = mbit * 125_000
        shaper, went = Shaper(rate, loop.time), list[tuple[float, int]]()
        await asyncio.gather(*(send(shaper, int(rate), went, loop) for _ in range(5)))
        sent = sum(size for _, size in went)
        allowed = max(BURST_BYTES, 0.002 * rate) + MAX_SLICE_BYTES
        assert loop.now * 0.99 < sent / rate < loop.now + allowed / rate, "late timers cost nothing"
        for first in range(0, len(went), 7):
            total = 0
            for now, size in went[first : first + 300]:
                total += size
                assert total <= rate * (now - went[first][0]) + allowed + 1

    run(body)


def test_what_began_first_ends_first_and_files_wait_but_not_for_ever() -> None:
    async def body(loop: VirtualLoop) -> None:
        shaper, ended = Shaper(100_000, loop.time), list[str]()

        async def one(name: str, rank: Rank, size: int = 50_000) -> None:
            turn = shaper.turn(rank)
            for _ in range(size // 5000):
                await shaper.take(5000, turn)
            ended.append(name)

        names = [("a", Rank.ROUNDS), ("file", Rank.STATE), ("b", Rank.ROUNDS), ("late", Rank.LATE)]
        await asyncio.gather(*(one(*each) for each in names))
        assert ended == ["late", "a", "b", "file"]

        line = Line(Caps(up_bps=8 * FRAMING * 100_000), loop.time)
        rounds = asyncio.create_task(send(line.up, 5_000_000, [], loop))  # 50 s of it
        await asyncio.sleep(0.1)
        began = loop.now
        await line.send_state(5000)
        assert 4 < loop.now - began < 7 and not rounds.done()
        assert line.sent == {Kind.STATE: 5000}
        rounds.cancel()

    run(body)


def test_control_never_waits_and_bulk_makes_up_for_it() -> None:
    async def body(loop: VirtualLoop) -> None:
        line = Line(Caps(up_bps=8 * FRAMING * 100_000, down_bps=8 * FRAMING * 100_000), loop.time)
        use = LinkUse(line, lambda size: None)
        for _ in range(100):
            use.sent_control(2000)
            use.read_control(2000)
        assert loop.now == 0 and line.sent[Kind.CONTROL] == 200_000 == line.received[Kind.CONTROL]
        await line.up.take(1, line.up.turn())
        await line.down.take(1, line.down.turn())
        assert 1.6 < loop.now < 2.01

    run(body)


def test_another_cap_holds_for_whoever_waits_already() -> None:
    async def body(loop: VirtualLoop) -> None:
        line = Line(Caps(), loop.time)
        assert not line.up.active
        line.limit(Caps(up_bps=8 * FRAMING * 10_000))
        assert line.up.active and not line.down.active
        ended: list[float] = []

        async def one(size: int) -> None:
            await send(line.up, size, [], loop)
            ended.append(loop.now)

        slow = asyncio.create_task(one(1_000_000))  # 100 s of it
        await asyncio.sleep(10)
        line.limit(Caps(up_bps=8 * FRAMING * 1_000_000))
        await slow
        assert 10.5 < ended[0] < 12
        line.limit(Caps(up_bps=8 * FRAMING * 1000))
        line.up.spend(1_000_000)
        waiting = asyncio.create_task(one(500_000))
        await asyncio.sleep(1)
        line.limit(Caps())
        await waiting
        assert ended[1] < ended[0] + 1.1, "no cap: nothing waits"

    run(body)


def test_whoever_gives_up_is_passed_over() -> None:
    async def body(loop: VirtualLoop) -> None:
        shaper = Shaper(1000, loop.time)
        shaper.spend(100_000)
        gives_up = asyncio.create_task(shaper.take(10_000_000, shaper.turn()))
        await asyncio.sleep(0)
        waits = asyncio.create_task(shaper.take(1, shaper.turn()))
        await asyncio.sleep(1)
        gives_up.cancel()
        await waits
        assert loop.now < 110

    run(body)


def test_without_a_cap_nothing_waits() -> None:
    async def body(loop: VirtualLoop) -> None:
        shaper = Shaper(0.0, loop.time)
        shaper.spend(10**12)
        await shaper.take(10**12, shaper.turn())
        assert loop.now == 0 and shaper.wait_s == 0 and shaper.slice_bytes(123) == 123 and not shaper.active

    run(body)


def test_a_cap_bounds_what_is_said_of_the_line() -> None:
    now = [0.0]
    line = Line(Caps(up_bps=1e6, down_bps=1e6), lambda: now[0])
    use = LinkUse(line, lambda size: None)
    for _ in range(20):
        line.upload.sent(use, 10**6, now[0])
        now[0] += 0.5
        use.confirmed(10**6)
        line.download.came(10**6, now[0])
    assert line.upload_bps == line.download_bps == line.likely_download_bps == int(1e6 / FRAMING)
    line.caps = Caps()
    assert line.upload_bps == 16_000_000 and line.likely_download_bps == 2 * line.download_bps > 3e7
