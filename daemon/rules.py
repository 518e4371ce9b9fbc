"""Rules of the owner: when this node rests by itself, and why. Pure decisions, with a code for each reason.

    schedule          outside `train_hours`
    network_schedule  outside `network_hours`
    weekly_traffic    `gb_per_week` is used up
    battery           `pause_on_battery`, and the machine runs on battery
    other_load        `pause_on_load`, and other programs use more of the processor than that
    other_gpu         `pause_on_gpu`, and another program computes on the GPU that trains

What is measured wavers, so those rules are latches: they begin after the measure has been above its threshold
for a while without a break, and are over after it has been below a lower one for longer. Hours and counts do
not waver. A rule that is not set up is never on.

The owner comes first: `Memory.overridden` are the rules that a person resumed from; such a rule counts again
once it has been over. `decide` reads no clock, no file and no network: `now` (monotonic, for latches) and
`Facts` come in, what to remember goes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from atoll.daemon.config import Settings
from atoll.daemon.hours import Schedule, Wall, is_open, parse, said
from atoll.daemon.status import size

BATTERY_ON_S, BATTERY_OFF_S = 10.0, 60.0
LOAD_ON_S, LOAD_OFF_S = 30.0, 120.0
LOAD_OFF_PART = 0.5
"""Of the load that pauses: below so much of it the processor counts as free again."""
TRAFFIC_OFF_PART = 0.95
"""Of the week's bytes: below so much of them traffic goes on, else it would stop again at once."""
_GB = 1e9
_DAY_S, _DAYS = 86_400, 7


class Code(StrEnum):
    """Why a node rests by itself."""

    SCHEDULE = "schedule"
    NETWORK_SCHEDULE = "network_schedule"
    WEEKLY_TRAFFIC = "weekly_traffic"
    BATTERY = "battery"
    OTHER_LOAD = "other_load"
    OTHER_GPU = "other_gpu"


QUIET = (Code.NETWORK_SCHEDULE, Code.WEEKLY_TRAFFIC)
"""While one of these is on, nothing but control messages goes over the network."""

RULE_OF = {
    "train_hours": Code.SCHEDULE,
    "network_hours": Code.NETWORK_SCHEDULE,
    "gb_per_week": Code.WEEKLY_TRAFFIC,
    "pause_on_battery": Code.BATTERY,
    "pause_on_load": Code.OTHER_LOAD,
    "pause_on_gpu": Code.OTHER_GPU,
}
"""The setting behind each rule."""


@dataclass(frozen=True)
class Policy:
    """What the owner set up. `week_bytes` 0, `load` 0.0: no such rule; `load` is a part of the processor."""

    train: Schedule
    network: Schedule
    week_bytes: int
    battery: bool
    load: float
    train_text: str = ""
    network_text: str = ""
    gpu: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """From settings that were checked."""
        return cls(
            parse(settings.train_hours),
            parse(settings.network_hours),
            round(settings.gb_per_week * _GB),
            settings.pause_on_battery,
            settings.pause_on_load / 100,
            settings.train_hours.strip(),
            settings.network_hours.strip(),
            settings.pause_on_gpu,
        )

    def watched(self, code: Code) -> bool:
        """Whether this rule is set up."""
        match code:
            case Code.SCHEDULE:
                return not self.train.always
            case Code.NETWORK_SCHEDULE:
                return not self.network.always
            case Code.WEEKLY_TRAFFIC:
                return self.week_bytes > 0
            case Code.BATTERY:
                return self.battery
            case Code.OTHER_LOAD:
                return self.load > 0
            case Code.OTHER_GPU:
                return self.gpu


@dataclass(frozen=True)
class Facts:
    """What the rules look at. None: not known here, which never pauses anything."""

    time_s: float
    """Unix seconds."""
    on_battery: bool | None = None
    other_load: float | None = None
    """Part of the whole processor that programs other than ours use, 0 to 1."""
    gpu_programs: int | None = None
    """Programs other than ours that compute on the GPU that trains."""
    days: Mapping[int, int] = field(default_factory=dict)
    """Bytes sent and received in the last seven days, by day since 1970."""

    @property
    def week_bytes(self) -> int:
        return sum(self.days.values())


