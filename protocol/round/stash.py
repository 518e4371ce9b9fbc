"""Messages that came before the plan they belong to: kept for a while, bounded in number and bytes.

Links between different pairs race: a contribution may overtake the plan, a peer may be one commit ahead.
When there is no room, the newest is refused: its sender's session then ends with a reason, by deadline.
What no session has asked for in `keep_s` is forgotten, and one sender has a quarter of the room at most, so
that neither strangers' nonsense nor sessions that this node never saw can fill it.
"""

from __future__ import annotations

from collections import deque

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import (
    AbortReceived,
    CommitReceived,
    ContributionArrived,
    HoldingReceived,
    InquiryReceived,
    PlanReceived,
    ResultArrived,
    VoteReceived,
    WantReceived,
)

MEMBER_BYTES = 40
"""What one of the members of a mean takes in memory."""
SHARE = 4
"""One sender has at most this part of the room."""

Early = (
    PlanReceived
    | ContributionArrived
    | ResultArrived
    | CommitReceived
    | VoteReceived
    | WantReceived
    | AbortReceived
    | InquiryReceived
    | HoldingReceived
)


def session_of(event: Early) -> pb.SessionId:
    """The session that an event belongs to."""
    return event.session if isinstance(event, ContributionArrived) else event.message.session


def _size(event: Early) -> int:
    if isinstance(event, ContributionArrived):
        return len(event.payload) + MEMBER_BYTES * len(event.members or ())
    return len(event.payload) if isinstance(event, ResultArrived) else 0


class Stash:
    """A bounded list of early events, in order of arrival."""

    def __init__(self, events: int, size_bytes: int, keep_s: float) -> None:
        self._limits = (events, size_bytes)
        self._keep_s = keep_s
        self._events: deque[tuple[float, Early]] = deque()
        self._used: dict[bytes, tuple[int, int]] = {}  # by sender: events, bytes

    def put(self, event: Early, now: float, since: float | None = None) -> bool:
        """False where there is no room. `since`: when it came, if it has been here before."""
        while self._events and now - self._events[0][0] >= self._keep_s:
            self._count(self._events.popleft()[1], -1)
        everyone = tuple(map(sum, zip((0, 0), *self._used.values(), strict=True)))
        sender = self._used.get(event.sender, (0, 0))
        more = (1, _size(event))
        for used, own, extra, limit in zip(everyone, sender, more, self._limits, strict=True):
            if used + extra > limit or SHARE * (own + extra) > limit:
                return False
        self._count(event, 1)
        self._events.append((now if since is None else since, event))
        return True

    def _count(self, event: Early, sign: int) -> None:
        events, size = self._used.pop(event.sender, (0, 0))
        if events + sign:
            self._used[event.sender] = (events + sign, size + sign * _size(event))

    def take_all(self) -> list[tuple[float, Early]]:
        """Empties the stash: (time of arrival, event)."""
        events, self._events, self._used = list(self._events), deque(), {}
        return events
