"""The report on the papers: what is done stays done, verdicts follow from losses, arms do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers import arms, runs
from benchmarks.papers.__main__ import Means, report
from benchmarks.papers.arms import Arm, Run
from benchmarks.papers.arrivals import AsyncArm
from benchmarks.papers.experiments import TABLES, Order, Row, Table, perplexity

SHORT = Arm(workers=2, steps=2, rounds=2, batch=2)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm start of a moment, and few windows to check."""
    monkeypatch.setattr(arms, "WARM_UP", 2)
    monkeypatch.setattr(arms, "CHECKED", 8)
    arms.texts.cache_clear()
    arms.warm.cache_clear()


def test_a_run_that_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = AsyncArm("dn", "very")
    runs.write(tmp_path, SHORT, 1, 2.5, 3.0)
    runs.write(tmp_path, other, 1, 2.25, 3.0)
    monkeypatch.setattr(runs, "work", lambda *run: pytest.fail("it is in the cache"))
    assert runs.measure([(SHORT, 1), (other, 1)], tmp_path, 1) == {(SHORT, 1): 2.5, (other, 1): 2.25}


def test_a_damaged_entry_or_another_arm_or_seed_is_no_entry(tmp_path: Path) -> None:
    runs.write(tmp_path, SHORT, 1, 2.5, 3.0)
    assert runs.read(tmp_path, SHORT, 1) == 2.5
    assert runs.read(tmp_path, SHORT, 2) is None
    assert runs.read(tmp_path, replace(SHORT, lr=0.6), 1) is None
    (tmp_path / f"{runs.key(SHORT, 1)}.json").write_text('{"loss": ')
    assert runs.read(tmp_path, SHORT, 1) is None


def test_verdicts() -> None:
    a, b, c = SHORT, replace(SHORT, lr=0.1), replace(SHORT, lr=0.2)
    losses = Means({(a, 1): 2.0, (b, 1): 2.02, (c, 1): 2.1})
    assert Row("", b, a, "", 0.5, 1.5).passes(losses) and not Row("", c, a, "", 0.5, 1.5).passes(losses)
    assert Row("", c, a, "", 0, 20, perplexity).value(losses) == pytest.approx(100 * (np.exp(0.1) - 1))
    assert Order("", (a, b, c), "").passes(losses) and not Order("", (b, a), "").passes(losses)
    assert Order("", (b, a), "", slack=1.1).passes(losses)
    table = Table("A paper", (Row("one", b, a, "+1 %", 0.5, 1.5, quick=True), Order("two", (c, a), "better")))
    assert table.arms(quick=True) == [b, a] and table.arms(quick=False) == [b, a, c]
    text = report([table], losses, False, 3)
    assert (
        "1 of 2 rows" in text and "**no**" in text and "| +1 % | +1.00 % | +0.5 % to +1.5 % | yes |" in text
    )


def test_arms_are_compared_over_the_seeds_that_both_have() -> None:
    a, b = SHORT, replace(SHORT, lr=0.1)
    losses = Means({(a, 1): 2.0, (b, 1): 2.2, (b, 2): 2.6})
    assert losses[b] == pytest.approx(2.4)
    assert Row("", b, a, "", 0, 20).value(losses) == pytest.approx(10.0)
    assert Order("", (a, b), "").value(losses) == [2.0, 2.2]


def test_every_arm_of_the_report_can_be_built() -> None:
    for table in TABLES:
        for arm in table.arms(quick=False):
            if isinstance(arm, Arm):
                assert arm.steps % arm.fragments == 0
                assert arm.tau <= arm.steps // arm.fragments
                assert not (arm.ahead and arm.fragments > 1)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"codec": "2bit", "feedback": 0.9},
        {"codec": "topk", "feedback": 0.95},
        {"fragments": 2, "tau": 1, "mix": 0.5},
        {"ahead": "eager"},
        {"ahead": "delayed"},
        {"ahead": "paper"},
        {"drop": 0.5, "shuffled": False},
        {"drop": 0.5, "missed": "reset"},
        {"pool": (1, 2)},
        {"prune": 0.5},
    ],
)
def test_an_arm_is_the_same_each_time_and_trains(change: dict[str, object]) -> None:
    arm = replace(SHORT, **change)  # type: ignore[arg-type]
    one, other = Run(arm, 1), Run(arm, 1)
    begin = one.outer.copy()
    losses = [one.whole(), other.whole()]
    assert losses[0] == losses[1] and np.isfinite(losses[0])
    assert one.outer.tobytes() == other.outer.tobytes() and not np.array_equal(one.outer, begin)


def test_a_round_that_nobody_reaches_changes_nothing() -> None:
    lost = Run(replace(SHORT, drop=1.0, shuffled=False), 1)
    begin = lost.outer.copy()
    assert np.isfinite(lost.whole()) and np.array_equal(lost.outer, begin)


def test_alone_and_eager_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker the start is the next commit: the same phases, the last of them not yet applied."""
    alone = replace(SHORT, workers=1, rounds=2)
    inner = alone.inner()
    monkeypatch.setattr(Arm, "inner", lambda self, batch=0: inner)
    plain, eager = Run(alone, 1), Run(replace(alone, rounds=3, ahead="eager"), 1)
    for run in (plain, eager):
        run.whole()
    assert np.array_equal(plain.outer, eager.outer)
