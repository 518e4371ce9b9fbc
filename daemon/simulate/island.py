"""One node's trainer and its books: the synchronous twin of daemon/island.py, exact to the token.

The trainer moves one value per chunk (facts.py) by the tokens it trained on, so local progress and the token
account say the same, and `offer` checks that they do. The account is durable before a contribution is offered
and again after each commit, together with what was offered (a node that was killed finds its contribution
in a commit later) and with what was booked for which commit (a chain that loses takes its tokens back).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.simulate.store import Store
from atoll.daemon.training import rebase
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError, TokenAccount

ACCOUNT = Path("account.json")
KEEP_OFFERS = 8
KEEP_BOOKED = 4 * forks.WINDOW


@dataclass(frozen=True)
class Offer:
    """What went into the snapshot: tokens carried per chunk, in this life of the trainer."""

    parent: str
    tokens: int
    carried: list[int]
    life: int


@dataclass(frozen=True)
class Entry:
    """Tokens per chunk that a commit accepted."""

    version: int
    digest: str
    amounts: list[int]
    parent: str
    tokens: int

    @property
    def offer(self) -> tuple[str, int]:
        return self.parent, self.tokens

    @property
    def chunks(self) -> set[int]:
        return {chunk for chunk, amount in enumerate(self.amounts) if amount}


class Island:
    """Local progress and account of one node; `life` counts the trainer's starts."""

    def __init__(self, store: Store, me: bytes, slot: int) -> None:
        self.account = TokenAccount(facts.COUNT)
        self.life = 0
        self.offers: list[Offer] = []
        self.booked: list[Entry] = []
        self.orphaned: list[Entry] = []
        self.at = 0  # the account knows what became of this node's tokens up to this version
        self._store = store
        self._me = me
        self._slot = slot
        self._new = torch.from_numpy(store.parameters)[slot :: facts.VALUES]
        self.local = self._new.clone()
        self._anchor = self._new.clone()
        self._snapshot: torch.Tensor | None = None

    # ---- lives

    def resume(self) -> None:
        """A process starts: the account from disk; what the last one carried is lost. Raises AtollError."""
        try:
            kept = json.loads(self._store.disk.read(ACCOUNT))
        except FileNotFoundError:
            kept = None
        if kept is not None:
            self.account = TokenAccount.from_json(kept["account"])
            self.offers = [Offer(**offer) for offer in kept["offers"]]
            self.booked = [Entry(**entry) for entry in kept["booked"]]
            self.orphaned = [Entry(**entry) for entry in kept["orphaned"]]
            self.life, self.at = kept["life"], kept["at"]
        self.account.drop("lost")
        self._reconcile()
        for link in reversed(self._store.chain):
            record = self._store.log.read(link.version) if link.version > self.at else None
            if record is not None:
                self._book(pb.Commit.FromString(record.commit.body), link.digest)
        self.at = self._store.head.version
        self.begin()
        self.save()

    def begin(self) -> None:
        """The trainer starts afresh from the committed parameters."""
        self.life += 1
        self.local.copy_(self._new)
        self._anchor.copy_(self._new)
        self._snapshot = None

    def crashed(self) -> None:
        """The trainer died, and starts again."""
        self.account.drop("lost")
        self.begin()

    def save(self) -> None:
        """Makes the books durable. Raises AtollError."""
        whole = {
            "account": self.account.to_json(),
            "offers": [vars(offer) for offer in self.offers],
            "booked": [vars(entry) for entry in self.booked],
            "orphaned": [vars(entry) for entry in self.orphaned],
            "life": self.life,
            "at": self.at,
        }
        self._store.disk.write(ACCOUNT, json.dumps(whole, separators=(",", ":")).encode())

    # ---- a phase and its contribution

    def train(self, tokens: int) -> None:
        """Inner steps on so many tokens; a few more where the sum would be that of an earlier offer."""
        parent, carried = self._store.head.digest.hex(), max(self.account.pending)
        taken = {offer.tokens for offer in self.offers if offer.parent == parent}
        while carried + tokens in taken:
            tokens += 1
        self.account.produce(tokens)
        self.local -= tokens

    def offer(self) -> Offer:
        """Takes the snapshot. Raises AtollError where the books can't be made durable."""
        carried = (self._new - self.local).to(torch.int64).tolist()
        if carried != self.account.pending:
            pending = self.account.pending
            raise Violation("local progress", f"it carries {carried}, its account says {pending}")
        offer = Offer(self._store.head.digest.hex(), max(carried), carried, self.life)
        if offer not in self.offers:  # the disk may have refused it before
            self.offers = [*self.offers, offer][-KEEP_OFFERS:]
        self.save()
        self._snapshot = self.local.clone()
        return offer

    def delta(self, chunk: int) -> float:
        """The pseudo-gradient in this node's value of a chunk."""
        assert self._snapshot is not None
        return float(self._new[chunk] - self._snapshot[chunk])

    @property
    def has_snapshot(self) -> bool:
        return self._snapshot is not None

    def session_ended(self, outcome: str) -> None:
        """A session is over: an abort changes nothing; a commit comes by `committed`."""

    # ---- commits

    def committed(self, commits: Sequence[tuple[pb.Commit, bytes]]) -> None:
        """Outer steps were taken: books the tokens and rebases local progress."""
        self._reconcile()
        mine = {chunk for commit, digest in commits for chunk in self._book(commit, digest)}
        self.at = self._store.head.version
        # What an earlier life contributed moved our value as well; a rule for spans knows nothing of that.
        for chunk in set(range(facts.COUNT)) - mine:
            self.local[chunk] += self._new[chunk] - self._anchor[chunk]
        keep = [(chunk, chunk + 1) for chunk in range(facts.COUNT) if chunk not in mine]
        rebase.rebase_(self.local, self._new, self._snapshot, 0, keep, rebase.Missed.KEEP)
        self._anchor.copy_(self._new)
        self._snapshot = None

    def _book(self, commit: pb.Commit, digest: bytes) -> list[int]:
        """Accepts this node's tokens in a commit; the chunks that the trainer of today contributed."""
        if any(entry.digest == digest.hex() for entry in self.booked):
            return []
        index = next((i for i, c in enumerate(commit.contributors) if c.peer == self._me), None)
        mine = [n for n, chunk in enumerate(commit.chunks) if index in chunk.contributors]
        if index is None or not mine:
            return []
        tokens, parent = commit.contributors[index].tokens, commit.session.parent.hex()
        offer = next((o for o in self.offers if (o.parent, o.tokens) == (parent, tokens)), None)
        if offer is None:
            raise Violation("account", f"version {commit.version} has {tokens} tokens that it never offered")
        amounts = [offer.carried[chunk] if chunk in mine else 0 for chunk in range(facts.COUNT)]
        living = offer.life == self.life
        given_up = {chunk for e in self.orphaned if e.offer == (parent, tokens) for chunk in e.chunks}
        try:
            for chunk in mine:
                if living:
                    self.account.accept(amounts[chunk], [chunk])
                else:
                    self._bring_back(amounts[chunk], chunk in given_up)
        except AccountError as error:
            raise Violation("account", f"version {commit.version}: {error}") from error
        entry = Entry(int(commit.version), digest.hex(), amounts, parent, int(tokens))
        self.orphaned = [e for e in self.orphaned if e.digest != entry.digest]
        self.booked = [*self.booked, entry][-KEEP_BOOKED:]
        return mine if living else []

    def _bring_back(self, amount: int, orphaned: bool) -> None:
        """Tokens of an earlier life are accepted: they had been given up, or another chain had them."""
        account = self.account
        for pool in ("orphaned", "lost", "expired") if orphaned else ("lost", "expired", "orphaned"):
            part = min(amount, getattr(account, pool))
            setattr(account, pool, getattr(account, pool) - part)
            account.accepted += part
            amount -= part
        if amount:
            raise AccountError(f"{amount} tokens accepted that were never given up")

    def taken_over(self) -> None:
        """Another state was taken over: progress against the old anchor is given up."""
        self.account.drop("expired")
        self._reconcile(whole=True)
        self.at = self._store.head.version
        self.begin()

    def _reconcile(self, whole: bool = False) -> None:
        """Commits that gave way to others return their tokens; those that are there again take them.

        A commit beyond the head is gone if another chain was taken over; after a damaged checkpoint it is
        not, for the chain grows again as it was.
        """
        window = {version: digest.hex() for version, digest in self._store.window().items()}
        newest = self._store.head.version if whole else math.inf
        gone = [e for e in self.booked if window.get(e.version, e.digest) != e.digest or e.version > newest]
        back = [e for e in self.orphaned if window.get(e.version) == e.digest]
        for entry in gone:
            for amount in entry.amounts:
                self.account.orphan(amount, 1)
        for entry in back:
            self.account.orphaned -= sum(entry.amounts)
            self.account.accepted += sum(entry.amounts)
        self.booked = [e for e in self.booked if e not in gone] + back
        self.orphaned = ([e for e in self.orphaned if e not in back] + gone)[-KEEP_BOOKED:]
