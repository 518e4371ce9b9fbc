"""So much of the DHT one peer may ask for: whoever floods it waits for its turn, and then hears no.

hivemind answers every request at once, whatever it costs: a stream of records to refuse, each with a
signature to check, or of questions with long answers, takes much of a core from whoever trains here. Each
peer has a token bucket (kept as one number, the time at which the next bytes may go: GCRA, ITU-T I.371) for
its requests and the answers to them. A request that comes too early is held until its turn, which slows down
whoever waits for answers; one whose turn is far off is refused after PATIENCE_S, and one for which there is
no room to wait at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from hivemind.dht.protocol import DHTProtocol
from hivemind.p2p import P2P, PeerID

BYTES_PER_S = 32 << 10
BURST_BYTES = 128 << 10
"""What a peer may have saved up; an answer may be longer, and is waited for afterwards."""
MAX_REQUEST_BYTES = 128 << 10
"""Far more than a node asks at once; a larger one is nobody's turn."""
LEAST_BYTES = 1 << 10
"""What the smallest request counts for."""
PATIENCE_S = 4.0
"""Callers wait for five seconds (dht/discovery.py)."""
MAX_PEERS = 1024
"""Peers at once that have asked of late; then no new one is answered."""
MAX_WAITING = 4
MAX_WAITING_BYTES = 8 << 20
"""Requests that wait, of one peer and of all."""

Handler = Callable[[bytes, PeerID], Awaitable[bytes]]


class TooMuch(RuntimeError):
    """A request is not answered; hivemind tells whoever asked."""


class TooLate(RuntimeError):
    """Whoever asked has given up."""


class Pace:
    """For one node. `clock` and `sleep`: seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.refused = 0
        self._clock = clock
        self._sleep = sleep
        self._due: dict[PeerID, float] = {}
        self._waiting = Counter[PeerID]()
        self._waiting_bytes = 0

    def paced(self, handler: Handler) -> Handler:
        """The same handler, for whoever's turn it is."""

        async def answer(request: bytes, peer: PeerID) -> bytes:
            try:
                await self._turn(peer, len(request))
                response = await handler(request, peer)
            except asyncio.CancelledError:
                # Whoever asked waits no longer. hivemind keeps a request whose handler is cancelled for ever.
                raise TooLate("nobody waits for the answer") from None
            self._spend(peer, len(response))
            return response

        return answer

    async def _turn(self, peer: PeerID, size: int) -> None:
        """Returns when a request may be answered. Raises TooMuch."""
        wait = self._due.get(peer, 0.0) - self._clock() if size <= MAX_REQUEST_BYTES else math.inf
        if peer not in self._due and not self._has_place():
            self._refuse()
        if wait <= 0:
            self._spend(peer, LEAST_BYTES + size)
            return
        if self._waiting[peer] >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._refuse()
        in_time = wait <= PATIENCE_S
        if in_time:
            self._spend(peer, LEAST_BYTES + size)
        self._waiting[peer] += 1
        self._waiting_bytes += size
        try:
            await self._sleep(min(wait, PATIENCE_S))
        finally:
            self._waiting_bytes -= size
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
        if not in_time:
            self._refuse()

    def _spend(self, peer: PeerID, size: int) -> None:
        saved = self._clock() - BURST_BYTES / BYTES_PER_S
        self._due[peer] = max(self._due.get(peer, saved), saved) + size / BYTES_PER_S

    def _has_place(self) -> bool:
        """Whether another peer's turn can be kept in mind; who has saved up all it may is forgotten."""
        if len(self._due) >= MAX_PEERS:
            saved = self._clock() - BURST_BYTES / BYTES_PER_S
            self._due = {peer: due for peer, due in self._due.items() if due > saved}
        return len(self._due) < MAX_PEERS

    def _refuse(self) -> None:
        self.refused += 1
        raise TooMuch("too many requests")


def pace(p2p: P2P, own: Pace) -> None:
    """Has the DHT that runs on this host answer at a peer's pace: requests wait before they are read."""
    handlers = p2p._client.control.unary_handlers
    for method in ("rpc_ping", "rpc_store", "rpc_find"):
        name = DHTProtocol._get_handle_name(None, method)
        handlers[name] = own.paced(handlers[name])
