"""Frames: every length is checked before anything is read, and no bytes raise anything but WireError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.wire import IncompatibleProtocol, WireError

READY = pb.Frame(ready=pb.Ready(parent=bytes(32), tokens=7))


def test_there_and_back():
    data = wire.encode_frame(READY)
    size = wire.frame_length(data[: wire.LENGTH_BYTES])
    assert size == len(data) - wire.LENGTH_BYTES
    assert wire.decode_frame(data[wire.LENGTH_BYTES :]) == READY
    contribution = pb.Frame(contribution=pb.Contribution(chunk=1))
    body = wire.encode_frame(contribution, 100)[wire.LENGTH_BYTES :]
    assert wire.decode_frame(body).payload_size == 100


@given(st.integers(0, 2**32 - 1))
def test_only_lengths_within_the_limit_are_read(size: int):
    header = size.to_bytes(4, "big")
    if 0 < size <= wire.MAX_FRAME_BYTES:
        assert wire.frame_length(header) == size
    else:
        with pytest.raises(WireError, match=str(size)):
            wire.frame_length(header)


def test_limits_can_be_smaller():
    with pytest.raises(WireError):
        wire.frame_length((101).to_bytes(4, "big"), 100)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (pb.Frame(), "without a message"),
        (pb.Frame(payload_size=1, ready=pb.Ready()), "payload after a ready"),
        (pb.Frame(payload_size=wire.MAX_PAYLOAD_BYTES + 1, contribution=pb.Contribution()), "at most"),
    ],
)
def test_frames_that_break_a_rule_are_refused(frame: pb.Frame, reason: str):
    with pytest.raises(WireError, match=reason):
        wire.decode_frame(frame.SerializeToString())


def test_what_is_too_large_is_not_sent():
    with pytest.raises(WireError):
        wire.encode_frame(pb.Frame(contribution=pb.Contribution()), wire.MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(WireError):
        wire.encode_frame(pb.Frame(abort=pb.Abort(reason="x" * wire.MAX_FRAME_BYTES)))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes):
    try:
        frame = wire.decode_frame(data)
    except WireError:
        return
    assert frame.WhichOneof("message")


@given(st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_frame_is_a_frame_or_a_wire_error(position: int, value: int):
    data = bytearray(wire.encode_frame(pb.Frame(plan=pb.Signed(body=b"b", signer=b"s")))[4:])
    data[position % len(data)] = value
    with contextlib.suppress(WireError):
        wire.decode_frame(bytes(data))


@pytest.mark.parametrize(("lowest", "highest", "common"), [(1, 1, 1), (0, 9, 1), (1, 5, 1)])
def test_the_highest_version_that_both_speak_is_used(lowest: int, highest: int, common: int):
    assert wire.common_version(pb.ProtocolRange(lowest=lowest, highest=highest)) == common


@pytest.mark.parametrize(("lowest", "highest"), [(2, 9), (0, 0), (5, 1)])
def test_ranges_without_a_common_version_name_both(lowest: int, highest: int):
    with pytest.raises(IncompatibleProtocol, match=f"{lowest} to {highest}.*1 to 1"):
        wire.common_version(pb.ProtocolRange(lowest=lowest, highest=highest))
