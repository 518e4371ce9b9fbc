"""uvicorn's HTTP/1.1, for connections of which nobody can hold all, and none can be held by doing nothing.

uvicorn refuses requests beyond its limit but keeps the connections they came on, waits for ever for whoever
began to send something, and closes a connection only when the other end has taken all that was written. Here
a connection ends at once where there are too many, in all or of one client (`attempts.client_of`). It also
ends when

- a request does not arrive within `header_s`, its body excepted: that is for whoever reads it to bound;
- a request has been answered and its body, which nobody wants any more, does not end within `header_s`;
- what was written is not taken: less than `LEAST_TAKEN_BYTES` of it in `stall_s`. Nothing more is written
  before it is taken, so a connection holds one message at the most, and nothing once it has ended.

Clients on this machine share the connections as they like: their owner is there, or a proxy that speaks for
many. Nothing can fail.
"""

import asyncio
import logging
import socket
import struct
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from atoll.web_ui.attempts import client_of, is_here

HEADER_S = 10.0
LEAST_TAKEN_BYTES = 16 * 1024
_RESET = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


def share_of(limit: int) -> int:
    """How many of so many places one client may hold."""
    return max(1, limit // 4)


class Bounded(H11Protocol):  # type: ignore[misc]  # uvicorn is not followed by the type checker
    """One connection, of at most `limit_concurrency`, and `share` of a client that is elsewhere."""

    def __init__(self, *arguments: Any, share: int, header_s: float, stall_s: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._share = share
        self._header_s = header_s
        self._stall_s = stall_s
        self._owed: Any = None
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.line: str | None = None
        """Whom it counts for; None: this machine."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # Whatever the network has not taken at once is unsent, and has to move.
        transport.set_write_buffer_limits(high=0)
        address = self.client[0] if self.client else ""
        self.line = None if is_here(address) else client_of(address, proxied=False)
        if len(self.connections) > self.limit_concurrency or self._too_many_of_its_client():
            transport.abort()
        else:
            self._watch()

    def _too_many_of_its_client(self) -> bool:
        return self.line is not None and sum(c.line == self.line for c in self.connections) > self._share

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # uvicorn itself ends what is silent between two requests.
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()
        self._taken()

    # ---- what the other end owes

    def _watch(self) -> None:
        """The time runs from when something is owed, however much of it has come."""
        owed = self._what_is_owed()
        if owed is self._owed:
            return
        self._unwatch()
        self._owed = owed
        if owed is not None:
            self._late = self.loop.call_later(self._header_s, self.transport.abort)

    def _what_is_owed(self) -> Any:
        theirs = self.conn.their_state
        if theirs is h11.IDLE or (theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE):
            return theirs
        return None

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    # ---- what it takes

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def _look_again(self, unsent: int) -> None:
        self._taken()
        self._stalled = self.loop.call_later(self._stall_s, self._look, unsent)

    def _look(self, before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if before - unsent >= LEAST_TAKEN_BYTES:
            self._look_again(unsent)
            return
        _log.info("connection dropped: its reader took next to nothing for %g s", self._stall_s)
        # The system, too, is to forget what it holds for this reader.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _taken(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
