"""History in figures: a spike is still seen after a year, the file stays small, a bad one is no trouble."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.daemon.errors import AtollError
from atoll.daemon.storage.series import LEVELS, MAX_NAMES, MAX_POINTS, Bucket, Series

DAY = 86_400
T0 = 1_700_000_000 // DAY * DAY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def test_what_was_written_is_read_back_in_buckets(path: Path) -> None:
    series = Series(path)
    series.add([(T0 + 3, {"loss": 4.0}), (T0 + 7, {"loss": 2.0, "peers": 3.0}), (T0 + 12, {"loss": 1.0})])
    width, found = series.read("loss", T0, T0 + 100, 100)
    assert (width, found) == (10, [Bucket(T0, 2, 2.0, 4.0, 3.0), Bucket(T0 + 10, 1, 1.0, 1.0, 1.0)])
    assert series.names() == ["loss", "peers"] and series.read("none", T0, T0 + 100, 10)[1] == []
    series.close()
    again = Series(path)
    again.add([(T0 + 19, {"loss": 9.0})])
    assert again.read("loss", T0 + 10, T0 + 20, 100)[1] == [Bucket(T0 + 10, 2, 1.0, 9.0, 5.0)]
    again.close()


def test_a_spike_is_still_seen_when_only_long_buckets_are_left(path: Path) -> None:
    series = Series(path)
    for day in range(200):
        at = T0 + day * DAY
        series.add([(at + k, {"lag": 50.0 if (day, k) == (10, 0) else 1.0}) for k in range(0, DAY, 7200)])
    width, found = series.read("lag", T0, T0 + 200 * DAY, 300)
    assert width >= LEVELS[-1][0] and len(found) <= 300
    assert max(bucket.greatest for bucket in found) == 50.0
    assert sum(bucket.count for bucket in found) == 200 * 12
    _, recent = series.read("lag", T0 + 199 * DAY, T0 + 200 * DAY, 300)
    assert len(recent) == 12, "a day is answered from fine ones"
    series.close()


def test_a_year_of_samples_is_a_small_file(path: Path) -> None:
    series = Series(path)
    for hour in range(0, 24 * 365, 6):
        at = T0 + hour * 3600
        series.add([(at + second, {"a": 1.0}) for second in range(0, 600, 5)])
    rows = series._base.execute("SELECT count(*) FROM buckets").fetchone()[0]
    assert rows < sum(kept // length + 2 for length, kept in LEVELS)
    series.close()
    assert path.stat().st_size < 2_000_000


def test_names_are_bounded_and_what_is_not_finite_is_left_out(path: Path) -> None:
    series = Series(path)
    series.add([(T0, {f"n{k:03}": float(k) for k in range(2 * MAX_NAMES)})])
    assert len(series.names()) == MAX_NAMES
    series.add([(T0, {"n000": float("nan"), "n001": float("inf")}), (T0 + 1, {"new": 1.0})])
    assert series.read("n000", T0, T0 + 10, 5)[1] == [Bucket(T0, 1, 0.0, 0.0, 0.0)]
    assert "new" not in series.names()
    series.close()


def test_what_a_wrong_clock_left_ahead_goes(path: Path) -> None:
    series = Series(path)
    series.add([(T0 + 400 * DAY, {"a": 1.0})])
    series.close()
    series = Series(path)
    series.add([(T0, {"a": 2.0})])
    assert series.read("a", T0, T0 + 500 * DAY, 100)[1][-1].start <= T0
    series.close()


def test_a_file_that_is_no_base_is_moved_aside(path: Path) -> None:
    path.write_bytes(b"this is no base at all" * 1000)
    series = Series(path)
    series.add([(T0, {"a": 1.0})])
    assert series.names() == ["a"] and path.with_suffix(".damaged").exists()
    series.close()


def test_a_disk_that_refuses_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(AtollError, match=r"history\.sqlite can't be written or read"):
        Series(tmp_path / "no folder" / "history.sqlite")
    series = Series(tmp_path / "history.sqlite")
    series._base.execute("PRAGMA query_only = ON")
    with pytest.raises(AtollError, match="can't be written or read"):
        series.add([(T0, {"a": 1.0})])
    series.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(-1e6, 1e6)), min_size=1, max_size=60),
    st.integers(0, 4000),
    st.integers(1, 4000),
    st.integers(-3, MAX_POINTS + 9),
)
def test_no_sample_is_lost_or_counted_twice(
    samples: list[tuple[int, float]], since: int, span: int, points: int
) -> None:
    series = Series(Path(":memory:"))
    series.add([(T0 + at, {"a": value}) for at, value in sorted(samples)])
    width, found = series.read("a", T0 + since, T0 + since + span, points)
    assert len(found) <= min(max(1, points), MAX_POINTS)
    whole = [b for b in found if b.start >= T0 + since and b.start + width <= T0 + since + span]
    for bucket in whole:
        inside = [value for at, value in samples if bucket.start <= T0 + at < bucket.start + width]
        assert bucket.count == len(inside) and bucket.least == min(inside)
        assert bucket.greatest == max(inside) and bucket.mean == pytest.approx(sum(inside) / len(inside))
    series.close()
