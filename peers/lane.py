"""The direct lane of one link: several TLS connections that carry its bulk frames in stripes.

Owns the connections and what is under way on them. Whichever connection has room takes the next stripe, so a
slow one takes fewer. A frame is kept until the peer has acknowledged it (over the libp2p stream): when a
connection breaks, the stripes that went over it go again over the others; when the last one breaks, all that
was not acknowledged is given back, to go over libp2p. The receiver drops what it has had (stripes.py).

Everything runs on the event loop, on non-blocking sockets: OpenSSL reads from and writes to the frames' own
buffers, and lets other threads run meanwhile. Each turn of the loop does a bounded amount of it. A peer whose
stripes break the rules loses the lane for as long as the link lives, never this node.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from atoll.peers.line import Line
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.stripes import HEAD_BYTES, STRIPE_BYTES, Inbox, Slot, encode_head
from atoll.protocol.wire import Payload, WireError

MAX_CONNECTIONS = 8
MAX_UNACKED_BYTES = 4 << 20
MAX_UNACKED_FRAMES = 12
"""What is kept until the peer has acknowledged it; one frame of any size fits."""
STALL_S = 8.0
"""A lane that takes nothing for so long, with something under way, is given up."""
_RECORD_BYTES = 16 * 1024
_READS_AT_ONCE = 32
_READS_CAPPED = 2
_WANT = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True, eq=False)
class Bulk:
    """A frame to be sent with its payload; `done` is set when all of it was given to a socket."""

    number: int
    head: bytes
    payload: memoryview
    done: asyncio.Future[None]

    def __len__(self) -> int:
        return len(self.head) + len(self.payload)

    def views(self, start: int, end: int) -> list[memoryview]:
        """The bytes from `start` to `end` of head and payload, not copied."""
        split = len(self.head)
        parts = memoryview(self.head)[start:end], self.payload[max(start - split, 0) : max(end - split, 0)]
        return [part for part in parts if part]


class Owner(Protocol):
    """Whom the lane tells."""

    def began(self, bulk: Bulk) -> None: ...
    def arrived(self, number: int, frame: pb.Frame, payload: Payload) -> None: ...
    def given_back(self, bulks: list[Bulk], reason: str) -> None: ...
    def moved(self, sent: int, received: int) -> None: ...
    def changed(self) -> None: ...


class _Outgoing:
    """A frame under way: what is to be sent, and what went over which connection."""

    def __init__(self, bulk: Bulk) -> None:
        self.bulk = bulk
        self.due = deque(range(0, len(bulk), STRIPE_BYTES))
        self.left = len(self.due)
        """Stripes that no socket has taken whole."""
        self.by: dict[Connection, list[int]] = {}


class Lane:
    """All connections to one peer. `open` while there is at least one."""

    def __init__(
        self,
        inbox: Inbox,
        owner: Owner,
        clock: Callable[[], float] = time.monotonic,
        line: Line | None = None,
    ) -> None:
        self.connections: set[Connection] = set()
        self.reason = ""
        """Why there is none, or none any more."""
        self.refused = False
        """The peer broke the rules: this link gets no lane any more."""
        self.inbox = inbox
        self._owner = owner
        self._clock = clock
        self._under_way: dict[int, _Outgoing] = {}
        self._due: deque[_Outgoing] = deque()
        self._bytes = 0
        self._paused = False
        self._line = line or Line()
        self._rests: asyncio.TimerHandle | None = None
        self._waits: asyncio.TimerHandle | None = None
        self._moved_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        return bool(self.connections)

    def add(self, sock: ssl.SSLSocket) -> bool:
        """Takes a connection both ends of which are proven; False (and it is closed) where none is wanted."""
        if self.refused or len(self.connections) >= MAX_CONNECTIONS:
            sock.close()
            return False
        connection = Connection(sock, self)
        self.connections.add(connection)
        self.reason = ""
        connection.start(self._paused or self._rests is not None, bool(self._due))
        self._owner.changed()
        return True

    def has_room(self, size_bytes: int) -> bool:
        """Whether a frame of this size may be posted."""
        if not self._under_way:
            return True
        fits = self._bytes + size_bytes <= MAX_UNACKED_BYTES
        return fits and len(self._under_way) < MAX_UNACKED_FRAMES

    def post(self, bulk: Bulk) -> None:
        """Sends a frame, and keeps it until it is acknowledged."""
        if not self._under_way:
            self._moved_at = self._clock()
        outgoing = self._under_way[bulk.number] = _Outgoing(bulk)
        self._bytes += len(bulk)
        self._due.append(outgoing)
        self._owner.began(bulk)
        self._wake()

    def acknowledged(self, number: int) -> None:
        """The peer has a frame, whichever way it came."""
        outgoing = self._under_way.pop(number, None)
        if outgoing is None:
            return
        self._bytes -= len(outgoing.bulk)
        self._moved_at = self._clock()
        if outgoing in self._due:
            self._due.remove(outgoing)
        if not outgoing.bulk.done.done():
            outgoing.bulk.done.set_result(None)

    def pause(self) -> None:
        """Reads no more until `resume`: enough has come that was not handled yet."""
        self._paused = True
        for connection in self.connections:
            connection.pause()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._go_on()

    def _rested(self) -> None:
        self._rests = None
        self._go_on()

    def _go_on(self) -> None:
        if not self._paused and self._rests is None:
            for connection in list(self.connections):
                connection.resume()

    def close(self, reason: str, refused: bool = False) -> None:
        """Ends all connections; what was not acknowledged is given back."""
        self.refused = self.refused or refused
        for connection in list(self.connections):
            connection.close()
        self._end(reason)

    # ---- for the connections

    def take(self, connection: Connection) -> tuple[_Outgoing, int] | None:
        """The next stripe to send: its frame and offset; None, too, where a cap makes it wait."""
        while self._due:
            outgoing = self._due[0]
            if outgoing.due:
                if (wait_s := self._line.up.wait_s) > 0:
                    if self._waits is None:
                        self._waits = asyncio.get_running_loop().call_later(wait_s, self._waited)
                    return None
                self._line.up.spend(STRIPE_BYTES)
                offset = outgoing.due.popleft()
                outgoing.by.setdefault(connection, []).append(offset)
                return outgoing, offset
            self._due.popleft()
        return None

    def _waited(self) -> None:
        self._waits = None
        if self._due:
            self._wake()

    @property
    def reads_at_once(self) -> int:
        """Records that a connection reads in one turn of the loop."""
        return _READS_CAPPED if self._line.down.active else _READS_AT_ONCE

    def sent(self, outgoing: _Outgoing) -> None:
        """A stripe was given to the kernel whole."""
        outgoing.left -= 1
        if not outgoing.left and not outgoing.bulk.done.done():
            outgoing.bulk.done.set_result(None)

    def received(self, slot: Slot) -> None:
        """A stripe came whole. Raises WireError."""
        whole = self.inbox.finish(slot)
        if whole is not None:
            self._owner.arrived(*whole)

    def moved(self, sent: int, received: int) -> None:
        if sent:  # what the peer sends says nothing about what it takes
            self._moved_at = self._clock()
        self._owner.moved(sent, received)
        self._line.down.spend(received)
        if (wait_s := self._line.down.wait_s) > 0 and received and self._rests is None:
            self._rests = asyncio.get_running_loop().call_later(wait_s, self._rested)
            for connection in self.connections:
                connection.pause()

    def broke(self, connection: Connection, reason: str) -> None:
        """A connection ended. What went over it and was not acknowledged goes over the others."""
        self.connections.discard(connection)
        if not self.connections:
            self._end(reason)
            return
        self.reason = reason
        for outgoing in self._under_way.values():
            again = outgoing.by.pop(connection, [])
            unfinished = connection.unfinished(outgoing)
            outgoing.left += len(again) - unfinished
            outgoing.due.extend(again)
            if again and outgoing not in self._due:
                self._due.append(outgoing)
        self._wake()
        self._owner.changed()

    def broke_rules(self, reason: str) -> None:
        self.close(reason, refused=True)

    def _wake(self) -> None:
        for connection in list(self.connections):
            connection.wake()
        if self._watch is None and self._under_way:
            self._watch = asyncio.get_running_loop().call_later(STALL_S / 4, self._look)

    def _look(self) -> None:
        self._watch = None
        if not self._under_way or not self.connections:
            return
        if self._clock() - self._moved_at > STALL_S:
            self.close(f"nothing moved on it for {STALL_S:.0f} s")
            return
        self._watch = asyncio.get_running_loop().call_later(STALL_S / 4, self._look)

    def _end(self, reason: str) -> None:
        self.connections.clear()
        self.reason = reason
        back = [outgoing.bulk for _, outgoing in sorted(self._under_way.items())]
        self._under_way.clear()
        self._due.clear()
        self._bytes = 0
        for timer in (self._watch, self._rests, self._waits):
            if timer is not None:
                timer.cancel()
        self._watch = self._rests = self._waits = None
        self._owner.given_back(back, reason)
        self._owner.changed()


class Connection:
    """One TLS connection of a lane: a stripe at a time each way."""

    def __init__(self, sock: ssl.SSLSocket, lane: Lane) -> None:
        self._sock = sock
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._head = bytearray(HEAD_BYTES)
        self._slot: Slot | None = None
        self._into = memoryview(self._head)
        self._first = bytearray(_RECORD_BYTES)
        self._pieces: deque[memoryview] = deque()
        self._stripe: tuple[_Outgoing, int] | None = None
        self._writing = False
        self._soon = False
        self._paused = False
        self._closed = False

    def start(self, paused: bool, due: bool) -> None:
        self._paused = paused
        if not paused:
            self._loop.add_reader(self._sock.fileno(), self._readable)
            # What came together with the handshake is in OpenSSL's buffer, and wakes nobody.
            self._go_on_soon()
        if due:
            self.wake()

    def pause(self) -> None:
        if not self._closed and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._sock.fileno())

    def resume(self) -> None:
        if not self._closed and self._paused:
            self.start(False, False)

    def wake(self) -> None:
        """There is something to be sent."""
        if not self._writing and not self._closed:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def unfinished(self, outgoing: _Outgoing) -> int:
        """How many stripes of a frame (0 or 1) it was in the middle of."""
        return int(self._stripe is not None and self._stripe[0] is outgoing)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        if self._slot is not None:
            self._lane.inbox.abandon(self._slot)

    def _broke(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._lane.broke(self, reason)

    # ---- receiving

    def _go_on_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._soon = False
        self._readable()

    def _readable(self) -> None:
        if self._soon:
            return  # its turn comes
        count = 0
        try:
            for _ in range(self._lane.reads_at_once):
                if self._closed or self._paused:
                    return
                size = self._sock.recv_into(self._into)
                if not size:
                    self._broke("its connections were closed")
                    return
                count += size
                self._into = self._into[size:]
                if not self._into:
                    self._filled()
            self._go_on_soon()
        except _WANT:
            return
        except WireError as error:
            self._lane.broke_rules(str(error))
        except OSError as error:
            self._broke(f"its connections broke ({error.strerror or error})")
        finally:
            if count:
                self._lane.moved(0, count)

    def _filled(self) -> None:
        if self._slot is None:
            self._slot = self._lane.inbox.begin(self._head)
            self._into = self._slot.view
            return
        slot, self._slot = self._slot, None
        self._into = memoryview(self._head)
        self._lane.received(slot)

    # ---- sending

    def _writable(self) -> None:
        """Sends a stripe, or the rest of one. With TCP_NOTSENT_LOWAT it is called when the line has room."""
        if self._stripe is None and not self._load():
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
            return
        count = 0
        try:
            while self._pieces:
                size = self._sock.send(self._pieces[0])
                count += size
                rest = self._pieces[0][size:]
                if rest:
                    self._pieces[0] = rest
                else:
                    self._pieces.popleft()
        except _WANT:
            return
        except OSError as error:
            self._broke(f"its connections broke ({error.strerror or error})")
            return
        finally:
            if count:
                self._lane.moved(count, 0)
        stripe, self._stripe = self._stripe, None
        if stripe is not None:
            self._lane.sent(stripe[0])

    def _load(self) -> bool:
        self._stripe = self._lane.take(self)
        if self._stripe is None:
            return False
        outgoing, offset = self._stripe
        bulk = outgoing.bulk
        views = bulk.views(offset, min(offset + STRIPE_BYTES, len(bulk)))
        # The head and the first bytes in one TLS record: by itself it would be a record and a packet.
        first = self._first
        first[:HEAD_BYTES] = encode_head(bulk.number, len(bulk), offset)
        filled = HEAD_BYTES
        while views and filled < _RECORD_BYTES:
            part = views[0][: _RECORD_BYTES - filled]
            first[filled : filled + len(part)] = part
            filled += len(part)
            views[0] = views[0][len(part) :]
            if not views[0]:
                views.pop(0)
        self._pieces = deque([memoryview(first)[:filled], *views])
        return True
