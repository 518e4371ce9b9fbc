"""What a driver makes of frames: for machines in tests."""

from __future__ import annotations

import hashlib

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import inbox
from atoll.protocol.round import types as t


def event_of(keyring: FakeKeyring, sender: bytes, frame: pb.Frame, payload: bytes = b"") -> t.Event:
    """The event that a driver makes of a frame; signatures are checked."""

    def verified(kind: str, signed: pb.Signed) -> bytes:
        assert keyring.verify(kind, signed)
        return bytes(signed.body)

    match frame.WhichOneof("message"):
        case "contribution":
            c = frame.contribution
            return t.ContributionArrived(sender, c.session, c.chunk, payload, inbox.members_of(c))
        case "result":
            message = pb.ChunkResult.FromString(verified("result", frame.result))
            assert hashlib.sha256(payload).digest() == message.payload_digest
            return t.ResultArrived(sender, message, frame.result, payload)
        case _:
            return inbox.event_of(sender, frame, verified)
