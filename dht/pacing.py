"""So much of the DHT one peer may ask for: whoever floods it waits for its turn, and then hears no.

hivemind answers every request at once, whatever it costs: a stream of records to refuse, each with a
signature to check, or of questions with long answers, takes much of a core from whoever trains here. Each
peer has a token bucket (kept as one number, the time at which its next request may be answered: GCRA, ITU-T
I.371). A request costs by its length and that of its answer, and far more by the records in it that are
refused. One that comes too early is held until its turn, which slows down whoever waits for answers; one
whose turn is far off is refused after PATIENCE_S, and one for which there is no room to wait at once.

It is a bound for each peer: who has many identities has so many times more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from hivemind.dht.protocol import DHTProtocol
from hivemind.p2p import P2P, PeerID
from hivemind.proto import dht_pb2

PER_S = 32 << 10
BURST = 128 << 10
MOST_DEBT_S = 20.0
"""What a peer may ask for in a second, what it may have saved up, and how long it may be in debt."""
LEAST = 1 << 10
PER_WRONG = 1 << 10
PART_OF_BYTES = 8
"""What the smallest request costs, what each record that is refused does, and for how many bytes it is one.

A node of a swarm of a thousand gets 600 kB when it looks for the others; as much is handed over to a new one.
"""
MAX_REQUEST_BYTES = 3 << 20
MAX_ANSWER_BYTES = 3 << 20
"""hivemind can't send more than 4 MiB, and keeps what it can't send for ever."""
MAX_KEYS = 16
"""hivemind asks for so many at once."""
PATIENCE_S = 4.0
"""Callers wait for five seconds (dht/discovery.py)."""
MAX_PEERS = 1024
"""Peers at once that are in debt or have little saved up; more share what one may ask for."""
MAX_WAITING = 4
LARGE_BYTES = 16 << 10
MAX_LARGE_BYTES = 8 << 20
"""Requests of one peer that wait; of the larger ones one, and so many bytes of all peers."""

Handler = Callable[[bytes, PeerID], Awaitable[bytes]]


class TooMuch(RuntimeError):
    """A request is not answered; hivemind tells whoever asked."""


class Pace:
    """For one node. `wrong`: how many records were refused so far; `clock` and `sleep` in seconds."""

    def __init__(
        self,
        wrong: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.refused = 0
        self._wrong = wrong
        self._clock = clock
        self._sleep = sleep
        self._due: dict[PeerID | None, float] = {}
        self._waiting = Counter[PeerID | None]()
        self._large: dict[PeerID | None, int] = {}

    def paced(self, handler: Handler, stores: bool = False) -> Handler:
        """The same handler, for whoever's turn it is. `stores`: it takes records, without a pause."""

        async def answer(request: bytes, peer: PeerID) -> bytes:
            who = self._place_of(peer)
            await self._turn(who, len(request))
            before = self._wrong()
            response = await handler(request, peer)
            wrong = self._wrong() - before if stores else 0
            self._spend(who, PER_WRONG * wrong + len(response) / PART_OF_BYTES)
            if len(response) > MAX_ANSWER_BYTES:
                self._refuse()
            return response

        return answer

    def asked(self, handler: Handler) -> Handler:
        """The handler of questions: each is for a few keys, and for each of them once."""

        async def answer(request: bytes, peer: PeerID) -> bytes:
            keys = dht_pb2.FindRequest.FromString(request).keys
            if len(keys) > MAX_KEYS or len(set(keys)) < len(keys):
                self._refuse()
            return await handler(request, peer)

        return answer

    async def _turn(self, who: PeerID | None, size: int) -> None:
        """Returns when a request may be answered, and it is paid for. Raises TooMuch."""
        if size > MAX_REQUEST_BYTES:
            self._refuse()
        wait = self._due.get(who, 0.0) - self._clock()
        if wait > 0 and not self._has_room(who, size):
            self._refuse()
        in_time = wait <= PATIENCE_S
        if in_time:
            self._spend(who, LEAST + size / PART_OF_BYTES)
        if wait > 0:
            await self._wait(who, min(wait, PATIENCE_S), size)
        if not in_time:
            self._refuse()

    def _has_room(self, who: PeerID | None, size: int) -> bool:
        """Whether one more request may wait."""
        if self._waiting[who] >= MAX_WAITING:
            return False
        if size <= LARGE_BYTES:
            return True
        return who not in self._large and sum(self._large.values()) + size <= MAX_LARGE_BYTES

    async def _wait(self, who: PeerID | None, seconds: float, size: int) -> None:
        large = size > LARGE_BYTES
        self._waiting[who] += 1
        if large:
            self._large[who] = size
        try:
            await self._sleep(seconds)
        finally:
            if large:
                del self._large[who]
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]

    def _spend(self, who: PeerID | None, cost: float) -> None:
        now = self._clock()
        due = max(self._due.get(who, 0.0), now - BURST / PER_S) + cost / PER_S
        self._due[who] = min(due, now + MOST_DEBT_S)

    def _place_of(self, peer: PeerID) -> PeerID | None:
        """By what a peer's turn is kept in mind: itself; None where there are too many. May forget others."""
        if peer not in self._due and len(self._due) >= MAX_PEERS:
            saved = self._clock() - BURST / PER_S
            self._due = {who: due for who, due in self._due.items() if due > saved}
        return peer if peer in self._due or len(self._due) < MAX_PEERS else None

    def _refuse(self) -> None:
        self.refused += 1
        raise TooMuch("too many requests")


class _Tasks(dict[Any, asyncio.Task[None]]):
    """What hivemind answers just now. It forgets only tasks that come to its own last line."""

    def __setitem__(self, call: Any, task: asyncio.Task[None]) -> None:
        super().__setitem__(call, task)
        task.add_done_callback(lambda _: self.pop(call, None))


def pace(p2p: P2P, own: Pace) -> None:
    """Has the DHT that runs on this host answer at a peer's pace: requests wait before they are read.

    And has hivemind forget requests whose callers gave up, and answers that it could not send: each would be
    kept for ever.
    """
    control = p2p._client.control
    control._handler_tasks = _Tasks(control._handler_tasks)
    handlers = control.unary_handlers
    for method in ("rpc_ping", "rpc_store", "rpc_find"):
        name = DHTProtocol._get_handle_name(None, method)
        handler = own.asked(handlers[name]) if method == "rpc_find" else handlers[name]
        handlers[name] = own.paced(handler, stores=method == "rpc_store")
