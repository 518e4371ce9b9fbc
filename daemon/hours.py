"""Hours of the week: windows by weekday and local time, and whether one is open now.

    mon-fri 22:00-07:00, sat-sun 00:00-24:00

Items are separated by commas. Each has days (a weekday, or from-to; left out: every day) and times (left out:
the whole day), or one of them. Times that end before they begin go over midnight, into the day after.

Nothing here reads a clock: the present moment comes in as Unix seconds, and `wall` tells what clocks on the
wall show at a moment. Summer time is nothing but a jump of that function: an hour that does not exist opens
nothing, and one that comes twice is open twice. What can fail is the text (ScheduleError, with the rule).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

Wall = Callable[[float], datetime]
"""Local time, without a zone, at a moment in Unix seconds; `datetime.fromtimestamp` is the machine's own."""

DAY_TITLES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAY_NAMES = tuple(title[:3].lower() for title in DAY_TITLES)
RULE = "hours such as mon-fri 22:00-07:00, sat-sun 00:00-24:00"
MAX_TEXT = 500
_DAY = 24 * 60
_WEEK = 7 * _DAY
_LOOK_AHEAD_S = 15 * 86_400.0
_ITEM = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:\s*-\s*(?P<last>[a-z]{3}))?)?\s*"
    r"(?:(?P<start>\d{1,2}(?::\d{2})?)\s*-\s*(?P<end>\d{1,2}(?::\d{2})?))?",
    re.ASCII,
)


class ScheduleError(ValueError):
    """A text that names no hours."""


@dataclass(frozen=True)
class Schedule:
    """Minutes of the week, from Monday 00:00 on, that are open: [start, end), sorted and disjoint."""

    windows: tuple[tuple[int, int], ...]

    @property
    def always(self) -> bool:
        return self.windows == ((0, _WEEK),)

    def at(self, local: datetime) -> bool:
        """Whether it is open when clocks on the wall show this."""
        minute = local.weekday() * _DAY + local.hour * 60 + local.minute
        return any(start <= minute < end for start, end in self.windows)


ALWAYS = Schedule(((0, _WEEK),))


@lru_cache(maxsize=64)
def parse(text: str) -> Schedule:
    """The schedule that a text describes; an empty one is always open. Raises ScheduleError."""
    if len(text) > MAX_TEXT:
        raise ScheduleError(f"the text is longer than {MAX_TEXT} characters")
    if not text.strip():
        return ALWAYS
    windows: list[tuple[int, int]] = []
    for item in text.lower().split(","):
        windows += _item(item.strip())
    return Schedule(_joined(windows))


def _item(item: str) -> list[tuple[int, int]]:
    found = _ITEM.fullmatch(item)
    if not item or found is None:
        raise ScheduleError(f"{item!r} is neither days nor times")
    first = _day(found["first"]) if found["first"] else 0
    last = _day(found["last"]) if found["last"] else first if found["first"] else 6
    start, end = (_minute(found["start"]), _minute(found["end"])) if found["start"] else (0, _DAY)
    if start in (_DAY, end):
        raise ScheduleError(f"{item!r} opens for no time; 00:00-24:00 is a whole day")
    length = (end - start) % _DAY or _DAY
    days = [(first + n) % 7 for n in range((last - first) % 7 + 1)]
    return [(day * _DAY + start, day * _DAY + start + length) for day in days]


def _day(name: str) -> int:
    if name not in DAY_NAMES:
        raise ScheduleError(f"{name!r} is no weekday; they are {', '.join(DAY_NAMES)}")
    return DAY_NAMES.index(name)


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    value = int(hour) * 60 + int(minute or 0)
    if value > _DAY or int(minute or 0) > 59:
        raise ScheduleError(f"{text!r} is no time of the day; they go from 00:00 to 24:00")
    return value


def _joined(windows: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those of one week, sorted; what overlaps or touches is one."""
    within = [(start, min(end, _WEEK)) for start, end in windows]
    within += [(0, end - _WEEK) for _, end in windows if end > _WEEK]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(within):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def is_open(
    schedule: Schedule, now_s: float, wall: Wall = datetime.fromtimestamp
) -> tuple[bool, float | None]:
    """Whether it is open at `now_s`, and when that changes next; None: never. Both in Unix seconds."""
    state = schedule.at(wall(now_s))
    if schedule.always or not schedule.windows:
        return state, None
    moment = now_s
    while moment < now_s + _LOOK_AHEAD_S:
        following = _next_edge(schedule, moment, wall)
        if schedule.at(wall(following)) != state:
            return state, following
        moment = following
    return state, None


def _next_edge(schedule: Schedule, moment_s: float, wall: Wall) -> float:
    """The first moment after `moment_s` at which a window begins or ends, or clocks jump."""
    local = wall(moment_s)
    second = (local.weekday() * _DAY + local.hour * 60 + local.minute) * 60 + local.second
    second_s = second + local.microsecond / 1e6
    edges = sorted({60.0 * edge for window in schedule.windows for edge in window})
    ahead = min((edge - second_s) % (60 * _WEEK) or 60.0 * _WEEK for edge in edges)
    there = moment_s + ahead
    if _offset(there, wall) == _offset(moment_s, wall):
        return there
    # Clocks jump on the way there, at a whole second: find which.
    before, after = math.floor(moment_s), math.ceil(there)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(middle, wall) == _offset(moment_s, wall):
            before = middle
        else:
            after = middle
    return float(after)


def _offset(moment_s: float, wall: Wall) -> int:
    """How far clocks on the wall are ahead of those in Greenwich, seconds."""
    local = wall(moment_s) - datetime(1970, 1, 1)
    return round(local.total_seconds() - moment_s)


def said(moment_s: float, now_s: float, wall: Wall = datetime.fromtimestamp) -> str:
    """A moment to come, for people: "at 22:00", "on Saturday at 00:00"."""
    local, today = wall(moment_s), wall(now_s)
    time = f"at {local.hour:02d}:{local.minute:02d}"
    if local.date() == today.date() or moment_s - now_s < 12 * 3600:
        return time
    if moment_s - now_s < 6.5 * 86_400:
        return f"on {DAY_TITLES[local.weekday()]} {time}"
    return f"on {local.date().isoformat()} {time}"
