"""The token bucket: what goes stays below the cap over any stretch of time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.peers.pacing import RateCap


@settings(deadline=None)
@given(
    rate=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 500)), min_size=1, max_size=40),
)
def test_any_stretch_stays_below_the_cap_and_one_unit(rate: int, steps: list[tuple[float, int]]) -> None:
    cap, now = RateCap(rate), 0.0
    went: list[tuple[float, int]] = []
    for wait, size in steps:
        now = max(now + wait, cap.ready_at())
        cap.spend(size, now)
        went.append((now, size))
    for first in range(len(went)):
        for last in range(first, len(went)):
            sent = sum(size for _, size in went[first:last])
            assert sent <= rate * (went[last][0] - went[first][0]) * (1 + 1e-9) + 1e-6


def test_without_a_cap_nothing_waits() -> None:
    cap = RateCap()
    cap.spend(1 << 40, 5.0)
    cap.refund(1)
    assert cap.ready_at() < 5.0


def test_a_refund_is_no_credit_for_time_that_has_passed() -> None:
    cap = RateCap(100)
    cap.spend(1000, 0.0)
    assert cap.ready_at() == 10.0
    cap.refund(500)
    assert cap.ready_at() == 5.0
    cap.refund(500)
    cap.spend(100, 50.0)  # long after: it goes at once, and the next one waits its full second
    assert cap.ready_at() == 51.0


def test_a_rate_that_changes_holds_from_then_on() -> None:
    cap = RateCap(1)
    cap.spend(1000, 0.0)
    assert cap.ready_at() == 1000
    cap.change(100)
    assert cap.ready_at() < 0, "nobody waits for what was spent at the old rate"
    cap.spend(1000, 5.0)
    assert cap.ready_at() == 15
    cap.change(0)
    cap.spend(1000, 6.0)
    assert cap.ready_at() < 0
