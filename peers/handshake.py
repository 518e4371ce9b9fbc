"""The handshake of a link: what its two sides tell each other before either is told more, and how it fails.

Each side says first only what it is let in by. The rest of its Hello, how it is and where, follows when it
has accepted the other's: so no stranger learns it, whichever side dialled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from atoll.peers.link import read_frame
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.text import plain

INCOMPATIBLE = "incompatible"
"""Code of the goodbye to a peer of another release."""


class LinkRefused(ConnectionError):
    """The handshake failed; the message says why."""


@dataclass(frozen=True)
class Spoken:
    """What a peer of another release speaks, as it says. `software`: empty where that is not known."""

    lowest: int
    highest: int
    software: str = ""


class VersionsDiffer(LinkRefused):
    """The peer and this node have no protocol version in common."""

    def __init__(self, message: str, theirs: Spoken) -> None:
        super().__init__(message)
        self.theirs = theirs


def parted(hello: pb.Hello) -> tuple[pb.Hello, pb.Hello]:
    """What a node is accepted by, and the rest, which is for those alone whom it has accepted."""
    first, rest = pb.Hello(), pb.Hello(addresses=hello.addresses)
    first.CopyFrom(hello)
    for name in ("status", "addresses", "lane"):
        first.ClearField(name)
    if hello.HasField("status"):
        rest.status.CopyFrom(hello.status)
    if hello.HasField("lane"):
        rest.lane.CopyFrom(hello.lane)
    return first, rest


def whole(first: pb.Hello, second: pb.Hello) -> pb.Hello:
    """A Hello of its two parts: what belongs into the other one is left out."""
    made, _ = parted(first)
    _, rest = parted(second)
    made.MergeFrom(rest)
    return made


async def say(writer: asyncio.StreamWriter, frame: pb.Frame) -> None:
    """Writes a frame before there is a link to do it."""
    writer.write(wire.encode_frame(frame))
    await writer.drain()


async def read_hello(reader: asyncio.StreamReader) -> pb.Hello:
    """The peer's next Hello. Raises LinkRefused where it says goodbye, or anything else."""
    frame, _ = await read_frame(reader)
    kind = frame.WhichOneof("message")
    if kind == "goodbye":
        raise _farewell(frame.goodbye)
    if kind != "hello":
        raise LinkRefused(f"the peer said {kind}, not hello")
    return frame.hello


def goodbye(refusal: LinkRefused) -> pb.Goodbye:
    """What a peer is told that is not let in."""
    if isinstance(refusal, VersionsDiffer):
        return pb.Goodbye(reason=str(refusal), code=INCOMPATIBLE, protocol=wire.spoken())
    return pb.Goodbye(reason=str(refusal))


def _farewell(said: pb.Goodbye) -> LinkRefused:
    """Why a peer did not want this node, in its own words."""
    reason = plain(said.reason)
    if said.code == INCOMPATIBLE:
        return VersionsDiffer(reason, Spoken(said.protocol.lowest, said.protocol.highest))
    return LinkRefused(reason)
