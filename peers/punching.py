"""Hole punching: a direct connection between two nodes behind routers that nobody can dial.

A router lets in what comes from where its own side has just sent something. So both sides dial each other at
the same time, at the addresses at which others see them, over QUIC: p2pd sends from the UDP port on which it
listens, and most routers show that port outside for every connection. The two agree on the moment by way of a
node that both have a link to, or over a relayed link:

    A → B   Punch: where others see A       (A has the smaller peer id)
    B       dials A there
    B → A   Punch, answer: where others see B
    A       dials B there; then it opens the link

p2pd's own way (DCUtR, over a relayed connection) does the same, but only for a node that four others have
told where they see it, each over QUIC, so in small swarms never. Where routers give each connection another
port, both dials end with their time, and the two are met through others as before.

Sans-IO but for the dials. Whoever is asked dials few addresses, for members only and seldom.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from atoll.peers import addresses as a
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import GONE, Host
from atoll.protocol import messages_pb2 as pb

DIAL_S = 10.0
MAX_ADDRESSES = 2
LEAST_PORT = 1024
ANSWER_S = 15.0
"""An answer that comes later is to nothing that this node has asked."""
AGAIN_S = 10.0
"""One peer's request is followed so often."""
MAX_DIALS = 4
PAUSES_S = (15.0, 60.0, 300.0, 600.0)
"""After each failure with one peer; the last one again and again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ways:
    """What a puncher needs of its node.

    `outside`: QUIC addresses at which others see it, none where it can be dialled; `send` a frame to a peer,
    whatever way; `punched`: a direct connection is there; `link` opens the link over it.
    """

    outside: Callable[[], list[str]]
    send: Callable[[bytes, pb.Frame], None]
    punched: Callable[[bytes], None]
    link: Callable[[bytes], Awaitable[None]]


def may_dial(address: str) -> bool:
    """Whether an address that a member names may be dialled: a node's, not a service's."""
    return a.scope(address) in (a.PUBLIC, a.LAN) and a.quic_port(address) >= LEAST_PORT


class Puncher:
    """Punches holes from and to the node `me`."""

    def __init__(
        self, host: Host, me: bytes, ways: Ways, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._me = me
        self._ways = ways
        self._clock = clock
        self._asked: dict[bytes, float] = {}
        self._followed: dict[bytes, float] = {}
        self._failures = Counter[bytes]()
        self._next: dict[bytes, float] = {}
        self._dials: dict[bytes, asyncio.Task[None]] = {}
        self.results = Counter[str]()
        """What became of dials, and of what peers sent."""

    def look(self, apart: Collection[bytes]) -> None:
        """Asks peers that are met through others (`apart`), whenever it is time."""
        now = self._clock()
        known = set(apart)
        self._next = {peer: at for peer, at in self._next.items() if peer in known}
        self._failures = Counter({p: n for p, n in self._failures.items() if p in known})
        mine = self._ways.outside()[:MAX_ADDRESSES]
        for peer in sorted(known) if mine else ():
            # One of the two asks, else there would be two holes and two links.
            if self._me < peer and self._next.get(peer, -math.inf) <= now:
                pause = PAUSES_S[min(self._failures[peer], len(PAUSES_S) - 1)]
                self._next[peer], self._asked[peer] = now + pause, now
                self._failures[peer] += 1
                self._ways.send(peer, pb.Frame(punch=pb.Punch(addresses=mine)))

    def heard(self, peer: bytes, said: pb.Punch) -> None:
        """A member asks, or answers."""
        now = self._clock()
        theirs = list(filter(may_dial, said.addresses))[:MAX_ADDRESSES]
        if said.answer:
            wanted = now - self._asked.pop(peer, -math.inf) < ANSWER_S
        else:
            wanted = now - self._followed.get(peer, -math.inf) >= AGAIN_S
        if not theirs or not wanted or peer in self._dials or len(self._dials) >= MAX_DIALS:
            self.results["not followed"] += 1
            return
        if not said.answer:
            mine = self._ways.outside()[:MAX_ADDRESSES]
            if not mine:
                self.results["not followed"] += 1
                return
            self._followed = {p: at for p, at in self._followed.items() if now - at < AGAIN_S}
            self._followed[peer] = now
            self._ways.send(peer, pb.Frame(punch=pb.Punch(addresses=mine, answer=True)))
        task = asyncio.create_task(self._dial(peer, theirs, opens=said.answer), name="punch")
        self._dials[peer] = task
        task.add_done_callback(lambda _: self._dials.pop(peer, None))

    async def _dial(self, peer: bytes, theirs: list[str], opens: bool) -> None:
        try:
            why = await self._try(peer, theirs)
            # The other side's dial may have come through, whatever became of this one.
            direct = await self._host.is_direct(peer)
        except GONE as error:
            direct, why = False, _last_line(error)
        if not direct:
            self.results["failed"] += 1
            log.info("no hole could be punched to %s: %s", readable_name(peer), why)
            return
        self.results["punched"] += 1
        self._failures.pop(peer, None)
        self._ways.punched(peer)
        if opens:
            await self._ways.link(peer)

    async def _try(self, peer: bytes, theirs: list[str]) -> str:
        """Dials; why that failed, if it did."""
        try:
            async with asyncio.timeout(DIAL_S):
                if not await self._host.is_direct(peer) and await self._host.ways(peer):
                    # p2pd dials nobody to whom it has a connection, be it over a relay.
                    await self._host.disconnect(peer)
                await self._host.connect(peer, theirs)
        except (*GONE, ValueError) as error:
            return _last_line(error)
        return "only a relay answers"

    async def close(self) -> None:
        """Ends what is under way."""
        for task in list(self._dials.values()):
            task.cancel()
        await asyncio.gather(*self._dials.values(), return_exceptions=True)


def _last_line(error: BaseException) -> str:
    """The last, most telling part of a libp2p error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][-160:]
