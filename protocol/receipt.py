"""Receipts: that a swarm accepted a node's tokens, signed by those who voted for it. Pure.

A receipt is a commit that holds the node's contribution, the votes for it, and who had a vote (the electorate
of its parent, as the node knew it). Whoever has one can check it without being in the swarm: the leader
signed the commit, and a majority of those named signed that they hold it (SPEC.md, sections 6 and 15). What
it does not prove is that they are who the swarm's chain says: that takes the chain, or in a private swarm
their certificates.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from atoll.protocol import chain
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.commit import contribution_of
from atoll.protocol.signing import verify

MAX_BYTES = 4 << 20
"""Of one receipt: a commit of MAX_CHUNKS chunks, and the votes for it."""


class ReceiptError(ValueError):
    """Not a receipt for this node; the message says why."""


@dataclass(frozen=True)
class Receipt:
    """A receipt that was checked. `tokens`: accepted, the mean over the commit's chunks, as everywhere."""

    swarm_id: bytes
    node: bytes
    version: int
    digest: bytes
    """Of the chain with this commit."""
    tokens: int
    chunks: int
    """In which the contribution is."""
    of_chunks: int
    votes: int
    voters: int

    @property
    def certified(self) -> bool:
        """Whether a majority voted for it; without one it is provisional, and may give way."""
        return chain.is_majority(self.votes, self.voters)


def votes_of(record: pb.RoundRecord) -> set[bytes]:
    """Who voted for the commit of a record. Signatures are checked. Raises DecodeError."""
    digest = chain.commit_digest(record.commit.body)
    return {
        bytes(vote.signer)
        for vote in record.votes
        if verify("vote", vote) and pb.Vote.FromString(vote.body).commit == digest
    }


def is_certified(voters: tuple[bytes, ...], record: pb.RoundRecord) -> bool:
    """Whether the votes in a record are a majority of `voters`. Raises DecodeError."""
    return chain.is_majority(len(votes_of(record) & set(voters)), len(voters))


def make(record: pb.RoundRecord, voters: tuple[bytes, ...]) -> bytes:
    """A receipt for everybody who is in the commit of a record."""
    return pb.Receipt(record=record, voters=sorted(voters)).SerializeToString(deterministic=True)


def check(data: bytes, node: bytes) -> Receipt:
    """What a receipt says of `node`. Raises ReceiptError."""
    if len(data) > MAX_BYTES:
        raise ReceiptError("it is too long")
    try:
        receipt = pb.Receipt.FromString(data)
        commit = pb.Commit.FromString(receipt.record.commit.body)
    except DecodeError as error:
        raise ReceiptError("it is not readable") from error
    if any(place >= len(commit.contributors) for chunk in commit.chunks for place in chunk.contributors):
        raise ReceiptError("the commit names contributors that it does not have")
    _, chunks = contribution_of(commit, node)
    if not chunks:
        raise ReceiptError("it accepts nothing of this node")
    # Only now: a node looks at every commit, and signatures take time.
    try:
        votes = votes_of(receipt.record)
    except DecodeError as error:
        raise ReceiptError("it is not readable") from error
    signed, voters = receipt.record.commit, set(map(bytes, receipt.voters))
    if not verify("commit", signed) or signed.signer != commit.session.leader:
        raise ReceiptError("the commit is not signed by its leader")
    if len(voters) != len(receipt.voters) or not voters:
        raise ReceiptError("nobody had a vote, or somebody two")
    (tokens,) = {int(c.tokens) for c in commit.contributors if c.peer == node}
    return Receipt(
        swarm_id=bytes(commit.swarm_id),
        node=node,
        version=int(commit.version),
        digest=chain.next_digest(commit.session.parent, signed.body),
        tokens=tokens * len(chunks) // len(commit.chunks),
        chunks=len(chunks),
        of_chunks=len(commit.chunks),
        votes=len(votes & voters),
        voters=len(voters),
    )
