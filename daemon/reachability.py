"""Whether others can dial this node: asking a few of them to try, and keeping what they found.

Whoever is connected without a relay is asked: nodes of the swarm when there is a link, and nodes that only
help others to find each other. A few answers are enough; they are renewed every RECHECK_S. What was found is
kept in the data dir, so that `atoll ticket` knows it, and is told by an event when it changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from atoll.daemon.errors import AtollError
from atoll.daemon.verdicts import Reachable
from atoll.peers import addresses as a
from atoll.peers import dialback, reach
from atoll.peers.dialback import DialBackServer
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import GONE
from atoll.peers.reach import Reach
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.text import plain

if TYPE_CHECKING:
    from atoll.daemon.alerts import Alerts
    from atoll.daemon.events import Events
    from atoll.daemon.network import Network
    from atoll.daemon.storage.data_dir import DataDir

WANTED = 3
"""So many others are asked, if there are as many."""
RECHECK_S = 600.0
AGAIN_S = 60.0
"""Who did not dial back is asked again so often."""
LOOK_S = 2.0
NOTHING_KNOWN: dict[str, Any] = {
    "verdict": reach.UNKNOWN,
    "text": "nobody has tried yet",
    "fix": "",
    "tried": 0,
    "reached": 0,
    "proven": [],
    "relays": [],
}
"""What there is to see while there is no network yet."""

log = logging.getLogger(__name__)


class Reachability:
    """Of one node."""

    def __init__(self, network: Network, folder: DataDir, events: Events, alerts: Alerts) -> None:
        self._network = network
        self._folder = folder
        self._events = events
        self._alerts = alerts
        self.reach = Reach(folder.node_facts().get("reach"))
        self._kept: dict[str, Any] = {}
        self._asked: dict[bytes, float] = {}
        self._said = self.reach.verdict
        self.relays: list[str] = []
        """Addresses of nodes through which this one is met."""
        self.server = DialBackServer(network.host, self._refuses)

    def _refuses(self, peer: bytes) -> str | None:
        """Of a swarm's node only those may ask who have passed its handshake; a bootstrap node has none."""
        neighbours = self._network.neighbours
        if neighbours is None:
            return None if self._network.serves_all else "this node is not ready yet"
        return None if neighbours.links.get(peer) is not None else "it has no link to this node"

    @property
    def facts(self) -> Reachable:
        """For the verdicts."""
        known = self.reach
        addresses = {address: None for answer in known.answers.values() for address in answer.reached}
        return Reachable(
            verdict=known.verdict,
            addresses=tuple(addresses),
            tried=len(known.answers),
            reached=len(known.answers) - len(known.hidden_from),
            failures=tuple(known.failures()),
            port=self._network.port,
        )

    def view(self) -> dict[str, Any]:
        """The same, as pages and commands show it."""
        facts = self.facts
        told = facts.as_verdict()
        return {
            "verdict": facts.verdict,
            "text": told["text"],
            "fix": told["fix"],
            "tried": facts.tried,
            "reached": facts.reached,
            "proven": [
                {"address": address, "scope": a.scope(address), "at": float(round(at))}
                for address, at in self.reach.proven.items()
            ],
            "relays": self.relays,
        }

    def whom(self) -> list[bytes]:
        """Who can be asked: connected without a relay."""
        network = self._network
        links = network.neighbours.links if network.neighbours is not None else None
        linked = list(links.peers) if links is not None else []
        near = [p for p in linked if links is not None and (link := links.get(p)) and not link.relayed]
        return [*near, *(peer for peer in network.finder.connected if peer not in linked)]

    async def keep(self) -> None:
        """Asks and asks again. Runs until cancelled."""
        while True:
            for peer in self.due(time.monotonic(), time.time()):
                await self._ask(peer)
            await self._settle()
            await asyncio.sleep(LOOK_S)

    def due(self, now: float, now_s: float) -> list[bytes]:
        """Whom to ask, so that there are WANTED fresh answers. `now` monotonic, `now_s` Unix seconds."""
        whom = self.whom()
        answered = {peer for peer in whom if now_s - self.reach.asked_at(peer) < RECHECK_S}
        self._asked = {peer: at for peer, at in self._asked.items() if now - at < AGAIN_S}
        others = [peer for peer in whom if peer not in answered and peer not in self._asked]
        return others[: max(0, WANTED - len(answered))]

    async def ask_now(self) -> None:
        """Asks some at once, whenever they were asked last: somebody wants to know."""
        await asyncio.gather(*(self._ask(peer) for peer in self.whom()[:WANTED]))
        await self._settle()

    async def _ask(self, peer: bytes) -> None:
        network = self._network
        self._asked[peer] = time.monotonic()
        try:
            reply = await dialback.ask(network.host, peer, self._own(), network.port)
        except (*GONE, wire.WireError) as error:
            # Stock DHT nodes know nothing of this; whoever is gone is asked when it is back.
            log.debug("%s does not dial back: %s", readable_name(peer), error)
            return
        self.took(peer, reply)

    def _own(self) -> list[str]:
        return self._network.addresses[: dialback.MAX_DIALLED]

    def took(self, peer: bytes, reply: pb.DialBackReply) -> None:
        """What a peer answered."""
        if reply.code:
            log.debug("%s does not dial back: %s", readable_name(peer), plain(reply.reason))
            if reply.code == "not_welcome":
                self._asked.pop(peer, None)  # it does not have the link yet
            return
        self.reach.heard(peer, reply, time.time())

    async def _settle(self) -> None:
        """Tells and keeps what has changed."""
        self.reach.forget(time.time())
        if self.reach.verdict != self._said:
            self._said = self.reach.verdict
            told = self.facts.as_verdict()
            self._events.emit("reach", f"Reachable by others: {told['text']}. {told['fix']}".rstrip())
        facts = {**self.reach.facts(), "relays": list(self.relays)}
        if facts == self._kept:
            return
        try:
            await asyncio.to_thread(self._folder.remember, reach=facts)
        except AtollError as error:
            self._alerts.raise_(error.code, error.message, error.fix)
            return
        self._kept = facts
