"""What a node says of a round that did without it."""

from __future__ import annotations

import pytest

from atoll.daemon.left_out import Seen, Work, sentence
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import SessionReport

TRAINING = Work(40, 100, None, expired=False)


@pytest.mark.parametrize(
    ("seen", "work", "why", "fate"),
    [
        (None, TRAINING, "this node learned of that round afterwards", "it goes into the next"),
        (
            Seen(8, 0.0, False),
            TRAINING,
            "this node learned of that round afterwards",
            "it goes into the next",
        ),
        (Seen(9, 0.0, False), TRAINING, "still training (inner step 40 of 100)", "it goes into the next"),
        (Seen(9, 5.0, False), Work(100, 100, 7.6, True), "it came 3s late", "expired by the rule reset"),
        (Seen(9, 5.0, False), Work(100, 100, 4.0, False), "without having heard", "it goes into the next"),
        (Seen(9, 5.0, True), Work(100, 100, 4.0, True), "reached the others in time", "expired by the rule"),
    ],
)
def test_every_reason_has_a_sentence(seen: Seen | None, work: Work, why: str, fate: str) -> None:
    said = sentence(9, seen, work)
    assert said.startswith("Your update is not in round 9, because ") and why in said and fate in said


def test_when_a_session_began_follows_from_its_report() -> None:
    report = SessionReport(pb.SessionId(), 9, "certified", "", planned=(b"a",), phases={"end_s": 2.5})
    assert Seen.of(report, b"b", 10.0) == Seen(9, 7.5, False)
    assert Seen.of(report, b"a", 10.0).planned
