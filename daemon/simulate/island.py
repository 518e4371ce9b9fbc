"""One node's trainer and its books: the synchronous twin of daemon/island.py, around the shipping ledger.

The trainer moves one value per chunk (facts.py) by the tokens it trained on, so local progress and the token
account say the same, and `offer` checks that they do. The books are durable before a contribution is offered,
and written again after each commit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from google.protobuf.message import DecodeError

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.simulate.store import Store
from atoll.daemon.storage.round_log import RoundLogError
from atoll.daemon.training import rebase
from atoll.daemon.training.rebase import Missed
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError, TokenAccount
from atoll.protocol.chain import next_digest
from atoll.protocol.ledger import Ledger, Offer

ACCOUNT = Path("account.json")


class Island:
    """Local progress and books of one node."""

    ahead = False
    """Whether the next phase begins while an offer is out."""
    again = False
    """Whether what was offered is to be offered again: the last commit was one of others."""

    def __init__(self, store: Store, me: bytes, slot: int, missed: Missed) -> None:
        self.ledger = Ledger(facts.COUNT)
        self._store = store
        self._me = me
        self._slot = slot
        self._missed = missed
        self._new = torch.from_numpy(store.parameters)[slot :: facts.VALUES]
        self.local = self._new.clone()
        self._anchor = self._new.clone()
        self._snapshot: torch.Tensor | None = None
        self._offered = 0  # the number of the offer that the snapshot is

    @property
    def account(self) -> TokenAccount:
        return self.ledger.account

    # ---- lives

    def resume(self) -> None:
        """A process starts: the books from disk; what the last one carried is lost. Raises AtollError."""
        try:
            self.ledger = Ledger.from_json(json.loads(self._store.disk.read(ACCOUNT)))
        except FileNotFoundError:
            self.ledger = Ledger(facts.COUNT)
        self.ledger.begin_life()  # before anything is booked: what comes back now is of an earlier life
        # A chain that was left may have been longer than what is there now.
        self.ledger.reconcile(self._store.window(), newest=self._store.head.version)
        # Booking is idempotent; by version alone, commits of a chain just taken over would be missed.
        for link in reversed(self._store.chain):
            commit = self._kept(link)
            if commit is not None:
                self._book(commit, link.digest)
        self.begin()
        self.save()

    def _kept(self, link: forks.Link) -> pb.Commit | None:
        """A commit of this chain, if the log still has it as it was."""
        try:
            record = self._store.log.read(link.version)
            commit = pb.Commit.FromString(record.commit.body) if record is not None else None
        except (RoundLogError, DecodeError):
            return None
        if record is None or commit is None:
            return None
        made = next_digest(commit.session.parent, record.commit.body)
        return commit if made == link.digest else None

    def begin(self) -> None:
        """The trainer starts afresh from the committed parameters; what it carried is lost."""
        self.ledger.begin_life()
        self.local.copy_(self._new)
        self._anchor.copy_(self._new)
        self._snapshot = None

    def save(self) -> None:
        """Makes the books durable. Raises AtollError."""
        self._store.disk.write(ACCOUNT, json.dumps(self.ledger.to_json(), separators=(",", ":")).encode())

    # ---- a phase and its contribution

    def train(self, tokens: int) -> None:
        """Inner steps on so many tokens."""
        self.account.produce(tokens)
        self.local -= tokens

    def offer(self) -> Offer:
        """Takes the snapshot. Raises AtollError where the books can't be made durable."""
        carried = self._carried().to(torch.int64).tolist()
        if carried != self.account.pending:
            pending = self.account.pending
            raise Violation("local progress", f"it carries {carried}, its account says {pending}")
        offer = self.ledger.offer(self._store.head.digest, self._store.chunks.due(self._store.head.version))
        self.save()
        self._offered = offer.number
        self._take_snapshot()
        return offer

    def _carried(self) -> torch.Tensor:
        """Progress that no commit has, chunk by chunk."""
        return self._new - self.local

    def _take_snapshot(self) -> None:
        self._snapshot = self.local.clone()

    def delta(self, chunk: int) -> float:
        """The pseudo-gradient in this node's value of a chunk."""
        assert self._snapshot is not None
        return float(self._new[chunk] - self._snapshot[chunk])

    @property
    def has_snapshot(self) -> bool:
        return self._snapshot is not None

    def holds(self, offer: int) -> bool:
        """Whether the snapshot is the one that was offered under this number."""
        return self.has_snapshot and self._offered == offer

    # ---- commits

    def committed(self, commits: Sequence[tuple[pb.Commit, bytes]]) -> None:
        """Outer steps were taken: books the tokens and rebases local progress, or gives it up."""
        self.ledger.reconcile(self._store.window())
        mine = {chunk for commit, digest in commits for chunk in self._book(commit, digest)}
        due = {chunk for commit, _ in commits for chunk in self._store.chunks.due(commit.version - 1)}
        others = [chunk for chunk in sorted(due) if chunk not in mine]
        resets = self._missed is Missed.RESET and self.has_snapshot
        if resets:
            # A phase that was over, and that the round did without.
            self.account.drop("expired", others)
        if resets and not mine and len(self._store.chunks.fragments) == 1:
            self.begin()
            return
        if not resets:
            # What an earlier life contributed moved our value as well; the rule knows nothing of it.
            for chunk in others:
                self.local[chunk] += self._new[chunk] - self._anchor[chunk]
        keep = [(chunk, chunk + 1) for chunk in others]
        rule = Missed.RESET if resets else Missed.KEEP
        about = [(chunk, chunk + 1) for chunk in sorted(due)]
        rebase.rebase_(self.local, self._new, self._snapshot, 0, keep, rule, due=about)
        self._anchor.copy_(self._new)
        self._snapshot = None

    def _book(self, commit: pb.Commit, digest: bytes) -> list[int]:
        """Accepts this node's tokens in a commit; the chunks that the trainer of today contributed."""
        try:
            return self.ledger.book(commit, digest, self._me)
        except AccountError as error:
            raise Violation("account", f"version {commit.version}: {error}") from error

    def left(self, common: int) -> None:
        """Another chain was taken over, which has nothing of ours after this version."""
        self.ledger.leave(self._store.window(), common)

    def taken_over(self, replayed: Sequence[tuple[pb.Commit, bytes]]) -> None:
        """Another state was taken over, then these commits: progress against the old anchor is given up."""
        self.account.drop("expired")
        self.ledger.begin_life()
        # First what gave way: the same contribution may be in a commit of this chain.
        self.ledger.reconcile(self._store.window(), newest=self._store.head.version)
        for commit, digest in replayed:
            self._book(commit, digest)
        self.begin()


