"""Server-sent events: the node's ring of events as `GET /api/v1/events` (WHATWG HTML, section 9.2).

Each event goes out with its sequence as id, so that a browser that reconnects sends `Last-Event-ID` and
misses nothing; where the ring no longer reaches back far enough, a `reset` event tells it to fetch the
state anew. A comment every `heartbeat_s` seconds keeps proxies and clients sure of the line.

A slow browser never slows training: nothing is queued for it here, it reads the ring at its own speed and
gets a `reset` when it falls out of it. One that takes nothing for `stall_s` seconds is dropped. The number
of streams is bounded; the next one is refused. All streams end at once when `close` is called.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.web_ui.interface import EventLog
from atoll.web_ui.replies import encode_json, error_reply

MAX_STREAMS = 32
HEARTBEAT_S = 15.0
STALL_S = 30.0
RETRY_MS = 2000
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
    if events:
        return chunks, int(events[-1]["sequence"])
    return chunks, log.last if gap or foreign else cursor


class EventStreams:
    """All open event streams of one server."""

    def __init__(
        self,
        log: EventLog,
        *,
        limit: int = MAX_STREAMS,
        heartbeat_s: float = HEARTBEAT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._log = log
        self._limit = limit
        self.heartbeat_s = heartbeat_s
        self.stall_s = stall_s
        self.closing = asyncio.Event()
        self.count = 0

    def close(self) -> None:
        """End every stream, now and for good."""
        self.closing.set()

    def open(self, cursor: int | None) -> ASGIApp:
        """Return the answer to one request. `cursor`: last sequence seen; None wants only what is to come."""
        if self.count >= self._limit:
            return error_reply(
                503,
                "too-many-streams",
                f"{self._limit} pages already watch this node.",
                "Close one of them.",
                {"Retry-After": "5"},
            )
        return _EventStream(self, self._log, self._log.last if cursor is None else cursor)


class _EventStream:
    """One stream, as an ASGI application."""

    def __init__(self, streams: EventStreams, log: EventLog, cursor: int) -> None:
        self._streams = streams
        self._log = log
        self._cursor = cursor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.count += 1
        ends = (
            asyncio.ensure_future(_disconnected(receive)),
            asyncio.ensure_future(self._streams.closing.wait()),
        )
        try:
            await self._run(send, ends)
        except TimeoutError:
            _log.info("event stream dropped: its reader took nothing for %g s", self._streams.stall_s)
        finally:
            self._streams.count -= 1
            for end in ends:
                end.cancel()

    async def _run(self, send: Send, ends: tuple[asyncio.Future[Any], ...]) -> None:
        async with asyncio.timeout(self._streams.stall_s):
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        chunks = [f"retry: {RETRY_MS}\n\n".encode()]
        while not any(end.done() for end in ends):
            news, self._cursor = catch_up(self._log, self._cursor)
            chunks += news
            body = b"".join(chunks) or b": beat\n\n"
            async with asyncio.timeout(self._streams.stall_s):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            chunks = []
            waiter = asyncio.ensure_future(self._log.wait(self._cursor))
            try:
                await asyncio.wait(
                    (waiter, *ends), timeout=self._streams.heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                if waiter.done():
                    waiter.result()  # a log that fails ends the stream instead of spinning it
            finally:
                waiter.cancel()
        async with asyncio.timeout(self._streams.stall_s):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
