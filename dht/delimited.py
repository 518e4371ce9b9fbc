"""Messages after their length as a varint, as libp2p and p2pd put them on a stream (protobuf's encoding)."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from atoll.protocol.wire import WireError


def delimited(message: Message) -> bytes:
    """A message after its length."""
    body = message.SerializeToString()
    return varint(len(body)) + body


def varint(value: int) -> bytes:
    """Seven bits in each byte, the least first; all but the last have the highest bit set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


async def read_length(reader: asyncio.StreamReader, most_bytes: int) -> int:
    """A length that takes at most so many bytes itself. Raises WireError, EOFError."""
    size = 0
    for number in range(most_bytes):
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return size
    raise WireError(f"a message whose length takes more than {most_bytes} bytes")
