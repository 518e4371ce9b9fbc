"""Meeting those who can't be dialled: holes in routers, and places at relays for whoever is hidden itself.

Peers that are reached through others are asked to punch a hole now and then (peers/punching.py); until that
works, members pass on what goes to them. A node that others could not dial takes a place at the relay of up
to MAX_RELAYS of them (peers/relays.py), and announces itself there: so newcomers find it even where nobody
else of the swarm can be dialled, and it can be asked for a hole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from atoll.peers import addresses as a
from atoll.peers import relays
from atoll.peers.identity import readable_name
from atoll.peers.links import LinkRefused
from atoll.peers.p2pd import GONE
from atoll.peers.punching import Puncher, Ways
from atoll.protocol import wire
from atoll.protocol.signing import peer_text

if TYPE_CHECKING:
    from atoll.daemon.events import Events
    from atoll.daemon.neighbours import Neighbours
    from atoll.daemon.network import Network

LOOK_S = 2.0
MAX_RELAYS = 2
RENEW_S = 60.0
"""A place ends with the connection, which nobody tells of; renewing one costs nothing."""

log = logging.getLogger(__name__)


class Meeting:
    """Of one node. `puncher` listens to what peers say of holes as soon as it is made."""

    def __init__(self, network: Network, neighbours: Neighbours, events: Events) -> None:
        self._network = network
        self._neighbours = neighbours
        self._events = events
        self._renew_at = 0.0
        ways = Ways(self._outside, neighbours.send, self._punched, self._link)
        self.puncher = Puncher(network.host, neighbours.links.me, ways)
        neighbours.punch = self.puncher.heard

    def _outside(self) -> list[str]:
        """QUIC addresses at which others see this node; none where it listens on none, or can be dialled."""
        port = self._network.host.quic_port
        return [a.quic(ip, port) for ip in self._network.reachability.reach.outside] if port else []

    def _punched(self, peer: bytes) -> None:
        self._neighbours.links.punched(peer)
        self._events.emit("reach", f"A hole was punched to {readable_name(peer)}: the way is direct now.")

    async def _link(self, peer: bytes) -> None:
        try:
            await self._neighbours.links.dial(peer)
        except (LinkRefused, *GONE) as error:
            log.info("no link through a hole to %s: %s", readable_name(peer), error)

    async def keep(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                self.puncher.look(self._neighbours.apart())
                now = time.monotonic()
                if now >= self._renew_at:
                    await self._take_places()
                    hidden = bool(self._network.reachability.reach.hidden_from)
                    self._renew_at = now + (RENEW_S if hidden else LOOK_S)
                await asyncio.sleep(LOOK_S)
        finally:
            await self.puncher.close()

    async def _take_places(self) -> None:
        """At relays: those who could not dial this node, which dialled them."""
        network = self._network
        hidden, near = network.reachability.reach.hidden_from, network.reachability.whom()
        found: list[str] = []
        for peer in [p for p in near if p in hidden]:
            if len(found) >= MAX_RELAYS:
                break
            try:
                await relays.reserve(network.host, peer)
                ways = [way for way in await network.host.ways(peer) if a.parts(way)]
            except (*GONE, wire.WireError) as error:
                log.info("no place at %s's relay: %s", readable_name(peer), error)
                continue
            found += [f"{a.bare(way)}/p2p/{peer_text(peer)}" for way in ways[:1]]
        if found != network.reachability.relays:
            network.reachability.relays = found
            network.circuits = [relays.through(relay, self._neighbours.links.me) for relay in found]
            network.finder.announce_now()
            if found:
                self._events.emit("reach", f"Others meet this node through {len(found)} of those it dialled.")
