"""The books of one node: its token account, and what became of each contribution that it offered.

An offer is written down, durably, before anybody hears of it: so a node that was killed finds its
contribution in a commit later and knows which tokens that accepted, chunk by chunk. What a commit accepted is
kept with the commit's digest: when another chain is taken over, those tokens become orphaned, and if the
first chain wins after all, or the other one holds the same contribution, they are accepted again. Nothing
counts twice.

The trainer has lives: what its last life carried is lost with it, unless a commit brings it back. Sans-IO:
the owner writes `to_json` to disk when told to, and hands in commits with their digests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError, TokenAccount
from atoll.protocol.round.commit import contribution_of

KEEP_OFFERS = 64
KEEP_BOOKED = 1024
"""Commits; a state names as many ancestors, so the last common version of no deeper fork is ever found."""


@dataclass(frozen=True)
class Offer:
    """A snapshot that was offered: its number, the head it was offered for (hex), and what it carries."""

    number: int
    parent: str
    tokens: int
    carried: tuple[int, ...]
    life: int


@dataclass(frozen=True)
class Entry:
    """What a commit accepted of one offer: its tokens, summed up over the chunks."""

    version: int
    digest: str
    offer: int
    total: int


class Ledger:
    """Account, offers and entries of one node; `at`: the version up to which its commits are booked."""

    def __init__(self, chunks: int) -> None:
        self.account = TokenAccount(chunks)
        self.life = 0
        self.at = 0
        self._number = 0
        self._offers: list[Offer] = []
        self._booked: list[Entry] = []
        self._orphaned: list[Entry] = []

    # ---- the trainer

    def begin_life(self) -> None:
        """The trainer starts from the committed parameters; what it carried is lost."""
        self.account.drop("lost")
        self.life += 1

    def offer(self, parent: bytes, due: Collection[int] | None = None) -> Offer:
        """Notes that everything carried is offered for this head. To be written down before it is told.

        `due`: the chunks that the next commit is about; None: all.
        """
        self._number += 1
        carried = tuple(
            tokens if due is None or chunk in due else 0 for chunk, tokens in enumerate(self.account.pending)
        )
        made = Offer(self._number, parent.hex(), max(carried), carried, self.life)
        self._offers = [*self._offers, made][-KEEP_OFFERS:]
        return made

    # ---- commits

    def book(self, commit: pb.Commit, digest: bytes, me: bytes) -> list[int]:
        """Books what a commit of this node's chain accepted, once. Chunks that the trainer of today gave.

        Raises AccountError for a contribution that this node never offered, or whose tokens are not there.
        """
        self.at = max(self.at, int(commit.version))
        number, chunks = contribution_of(commit, me)
        name = digest.hex()
        if not chunks or any(entry.digest == name for entry in self._booked):
            return []
        offer = next((o for o in self._offers if o.number == number), None)
        if offer is None or offer.parent != commit.session.parent.hex():
            raise AccountError(f"version {commit.version} holds a contribution that is not in the books")
        amounts = tuple(n if chunk in chunks else 0 for chunk, n in enumerate(offer.carried))
        living = offer.life == self.life
        if living:
            for chunk in chunks:
                self.account.accept(amounts[chunk], [chunk])
        else:
            self._bring_back(sum(amounts), any(entry.offer == number for entry in self._orphaned))
        self._orphaned = [entry for entry in self._orphaned if entry.digest != name]
        entry = Entry(int(commit.version), name, number, sum(amounts))
        self._booked = [*self._booked, entry][-KEEP_BOOKED:]
        return chunks if living else []

    def _bring_back(self, amount: int, orphaned: bool) -> None:
        """Tokens of an earlier life are accepted: they had been given up, or another chain had them."""
        pools = ("orphaned", "lost", "expired") if orphaned else ("lost", "expired", "orphaned")
        if amount > sum(getattr(self.account, pool) for pool in pools):
            raise AccountError(f"{amount} tokens accepted that were never given up")
        for pool in pools:
            part = min(amount, getattr(self.account, pool))
            setattr(self.account, pool, getattr(self.account, pool) - part)
            self.account.accepted += part
            amount -= part

    def reconcile(self, digests: Mapping[int, bytes], newest: int | None = None) -> int:
        """Another chain may have been taken over; `digests` by version are those of this node's chain now.

        Commits that gave way return their tokens, those that are there again take them. `newest`: entries
        beyond this version are gone as well. Whole tokens that were orphaned.
        """
        chain = {version: digest.hex() for version, digest in digests.items()}
        gone = [
            entry
            for entry in self._booked
            if chain.get(entry.version, entry.digest) != entry.digest
            or (newest is not None and entry.version > newest)
        ]
        back = [entry for entry in self._orphaned if chain.get(entry.version) == entry.digest]
        lost, won = sum(entry.total for entry in gone), sum(entry.total for entry in back)
        self.account.accepted += won - lost
        self.account.orphaned += lost - won
        left, won_back = set(gone), set(back)
        self._booked = ([entry for entry in self._booked if entry not in left] + back)[-KEEP_BOOKED:]
        self._orphaned = ([entry for entry in self._orphaned if entry not in won_back] + gone)[-KEEP_BOOKED:]
        if newest is not None:
            self.at = newest
        return lost // self.account.chunks

    def leave(self, digests: Mapping[int, bytes], common: int) -> None:
        """Another chain was taken over, which has nothing of ours after the version `common`.

        `digests` as in `reconcile`, up to its head: what is not in sight any more first, then what both have.
        """
        self.reconcile(digests, newest=common)
        self.reconcile(digests, newest=max(digests))

    # ---- on disk

    def to_json(self) -> dict[str, object]:
        return {
            "account": self.account.to_json(),
            "life": self.life,
            "at": self.at,
            "number": self._number,
            "offers": [vars(offer) for offer in self._offers],
            "booked": [vars(entry) for entry in self._booked],
            "orphaned": [vars(entry) for entry in self._orphaned],
        }

    @classmethod
    def from_json(cls, data: object) -> Ledger:
        """Raises AccountError for anything that is not what `to_json` writes of books that balance."""
        if not isinstance(data, dict) or not isinstance(data.get("account"), dict):
            raise AccountError("the token account is unreadable")
        account = TokenAccount.from_json(data["account"])
        ledger = cls(account.chunks)
        ledger.account = account
        ledger.life, ledger.at, ledger._number = _integers([data.get(k) for k in ("life", "at", "number")])
        ledger._offers = [_offer(row, account.chunks) for row in _rows(data.get("offers"), KEEP_OFFERS)]
        ledger._booked = [_entry(row) for row in _rows(data.get("booked"), KEEP_BOOKED)]
        ledger._orphaned = [_entry(row) for row in _rows(data.get("orphaned"), KEEP_BOOKED)]
        return ledger


def _rows(value: object, limit: int) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(row, dict) for row in value):
        raise AccountError("the books hold no list of offers or entries")
    return value


def _integers(values: Collection[object], count: int | None = None) -> tuple[int, ...]:
    if count is not None and len(values) != count:
        raise AccountError("the books are of another table of chunks")
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise AccountError("the books hold something that is no number")
    return tuple(int(v) for v in values)  # type: ignore[call-overload]


def _chunked(value: object, chunks: int) -> tuple[int, ...]:
    return _integers(value if isinstance(value, list | tuple) else [], chunks)


def _digest(value: object) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise AccountError("the books hold something that is no digest")
    return value


def _offer(row: Mapping[str, object], chunks: int) -> Offer:
    number, tokens, life = _integers([row.get(k) for k in ("number", "tokens", "life")])
    return Offer(number, _digest(row.get("parent")), tokens, _chunked(row.get("carried"), chunks), life)


def _entry(row: Mapping[str, object]) -> Entry:
    version, offer, total = _integers([row.get(k) for k in ("version", "offer", "total")])
    return Entry(version, _digest(row.get("digest")), offer, total)