class ArrivalIsland(Island):
    """The twin of DifferenceReplica in daemon/training/ahead.py: snapshots are what phases changed."""

    def __init__(self, store: Store, me: bytes, slot: int) -> None:
        super().__init__(store, me, slot, Missed.KEEP)
        self._progress = torch.zeros_like(self.local)
        self._start = self.local.clone()

    def begin(self) -> None:
        super().begin()
        self._progress.zero_()
        self._start.copy_(self.local)

    def _carried(self) -> torch.Tensor:
        return self._progress + (self._start - self.local)

    def _take_snapshot(self) -> None:
        fresh = self._start - self.local
        self._progress += fresh
        self._snapshot = self._progress
        self._start_next(fresh)

    def _start_next(self, fresh: torch.Tensor) -> None:
        """What comes next is measured from here."""
        self._start.copy_(self.local)

    def delta(self, chunk: int) -> float:
        assert self._snapshot is not None
        return float(self._snapshot[chunk])

    def committed(self, commits: Sequence[tuple[pb.Commit, bytes]]) -> None:
        mine = self._taken(commits)
        self.again = self.has_snapshot and not mine
        self._snapshot = None
        if mine:
            self.local.copy_(self._new)
            self._start.copy_(self._new)

    def _taken(self, commits: Sequence[tuple[pb.Commit, bytes]]) -> bool:
        """Whether commits hold chunks of what was offered, which is no progress to offer any more."""
        mine = {chunk for commit, digest in commits for chunk in self._book(commit, digest)}
        for chunk in mine:
            self._progress[chunk] = 0
        return bool(mine)


class AheadIsland(ArrivalIsland):
    """The twin of AheadReplica: the next phase begins before the commit."""

    ahead = True

    def _start_next(self, fresh: torch.Tensor) -> None:
        # Any start will do: here the eager one, were this node alone and the rate 1.
        torch.sub(self._new, fresh, out=self._start)
        self.local.copy_(self._start)

    def committed(self, commits: Sequence[tuple[pb.Commit, bytes]]) -> None:
        self._taken(commits)
        self._snapshot = None
