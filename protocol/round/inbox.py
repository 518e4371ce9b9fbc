"""What the round machine is told of a frame: for all messages that carry no payload. Pure.

Contributions and results are not here: whoever drives a machine checks their payloads first.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t

Verified = Callable[[str, pb.Signed], bytes]
"""The body of what is signed as a message of a kind. Raises ValueError where it is not."""


def event_of(sender: bytes, frame: pb.Frame, verified: Verified) -> t.Event:
    """The event of a frame without a payload.

    Raises ValueError where it is none of a round, DecodeError for a body that can't be read, and what
    `verified` raises.
    """
    match frame.WhichOneof("message"):
        case "ready":
            return t.ReadyReceived(sender, frame.ready)
        case "plan":
            plan = pb.Plan.FromString(verified("plan", frame.plan))
            return t.PlanReceived(sender, plan, frame.plan.signer)
        case "want":
            return t.WantReceived(sender, frame.want)
        case "commit":
            commit = pb.Commit.FromString(verified("commit", frame.commit))
            return t.CommitReceived(sender, commit, frame.commit)
        case "vote":
            return t.VoteReceived(sender, pb.Vote.FromString(verified("vote", frame.vote)), frame.vote)
        case "abort":
            return t.AbortReceived(sender, frame.abort)
        case "inquiry":
            return t.InquiryReceived(sender, frame.inquiry)
        case "holding":
            return t.HoldingReceived(sender, frame.holding)
        case other:
            raise ValueError(f"{other} is not a message of a round without a payload")


def members_of(message: pb.Contribution) -> tuple[int, ...] | None:
    """Whose mean a contribution is; None: it is the sender's own."""
    return tuple(message.members) if message.partial else None
