"""The meters: what a line carries under load, whoever is slow at the other end."""

from __future__ import annotations

import pytest

from atoll.peers.meter import GAP_S, MIN_BYTES, SILENCE_S, Download, Upload

STEP_S = 0.1


def rounds(upload: Upload, links: dict[str, float], count: int, size: int, start: float = 0.0) -> float:
    """`count` rounds: `size` bytes to each link at its own speed (bytes/s), then a long pause."""
    now = start
    for _ in range(count):
        left = dict.fromkeys(links, float(size))
        for link in links:
            upload.sent(link, size, now)
        while left:
            now += STEP_S
            for link in list(left):
                part = min(left[link], links[link] * STEP_S)
                left[link] -= part
                upload.confirmed(link, round(part), now)
                if left[link] < 1:
                    upload.all_came(link, now)
                    del left[link]
        now += 60.0
    return now


def test_nothing_is_known_before_anything_has_come():
    upload, download = Upload(), Download()
    assert upload.bps == 0 == download.bps
    upload.sent("a", 10 * MIN_BYTES, 0.0)
    assert upload.bps == 0, "it was written, but nobody has it"
    upload.confirmed("a", MIN_BYTES // 2, 1.0)
    assert upload.bps == 0, "too little to say"
    download.came(10 * MIN_BYTES, 0.0)
    assert download.bps == 0, "nobody knows how long it took"


def test_pauses_between_rounds_do_not_count():
    upload = Upload()
    rounds(upload, {"a": 1e6, "b": 1e6}, 5, 4_000_000)
    assert upload.bps == pytest.approx(16e6, rel=0.02), "both links together, in bits"


def test_one_slow_receiver_does_not_drag_it_down():
    """It is waited for in each round ten times as long as the others take."""
    upload = Upload()
    rounds(upload, {"a": 1e6, "b": 1e6, "slow": 1e5}, 10, 3_000_000)
    assert upload.bps == pytest.approx(8 * 2.1e6, rel=0.02)


def test_it_follows_a_line_that_became_slower_but_not_at_once():
    upload = Upload()
    now = rounds(upload, {"a": 1e6, "b": 1e6}, 10, 8_000_000)
    now = rounds(upload, {"a": 2e5, "b": 2e5}, 1, 800_000, now)
    assert upload.bps == pytest.approx(16e6, rel=0.05)
    rounds(upload, {"a": 2e5, "b": 2e5}, 10, 2_000_000, now)
    assert upload.bps == pytest.approx(3.2e6, rel=0.05)


def test_what_is_confirmed_and_was_not_sent_counts_for_nothing():
    upload = Upload()
    upload.sent("a", MIN_BYTES, 0.0)
    upload.confirmed("a", 10**12, 1.0)
    assert upload.bps == 8 * MIN_BYTES
    upload.confirmed("a", 10**12, 2.0)
    upload.confirmed("b", 10**12, 2.0)
    assert upload.bps == 8 * MIN_BYTES


def test_a_silent_receiver_does_not_keep_the_clock_running():
    upload = Upload()
    upload.sent("dead", 10 * MIN_BYTES, 0.0)
    upload.sent("a", 10 * MIN_BYTES, 0.0)
    upload.confirmed("a", 10 * MIN_BYTES, 1.0)
    upload.sent("a", MIN_BYTES, SILENCE_S + 100.0)  # the dead one is forgotten here
    upload.confirmed("a", MIN_BYTES, SILENCE_S + 100.5)
    assert upload.bps == pytest.approx(80 * MIN_BYTES)
    upload.sent("b", 10, 200.0)
    upload.gone("b", 201.0)
    assert upload.bps == pytest.approx(80 * MIN_BYTES)


def test_stretches_too_short_to_say_anything_say_it_together():
    """A sender that paces itself is confirmed as fast as it sends: nothing is ever long under way."""
    upload, now = Upload(), 0.0
    for _ in range(10):
        upload.sent("a", MIN_BYTES // 4, now)
        upload.confirmed("a", MIN_BYTES // 4, now + 0.1)
        now += 0.15
    assert upload.bps == pytest.approx(8 * MIN_BYTES / 0.4)


def test_a_line_slower_than_the_windows_are_long_is_measured():
    upload, now = Upload(), 0.0
    upload.sent("a", 10 * MIN_BYTES, now)
    for _ in range(10 * 16):
        now += 0.2
        upload.confirmed("a", MIN_BYTES // 16, now)
    assert upload.bps == pytest.approx(8 * MIN_BYTES / 3.2)


def test_bytes_that_come_at_once_are_of_one_window():
    """Several receivers tell at the same moment; the first of them fills a window."""
    upload = Upload()
    for link in "abc":
        upload.sent(link, 10 * MIN_BYTES, 0.0)
    for k, link in enumerate("abc"):
        upload.confirmed(link, 10 * MIN_BYTES, 2.0 + k * 1e-5)
    assert upload.bps == pytest.approx(8 * 30 * MIN_BYTES / 2, rel=1e-3)


def test_a_download_is_what_came_while_something_came():
    download, now = Download(), 0.0
    for _ in range(6):
        for _ in range(40):
            now += STEP_S
            download.came(100_000, now)
        now += 10 * GAP_S
    assert download.bps == pytest.approx(8e6, rel=0.05)
