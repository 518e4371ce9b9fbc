"""Which way bulk frames take: what measured faster, the other one now and then."""

from __future__ import annotations

import pytest

from atoll.peers.ways import FIRST_TRIAL_FRAMES, TRIAL_EVERY_S, TRIAL_FRAMES, WARM_FRAMES, Way, Ways

SIZE = 1 << 20


class Line:
    """A link whose ways take a fixed time for a frame."""

    def __init__(self, lane_s: float, libp2p_s: float) -> None:
        self.ways = Ways()
        self.took = {Way.LANE: lane_s, Way.LIBP2P: libp2p_s}
        self.now = 0.0
        self.number = 0

    def send(self, count: int = 1) -> list[Way]:
        chosen = []
        for _ in range(count):
            self.number += 1
            way = self.ways.choose(self.now)
            self.ways.began(self.number, way, SIZE, self.now)
            self.now += self.took[way]
            self.ways.acknowledged(self.number, self.now)
            chosen.append(way)
        return chosen


def test_the_lane_is_taken_first_and_libp2p_is_tried():
    line = Line(0.1, 1.0)
    assert line.send(FIRST_TRIAL_FRAMES) == [Way.LANE] * FIRST_TRIAL_FRAMES
    assert line.send(4) == [Way.LIBP2P] * TRIAL_FRAMES + [Way.LANE] * (4 - TRIAL_FRAMES)
    assert line.ways.preferred is Way.LANE
    assert line.ways.rate_bps(Way.LANE) == pytest.approx(8 * SIZE / 0.1)
    assert line.ways.rate_bps(Way.LIBP2P) == pytest.approx(8 * SIZE / 1.0)


def test_the_faster_way_is_taken_and_the_other_one_tried_now_and_then():
    line = Line(1.0, 0.1)
    line.send(FIRST_TRIAL_FRAMES + TRIAL_FRAMES)
    assert line.send(100) == [Way.LIBP2P] * 100
    line.now += TRIAL_EVERY_S
    assert line.send(4) == [Way.LIBP2P] * 4, "ten times slower, ten times rarer"
    line.now += 10 * TRIAL_EVERY_S
    assert line.send(4) == [Way.LANE] * TRIAL_FRAMES + [Way.LIBP2P] * 2
    line.took[Way.LANE] = 0.01
    for _ in range(8):
        line.now += 10 * TRIAL_EVERY_S
        line.send(TRIAL_FRAMES)
    assert line.ways.preferred is Way.LANE and line.send(3) == [Way.LANE] * 3


def test_libp2p_has_to_be_clearly_faster():
    line = Line(0.11, 0.1)
    line.send(FIRST_TRIAL_FRAMES + TRIAL_FRAMES)
    assert line.ways.preferred is Way.LANE


def test_frames_on_their_way_together_are_not_counted_twice():
    ways = Ways()
    for number in (1, 2, 3):
        ways.began(number, Way.LIBP2P, SIZE, 0.0)
    for number in (1, 2, 3):
        ways.acknowledged(number, float(number))
    assert ways.rate_bps(Way.LIBP2P) == pytest.approx(8 * SIZE / 1.0)
    ways.acknowledged(3, 9.0)
    ways.acknowledged(77, 9.0)
    assert ways.rate_bps(Way.LIBP2P) == pytest.approx(8 * SIZE / 1.0), "what was not sent does not count"


def test_a_lane_that_is_warming_up_is_not_judged():
    line = Line(5.0, 1.0)
    line.send(WARM_FRAMES)
    assert line.ways.rate_bps(Way.LANE) == 0.0
    line.took[Way.LANE] = 0.5
    line.send(1)
    assert line.ways.rate_bps(Way.LANE) == pytest.approx(8 * SIZE / 0.5)


def test_small_frames_say_nothing():
    ways = Ways()
    ways.began(1, Way.LIBP2P, 100, 0.0)
    ways.acknowledged(1, 1.0)
    assert ways.rate_bps(Way.LIBP2P) == 0.0
