"""Counting votes. A vote says: I durably hold all bytes of this commit; a refusal: and I am against it.

Votes go to every member, so each can certify on its own and no leader's death after the proposal matters.
One voter has one vote in a session: the first, and a different one after it is refused with its reason. What
it said first of a commit, vote or refusal, holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import is_majority


class Ballot:
    """Votes of one session. Only members of the parent's electorate count."""

    def __init__(self, electorate: tuple[bytes, ...]) -> None:
        self._electorate = frozenset(electorate)
        self._votes: dict[bytes, tuple[bytes, pb.Signed]] = {}
        self._count: Counter[bytes] = Counter()
        self._refusals: dict[bytes, bytes] = {}
        self._missing = set(electorate)

    def put(self, commit: bytes, signed: pb.Signed) -> str | None:
        """Notes a vote for the commit with this digest. The reason if it does not count."""
        voter = signed.signer
        if voter not in self._electorate:
            return "vote of a node outside the electorate"
        known = self._votes.get(voter)
        if known is None and self._refusals.get(voter) == commit:
            return "vote after a refusal"
        if known is None:
            self._votes[voter] = (commit, signed)
            self._count[commit] += 1
            self._missing.discard(voter)
        elif known[0] != commit:
            return "second, different vote"
        return None

    def refuse(self, commit: bytes, voter: bytes) -> str | None:
        """Notes that a voter is against the commit with this digest. The reason if that does not count."""
        if voter not in self._electorate:
            return "refusal of a node outside the electorate"
        if voter in self._votes:
            return "refusal after a vote"
        self._refusals.setdefault(voter, commit)
        self._missing.discard(voter)
        return None

    def refusals(self, commit: bytes) -> tuple[bytes, ...]:
        """Who is against this commit, sorted."""
        return tuple(sorted(voter for voter, digest in self._refusals.items() if digest == commit))

    def outvoted(self, commit: bytes, members: Collection[bytes], live: Collection[bytes]) -> bool:
        """Whether at least half of the voters in its session are against it.

        `members`: of the session; of those who have said nothing only the `live` count. One of them may have
        no vote left for it, because it voted for another commit of this parent: it counts as not against it.
        """
        against = set(self.refusals(commit)).intersection(members)
        voted = {voter for voter, (digest, _) in self._votes.items() if digest == commit}
        others = (self._electorate.intersection(members).intersection(live) | voted) - against
        return 0 < len(against) >= len(others)

    def votes(self, commit: bytes) -> tuple[pb.Signed, ...]:
        """Signed votes for this commit, by voter."""
        return tuple(s for _, (digest, s) in sorted(self._votes.items()) if digest == commit)

    def certified(self, commit: bytes) -> bool:
        return is_majority(self._count[commit], len(self._electorate))

    def heard(self) -> bool:
        """Whether there is any vote."""
        return bool(self._votes)

    def missing(self) -> tuple[bytes, ...]:
        """Voters not heard of."""
        return tuple(sorted(self._missing))

    def awaits(self, peers: Collection[bytes], besides: bytes) -> bool:
        """Whether one of `peers`, a set, is a voter not heard of; `besides` does not count."""
        return any(voter in peers and voter != besides for voter in self._missing)
