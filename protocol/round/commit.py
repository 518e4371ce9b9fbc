"""Making a commit from the results of a session, and checking one. Pure functions.

Whatever decides the next state is in the commit's bytes: the plan's members and weights, for each chunk who
is in it and the digest of its payload, the learning rate, and the tokens of the chain so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.modes.asynchronous import ROUND
from atoll.protocol.round.exchange import Exchange

EMPTY = hashlib.sha256(b"").digest()
"""Of the payload of a chunk that a commit does not touch."""


class CommitError(ValueError):
    """A commit this node does not vote for; the message is the reason that is counted."""


def accepted_tokens(commit: pb.Commit) -> int:
    """Tokens that a commit accepts: the mean over chunks of its contributors' tokens, rounded down."""
    tokens = [c.tokens for c in commit.contributors]
    total = sum(tokens[i] for chunk in commit.chunks for i in chunk.contributors)
    return int(total // max(1, len(commit.chunks)))


def contribution_of(commit: pb.Commit, peer: bytes) -> tuple[int, list[int]]:
    """Number of a node's offer, and the chunks of the commit that hold its contribution."""
    index = next((i for i, c in enumerate(commit.contributors) if c.peer == peer), None)
    if index is None:
        return 0, []
    chunks = [n for n, chunk in enumerate(commit.chunks) if index in chunk.contributors]
    return int(commit.contributors[index].offer), chunks


def electorate(commit: pb.Commit) -> tuple[bytes, ...]:
    """Who certifies the next commit: everyone who is in at least one chunk of this one, or whom it names."""
    return tuple(bytes(peer) for peer in commit.voters) or contributors(commit)


def contributors(commit: pb.Commit) -> tuple[bytes, ...]:
    """Everyone who is in at least one chunk, sorted."""
    used = {i for chunk in commit.chunks for i in chunk.contributors}
    return tuple(sorted(bytes(commit.contributors[i].peer) for i in used))


def progress(head: Head, commit: pb.Commit) -> int:
    """Rounds of the chain after a small commit, in 65536ths: contributions of all voters make one."""
    return head.progress + ROUND * len(contributors(commit)) // len(commit.voters) if commit.voters else 0


def make_commit(head: Head, exchange: Exchange) -> pb.Commit:
    """The leader's proposal; all results must be there."""
    plan = exchange.plan
    results = {chunk: exchange.results[chunk][0] for chunk in exchange.chunks}
    untouched = pb.ChunkResult(payload_digest=EMPTY)
    commit = pb.Commit(
        swarm_id=plan.swarm_id,
        session=plan.session,
        version=head.version + 1,
        contributors=plan.contributors,
        chunks=[
            pb.CommittedChunk(contributors=r.contributors, payload_digest=r.payload_digest)
            for r in (results.get(chunk, untouched) for chunk in range(len(plan.owners)))
        ],
        result_codec=plan.result_codec,
        outer_lr=plan.outer_lr,
        voters=plan.voters,
        amendment=plan.amendment,
    )
    commit.cumulative_tokens = head.cumulative_tokens + accepted_tokens(commit)
    commit.progress = progress(head, commit)
    return commit


def check_commit(head: Head, exchange: Exchange, commit: pb.Commit) -> None:
    """Raises CommitError unless `commit` follows from the session's plan and this head."""
    plan = exchange.plan
    if commit.swarm_id != plan.swarm_id or commit.version != head.version + 1:
        raise CommitError("commit of another version")
    if list(commit.contributors) != list(plan.contributors) or len(commit.chunks) != len(plan.owners):
        raise CommitError("commit that is not of its plan")
    if (commit.result_codec, commit.outer_lr) != (plan.result_codec, plan.outer_lr):
        raise CommitError("commit with another codec or learning rate than its plan")
    if commit.amendment != plan.amendment:
        raise CommitError("commit by another manifest than its plan")
    if list(commit.voters) != list(plan.voters):
        raise CommitError("commit with other voters than its plan")
    check_content(head, commit, exchange.chunks)


def check_content(head: Head, commit: pb.Commit, due: Collection[int]) -> None:
    """Raises CommitError unless contributors and tokens of a commit that follows `head` make sense.

    `due`: the chunks of its fragment; no other is touched.
    """
    touched = {number for number, chunk in enumerate(commit.chunks) if chunk.contributors}
    if not touched <= set(due):
        raise CommitError("commit that touches chunks of another fragment")
    for chunk in commit.chunks:
        members = list(chunk.contributors)
        if members != sorted(set(members)) or any(i >= len(commit.contributors) for i in members):
            raise CommitError("commit with impossible contributors")
    used = contributors(commit)
    if not used:
        raise CommitError("commit without a contribution")
    voters = [bytes(peer) for peer in commit.voters]
    known = {bytes(c.peer) for c in commit.contributors} | set(head.electorate)
    if voters and not (voters == sorted(set(voters)) and set(used) <= set(voters) <= known):
        raise CommitError("commit with impossible voters")
    if any(c.weight < 1 for c in commit.contributors):
        raise CommitError("commit with a contributor without a weight")
    if commit.cumulative_tokens != head.cumulative_tokens + accepted_tokens(commit):
        raise CommitError("commit with a wrong sum of tokens")
    if commit.progress != progress(head, commit):
        raise CommitError("commit with a wrong count of rounds")
