"""The token account: what became of every token a node trained on. Integers, chunk by chunk.

A token counts in each chunk separately (its gradient may be accepted in one and carried in another), so
every balance is a sum over chunks, shown divided by their number. The identity that must hold at any time:

    produced = accepted + carried + orphaned + expired + lost

carried: in the local parameters, to be contributed later. orphaned: accepted by a commit that lost to a
fork. expired: dropped because the node had fallen too far behind. lost: gone in a crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

CATEGORIES = ("accepted", "orphaned", "expired", "lost")


class AccountError(ValueError):
    """An entry that would break the identity."""


@dataclass
class TokenAccount:
    """Balances in token·chunks; `pending[c]` are the tokens carried in chunk c since its anchor."""

    chunks: int
    produced: int = 0
    accepted: int = 0
    orphaned: int = 0
    expired: int = 0
    lost: int = 0
    pending: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.pending:
            self.pending = [0] * self.chunks
        if len(self.pending) != self.chunks:
            raise AccountError(f"{len(self.pending)} chunks in an account of {self.chunks}")

    @property
    def carried(self) -> int:
        return sum(self.pending)

    def produce(self, tokens: int) -> None:
        """Tokens trained on: carried in every chunk until something becomes of them."""
        if tokens < 0:
            raise AccountError(f"{tokens} tokens produced")
        self.produced += tokens * self.chunks
        self.pending = [p + tokens for p in self.pending]

    def accept(self, tokens: int, chunks: Iterable[int]) -> None:
        """`tokens` of this node were averaged into a commit in these chunks.

        They were carried; or they had been given up (the trainer died, the node was restarted) while the
        contribution was on its way, and now come back from there. Raises AccountError for more than that.
        """
        chosen = set(chunks)
        back = sum(max(0, tokens - self.pending[chunk]) for chunk in chosen)
        if tokens < 0 or back > self.lost + self.expired:
            raise AccountError(f"{tokens} tokens accepted in {len(chosen)} chunks, more than were produced")
        for chunk in chosen:
            self.pending[chunk] -= min(tokens, self.pending[chunk])
        from_lost = min(back, self.lost)
        self.lost -= from_lost
        self.expired -= back - from_lost
        self.accepted += tokens * len(chosen)

    def orphan(self, tokens: int, chunks: int) -> None:
        """A commit with `tokens` accepted in so many chunks lost to a fork."""
        if tokens * chunks > self.accepted:
            raise AccountError("more tokens orphaned than were accepted")
        self.accepted -= tokens * chunks
        self.orphaned += tokens * chunks

    def drop(self, category: str, chunks: Iterable[int] | None = None) -> None:
        """All tokens carried, in these chunks or in all, become `expired` or `lost`."""
        if category not in ("expired", "lost"):
            raise AccountError(f"nothing is dropped as {category}")
        for chunk in range(self.chunks) if chunks is None else chunks:
            setattr(self, category, getattr(self, category) + self.pending[chunk])
            self.pending[chunk] = 0

    def balanced(self) -> bool:
        return self.produced == self.accepted + self.carried + self.orphaned + self.expired + self.lost

    def summary(self) -> dict[str, int]:
        """Whole tokens for people: each balance over the number of chunks."""
        names = ("produced", *CATEGORIES, "carried")
        return {name: getattr(self, name) // self.chunks for name in names}

    def to_json(self) -> dict[str, object]:
        names = ("chunks", "produced", *CATEGORIES, "pending")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> TokenAccount:
        """Raises AccountError for anything that is not a balanced account."""
        if not data.get("pending"):
            raise AccountError("the token account is unreadable")
        try:
            account = cls(**data)  # type: ignore[arg-type]
            numbers = [account.chunks, account.produced, account.carried, *account.pending]
            numbers += [getattr(account, name) for name in CATEGORIES]
        except TypeError as error:
            raise AccountError("the token account is unreadable") from error
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not account.balanced():
            raise AccountError("the token account does not balance")
        return account
