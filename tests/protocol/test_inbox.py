"""What the round machine is told of a frame."""

import pytest
from google.protobuf.message import DecodeError

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import inbox
from atoll.protocol.round import types as t

ALICE = b"\1" * 38
UNSIGNED = {"ready", "want", "abort", "inquiry", "holding"}
SIGNED = {"plan", "commit", "vote"}


def believed(kind: str, signed: pb.Signed) -> bytes:
    return bytes(signed.body)


def forged(kind: str, signed: pb.Signed) -> bytes:
    raise ValueError(f"{kind} is not signed")


@pytest.mark.parametrize("kind", sorted(UNSIGNED | SIGNED))
def test_each_message_without_a_payload_is_an_event(kind: str):
    frame = pb.Frame()
    getattr(frame, kind).SetInParent()
    event = inbox.event_of(ALICE, frame, believed)
    assert event.sender == ALICE and type(event) is getattr(t, f"{kind.title()}Received")


@pytest.mark.parametrize("kind", sorted(SIGNED))
def test_what_is_signed_has_to_be(kind: str):
    frame = pb.Frame()
    getattr(frame, kind).SetInParent()
    with pytest.raises(ValueError, match=f"{kind} is not signed"):
        inbox.event_of(ALICE, frame, forged)
    getattr(frame, kind).body = b"\xff"
    with pytest.raises(DecodeError):
        inbox.event_of(ALICE, frame, believed)


@pytest.mark.parametrize("kind", ["contribution", "result", "forward"])
def test_payloads_and_what_is_not_of_a_round_are_refused(kind: str):
    frame = pb.Frame()
    getattr(frame, kind).SetInParent()
    with pytest.raises(ValueError, match=kind):
        inbox.event_of(ALICE, frame, believed)


def test_a_contribution_says_whose_mean_it_is():
    assert inbox.members_of(pb.Contribution(members=[1, 2])) is None
    assert inbox.members_of(pb.Contribution(members=[1, 2], partial=True)) == (1, 2)
    assert inbox.members_of(pb.Contribution(partial=True)) == ()
