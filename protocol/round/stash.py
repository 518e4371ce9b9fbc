"""Messages that came before the plan they belong to: kept for a while, bounded in number and bytes.

Links between different pairs race: a contribution may overtake the plan, a peer may be one commit ahead.
When there is no room, the newest is refused: its sender's session then ends with a reason, by deadline.
"""

from __future__ import annotations

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import (
    CommitReceived,
    ContributionArrived,
    PlanReceived,
    ResultArrived,
    VoteReceived,
    WantReceived,
)

Early = PlanReceived | ContributionArrived | ResultArrived | CommitReceived | VoteReceived | WantReceived


def session_of(event: Early) -> pb.SessionId:
    """The session that an event belongs to."""
    return event.session if isinstance(event, ContributionArrived) else event.message.session


def _size(event: Early) -> int:
    return len(event.payload) if isinstance(event, ContributionArrived | ResultArrived) else 0


class Stash:
    """A bounded list of early events, in order of arrival."""

    def __init__(self, events: int, size_bytes: int) -> None:
        self._limit = events
        self._limit_bytes = size_bytes
        self._events: list[Early] = []
        self._bytes = 0

    def put(self, event: Early) -> bool:
        """False where there is no room."""
        size = _size(event)
        if len(self._events) >= self._limit or self._bytes + size > self._limit_bytes:
            return False
        self._events.append(event)
        self._bytes += size
        return True

    def take_all(self) -> list[Early]:
        """Empties the stash."""
        events, self._events, self._bytes = self._events, [], 0
        return events
