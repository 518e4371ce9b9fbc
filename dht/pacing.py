"""So much of the DHT one peer may ask for: whoever floods it waits for its turn, and then hears no.

hivemind answers every request at once, whatever it costs: a stream of records to refuse, each with a
signature to check, or of questions with long answers, takes much of a core from whoever trains here. Each
peer has a token bucket (kept as one number, the time at which its next request may be answered: GCRA, ITU-T
I.371). A request costs by its length and that of its answer, and far more by the records in it that are
refused. One that comes too early is held until its turn, which slows down whoever waits for answers; one
whose turn is far off is refused after PATIENCE_S, and one for which there is no room to wait at once. All
that is settled by its length, before it is read (serving.py).

It is a bound for each peer: who has many identities has so many times more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NoReturn

from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from atoll.protocol.counting import counted

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
"""p2pd takes no more than 4 MiB."""
MAX_KEYS = 16
"""hivemind asks for so many at once."""
PATIENCE_S = 4.0
"""Callers wait for five seconds (dht/discovery.py)."""
MAX_PEERS = 1024
"""Peers at once that are in debt or have little saved up; more share what one may ask for."""
MAX_WAITING = 4
"""Requests of one peer that wait."""

Handler = Callable[[bytes, PeerID], Awaitable[bytes]]
"""Of hivemind: what it answers to a request of a peer."""


class TooMuch(RuntimeError):
    """A request is not answered."""


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

    async def turn(self, peer: PeerID, size: int) -> PeerID | None:
        """Returns when a request of `size` bytes may be read, and it is paid for. Raises TooMuch.

        For `answer`: by what the peer's turn is kept in mind.
        """
        who = self._place_of(peer)
        if size > MAX_REQUEST_BYTES:
            self.refuse()
        wait = self._due.get(who, 0.0) - self._clock()
        if wait > 0 and self._waiting[who] >= MAX_WAITING:
            self.refuse()
        in_time = wait <= PATIENCE_S
        if in_time:
            self._spend(who, LEAST + size / PART_OF_BYTES)
        if wait > 0:
            with counted(self._waiting, who):
                await self._sleep(min(wait, PATIENCE_S))
        if not in_time:
            self.refuse()
        return who

    async def answer(
        self, who: PeerID | None, peer: PeerID, request: bytes, handler: Handler, stores: bool
    ) -> bytes:
        """What the handler answers, which is paid for afterwards. Raises TooMuch, or what the handler does.

        `stores`: it takes records, without a pause; else it is asked for them.
        """
        before = self._wrong()
        response = await handler(request, peer)
        wrong = self._wrong() - before if stores else 0
        self._spend(who, PER_WRONG * wrong + len(response) / PART_OF_BYTES)
        if len(response) > MAX_ANSWER_BYTES:
            self.refuse()
        return response

    def refuse(self) -> NoReturn:
        """Counts a request that is not answered. Raises TooMuch."""
        self.refused += 1
        raise TooMuch("too many requests")

    def _place_of(self, peer: PeerID) -> PeerID | None:
        """By what a peer's turn is kept in mind: itself; None where there are too many. May forget others."""
        if peer not in self._due and len(self._due) >= MAX_PEERS:
            saved = self._clock() - BURST / PER_S
            self._due = {who: due for who, due in self._due.items() if due > saved}
        return peer if peer in self._due or len(self._due) < MAX_PEERS else None

    def _spend(self, who: PeerID | None, cost: float) -> None:
        now = self._clock()
        due = max(self._due.get(who, 0.0), now - BURST / PER_S) + cost / PER_S
        self._due[who] = min(due, now + MOST_DEBT_S)


def few_keys(pace: Pace, handler: Handler) -> Handler:
    """The handler of questions: each is for a few keys, and for each of them once."""

    async def answer(request: bytes, peer: PeerID) -> bytes:
        keys = dht_pb2.FindRequest.FromString(request).keys
        if len(keys) > MAX_KEYS or len(set(keys)) < len(keys):
            pace.refuse()
        return await handler(request, peer)

    return answer
