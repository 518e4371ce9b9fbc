"""Whether the owner of a chunk made of its contributions what it should have. Pure.

An owner keeps what it was sent and gives it to whoever asks (AuditRecord). Payloads are the senders' by their
pledges, the result is the owner's by its signature and the commit's by its digest; and merges that hold
against liars make the same bits on any machine. So anybody can make the result again, and one that differs is
proof, for everybody who holds the commit, that the owner lied.

What this does not prove: that an owner left out whom it had no reason to leave out (a late contribution and
one that was thrown away look the same), or anything of an owner that shows no record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from google.protobuf.message import DecodeError

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.pledge import PledgeError, Pledges, key_of
from atoll.protocol.round.types import Part
from atoll.protocol.signing import Keyring

MAX_HEAD_BYTES = 8 << 20
"""Of a record before its payloads: a pledge of every contributor."""

Recompute = Callable[[Sequence[Part], bytes], tuple[bytes, tuple[int, ...]]]
"""Parts, and the seed of their draw, to the SHA-256 of the result and who is left out."""


class Unusable(ValueError):
    """A record from which nothing follows; the message says why."""


class Undecided(Exception):
    """A record with a pledge that was not told to this node: whoever made it may have told others another."""


class Lie(Exception):
    """The result of `owner` is not what its contributions make."""

    def __init__(self, owner: bytes, what: str) -> None:
        super().__init__(what)
        self.owner = owner


def seed_of(session: pb.SessionId, chunk: int) -> bytes:
    """What contributions are drawn by, where a merge puts them in buckets: nobody's choice."""
    return hashlib.sha256(bytes(session.parent) + chunk.to_bytes(4, "big")).digest()


def choose(owners: Mapping[int, bytes], me: bytes, draw: Callable[[int], int]) -> int | None:
    """The chunk to audit: one of an owner drawn at random, so that who owns little is seen as often.

    `draw`: a number from 0 to below the one given, which nobody else can foresee.
    """
    others = sorted(set(owners.values()) - {me})
    if not others:
        return None
    owner = others[draw(len(others))]
    chunks = sorted(chunk for chunk, peer in owners.items() if peer == owner)
    return chunks[draw(len(chunks))]


def digest_of(payload: wire.Payload) -> bytes:
    return hashlib.sha256(payload).digest()


def tail(record: pb.AuditRecord) -> bytes:
    """What follows the payloads of a record: it is known last."""
    body = record.SerializeToString()
    return body + len(body).to_bytes(wire.LENGTH_BYTES, "big")


def unpack(data: memoryview) -> tuple[pb.AuditRecord, list[memoryview]]:
    """Raises Unusable unless `data` is a record."""
    try:
        size = wire.frame_length(bytes(data[-wire.LENGTH_BYTES :]), MAX_HEAD_BYTES)
        end = len(data) - wire.LENGTH_BYTES - size
        if end < 0:
            raise wire.WireError("a record that is shorter than it says")
        record = pb.AuditRecord.FromString(bytes(data[end : -wire.LENGTH_BYTES]))
    except (wire.WireError, DecodeError) as error:
        raise Unusable("a record that is not readable") from error
    if sum(record.sizes) != end or len(record.sizes) != len(record.pledges):
        raise Unusable("a record of another length than it says")
    payloads, at = [], 0
    for size in record.sizes:
        payloads.append(data[at : at + size])
        at += size
    return record, payloads


def judge(
    data: memoryview, commit: pb.Commit, chunk: int, keyring: Keyring, pledges: Pledges, recompute: Recompute
) -> bytes:
    """The owner of a chunk of a commit, by a record that shows that it did right.

    Raises Unusable where the record shows nothing, and Lie where it shows that the owner did not. Of the
    owner nothing follows from Equivocation, where a contributor pledged this and another payload (together
    with whoever shows the record it could make a liar of an honest owner), or Undecided, where that can't be
    told.
    """
    record, payloads = unpack(data)
    if not keyring.verify("result", record.result):
        raise Unusable("a result with a wrong signature")
    result = _read(record.result)
    committed = commit.chunks[chunk]
    of_commit = list(result.contributors) == list(committed.contributors)
    if result.chunk != chunk or not of_commit or result.payload_digest != committed.payload_digest:
        raise Unusable("a result that is not the commit's")
    session, members = result.session, sorted({*result.contributors, *result.left_out})
    if (session.parent, session.fragment) != (commit.session.parent, commit.session.fragment):
        raise Unusable("a result of another head")
    if len(members) != len(payloads) or any(i >= len(commit.contributors) for i in members):
        raise Unusable("a record of other payloads than are in the result")
    parts, told = [], True
    for member, signed, payload in zip(members, record.pledges, payloads, strict=True):
        contributor = commit.contributors[member]
        told &= _is_told(pledges, contributor, session, signed, chunk, payload)
        parts.append(Part((member,), int(contributor.weight), payload))
    if not told:
        raise Undecided("a payload whose pledge was not told to this node")
    owner = bytes(record.result.signer)
    try:
        digest, left_out = recompute(parts, seed_of(session, chunk))
    except ValueError as error:
        raise Lie(owner, "it averaged a contribution that no codec takes") from error
    if digest != result.payload_digest or left_out != tuple(result.left_out):
        raise Lie(owner, "its result is not what its contributions make")
    return owner


def _read(signed: pb.Signed) -> pb.ChunkResult:
    try:
        return pb.ChunkResult.FromString(signed.body)
    except DecodeError as error:
        raise Unusable("a result that is not readable") from error


def _is_told(
    pledges: Pledges,
    contributor: pb.Contributor,
    session: pb.SessionId,
    signed: pb.Signed,
    chunk: int,
    payload: wire.Payload,
) -> bool:
    """Whether this node was told that the contributor pledges this payload.

    Raises Unusable unless it pledged it at all, Equivocation where it told this node otherwise.
    """
    try:
        pledge = pledges.read(signed)
    except (PledgeError, DecodeError) as error:
        raise Unusable("a payload without a pledge of its sender") from error
    parent, fragment, offer, _ = key_of(pledge)
    due = (session.parent, session.fragment, contributor.offer) == (parent, fragment, offer)
    if signed.signer != contributor.peer or not due:
        raise Unusable("a payload with another one's pledge")
    if pledges.digest(pledge, chunk) != hashlib.sha256(payload).digest():
        raise Unusable("a payload that its sender did not pledge")
    return pledges.holds(bytes(signed.signer), pledge)
