"""Finding the swarm and staying found: dialling, announcing, looking up. Bootstrap is a state, not an error.

Dials every address it was given (ticket, manifest, settings, peers of earlier runs) in parallel, keeps the
state and the cause of each to be shown, and tries again for ever with jittered, growing pauses. Once a DHT
node answers, it announces this node and links up with every node of the swarm that it finds there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from atoll.dht.discovery import Discovery
from atoll.peers.addresses import direct
from atoll.peers.links import LinkRefused, Links, Spoken, VersionsDiffer
from atoll.peers.p2pd import GONE, Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Keyring, peer_bytes, peer_text

DIAL_TIMEOUT_S = 15.0
PATIENCE_S = 2.0
"""So long the other work waits for dials that are under way."""
ANNOUNCE_S = 30.0
LOOK_S = 10.0
LARGE = 64
"""A swarm with more nodes than this is looked up less often, in proportion: each look brings all records."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MAX_ADDRESSES = 64
REFUSED_S = 120.0

log = logging.getLogger(__name__)


@dataclass
class Address:
    """One address that is dialled, and how that went. `state`: trying, connected, failed."""

    text: str
    state: str = "trying"
    cause: str | None = None


class Finder:
    """Keeps this node connected. `links` is None until the swarm's manifest is known."""

    def __init__(
        self,
        host: Host,
        discovery: Discovery,
        keyring: Keyring,
        addresses: Iterable[str],
        announced: Callable[[], list[str]],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._host = host
        self._discovery = discovery
        self._keyring = keyring
        self._announced = announced
        self._changed = changed
        self._rng = rng
        self._own = peer_text(keyring.peer_id)
        self.addresses: dict[str, Address] = {}
        self.links: Links | None = None
        self.membership: Callable[[], pb.Membership | None] = lambda: None
        """What this node is a member by, for its record in the DHT."""
        self._refused: dict[bytes, tuple[LinkRefused, float]] = {}
        self.connected: set[bytes] = set()
        self.next_try: float | None = None
        self._announce_at = 0.0
        self._look_at = 0.0
        self._wake = asyncio.Event()
        self._dials: dict[str, asyncio.Task[None]] = {}
        for text in addresses:
            self.add(text)

    def add(self, text: str) -> None:
        """One more address to dial; this node's own and those beyond MAX_ADDRESSES are left out."""
        if not text.endswith(self._own) and len(self.addresses) < MAX_ADDRESSES:
            self.addresses.setdefault(text, Address(text))

    @property
    def refused(self) -> dict[bytes, str]:
        """Why links were refused lately, by peer; who went away is forgotten after REFUSED_S."""
        now = time.monotonic()
        self._refused = {p: (why, at) for p, (why, at) in self._refused.items() if now - at < REFUSED_S}
        return {peer: str(why) for peer, (why, _) in self._refused.items()}

    @property
    def incompatible(self) -> dict[bytes, Spoken]:
        """Those of the refused with which this node has no protocol version in common."""
        lately = self.refused
        whys = {peer: self._refused[peer][0] for peer in lately}
        return {peer: why.theirs for peer, why in whys.items() if isinstance(why, VersionsDiffer)}

    def attach(self, discovery: Discovery) -> None:
        """The DHT was started anew: this node is announced again, and what was connected is dialled again."""
        self._discovery = discovery
        self.connected.clear()
        self._announce_at = 0.0

    def announce_now(self) -> None:
        """The record in the DHT may have expired: it is made anew with the next look."""
        self._announce_at = 0.0
        self.look_now()

    def look_now(self) -> None:
        """Cuts the present pause short."""
        self._look_at = 0.0
        self._wake.set()

    async def run(self, swarm: bool) -> None:
        """Dials, announces and looks until cancelled. `swarm` False: only helps others (bootstrap node)."""
        try:
            await self._run(swarm)
        finally:
            for task in self._dials.values():
                task.cancel()

    async def _run(self, swarm: bool) -> None:
        pause = FIRST_PAUSE_S
        while True:
            await self._dial_all()
            try:
                if swarm and time.monotonic() >= self._announce_at and self.links is not None:
                    await self._discovery.announce(
                        self._keyring, self._announced(), time.time(), self.membership()
                    )
                    self._announce_at = time.monotonic() + ANNOUNCE_S
                if swarm and (self._is_alone or time.monotonic() >= self._look_at):
                    await self._look()
            except GONE as error:
                # The DHT asks strangers; what one of them breaks is tried again with the others.
                log.warning("the DHT did not answer: %s", _cause(error))
            longest = LONGEST_PAUSE_S if self.links is None else 4.0
            pause = min(2 * pause, longest) if self._is_alone else LOOK_S
            await self._pause(pause * self._rng.uniform(0.75, 1.25))

    @property
    def _is_alone(self) -> bool:
        """Whether this node has no link."""
        return self.links is None or not self.links.peers

    async def _dial_all(self) -> None:
        """Dials what is not connected; slow ones go on in the background, so they hold nobody up."""
        for address in self._not_connected():
            if address.text not in self._dials:
                task = asyncio.create_task(self._dial_address(address))
                self._dials[address.text] = task
        if self._dials:
            await asyncio.wait(list(self._dials.values()), timeout=PATIENCE_S)
        self._dials = {text: task for text, task in self._dials.items() if not task.done()}

    async def _pause(self, seconds: float) -> None:
        self.next_try = time.monotonic() + seconds
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()
        self.next_try = None

    def _not_connected(self) -> list[Address]:
        linked = {peer_text(p) for p in self.links.peers} if self.links else set()
        return [a for a in self.addresses.values() if a.text.rsplit("/", 1)[-1] not in linked]

    async def _dial_address(self, address: Address) -> None:
        try:
            peer = peer_bytes(address.text.rsplit("/p2p/", 1)[1])
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await self._host.connect(peer, [address.text])
                await self._discovery.greet(peer)
            address.state, address.cause = "connected", None
            self.connected.add(peer)
        except (*GONE, ValueError, IndexError) as error:
            address.state, address.cause = "failed", _cause(error)
            return
        await self._link(peer)

    async def _look(self) -> None:
        records = await self._discovery.find(time.time())
        self._look_at = time.monotonic() + LOOK_S * max(0.0, len(records) / LARGE - 1)
        linked = set(self.links.peers) if self.links else set()
        new = [r for r in records if r.peer not in linked and r.peer != self._keyring.peer_id]
        await asyncio.gather(*(self._meet(bytes(r.peer), list(r.addresses)) for r in new))

    async def _meet(self, peer: bytes, found: list[str]) -> None:
        # A relay carries little, so that is for who reaches nobody else: links pass on what there is to say.
        addresses = found if self._is_alone else direct(found)
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await self._host.connect(peer, addresses)
            self.connected.add(peer)
        except (*GONE, ValueError) as error:
            log.debug("a peer found in the DHT can't be reached: %s", _cause(error))
            return
        await self._link(peer)

    async def _link(self, peer: bytes) -> None:
        if self.links is None or self.links.is_full:
            return  # that this node takes no more is no refusal that anybody has to mend
        try:
            if self.links.peers and not await self._host.is_direct(peer):
                return
            await self.links.dial(peer)
            self._refused.pop(peer, None)
        except LinkRefused as error:
            self._refused[peer] = (error, time.monotonic())
        except GONE as error:
            # A stock DHT node knows no links; that is no fault of it.
            log.debug("no link to a connected peer: %s", _cause(error))


def _cause(error: BaseException) -> str:
    """What people read: the last, most telling part of a libp2p error."""
    if isinstance(error, TimeoutError):
        return f"no answer in {DIAL_TIMEOUT_S:.0f} s"
    text = str(error).strip() or type(error).__name__
    for known in ("connection refused", "no route to host", "i/o timeout", "network is unreachable"):
        if known in text:
            return known
    return text.splitlines()[-1][-160:]
