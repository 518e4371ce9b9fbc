"""Server-sent events: the node's ring of events as `GET /api/v1/events` (WHATWG HTML, section 9.2).

Each event goes out with its sequence as id, so that a browser that reconnects sends `Last-Event-ID` and
misses nothing; where the ring no longer reaches back far enough, a `reset` event tells it to fetch the
state anew. With `changes=1` what changes in the snapshot goes out, too, as `change` without an id
(changes.py); who can't follow any more gets an empty `resync`, and fetches the state. A comment every
`heartbeat_s` seconds keeps proxies and clients sure of the line.

A slow browser never slows training: nothing is queued for it here, it reads the ring at its own speed and
gets a `reset` when it falls out of it. One that takes nothing for `stall_s` seconds is dropped; that its
connection ends, too, is for connections.py. The number of streams is bounded, in all and for each client that
is not on this machine; the next one is refused. All streams end at once when `close` is called.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.web_ui.attempts import client_of, is_here
from atoll.web_ui.changes import Snapshots
from atoll.web_ui.connections import share_of
from atoll.web_ui.interface import EventLog
from atoll.web_ui.replies import encode_json, error_reply

MAX_STREAMS = 64
HEARTBEAT_S = 15.0
STALL_S = 30.0
RETRY_MS = 2000
HERE = "here"
"""All clients on this machine."""
RESYNC = b"event: resync\ndata: {}\n\n"
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]

_log = logging.getLogger(__name__)


def encode_event(event: Mapping[str, Any]) -> bytes:
    # JSON escapes line ends, so one data line is enough.
    return f"id: {int(event['sequence'])}\ndata: {encode_json(event)}\n\n".encode("utf-8", "replace")


def encode_reset(sequence: int) -> bytes:
    """The event that says: events were lost, fetch the state. What follows begins after `sequence`."""
    return f'id: {sequence}\nevent: reset\ndata: {{"sequence":{sequence}}}\n\n'.encode()


def catch_up(log: EventLog, cursor: int) -> tuple[list[bytes], int]:
    """Return what a client that has seen `cursor` should get now, and its new cursor."""
    # A cursor from the future is one of an earlier life of this node, whose events were lost.
    foreign = cursor > log.last
    events, gap = log.since(0 if foreign else cursor)
    chunks = [encode_event(event) for event in events]
    if gap or foreign:
        chunks.insert(0, encode_reset(int(events[0]["sequence"]) - 1 if events else log.last))
    # Further than the last of them where a log leaves events out: those are not missed later.
    return chunks, log.last


class EventStreams:
    """All open event streams of one server."""

    def __init__(
        self,
        log: EventLog,
        snapshots: Snapshots | None = None,
        *,
        limit: int = MAX_STREAMS,
        heartbeat_s: float = HEARTBEAT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._log = log
        self._snapshots = snapshots
        self._limit = limit
        self.heartbeat_s = heartbeat_s
        self.stall_s = stall_s
        self.closing = asyncio.Event()
        self._of: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Streams that stand."""
        return self._of.total()

    def close(self) -> None:
        """End every stream, now and for good."""
        self.closing.set()

    def open(self, cursor: int | None, changes: bool = False, address: str = "") -> ASGIApp:
        """Return the answer to one request. `cursor`: last sequence seen; None wants only what is to come.

        `changes`: those of the snapshot are wanted, too. `address`: of the other end, empty if not known.
        """
        line = HERE if is_here(address) else client_of(address, proxied=False)
        if self.count >= self._limit:
            return _too_many(f"{self._limit} pages already watch this node.")
        if line != HERE and self._of[line] >= share_of(self._limit):
            return _too_many(f"{self._of[line]} pages already watch this node from where you are.")
        snapshots = self._snapshots if changes else None
        return _EventStream(self, self._log, self._log.last if cursor is None else cursor, snapshots, line)

    def enter(self, line: str) -> None:
        """A client takes one of its places."""
        self._of[line] += 1

    def leave(self, line: str) -> None:
        """It gives it back."""
        self._of[line] -= 1
        if not self._of[line]:
            del self._of[line]


def _too_many(text: str) -> ASGIApp:
    return error_reply(503, "too-many-streams", text, "Close one of them.", {"Retry-After": "5"})


class _EventStream:
    """One stream, as an ASGI application."""

    def __init__(
        self, streams: EventStreams, log: EventLog, cursor: int, snapshots: Snapshots | None, line: str
    ) -> None:
        self._streams = streams
        self._log = log
        self._cursor = cursor
        self._snapshots = snapshots
        self._line = line
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ends = (
            asyncio.ensure_future(_disconnected(receive)),
            asyncio.ensure_future(self._streams.closing.wait()),
        )
        self._streams.enter(self._line)
        try:
            if self._snapshots is not None:
                self._snapshots.watched()
                self._number = self._snapshots.number
            await self._run(send, ends)
        except TimeoutError:
            _log.info("event stream dropped: its reader took nothing for %g s", self._streams.stall_s)
        finally:
            self._streams.leave(self._line)
            if self._snapshots is not None:
                self._snapshots.left()
            for end in ends:
                end.cancel()

    async def _run(self, send: Send, ends: tuple[asyncio.Future[Any], ...]) -> None:
        async with asyncio.timeout(self._streams.stall_s):
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        chunks = [f"retry: {RETRY_MS}\n\n".encode()]
        while not any(end.done() for end in ends):
            news, self._cursor = catch_up(self._log, self._cursor)
            chunks += news + self._changes()
            body = b"".join(chunks) or b": beat\n\n"
            async with asyncio.timeout(self._streams.stall_s):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            chunks = []
            waiters = [asyncio.ensure_future(self._log.wait(self._cursor))]
            if self._snapshots is not None:
                waiters.append(asyncio.ensure_future(self._snapshots.wait(self._number)))
            try:
                await asyncio.wait(
                    (*waiters, *ends), timeout=self._streams.heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                for waiter in waiters:
                    if waiter.done():
                        waiter.result()  # a log that fails ends the stream instead of spinning it
            finally:
                for waiter in waiters:
                    waiter.cancel()
        async with asyncio.timeout(self._streams.stall_s):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _changes(self) -> list[bytes]:
        if self._snapshots is None:
            return []
        found, self._number = self._snapshots.after(self._number), self._snapshots.number
        return [RESYNC] if found is None else found


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
