"""Stripes: whatever the order, the repetitions and the breaks, each frame is put together once, as it was."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import stripes as s
from atoll.protocol import wire

Stripe = tuple[bytes, bytes]


def run_of(number: int, size: int) -> bytes:
    frame = pb.Frame(contribution=pb.Contribution(chunk=number))
    return wire.encode_frame(frame, size, number) + random.Random(number).randbytes(size)


def stripes_of(number: int, run: bytes) -> list[Stripe]:
    starts = range(0, len(run), s.STRIPE_BYTES)
    return [(s.encode_head(number, len(run), at), run[at : at + s.STRIPE_BYTES]) for at in starts]


def put(inbox: s.Inbox, stripe: Stripe) -> tuple[int, pb.Frame, wire.Payload] | None:
    slot = inbox.begin(stripe[0])
    slot.view[:] = stripe[1]
    return inbox.finish(slot)


@given(
    sizes=st.lists(st.integers(0, 4 * s.STRIPE_BYTES), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    repeats=st.integers(0, 6),
)
def test_any_order_with_repetitions(sizes: list[int], order: random.Random, repeats: int):
    runs = {number: run_of(number, size) for number, size in enumerate(sizes, 1)}
    all_of_them = [stripe for number, run in runs.items() for stripe in stripes_of(number, run)]
    sent = all_of_them + order.choices(all_of_them, k=repeats)
    order.shuffle(sent)
    inbox = s.Inbox()
    whole = [found for stripe in sent if (found := put(inbox, stripe)) is not None]
    assert sorted(number for number, _, _ in whole) == sorted(runs)
    for number, frame, payload in whole:
        assert frame.contribution.chunk == number
        assert bytes(payload) == runs[number][len(runs[number]) - len(payload) :]
        assert len(payload) == sizes[number - 1]
    assert inbox.open_bytes == 0


def test_a_connection_that_breaks_leaves_its_stripe_to_others():
    inbox, run = s.Inbox(), run_of(1, 3 * s.STRIPE_BYTES)
    first, *others = stripes_of(1, run)
    broken = inbox.begin(first[0])
    broken.view[:10] = b"x" * 10
    for stripe in others:
        assert put(inbox, stripe) is None
    inbox.abandon(broken)
    whole = put(inbox, first)
    assert whole is not None and bytes(whole[2]) == run[-3 * s.STRIPE_BYTES :]


def test_what_was_handed_on_is_not_written_to_any_more():
    inbox, run = s.Inbox(), run_of(1, 2 * s.STRIPE_BYTES)
    first, *others = stripes_of(1, run)
    slow = inbox.begin(first[0])
    for stripe in others:
        assert put(inbox, stripe) is None
    whole = put(inbox, first)  # the same again, over another connection
    assert whole is not None
    slow.view[:] = bytes(len(slow.view))
    assert inbox.finish(slow) is None
    assert bytes(whole[2]) == run[-2 * s.STRIPE_BYTES :]


def test_what_came_over_libp2p_is_not_put_together_again():
    inbox, run = s.Inbox(), run_of(1, 2 * s.STRIPE_BYTES)
    first, *others = stripes_of(1, run)
    assert put(inbox, first) is None and inbox.open_bytes == len(run)
    assert inbox.first_time(1) and not inbox.first_time(1)
    assert inbox.open_bytes == 0
    assert [put(inbox, stripe) for stripe in others] == [None] * len(others)


def test_numbers_are_remembered_in_bounded_memory():
    numbers = s.Numbers()
    for number in (2, 3, s.MAX_AHEAD):
        assert not numbers.has(number)
        numbers.add(number)
    assert numbers.has(2) and not numbers.has(1)
    for bad in (0, -1, s.MAX_AHEAD + 1):
        with pytest.raises(wire.WireError, match="frame number"):
            numbers.has(bad)
    numbers.add(1)
    assert numbers.has(1) and numbers.has(3) and not numbers.has(4) and len(numbers._after) == 1
    assert not numbers.has(s.MAX_AHEAD + 1)


RUN = run_of(1, 100)
BAD = [
    (s.encode_head(1, s.MAX_RUN_BYTES + 1, 0), "bytes in stripes"),
    (s.encode_head(1, wire.LENGTH_BYTES, 0), "bytes in stripes"),
    (s.encode_head(1, 2 * s.STRIPE_BYTES, 1), "stripe at"),
    (s.encode_head(1, s.STRIPE_BYTES, s.STRIPE_BYTES), "stripe at"),
    (s.encode_head(0, 100, 0), "frame number"),
    (s.encode_head(1 + s.MAX_AHEAD, 100, 0), "frame number"),
]


@pytest.mark.parametrize(("head", "words"), BAD)
def test_a_bad_head_is_refused_before_anything_is_allocated(head: bytes, words: str):
    inbox = s.Inbox()
    with pytest.raises(wire.WireError, match=words):
        inbox.begin(head)
    assert inbox.open_bytes == 0


def test_a_run_that_is_not_its_frame_is_refused():
    control = wire.encode_frame(pb.Frame(ready=pb.Ready()), number=1)
    for run, words in (
        (RUN + b"x", "in a run of"),
        (run_of(2, 100), "in the stripes of frame 1"),
        (control, "control frame"),
        (bytes(100), "announced"),
    ):
        inbox = s.Inbox()
        with pytest.raises(wire.WireError, match=words):
            put(inbox, (s.encode_head(1, len(run), 0), run))
        assert not inbox.numbers.has(1)


def test_frames_that_are_begun_and_not_ended_are_bounded():
    inbox = s.Inbox()
    for number in range(1, s.MAX_OPEN_FRAMES + 1):
        inbox.begin(s.encode_head(number, 1000, 0))
    with pytest.raises(wire.WireError, match="too many"):
        inbox.begin(s.encode_head(s.MAX_OPEN_FRAMES + 1, 1000, 0))
    inbox = s.Inbox()
    for number in (1, 2):
        inbox.begin(s.encode_head(number, s.MAX_RUN_BYTES, 0))
    with pytest.raises(wire.WireError, match="too many"):
        inbox.begin(s.encode_head(3, 1000, 0))
    with pytest.raises(wire.WireError, match="differ in its size"):
        inbox.begin(s.encode_head(1, 1000, 0))
