"""Payloads packed for slow lines: zstd level 1 (RFC 8878) around the bytes that a codec made.

The levels of a quantised chunk are not equally likely: of real pseudo-gradients int8 loses 7 to 10 % of its
bytes this way and int4 a quarter. It costs about a CPU-second per GB: it pays on lines below PAYS_BPS only.
The next node undoes it before anything is looked at: digests and signatures are of what is inside.
"""

from __future__ import annotations

import zstandard

from atoll.protocol.wire import MAX_PAYLOAD_BYTES, Payload, WireError

NAME = "zstd"
LEVEL = 1
PAYS_BPS = 200e6
"""Of a node's line. Faster ones are busy with other things than waiting: there the CPU is what is short."""
LEAST_BYTES = 4096
LEAST_GAIN = 0.03
"""What saves less goes as it is: the receiver need not unpack it."""


def pays(rate_bps: float) -> bool:
    """Whether to pack for a line of this rate, bits per second; 0.0: not measured yet."""
    return 0.0 < rate_bps < PAYS_BPS


def pack(payload: Payload) -> bytes | None:
    """The packed payload, or None where that saves too little."""
    if len(payload) < LEAST_BYTES:
        return None
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(payload)
    return packed if len(packed) <= (1 - LEAST_GAIN) * len(payload) else None


def unpack(packed: Payload, size: int) -> bytes:
    """The payload of `size` bytes. Raises WireError; allocates nothing before the size was compared."""
    if not 0 < size <= MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {size} bytes unpacked, at most {MAX_PAYLOAD_BYTES} are allowed")
    try:
        if zstandard.get_frame_parameters(packed).content_size != size:
            raise WireError("packed payload of another size than announced")
        return zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise WireError(f"packed payload that is not readable: {error}") from error


_WINDOW = 1 << 23
"""RFC 8878, 3.1.1.1.2: what every decoder supports; level 1 uses less."""
