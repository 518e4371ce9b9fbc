"""Stripes: frames in pieces over several connections of a direct lane, put together again. Sans-IO.

A frame with its payload is the same run of bytes as on the libp2p stream (wire.py). It is cut into stripes of
STRIPE_BYTES, the last one shorter; each goes over any connection of the lane as

    u64 number of the frame ‖ u32 bytes of the whole run ‖ u32 offset            big endian, 16 bytes
    the bytes from there on: STRIPE_BYTES of them, or what is left

The receiver allocates a frame's buffer once, when its first stripe comes, and stripes are received into it.
A stripe may come twice (its connection broke, and it was sent again): the second one goes to a scratch
buffer, and nothing changes in a frame that was already handed on. Numbers tell which frames have come,
over the lane or over libp2p: each is handed on once.

Limits are checked before anything is allocated; whatever breaks one raises WireError and ends the lane.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.wire import (
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    WITH_PAYLOAD,
    Payload,
    WireError,
    decode_frame,
    frame_length,
)

HEAD_BYTES = 16
STRIPE_BYTES = 64 * 1024 - HEAD_BYTES
"""With its head a stripe fills four TLS records (RFC 8446, 5.1: 2^14 bytes each) to the last byte."""
MAX_RUN_BYTES = LENGTH_BYTES + MAX_FRAME_BYTES + MAX_PAYLOAD_BYTES
MAX_OPEN_FRAMES = 16
MAX_OPEN_BYTES = 2 * MAX_RUN_BYTES
"""Frames of one peer that have come in part: by number and by size."""
MAX_AHEAD = 64
"""A sender's frame is at most so many numbers after the oldest one that was not acknowledged."""

_HEAD = struct.Struct(">QII")


def encode_head(number: int, run_bytes: int, offset: int) -> bytes:
    """What goes before a stripe: 16 bytes."""
    return _HEAD.pack(number, run_bytes, offset)


class Numbers:
    """Which numbers have come, in bounded memory: all below `_floor`, and a few after it."""

    def __init__(self) -> None:
        self._floor = 1
        self._after: set[int] = set()

    def has(self, number: int) -> bool:
        """Whether it has come. Raises WireError where no honest sender could be so far ahead."""
        if not 0 < number < self._floor + MAX_AHEAD:
            raise WireError(f"frame number {number}, when {self._floor} is next")
        return number < self._floor or number in self._after

    def add(self, number: int) -> None:
        self._after.add(number)
        while self._floor in self._after:
            self._after.remove(self._floor)
            self._floor += 1


@dataclass(eq=False)
class Slot:
    """Where one stripe is to be received; `view` is filled by the caller."""

    number: int
    index: int
    view: memoryview
    scratch: bool


class _Open:
    """A frame that has come in part."""

    def __init__(self, run_bytes: int) -> None:
        self.buffer = bytearray(run_bytes)
        count = -(-run_bytes // STRIPE_BYTES)
        self.claimed = bytearray(count)
        self.have = bytearray(count)
        self.missing = count
        self.receiving = 0
        """Connections that write into the buffer."""


class Inbox:
    """What has come from one peer over its lane. Lives as long as the link: lanes come and go."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._open: dict[int, _Open] = {}

    @property
    def open_bytes(self) -> int:
        """Allocated for frames that have come in part."""
        return sum(len(entry.buffer) for entry in self._open.values())

    def begin(self, head: bytes | bytearray) -> Slot:
        """Where the stripe after this head goes. Raises WireError."""
        number, run_bytes, offset = _HEAD.unpack(head)
        if not LENGTH_BYTES < run_bytes <= MAX_RUN_BYTES:
            raise WireError(f"frame of {run_bytes} bytes in stripes, at most {MAX_RUN_BYTES} are allowed")
        if offset % STRIPE_BYTES or offset >= run_bytes:
            raise WireError(f"stripe at {offset} of {run_bytes} bytes")
        size = min(STRIPE_BYTES, run_bytes - offset)
        index = offset // STRIPE_BYTES
        entry = None if self.numbers.has(number) else self._entry(number, run_bytes)
        if entry is None or entry.claimed[index]:
            return Slot(number, index, memoryview(bytearray(size)), scratch=True)
        entry.claimed[index] = True
        entry.receiving += 1
        return Slot(number, index, memoryview(entry.buffer)[offset : offset + size], scratch=False)

    def _entry(self, number: int, run_bytes: int) -> _Open:
        entry = self._open.get(number)
        if entry is None:
            if len(self._open) >= MAX_OPEN_FRAMES or self.open_bytes + run_bytes > MAX_OPEN_BYTES:
                raise WireError("too many frames begun and not ended")
            entry = self._open[number] = _Open(run_bytes)
        elif len(entry.buffer) != run_bytes:
            raise WireError("stripes of one frame that differ in its size")
        return entry

    def finish(self, slot: Slot) -> tuple[int, pb.Frame, Payload] | None:
        """A stripe is whole: number, frame and payload if that was the frame's last. Raises WireError."""
        entry = self._open.get(slot.number)
        if entry is None:
            return None
        entry.receiving -= not slot.scratch
        if entry.have[slot.index]:
            return None
        if slot.scratch:
            start = slot.index * STRIPE_BYTES
            entry.buffer[start : start + len(slot.view)] = slot.view
        entry.claimed[slot.index] = entry.have[slot.index] = True
        entry.missing -= 1
        if entry.missing:
            return None
        del self._open[slot.number]
        # What is handed on must not change: a stripe that came twice may still be on its way into it.
        frame, payload = _parse(bytearray(entry.buffer) if entry.receiving else entry.buffer)
        if frame.number != slot.number:
            raise WireError(f"frame {frame.number} in the stripes of frame {slot.number}")
        self.numbers.add(slot.number)
        return slot.number, frame, payload

    def abandon(self, slot: Slot) -> None:
        """The stripe's connection broke before it was whole."""
        entry = self._open.get(slot.number)
        if entry is not None and not slot.scratch:
            entry.receiving -= 1
            entry.claimed[slot.index] = entry.have[slot.index]

    def first_time(self, number: int) -> bool:
        """Whether a frame that came whole, over libp2p, had not come yet. Raises WireError."""
        if self.numbers.has(number):
            return False
        self._open.pop(number, None)
        self.numbers.add(number)
        return True


def _parse(run: bytearray) -> tuple[pb.Frame, Payload]:
    start = LENGTH_BYTES + frame_length(run[:LENGTH_BYTES])
    frame = decode_frame(bytes(run[LENGTH_BYTES:start]))
    if frame.WhichOneof("message") not in WITH_PAYLOAD:
        raise WireError("a control frame over the lane")
    if start + frame.payload_size != len(run):
        raise WireError(f"frame of {start + frame.payload_size} bytes in a run of {len(run)}")
    return frame, memoryview(run)[start:]
