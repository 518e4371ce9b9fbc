"""Messages that came before the plan they belong to: kept for a while, bounded in number and bytes.

Links between different pairs race: a contribution may overtake the plan, a peer may be one commit ahead.
When there is no room, the newest is refused: its sender's session then ends with a reason, by deadline.
What no session has asked for in `keep_s` is forgotten, and one sender has a quarter of the room at most, so
that neither strangers' nonsense nor sessions that this node never saw can fill it.
"""

from __future__ import annotations

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import (
    AbortReceived,
    CommitReceived,
    ContributionArrived,
    PlanReceived,
    ResultArrived,
    VoteReceived,
    WantReceived,
)

Early = (
    PlanReceived
    | ContributionArrived
    | ResultArrived
    | CommitReceived
    | VoteReceived
    | WantReceived
    | AbortReceived
)


def session_of(event: Early) -> pb.SessionId:
    """The session that an event belongs to."""
    return event.session if isinstance(event, ContributionArrived) else event.message.session


def _size(event: Early) -> int:
    return len(event.payload) if isinstance(event, ContributionArrived | ResultArrived) else 0


class Stash:
    """A bounded list of early events, in order of arrival."""

    def __init__(self, events: int, size_bytes: int, keep_s: float) -> None:
        self._limit = events
        self._limit_bytes = size_bytes
        self._keep_s = keep_s
        self._events: list[tuple[float, Early]] = []

    def put(self, event: Early, now: float, since: float | None = None) -> bool:
        """False where there is no room. `since`: when it came, if it has been here before."""
        self._events = [(at, e) for at, e in self._events if now - at < self._keep_s]
        kept = [e for _, e in self._events]
        mine = [e for e in kept if e.sender == event.sender]
        size = _size(event)
        if (
            len(kept) >= self._limit
            or 4 * len(mine) >= self._limit
            or size + sum(map(_size, kept)) > self._limit_bytes
            or 4 * (size + sum(map(_size, mine))) > self._limit_bytes
        ):
            return False
        self._events.append((now if since is None else since, event))
        return True

    def take_all(self) -> list[tuple[float, Early]]:
        """Empties the stash: (time of arrival, event)."""
        events, self._events = self._events, []
        return events
