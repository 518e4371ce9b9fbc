"""The books of one session's chunks: what an owner still waits for, and which results are here.

Pure bookkeeping on a plan. An owner reduces a chunk when every contributor came, was refused, or is lost,
or when its deadline passed; late contributions are noted and ignored. In a plan with two levels (grid.py)
whoever collects for an owner does the same with its own group, and the owner takes one part for that group.
Nobody is in a mean twice: the parts of one have no member in common.

A plan may continue an earlier one with the same contributors (an owner or the leader has left). Then what was
reduced stays, signed for the session in which it was; what an owner has collected of a chunk that stays its
own stays too; only the rest is sent again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import plan as plans
from atoll.protocol.round.grid import Grid
from atoll.protocol.round.types import Part, Reduce
from atoll.protocol.wire import Payload


@dataclass
class OwnedChunk:
    """Contributions to one chunk that this node averages; indices into the plan's contributors."""

    waiting: set[int]
    arrived: dict[int, Part] = field(default_factory=dict)  # by first member
    members: set[int] = field(default_factory=set)
    """Everyone who is in a part that arrived."""
    reducing: bool = False

    @property
    def held_bytes(self) -> int:
        return sum(len(part.payload) for part in self.arrived.values())

    def complete(self) -> bool:
        return not self.waiting and not self.reducing

    def take(self, part: Part) -> None:
        """Adds a part, unless there is one that says as much or more of its members.

        The mean of a group takes the place of what some of it had sent by themselves.
        """
        mine = set(part.members)
        if mine and mine.isdisjoint(self.members):
            self.arrived[min(mine)] = part
            self.members |= mine
            return
        again = [first for first, other in self.arrived.items() if mine & set(other.members)]
        if mine and all(mine > set(self.arrived[first].members) for first in again):
            self.arrived = {first: other for first, other in self.arrived.items() if first not in again}
            self.arrived[min(mine)] = part
            self.members |= mine


Key = tuple[bytes, int, int, bytes, int]


def session_key(session: pb.SessionId) -> Key:
    """A session's id as a dictionary takes it."""
    return session.parent, session.fragment, session.view, session.leader, session.life


