"""Frames on a stream: a length, a protobuf Frame, then its raw payload. Limits come before allocation.

    u32 big endian: bytes of the Frame (1 to MAX_FRAME_BYTES)
    the Frame; its `payload_size` says how many raw bytes follow (0 to MAX_PAYLOAD_BYTES)

Whatever breaks a rule raises WireError; the link it came over is then closed with the reason.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST
from atoll.protocol import messages_pb2 as pb

Payload = bytes | bytearray | memoryview
"""Raw bytes after a frame. What came over a link may be a view of the buffer that it was received into."""

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = (1 << 22) + (1 << 16)  # 2^20 values in fp32, and some room
LINK_PROTOCOL = "/atoll/link/1"
WITH_PAYLOAD = ("contribution", "result", "forward")
FILES_PROTOCOL = "/atoll/files/1"
ENROL_PROTOCOL = "/atoll/enrol/1"
MAX_ENROL_BYTES = 16 << 10
MAX_ENROL_REPLY_BYTES = 1 << 20
DIAL_BACK_PROTOCOL = "/atoll/dial-back/1"
MAX_DIAL_BACK_BYTES = 8 << 10
MAX_FILE_REQUEST_BYTES = 4096
MAX_FILE_HEADER_BYTES = 4 << 20


class WireError(ValueError):
    """Bytes that are not what the protocol says."""


class IncompatibleProtocol(WireError):
    """No wire version that both sides speak; both ranges are named."""


def spoken() -> pb.ProtocolRange:
    """The wire versions that this software speaks."""
    return pb.ProtocolRange(lowest=PROTOCOL_LOWEST, highest=PROTOCOL_HIGHEST)


def frame_length(header: bytes | bytearray, limit: int = MAX_FRAME_BYTES) -> int:
    """Length that a 4-byte header announces. Raises WireError."""
    size = int.from_bytes(header, "big")
    if not 0 < size <= limit:
        raise WireError(f"frame of {size} bytes announced, at most {limit} are allowed")
    return size


def prefixed(body: bytes) -> bytes:
    """`body` after its length."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def encode_frame(frame: pb.Frame, payload_size: int = 0, number: int = 0, unpacked_size: int = 0) -> bytes:
    """Length and frame; the payload goes after it. Raises WireError where it is over the limits."""
    if payload_size > MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {payload_size} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    frame.payload_size, frame.number, frame.unpacked_size = payload_size, number, unpacked_size
    body = frame.SerializeToString()
    frame_length(len(body).to_bytes(LENGTH_BYTES, "big"))
    return prefixed(body)


def decode_frame(body: bytes) -> pb.Frame:
    """A Frame with one message of a kind known here. Raises WireError."""
    try:
        frame = pb.Frame.FromString(body)
    except DecodeError as error:
        raise WireError("frame that is not readable") from error
    kind = frame.WhichOneof("message")
    if kind is None:
        raise WireError("frame without a message that is known here")
    if frame.payload_size > MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {frame.payload_size} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    if frame.payload_size and kind not in WITH_PAYLOAD:
        raise WireError(f"payload after a {kind} message")
    if frame.unpacked_size > (MAX_PAYLOAD_BYTES if frame.payload_size else 0):
        raise WireError(f"packed payload of {frame.unpacked_size} bytes, of which {frame.payload_size} came")
    return frame


def common_version(theirs: pb.ProtocolRange) -> int:
    """The highest wire version both speak. Raises IncompatibleProtocol."""
    version = min(PROTOCOL_HIGHEST, theirs.highest)
    if version < max(PROTOCOL_LOWEST, theirs.lowest):
        raise IncompatibleProtocol(
            f"the peer speaks protocol {theirs.lowest} to {theirs.highest}, "
            f"this node {PROTOCOL_LOWEST} to {PROTOCOL_HIGHEST}"
        )
    return version
