"""What a driver makes of frames: for machines in tests."""

from __future__ import annotations

import hashlib

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t


def event_of(keyring: FakeKeyring, sender: bytes, frame: pb.Frame, payload: bytes = b"") -> t.Event:
    """The event that a driver makes of a frame; signatures are checked."""
    kind = frame.WhichOneof("message")
    if kind in ("plan", "result", "commit", "vote"):
        assert keyring.verify(kind, getattr(frame, kind))
    match kind:
        case "ready":
            return t.ReadyReceived(sender, frame.ready)
        case "plan":
            return t.PlanReceived(sender, pb.Plan.FromString(frame.plan.body), frame.plan.signer)
        case "contribution":
            c = frame.contribution
            members = tuple(c.members) if c.partial else None
            return t.ContributionArrived(sender, c.session, c.chunk, payload, members)
        case "result":
            message = pb.ChunkResult.FromString(frame.result.body)
            assert hashlib.sha256(payload).digest() == message.payload_digest
            return t.ResultArrived(sender, message, frame.result, payload)
        case "want":
            return t.WantReceived(sender, frame.want)
        case "commit":
            return t.CommitReceived(sender, pb.Commit.FromString(frame.commit.body), frame.commit)
        case "inquiry":
            return t.InquiryReceived(sender, frame.inquiry)
        case "holding":
            return t.HoldingReceived(sender, frame.holding)
        case "vote":
            return t.VoteReceived(sender, pb.Vote.FromString(frame.vote.body), frame.vote)
        case _:
            return t.AbortReceived(sender, frame.abort)