class Exchange:
    """One session as member `me` sees it; `previous`: the one that its plan continues, if that is known."""

    def __init__(self, plan: pb.Plan, me: bytes, previous: Exchange | None = None) -> None:
        self.plan = plan
        self.chunks = plans.due_chunks(plan)
        self.grid = Grid(plan)
        self.index = {bytes(c.peer): i for i, c in enumerate(plan.contributors)}
        self._id = me
        self.me = self.index.get(me)
        self.group = self.grid.group_of_follower(me) if self.me is None else self.grid.group(self.me)
        self.plans: dict[Key, pb.Plan] = {**previous.plans} if previous else {}
        self.plans[session_key(plan.session)] = plan
        self.results: dict[int, tuple[pb.ChunkResult, pb.Signed]] = {**previous.results} if previous else {}
        self.late: set[bytes] = {*previous.late} if previous else set()
        self.rejected: dict[bytes, str] = {**previous.rejected} if previous else {}
        self._gone: set[int] = {*previous._gone} if previous else set()
        self._sent: dict[int, tuple[bytes, int]] = {**previous._sent} if previous else {}
        """To whom a contribution went, for which owner: a new owner, and who collects for it, begin anew."""
        self._direct: dict[int, set[bytes]] = {}
        """Who has sent an owner its contribution past whoever collects for its group."""
        self._partials: dict[int, Part] = {}
        self._partial_sent: dict[int, bytes] = {}
        self.owned: dict[int, OwnedChunk] = {}
        self.collected: dict[int, OwnedChunk] = {}
        """What this node collects for the owners of these chunks."""
        for chunk in self.chunks:
            if chunk in self.results:
                continue
            if plan.owners[chunk] == self.me:
                self.owned[chunk] = self._owned(chunk, previous)
            elif self._takes(chunk):
                self._collect(chunk, previous)
        self.held_bytes = self._counted()
        """Payloads of chunks that are not averaged yet, and means of this node's group without a result."""

    def _counted(self) -> int:
        books = (*self.owned.values(), *self.collected.values())
        return sum(b.held_bytes for b in books) + sum(len(part.payload) for part in self._partials.values())

    def _owned(self, chunk: int, previous: Exchange | None) -> OwnedChunk:
        """What this node has of a chunk already: as its owner, or collected for the one before it."""
        if previous is not None and chunk in previous.owned:
            return previous.owned[chunk]
        owned = OwnedChunk(set(range(len(self.index))))
        collected = previous.collected.get(chunk) if previous else None
        if previous is not None and chunk in previous._partials:
            owned.take(previous._partials[chunk])
        elif collected is not None:
            for part in collected.arrived.values():
                owned.take(part)
        owned.waiting -= owned.members
        return owned

    def _collect(self, chunk: int, previous: Exchange | None) -> None:
        group = set(self.grid.members(self.group))
        if previous is not None and chunk in previous.collected:
            self.collected[chunk] = previous.collected[chunk]
        else:
            self.collected[chunk] = books = OwnedChunk(group)
            # What it had as the owner, until this plan: the others of the group don't send that again.
            owned = previous.owned.get(chunk) if previous else None
            for part in owned.arrived.values() if owned else ():
                if group.issuperset(part.members):
                    books.take(part)
            books.waiting -= books.members
        if previous is not None and chunk in previous._partials:
            self._partials[chunk] = previous._partials[chunk]
            if chunk in previous._partial_sent:
                self._partial_sent[chunk] = previous._partial_sent[chunk]

    def _takes(self, chunk: int) -> bool:
        """Whether this node is the owner of a chunk, or collects it for its group."""
        owner = self.plan.owners[chunk]
        return self.me is not None and self.grid.collector(owner, self.group) == self.me

    def knows(self, session: pb.SessionId) -> bool:
        """Whether this is the session, or one that it continues."""
        return session_key(session) in self.plans

    @property
    def members(self) -> set[bytes]:
        """Contributors and followers."""
        return set(self.index) | set(self.plan.followers)

    def owner(self, chunk: int) -> bytes:
        return plans.owner_of(self.plan, chunk)

    def _peer(self, index: int) -> bytes:
        return bytes(self.plan.contributors[index].peer)

    def counterpart(self, chunk: int) -> bytes:
        """Who takes this node's contribution to a chunk and sends it the result: its owner or a collector."""
        owner = self.plan.owners[chunk]
        collector = self.grid.collector(owner, self.group, self._gone)
        return self.owner(chunk) if collector == owner else self._peer(collector)

    # ---- contributions

    def due_sends(self) -> tuple[tuple[int, bytes], ...]:
        """Chunks without a result and who has to get this node's contribution, where it did not yet.

        In the order in which to send.
        """
        if self.me is None:
            return ()
        to = {chunk: (self.counterpart(chunk), self.plan.owners[chunk]) for chunk in self.missing_results()}
        due = {chunk: way for chunk, way in to.items() if self._sent.get(chunk) != way}
        self._sent.update(due)
        place = list(self.grid.members(self.group)).index(self.me)
        return in_turns(tuple((chunk, peer) for chunk, (peer, _) in due.items()), place)

    def contribute(
        self, sender: bytes, chunk: int, payload: Payload, members: tuple[int, ...] | None = None
    ) -> str | None:
        """Notes an encoded chunk, or with `members` the mean of theirs. The reason if it can't be used."""
        index, books = self.index.get(sender), self._books(sender, chunk)
        # Whose link broke, or who did not know the session before this one, can't know what has come.
        if index is not None and chunk in self.results and self._takes(chunk):
            return None
        if index is None or books is None or (members is not None and chunk not in self.owned):
            return "contribution to a chunk that is not owned here"
        if members is None:
            part, settled = Part((index,), self._weight((index,)), payload), {index}
            if self.grid.group(index) != self.group:
                self._direct.setdefault(chunk, set()).add(sender)
        else:
            settled = self._group_behind(index)
            if not settled or list(members) != sorted(set(members)) or not settled.issuperset(members):
                return "mean of others than the sender collects for"
            part = Part(members, self._weight(members), payload, partial=True)
            # The collector did not wait for them: the next round is to give them more time.
            self.late.update(self._peer(i) for i in settled - set(members) - self._gone - books.members)
        if books.reducing and not books.members.issuperset(part.members):
            self.late.add(sender)
            return "late contribution"
        books.waiting -= settled
        if not books.reducing:
            self._take(books, part)
        return None

    def _take(self, books: OwnedChunk, part: Part) -> None:
        before = books.held_bytes
        books.take(part)
        self.held_bytes += books.held_bytes - before

    def _books(self, sender: bytes, chunk: int) -> OwnedChunk | None:
        """Where a sender's contribution to a chunk belongs."""
        index = self.index.get(sender)
        if chunk in self.owned or index is None or self.grid.group(index) != self.group:
            return self.owned.get(chunk)
        return self.collected.get(chunk)

    def _group_behind(self, index: int) -> set[int]:
        """Those whom a contributor collects for in this node's chunks."""
        group = self.grid.group(index)
        collects = self.me is not None and self.grid.collector(self.me, group) == index
        return set(self.grid.members(group)) if collects and index != self.me else set()

    def _weight(self, members: Collection[int]) -> int:
        return sum(int(self.plan.contributors[i].weight) for i in members)

    def refuse(self, sender: bytes, chunk: int, reason: str) -> None:
        """Notes that the codec refused a contribution, or the mean of a group."""
        self.rejected[sender] = reason
        index, books = self.index.get(sender), self._books(sender, chunk)
        if index is not None and books is not None:
            books.waiting -= {index} | (self._group_behind(index) if chunk in self.owned else set())

    def lose(self, lost: Collection[bytes]) -> bool:
        """Stops waiting for all who are gone now; while they are, they collect for nobody.

        Whether they are others than before.
        """
        gone = {self.index[peer] for peer in lost if peer in self.index}
        changed, self._gone = gone != self._gone, gone
        for books in (*self.owned.values(), *self.collected.values()):
            books.waiting -= gone
        return changed

    def waits(self) -> tuple[bool, bool]:
        """Whether this node waits for contributions as a collector, and as an owner."""
        collects = any(books.waiting for books in self.collected.values())
        return collects, any(books.waiting for books in self.owned.values())

    def expire(self, collected: bool = False) -> None:
        """The deadline of what is owned, or collected, has passed: go on with what is here.

        Late is whoever should have sent it: for a group, who collects for it.
        """
        for chunk, books in (self.collected if collected else self.owned).items():
            for index in books.waiting:
                group = self.grid.group(index)
                sender = index
                if group != self.group:
                    sender = self.grid.collector(self.plan.owners[chunk], group, self._gone)
                self.late.add(self._peer(index if sender == self.me else sender))
            books.waiting.clear()

    def due(self) -> list[Reduce]:
        """What to average now, each once, in member order."""
        result = []
        for kind in (self.owned, self.collected):
            for chunk, books in kind.items():
                if books.complete():
                    books.reducing = True
                    # The bytes belong to the reduction from here on.
                    parts = tuple(part for _, part in sorted(books.arrived.items()))
                    self.held_bytes -= books.held_bytes
                    books.arrived = {}
                    result.append(Reduce(self.plan, chunk, parts, partial=kind is self.collected))
        return result

    def averaged(self, chunk: int, members: tuple[int, ...], payload: Payload) -> None:
        """The mean of this node's group is made: for the owner, which may be this node by now."""
        part = Part(members, self._weight(members), payload, partial=True)
        if chunk in self.owned and not self.owned[chunk].reducing:
            self._take(self.owned[chunk], part)
            self.owned[chunk].waiting -= set(self.grid.members(self.group))
        elif chunk in self.collected and self.collected[chunk].reducing and chunk not in self.results:
            self._partials[chunk] = part
            self.held_bytes += len(payload)

    def due_partials(self) -> list[tuple[int, bytes, Part]]:
        """Chunk, owner and mean of this node's group, where that owner did not get it yet."""
        due = [
            (chunk, self.owner(chunk), part)
            for chunk, part in self._partials.items()
            if self._partial_sent.get(chunk) != self.owner(chunk)
        ]
        self._partial_sent.update({chunk: owner for chunk, owner, _ in due})
        return due

    def renew(self, peers: Collection[bytes]) -> None:
        """The way to these is another one: what went on the old one is sent again, it may be lost."""
        self._sent = {chunk: way for chunk, way in self._sent.items() if way[0] not in peers}
        self._partial_sent = {c: peer for c, peer in self._partial_sent.items() if peer not in peers}

    # ---- results

    def audience(self, chunk: int) -> set[bytes]:
        """Who has to get the result of a chunk from this node, as its owner or as a collector."""
        if not self._takes(chunk):
            return set()
        owner, peers = self.plan.owners[chunk], set()
        for group in range(self.grid.groups) if owner == self.me else (self.group,):
            collector = self.grid.collector(owner, group, self._gone)
            if collector in (owner, self.me):
                peers |= {self._peer(i) for i in self.grid.members(group)} | set(self.grid.followers(group))
            else:
                peers.add(self._peer(collector))
        if owner == self.me:
            peers |= self._direct.get(chunk, set())
        return peers - {self._id}

    def add_result(
        self, message: pb.ChunkResult, signed: pb.Signed, commit: pb.Commit | None = None
    ) -> str | None:
        """Notes a chunk's result. The reason if it is not one of this plan's, or another is known.

        What `commit` names is taken from anybody: its leader has vouched for it.
        """
        chunk, contributors = message.chunk, list(message.contributors)
        if chunk >= len(self.plan.owners) or self.plan.owners[chunk] >= len(self.index):
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
        partial = self._partials.pop(chunk, None)
        if partial is not None:
            self.held_bytes -= len(partial.payload)
        return None

    def missing_results(self) -> list[int]:
        return [chunk for chunk in self.chunks if chunk not in self.results]

    def missing_owners(self) -> set[bytes]:
        return {self.owner(chunk) for chunk in self.missing_results()}

    def mismatched(self, commit: pb.Commit) -> list[int]:
        """Chunks of a commit that are not held here as the commit has them."""
        return [
            chunk
            for chunk in self.chunks
            if chunk not in self.results or not _names(commit, self.results[chunk][0])
        ]

    def forget(self, chunks: Collection[int]) -> set[int]:
        """Gives up held results that a commit has otherwise. Which of `chunks` were held."""
        return {chunk for chunk in chunks if self.results.pop(chunk, None) is not None}

    def contributed(self) -> set[bytes]:
        """Members in at least one result."""
        used = {i for message, _ in self.results.values() for i in message.contributors}
        return {bytes(self.plan.contributors[i].peer) for i in used}


def in_turns(targets: tuple[tuple[int, bytes], ...], place: int) -> tuple[tuple[int, bytes], ...]:
    """Chunks and their targets in the order in which the member at `place` in its group sends them.

    All members go through the chunks together, so that an owner soon has all of one, and never holds many in
    part; but each begins elsewhere among as many as there are targets, so that they don't all send to one.
    """
    width = len({target for _, target in targets})
    ordered: list[tuple[int, bytes]] = []
    for start in range(0, len(targets), max(width, 1)):
        turn = targets[start : start + width]
        first = place % len(turn)
        ordered += turn[first:] + turn[:first]
    return tuple(ordered)


def _names(commit: pb.Commit, result: pb.ChunkResult) -> bool:
    """Whether a commit holds this result of its chunk."""
    committed = commit.chunks[result.chunk]
    same = list(committed.contributors) == list(result.contributors)
    return bool(same and committed.payload_digest == result.payload_digest)
