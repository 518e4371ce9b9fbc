"""What the web room asks of a node: its state, its events, its commands, its health, its metrics.

The daemon implements `Node` and `EventLog`; tests and demos implement them with a few lines. What they answer
is in TypedDicts: the snapshot in state_types.py, reports of rounds in round_types.py, what the owner set up
in owner_types.py, events and figures over time below. All of it is JSON: a number that is not finite leaves
the API as null.

Nothing here fails by itself. A command that cannot be carried out raises `CommandError`, which crosses to the
caller once, as a refusal with a code, a sentence and a fix.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict


class CommandError(Exception):
    """A command that the node refuses. `code` is for machines; `message` and `fix` are sentences."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


class EventLog(Protocol):
    """A bounded ring of events with ever-growing sequence numbers (the first event has sequence 1)."""

    @property
    def last(self) -> int:
        """Sequence of the newest event; 0 when there has been none."""

    def since(self, sequence: int) -> tuple[Sequence[Mapping[str, Any]], bool]:
        """Return the kept events after `sequence`, oldest first, and whether some were lost in between.

        Each event is an `Event` with further JSON fields of its kind.
        """

    async def wait(self, sequence: int) -> None:
        """Return as soon as an event newer than `sequence` exists. Cancelling it must be harmless."""

    @property
    def changes(self) -> int:
        """Grows whenever the state is worth reading again: at each event, and in between."""

    async def wait_change(self, seen: int) -> None:
        """Return as soon as there are more than `seen` changes. Cancelling it must be harmless."""


class Source(Protocol):
    """What there is to read of a node. All methods are called in the daemon's event loop."""

    def state(self) -> Mapping[str, Any]:
        """Return the present snapshot, a `State`. Called at most twice a second, so it never blocks."""

    def rounds(self, after: int, limit: int) -> Mapping[str, Any]:
        """Return what changed in the reports after revision `after`, at most `limit` of them: `Rounds`."""

    def events(self) -> EventLog:
        """Return the ring of events, the same object each time."""


class Node(Source, Protocol):
    """One running node as the web room sees it."""

    async def command(self, name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        """Carry out `pause`, `resume`, `finish`, `set`, … and return a JSON-able answer.

        Raises `CommandError`; its code `unknown-command` becomes 404, every other code 409.
        """

    async def past(self, name: str | None, since: float, until: float, points: int) -> Mapping[str, Any]:
        """Return one figure's history, a `History`, or without a name `{"names": [...]}`.

        `since`, `until` in Unix seconds; at most `points` buckets. Raises `CommandError`.
        """

    def health(self) -> tuple[bool, str]:
        """Return whether the node has joined and averages, and the reason code (`ready`, `joining`, …)."""

    def metrics(self) -> str:
        """Return Prometheus text, format 0.0.4. Labels never carry peer ids."""


class Event(TypedDict):
    """One event."""

    sequence: int
    time: float
    """Unix seconds."""
    kind: str
    text: str
    """A sentence for people."""


class Events(TypedDict):
    """Events at once, `GET /api/v1/log?after=SEQUENCE`."""

    events: list[Event]
    """The kept ones, oldest first; each may have more fields of its kind."""
    last: int
    gap: bool
    """Some in between are lost."""


class HistoryBucket(TypedDict):
    """What a figure was in one stretch of time."""

    start: int
    """Unix seconds."""
    count: int
    min: float
    max: float
    mean: float


class History(TypedDict):
    """One figure over time, `GET /api/v1/history?name=...`."""

    name: str
    bucket_s: int
    buckets: list[HistoryBucket]
    """Those with samples, in order."""
