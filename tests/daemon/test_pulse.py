"""The pulse: stalls with their place, jumps of the clock with their size."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from atoll.daemon import pulse
from atoll.daemon.pulse import JUMP_S, STALL_S, Pulse


class Clocks:
    """Both clocks, and what was told."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.wall = 1e9
        self.stalls: list[tuple[float, str]] = []
        self.jumps: list[float] = []

    def pass_(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def made(clocks: Clocks) -> Iterator[Pulse]:
    made = Pulse(
        lambda: clocks.monotonic,
        lambda: clocks.wall,
        lambda silent, where: clocks.stalls.append((silent, where)),
        clocks.jumps.append,
    )
    yield made
    made.close()
    assert "pulse" not in {thread.name for thread in threading.enumerate()}


def test_a_steady_pulse_tells_nothing(clocks: Clocks, made: Pulse):
    for _ in range(10):
        clocks.pass_(STALL_S / 2)
        made.look()
        made.beat()
    assert clocks.stalls == [] and clocks.jumps == []


def test_a_stall_is_told_once_with_its_place(clocks: Clocks, made: Pulse):
    clocks.pass_(3 * STALL_S)
    made.look()
    made.look()
    made.beat()
    made.beat()
    ((silent, where),) = clocks.stalls
    assert silent == 3 * STALL_S and "test_a_stall_is_told" in where


def test_the_thread_looks_by_itself(clocks: Clocks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pulse, "STALL_S", 0.01)
    looked = threading.Event()
    watched = Pulse(lambda: clocks.monotonic, lambda: clocks.wall, lambda *_: None, clocks.jumps.append)
    watched.look = looked.set  # type: ignore[method-assign]
    assert looked.wait(10)
    watched.close()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_is_told(clocks: Clocks, made: Pulse, jump: float):
    clocks.pass_(1.0)
    clocks.wall += jump
    made.beat()
    clocks.wall += JUMP_S / 2
    made.beat()
    assert clocks.jumps == [jump]


async def test_delays_in_rounds_are_measured_by_themselves(clocks: Clocks) -> None:
    """Outside rounds a late loop says nothing; in rounds 99 of 100 beats do."""
    rounds = iter([False] * 50 + [True] * 200)
    beats = 0

    async def sleep(pause: float) -> None:
        nonlocal beats
        beats += 1
        # Very late outside; in rounds 1 ms, and now and then 40 ms.
        late = 1.0 if pause == pulse.BEAT_S else 0.04 if beats % 40 == 0 else 0.001
        clocks.pass_(pause + late)

    made = Pulse(
        lambda: clocks.monotonic,
        lambda: clocks.wall,
        lambda *_: None,
        clocks.jumps.append,
        lambda: next(rounds),
    )
    assert made.round_lag_p99_s is None
    with pytest.raises(RuntimeError, match="StopIteration"):
        await made.beats(sleep)
    made.close()
    assert made.round_lag_p99_s == pytest.approx(0.04) and made.lag_s > 0.5
