"""Hours of the week: what a text means, what is open, and when that changes, also where clocks jump."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon.hours import ALWAYS, MAX_TEXT, Schedule, ScheduleError, is_open, parse, said

DAY = 24 * 60
DAY_S = 86_400.0
EPOCH = datetime(1970, 1, 1)
MONDAY_S = 4 * DAY_S
"""Monday, 5 January 1970, 00:00 in Greenwich."""


def wall(moment_s: float) -> datetime:
    """Clocks without summer time."""
    return EPOCH + timedelta(seconds=moment_s)


def at(day: int, hour: float) -> float:
    return MONDAY_S + day * DAY_S + hour * 3600


def jumping(when_s: float, by_s: float):
    """Clocks that jump at a moment."""
    return lambda moment_s: wall(moment_s + (by_s if moment_s >= when_s else 0.0))


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("", ((0, 7 * DAY),)),
        ("  ", ((0, 7 * DAY),)),
        ("mon", ((0, DAY),)),
        ("sat-sun", ((5 * DAY, 7 * DAY),)),
        ("sat-sun 00:00-24:00", ((5 * DAY, 7 * DAY),)),
        ("Tue 9-17:30", ((DAY + 9 * 60, DAY + 17 * 60 + 30),)),
        ("sun-mon 10:00-11:00", ((600, 660), (6 * DAY + 600, 6 * DAY + 660))),
        ("sun 22:00-07:00", ((0, 420), (6 * DAY + 22 * 60, 7 * DAY))),
        ("mon 22:00-00:00", ((22 * 60, DAY),)),
        ("mon 10-12, mon 11-13, mon 13-14", ((600, 840),)),
        ("fri-mon", ((0, DAY), (4 * DAY, 7 * DAY))),
        ("mon-sun", ((0, 7 * DAY),)),
        ("0:00-24:00", ((0, 7 * DAY),)),
    ],
)
def test_what_a_text_means(text: str, windows: tuple[tuple[int, int], ...]) -> None:
    assert parse(text).windows == windows


def test_nights_and_weekends() -> None:
    found = parse("mon-fri 22:00-07:00, sat-sun 00:00-24:00")
    assert not found.always
    for day, hour, is_so in [
        (0, 6.9, False),  # the night before Monday is not Friday's
        (0, 21.9, False),
        (0, 22, True),
        (1, 6.99, True),
        (1, 7, False),
        (4, 23, True),
        (5, 6, True),
        (5, 12, True),
        (6, 23.99, True),
        (7, 0, False),
    ]:
        assert found.at(wall(at(day, hour))) is is_so, (day, hour)


@pytest.mark.parametrize(
    "text",
    [
        "never", "mo", "mon-", "mon 22:00", "mon 10:00-10:00", "24:00-06:00", "mon 25:00-26:00",
        "mon 10:60-11:00", "mon,,tue", ",", "mon 10:00-12:00 extra", "moon-tue", "mon 10-12;tue",
        "-1:00-2:00", "x" * (MAX_TEXT + 1), "١٢-13",
    ],
)  # fmt: skip
def test_what_is_no_text_of_hours(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse(text)


def test_when_it_changes_next() -> None:
    night = parse("22:00-07:00")
    assert is_open(night, at(2, 12), wall) == (False, at(2, 22))
    assert is_open(night, at(2, 23), wall) == (True, at(3, 7))
    assert is_open(night, at(2, 22), wall) == (True, at(3, 7)), "a window begins with its first moment"
    assert is_open(night, at(3, 7), wall) == (False, at(3, 22)), "and ends before its last"
    weekend = parse("sat-sun")
    assert is_open(weekend, at(0, 0.5), wall) == (False, at(5, 0))
    assert is_open(weekend, at(6, 23), wall) == (True, at(7, 0))
    assert is_open(parse("sun-mon"), at(6, 12), wall) == (True, at(8, 0)), "the week's end is no edge"
    assert is_open(ALWAYS, at(0, 0), wall) == (True, None)
    assert is_open(Schedule(()), at(0, 0), wall) == (False, None)


def test_clocks_that_go_forward_open_what_they_jump_over() -> None:
    clock = jumping(at(6, 2), 3600)  # 02:00 is 03:00
    assert is_open(parse("sun 02:30-05:00"), at(6, 1), clock) == (False, at(6, 2))
    assert is_open(parse("sun 02:30-05:00"), at(6, 2), clock) == (True, at(6, 4))
    assert is_open(parse("sun 01:00-02:30"), at(6, 1.5), clock) == (True, at(6, 2))
    # Window and jump miss each other: an hour of Sunday that does not exist.
    assert is_open(parse("sun 02:00-03:00, mon 10-11"), at(6, 1), clock) == (False, at(7, 9))
    assert is_open(parse("07:00-22:00"), at(5, 23), clock) == (False, at(6, 6))


def test_clocks_that_go_back_open_twice() -> None:
    clock = jumping(at(6, 3), -3600)  # 03:00 is 02:00
    hour = parse("sun 02:15-02:45")
    assert is_open(hour, at(6, 2), clock) == (False, at(6, 2.25))
    assert is_open(hour, at(6, 2.5), clock) == (True, at(6, 2.75))
    assert is_open(hour, at(6, 2.75), clock) == (False, at(6, 3.25)), "again"
    assert is_open(hour, at(6, 3.5), clock) == (True, at(6, 3.75))
    assert is_open(parse("sun 01:00-02:30"), at(6, 2.75), clock) == (False, at(6, 3))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 23), st.integers(1, 24)), min_size=1, max_size=5),
    st.integers(0, 14 * DAY),
    st.sampled_from([0, 3600, -3600, 1800]),
)
def test_nothing_changes_before_that_and_something_does_then(
    items: list[tuple[int, int, int]], minute: int, by_s: int
) -> None:
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    text = ", ".join(f"{days[d]} {s}:00-{e}:00" for d, s, e in items if s != e) or "mon"
    schedule, clock = parse(text), jumping(at(9, 2), by_s)
    now_s = MONDAY_S + 60 * minute + 0.5
    state, until_s = is_open(schedule, now_s, clock)
    assert state == schedule.at(clock(now_s))
    if until_s is None:
        assert schedule.always
        return
    assert schedule.at(clock(until_s)) != state
    assert schedule.at(clock(until_s - 0.001)) == state
    assert all(schedule.at(clock(m)) == state for m in range(int(now_s) + 1, int(until_s), 300))


def test_moments_for_people() -> None:
    assert said(at(0, 22), at(0, 9), wall) == "at 22:00"
    assert said(at(1, 7), at(0, 23), wall) == "at 07:00"
    assert said(at(5, 0), at(0, 9), wall) == "on Saturday at 00:00"
    assert said(at(8, 0), at(0, 9), wall) == "on 1970-01-13 at 00:00"
