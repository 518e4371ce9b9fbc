"""What is left of a session whose leader or an owner has left: who holds which results.

The leader, or the next one in rank, collects answers from the live members. When all have answered, or the
time for it is over, it knows which chunks nobody can be expected to deliver. Pure bookkeeping.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from atoll.protocol.chain import leader_of

ANSWER_PART = 0.5
"""Part of the voting time in which members have to say what they hold."""


def successor(parent: bytes, fragment: int, contributors: Iterable[bytes], live: Collection[bytes]) -> bytes:
    """Who leads a session whose leader has left: the highest in rank among live contributors, else nobody."""
    return leader_of(parent, fragment, (c for c in contributors if c in live)) or b""


class Salvage:
    """Answers that are awaited until `deadline`, and those that came."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._holders: dict[int, list[bytes]] = {}
        self._answered: set[bytes] = set()

    def answer(self, peer: bytes, chunks: Iterable[int]) -> None:
        """Notes what a member holds."""
        self._answered.add(peer)
        for chunk in chunks:
            self._holders.setdefault(chunk, []).append(peer)

    def complete(self, others: Collection[bytes], now: float) -> bool:
        """Whether there is nothing more to wait for."""
        return now >= self.deadline or self._answered >= set(others)

    def heard(self) -> bool:
        """Whether anybody answered."""
        return bool(self._answered)

    def holder(self, chunk: int, live: Collection[bytes]) -> bytes | None:
        """A live member that holds the result of a chunk."""
        return next((peer for peer in self._holders.get(chunk, ()) if peer in live), None)