@dataclass(frozen=True)
class Latch:
    """One rule. `since`: since when without a break the measure has asked for the other state."""

    on: bool = False
    since: float | None = None
    value: float = 0.0
    """Of the measure when it went on, for the sentence: one that changes every second could not be read."""

    def next(
        self, now: float, high: bool, low: bool, on_after_s: float, off_after_s: float, value: float = 0.0
    ) -> Latch:
        """After a look at `now`. `high`: above the threshold that switches on; `low`: below the other one."""
        if not (low if self.on else high):
            return replace(self, since=None)
        since = now if self.since is None else self.since
        if now - since < (off_after_s if self.on else on_after_s):
            return replace(self, since=since)
        return Latch(not self.on, None, 0.0 if self.on else value)


@dataclass(frozen=True)
class Memory:
    """What one decision leaves to the next."""

    latches: Mapping[Code, Latch] = field(default_factory=dict)
    overridden: frozenset[Code] = frozenset()

    def override(self) -> Memory:
        """A person resumed: the rules that are on do not count until they have been over."""
        on = {code for code, latch in self.latches.items() if latch.on}
        return replace(self, overridden=self.overridden | on)

    def without(self, codes: Sequence[Code]) -> Memory:
        """As if these rules were new: their settings changed."""
        kept = {code: latch for code, latch in self.latches.items() if code not in codes}
        return Memory(kept, self.overridden - set(codes))


@dataclass(frozen=True)
class Reason:
    """A rule that is on. `because` and `next` are parts of the sentence (status.py)."""

    code: Code
    because: str
    next: str
    until_s: float | None = None
    """When it is over, Unix seconds, where that is known."""
    overridden: bool = False

    @property
    def text(self) -> str:
        """A sentence of its own."""
        return f"{self.because[0].upper()}{self.because[1:]}. {self.next}."


def decide(
    policy: Policy, facts: Facts, now: float, memory: Memory, wall: Wall = datetime.fromtimestamp
) -> tuple[tuple[Reason, ...], Memory]:
    """The rules that are on, the overridden ones among them, and what to remember."""
    latches = {code: _looked_at(code, policy, facts, now, memory, wall) for code in Code}
    on = {code for code, latch in latches.items() if latch.on}
    overridden = memory.overridden & on
    reasons = tuple(
        replace(_reason(code, policy, facts, latches[code], wall), overridden=code in overridden)
        for code in Code
        if code in on
    )
    return reasons, Memory(latches, overridden)


def _looked_at(code: Code, policy: Policy, facts: Facts, now: float, memory: Memory, wall: Wall) -> Latch:
    before = memory.latches.get(code, Latch())
    if not policy.watched(code):
        return Latch()
    match code:
        case Code.SCHEDULE | Code.NETWORK_SCHEDULE:
            schedule = policy.train if code is Code.SCHEDULE else policy.network
            return Latch(not schedule.at(wall(facts.time_s)))
        case Code.WEEKLY_TRAFFIC:
            used, cap = facts.week_bytes, policy.week_bytes
            return before.next(now, used >= cap, used < TRAFFIC_OFF_PART * cap, 0.0, 0.0)
        case Code.BATTERY:
            # A battery that is gone is no reason to rest for ever.
            return before.next(
                now, facts.on_battery is True, facts.on_battery is not True, BATTERY_ON_S, BATTERY_OFF_S
            )
        case Code.OTHER_LOAD:
            load, off = facts.other_load, LOAD_OFF_PART * policy.load
            high, low = load is not None and load > policy.load, load is None or load < off
            return before.next(now, high, low, LOAD_ON_S, LOAD_OFF_S, load or 0.0)
        case Code.OTHER_GPU:
            # How much each of them uses is not known; one that is there holds memory, too.
            count = facts.gpu_programs or 0
            return before.next(now, count > 0, count == 0, LOAD_ON_S, LOAD_OFF_S, count)


