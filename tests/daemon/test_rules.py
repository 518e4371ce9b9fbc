"""The owner's rules: when each begins and ends, in words with a code, and that the owner comes first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.daemon import rules
from atoll.daemon.config import Settings
from atoll.daemon.rules import Code, Facts, Latch, Memory, Policy, Reason, decide, described, joined
from atoll.daemon.status import Facts as StatusFacts
from atoll.daemon.status import State, describe

MONDAY_S = 4 * 86_400.0


def wall(moment_s: float) -> datetime:
    return datetime(1970, 1, 1) + timedelta(seconds=moment_s)


@dataclass
class Bench:
    """Decisions one after the other, at moments that the test names."""

    policy: Policy
    facts: Facts = field(default_factory=lambda: Facts(MONDAY_S + 12 * 3600))
    memory: Memory = field(default_factory=Memory)

    def at(self, now: float, **changes: Any) -> list[str]:
        """Codes of the rules that pause."""
        self.facts = replace(self.facts, **changes)
        self.reasons, self.memory = decide(self.policy, self.facts, now, self.memory, wall)
        return [reason.code.value for reason in self.reasons if not reason.overridden]

    def reason(self) -> Reason:
        (reason,) = self.reasons
        return reason


def bench(**settings: Any) -> Bench:
    return Bench(Policy.of(Settings(**settings)))


def test_nothing_pauses_unless_somebody_asked_for_it() -> None:
    rig = bench()
    for now in range(0, 1000, 10):
        assert rig.at(now, on_battery=True, other_load=1.0, days={0: 10**15}) == []


def test_another_program_on_the_gpu_pauses_until_it_is_gone_for_a_while() -> None:
    rig = bench(pause_on_gpu=True)
    assert rig.at(0, gpu_programs=1) == []
    assert rig.at(30, gpu_programs=1) == ["other_gpu"]
    assert rig.reason().text == (
        "Another program computes on the GPU that trains. It resumes when none has for 2 minutes."
    )
    assert rig.at(100, gpu_programs=0) == ["other_gpu"]
    assert rig.at(219, gpu_programs=None) == ["other_gpu"]
    assert rig.at(220, gpu_programs=None) == [], "what is not known pauses nobody for ever"
    rig.at(300, gpu_programs=2)
    assert rig.at(330, gpu_programs=2) == ["other_gpu"] and "other programs compute" in rig.reason().because


def test_other_load_pauses_and_resumes_late_and_says_how_much_it_was() -> None:
    rig = bench(pause_on_load=80)
    assert rig.at(0, other_load=0.83) == []
    assert rig.at(29, other_load=0.99) == []
    assert rig.at(30, other_load=0.83) == ["other_load"]
    rig.at(31, other_load=0.97)
    assert rig.reason().text == (
        "Other programs use the processor (83 %). It resumes when they use less than 40 % for 2 minutes."
    )
    assert rig.at(100, other_load=0.5) == ["other_load"], "neither high nor low enough"
    assert rig.at(110, other_load=0.39) == ["other_load"]
    assert rig.at(200, other_load=0.41) == ["other_load"], "the two minutes begin anew"
    assert rig.at(210, other_load=0.1) == ["other_load"]
    assert rig.at(329, other_load=0.1) == ["other_load"]
    assert rig.at(330, other_load=0.1) == []


def test_a_peak_is_no_load() -> None:
    rig = bench(pause_on_load=80)
    for now in range(0, 600, 10):
        assert rig.at(now, other_load=0.9 if now % 30 else 0.7) == []


def test_battery() -> None:
    rig = bench(pause_on_battery=True)
    assert rig.at(0, on_battery=True) == []
    assert rig.at(5, on_battery=False) == []
    assert rig.at(6, on_battery=True) == []
    assert rig.at(16, on_battery=True) == ["battery"]
    assert rig.reason().text == "This machine runs on battery. It resumes after a minute on mains power."
    assert rig.at(20, on_battery=False) == ["battery"]
    assert rig.at(80, on_battery=False) == []
    rig.at(100, on_battery=True)
    assert rig.at(110) == ["battery"]
    rig.at(111, on_battery=None)
    assert rig.at(171) == [], "a battery that was taken out is no reason to rest for ever"


def test_training_hours() -> None:
    rig = bench(train_hours=" mon-fri 22:00-07:00 ")
    assert rig.at(0) == ["schedule"]
    assert rig.reason().text == (
        "It is outside your training hours (mon-fri 22:00-07:00). It resumes at 22:00."
    )
    assert rig.reason().until_s == MONDAY_S + 22 * 3600
    assert rig.at(1, time_s=MONDAY_S + 22 * 3600) == []
    assert rig.at(2, time_s=MONDAY_S + 31 * 3600) == ["schedule"]


def test_network_hours_leave_the_network_alone_and_training_hours_do_not() -> None:
    rig = bench(network_hours="sat-sun")
    assert rig.at(0) == ["network_schedule"]
    assert "It resumes on Saturday at 00:00." in rig.reason().text
    assert set(rules.QUIET) == {Code.NETWORK_SCHEDULE, Code.WEEKLY_TRAFFIC}


def test_the_traffic_of_a_week_is_used_up_until_its_oldest_days_leave() -> None:
    rig = bench(gb_per_week=1.0)
    day = 4
    assert rig.at(0, days={day: 999_999_999}) == []
    days = {day - 6: 40_000_000, day - 5: 30_000_000, day: 930_000_000}
    assert rig.at(1, days=days) == ["weekly_traffic"]
    assert rig.reason().until_s == (day - 5 + 7) * 86_400, "40 MB are not 5 % of it"
    assert rig.reason().text == (
        "The 1.0 GB of a week are used up (1.0 GB in seven days). "
        "It resumes on Wednesday at 00:00 when the oldest of it is a week old."
    )
    assert rig.at(2, days={day - 5: 30_000_000, day: 930_000_000}) == ["weekly_traffic"], "not 5 % less yet"
    assert rig.at(3, days={day: 930_000_000}) == []


def test_a_rule_that_a_person_resumed_from_counts_again_once_it_was_over() -> None:
    rig = bench(pause_on_battery=True, train_hours="22:00-07:00")
    rig.at(0, on_battery=True)
    assert rig.at(10) == ["schedule", "battery"]
    rig.memory = rig.memory.override()
    assert rig.at(11) == []
    assert {r.code for r in rig.reasons if r.overridden} == {Code.SCHEDULE, Code.BATTERY}
    assert rig.at(5000) == [], "however long it lasts"
    rig.at(5001, on_battery=False)
    assert rig.at(5061) == []
    rig.at(5062, on_battery=True)
    assert rig.at(5072) == ["battery"], "and the hours are still overridden"
    rig.at(5073, time_s=MONDAY_S + 23 * 3600)
    assert rig.at(5074, time_s=MONDAY_S + 33 * 3600) == ["schedule", "battery"]


def test_a_rule_that_comes_later_is_not_overridden() -> None:
    rig = bench(pause_on_battery=True, train_hours="22:00-07:00")
    rig.at(0, on_battery=False)
    rig.memory = rig.memory.override()
    assert rig.at(1, on_battery=True) == []
    assert rig.at(11) == ["battery"]


def test_a_setting_that_changes_makes_its_rule_new() -> None:
    rig = bench(train_hours="22:00-07:00", pause_on_load=50)
    rig.at(0, other_load=0.9)
    assert rig.at(30) == ["schedule", "other_load"]
    rig.memory = rig.memory.override().without([Code.SCHEDULE])
    assert rig.at(31) == ["schedule"]
    rig.policy = Policy.of(Settings())
    assert rig.at(32) == [] and not any(latch.on for latch in rig.memory.latches.values())


def test_several_reasons_are_one_sentence() -> None:
    rig = bench(pause_on_battery=True, train_hours="22:00-07:00")
    rig.at(0, on_battery=True)
    rig.at(10)
    because, following = joined(rig.reasons)
    sentence = describe(StatusFacts(State.PAUSED, because, following=following))
    assert sentence.text == (
        "Paused: it is outside your training hours (22:00-07:00); this machine runs on battery. "
        "It resumes when all of that is over."
    )
    because, following = joined(rig.reasons[:1])
    assert describe(StatusFacts(State.PAUSED, because, following=following)).text.endswith(
        "It resumes at 22:00."
    )


@pytest.mark.parametrize("code", list(Code))
def test_every_rule_says_what_it_does(code: Code) -> None:
    policy = Policy.of(
        Settings(
            gb_per_week=5,
            train_hours="mon",
            network_hours="tue",
            pause_on_battery=True,
            pause_on_load=70,
            pause_on_gpu=True,
        )
    )
    assert policy.watched(code) and not Policy.of(Settings()).watched(code)
    on, off = described(code, policy), described(code, Policy.of(Settings()))
    assert on != off and on.endswith(".") and off.endswith(".")
    assert code in rules.RULE_OF.values()


@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans(), st.booleans()), max_size=60))
def test_a_latch_changes_only_after_its_time(looks: list[tuple[float, bool, bool]]) -> None:
    latch, now, changed_at = Latch(), 0.0, 0.0
    for pause, high, low in looks:
        now += pause
        after = latch.next(now, high, low, 30.0, 120.0)
        if after.on != latch.on:
            assert now - changed_at >= (120.0 if latch.on else 30.0)
            assert low if latch.on else high
            changed_at = now
        latch = after
