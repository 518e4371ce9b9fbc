"""The books of one session's chunks: what an owner still waits for, and which results are here.

Pure bookkeeping on a plan. An owner reduces a chunk when every contributor came, was refused, or is lost,
or when its deadline passed; late contributions are noted and ignored.

A plan may continue an earlier one with the same contributors (an owner or the leader has left). Then what was
reduced stays, signed for the session in which it was; what an owner has collected of a chunk that stays its
own stays too; only the rest is sent again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import plan as plans
from atoll.protocol.wire import Payload


@dataclass
class OwnedChunk:
    """Contributions to one chunk that this node reduces; indices into the plan's contributors."""

    waiting: set[int]
    arrived: dict[int, Payload] = field(default_factory=dict)
    reducing: bool = False

    def complete(self) -> bool:
        return not self.waiting and not self.reducing


Key = tuple[bytes, int, int, bytes, int]


def session_key(session: pb.SessionId) -> Key:
    """A session's id as a dictionary takes it."""
    return session.parent, session.fragment, session.view, session.leader, session.life


class Exchange:
    """One session as member `me` sees it; `previous`: the one that its plan continues, if that is known."""

    def __init__(self, plan: pb.Plan, me: bytes, previous: Exchange | None = None) -> None:
        self.plan = plan
        self.index = {c.peer: i for i, c in enumerate(plan.contributors)}
        self.me = self.index.get(me)
        self.plans: dict[Key, pb.Plan] = {**previous.plans} if previous else {}
        self.plans[session_key(plan.session)] = plan
        self.results: dict[int, tuple[pb.ChunkResult, pb.Signed]] = {**previous.results} if previous else {}
        self.late: set[bytes] = {*previous.late} if previous else set()
        self.rejected: dict[bytes, str] = {**previous.rejected} if previous else {}
        collected: dict[int, OwnedChunk] = previous.owned if previous else {}
        everyone = range(len(plan.contributors))
        self.owned: dict[int, OwnedChunk] = {
            chunk: collected.get(chunk) or OwnedChunk(set(everyone))
            for chunk, owner in enumerate(plan.owners)
            if owner == self.me and chunk not in self.results
        }
        unsent = (c for c in range(len(plan.owners)) if not previous or previous.owner(c) != self.owner(c))
        self.to_send = tuple(c for c in unsent if c not in self.results)
        """Chunks that this member has to send to their (new) owners."""

    def knows(self, session: pb.SessionId) -> bool:
        """Whether this is the session, or one that it continues."""
        return session_key(session) in self.plans

    @property
    def members(self) -> set[bytes]:
        """Contributors and followers."""
        return set(self.index) | set(self.plan.followers)

    def owner(self, chunk: int) -> bytes:
        return plans.owner_of(self.plan, chunk)

    def contribute(self, sender: bytes, chunk: int, payload: Payload) -> str | None:
        """Notes an encoded chunk. The reason if it can't be used."""
        index, owned = self.index.get(sender), self.owned.get(chunk)
        # Whose link broke, or who did not know the session before this one, can't know what has come.
        if index is not None and chunk in self.results and self.plan.owners[chunk] == self.me:
            return None
        if index is None or owned is None:
            return "contribution to a chunk that is not owned here"
        if index in owned.arrived:
            return None
        if index not in owned.waiting:
            self.late.add(sender)
            return "late contribution"
        owned.waiting.discard(index)
        owned.arrived[index] = payload
        return None

    def refuse(self, sender: bytes, chunk: int, reason: str) -> None:
        """Notes that the codec refused a contribution."""
        self.rejected[sender] = reason
        index, owned = self.index.get(sender), self.owned.get(chunk)
        if index is not None and owned is not None:
            owned.waiting.discard(index)

    def lose(self, lost: Collection[bytes]) -> None:
        """Stops waiting for contributors that are gone."""
        gone = {self.index[peer] for peer in lost if peer in self.index}
        for owned in self.owned.values():
            owned.waiting -= gone

    def expire(self) -> None:
        """The scatter deadline passed: reduce with what is here."""
        for owned in self.owned.values():
            self.late.update(bytes(self.plan.contributors[i].peer) for i in owned.waiting)
            owned.waiting.clear()

    def due(self) -> list[tuple[int, tuple[tuple[int, int, Payload], ...]]]:
        """Chunks to reduce now, each once: (chunk, ((member, weight, payload), …) in member order)."""
        result = []
        for chunk, owned in self.owned.items():
            if owned.complete():
                owned.reducing = True
                contributions = tuple(
                    (i, int(self.plan.contributors[i].weight), payload)
                    for i, payload in sorted(owned.arrived.items())
                )
                # The bytes now belong to the reduction; keep only who came.
                owned.arrived = dict.fromkeys(owned.arrived, b"")
                result.append((chunk, contributions))
        return result

    def add_result(
        self, message: pb.ChunkResult, signed: pb.Signed, commit: pb.Commit | None = None
    ) -> str | None:
        """Notes a chunk's result. The reason if it is not one of this plan's, or another is known.

        What `commit` names is taken from anybody: its leader has vouched for it.
        """
        chunk, contributors = message.chunk, list(message.contributors)
        if chunk >= len(self.plan.owners):
            return "result of a chunk that the plan does not have"
        if not (commit is not None and _names(commit, message)):
            plan = self.plans.get(session_key(message.session))
            if plan is None:  # a view in which this node was not reached: nobody did wrong
                return "result of a plan that is not known here"
            if signed.signer != plans.owner_of(plan, chunk):
                return "result that is not by the owner of the chunk"
        if contributors != sorted(set(contributors)) or any(i >= len(self.index) for i in contributors):
            return "result with impossible contributors"
        known = self.results.get(chunk)
        if known is not None:
            return None if known[0] == message else "second, different result of a chunk"
        self.results[chunk] = (message, signed)
        return None

    def missing_results(self) -> list[int]:
        return [chunk for chunk in range(len(self.plan.owners)) if chunk not in self.results]

    def missing_owners(self) -> set[bytes]:
        return {self.owner(chunk) for chunk in self.missing_results()}

    def mismatched(self, commit: pb.Commit) -> list[int]:
        """Chunks of a commit that are not held here as the commit has them."""
        return [
            chunk
            for chunk in range(len(commit.chunks))
            if chunk not in self.results or not _names(commit, self.results[chunk][0])
        ]

    def forget(self, chunks: Collection[int]) -> set[int]:
        """Gives up held results that a commit has otherwise. Which of `chunks` were held."""
        return {chunk for chunk in chunks if self.results.pop(chunk, None) is not None}

    def contributed(self) -> set[bytes]:
        """Members in at least one result."""
        used = {i for message, _ in self.results.values() for i in message.contributors}
        return {bytes(self.plan.contributors[i].peer) for i in used}


def _names(commit: pb.Commit, result: pb.ChunkResult) -> bool:
    """Whether a commit holds this result of its chunk."""
    committed = commit.chunks[result.chunk]
    same = list(committed.contributors) == list(result.contributors)
    return bool(same and committed.payload_digest == result.payload_digest)