def _reason(code: Code, policy: Policy, facts: Facts, latch: Latch, wall: Wall) -> Reason:
    match code:
        case Code.SCHEDULE:
            return _closed(code, "training", policy.train, policy.train_text, facts, wall)
        case Code.NETWORK_SCHEDULE:
            return _closed(code, "network", policy.network, policy.network_text, facts, wall)
        case Code.WEEKLY_TRAFFIC:
            because = (
                f"the {size(policy.week_bytes)} of a week are used up "
                f"({size(facts.week_bytes)} in seven days)"
            )
            until = _fits_again(facts.days, TRAFFIC_OFF_PART * policy.week_bytes)
            when = f" {said(until, facts.time_s, wall)}" if until is not None else ""
            return Reason(code, because, f"It resumes{when} when the oldest of it is a week old", until)
        case Code.BATTERY:
            return Reason(code, "this machine runs on battery", "It resumes after a minute on mains power")
        case Code.OTHER_LOAD:
            less = LOAD_OFF_PART * policy.load
            return Reason(
                code,
                f"other programs use the processor ({100 * latch.value:.0f} %)",
                f"It resumes when they use less than {100 * less:.0f} % for {LOAD_OFF_S / 60:.0f} minutes",
            )
        case Code.OTHER_GPU:
            who = "another program computes" if latch.value == 1 else "other programs compute"
            return Reason(
                code,
                f"{who} on the GPU that trains",
                f"It resumes when none has for {LOAD_OFF_S / 60:.0f} minutes",
            )


def _closed(code: Code, what: str, schedule: Schedule, text: str, facts: Facts, wall: Wall) -> Reason:
    _, until = is_open(schedule, facts.time_s, wall)
    when = said(until, facts.time_s, wall) if until is not None else "when you change them"
    return Reason(code, f"it is outside your {what} hours ({text})", f"It resumes {when}", until)


def _fits_again(days: Mapping[int, int], below: float) -> float | None:
    """When enough of the oldest days have left the window, Unix seconds."""
    left = sum(days.values())
    for day in sorted(days):
        left -= days[day]
        if left < below:
            return float((day + _DAYS) * _DAY_S)
    return None


def joined(reasons: Sequence[Reason]) -> tuple[str, str]:
    """Because and next of the rules that pause, as one sentence has them."""
    because = "; ".join(reason.because for reason in reasons)
    return because, reasons[0].next if len(reasons) == 1 else "It resumes when all of that is over"


def described(code: Code, policy: Policy) -> str:
    """What a rule does, for a list of all of them."""
    if not policy.watched(code):
        return _OFF[code]
    match code:
        case Code.SCHEDULE:
            return f"It trains {policy.train_text}."
        case Code.NETWORK_SCHEDULE:
            return f"It uses the network {policy.network_text}."
        case Code.WEEKLY_TRAFFIC:
            return f"It moves at most {size(policy.week_bytes)} in seven days."
        case Code.BATTERY:
            return "It pauses on battery."
        case Code.OTHER_LOAD:
            return f"It pauses when other programs use more than {100 * policy.load:.0f} % of the processor."
        case Code.OTHER_GPU:
            return "It pauses while another program computes on the GPU that trains."


_OFF = {
    Code.SCHEDULE: "It trains at any hour.",
    Code.NETWORK_SCHEDULE: "It uses the network at any hour.",
    Code.WEEKLY_TRAFFIC: "Its traffic in a week is not limited.",
    Code.BATTERY: "It trains on battery, too.",
    Code.OTHER_LOAD: "It trains whatever other programs do.",
    Code.OTHER_GPU: "It trains whatever else computes on its GPU.",
}
