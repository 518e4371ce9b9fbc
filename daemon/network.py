"""This node on the network: the libp2p process, the DHT and the search for peers, kept up while it runs.

When p2pd ends by itself, all links are gone, but nothing else is: training goes on, and p2pd is started again
with the same identity and port, after a pause that grows; then the DHT, and links as peers are found. That it
is down is an alert for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from atoll.daemon.alerts import Alerts
from atoll.daemon.config import Settings, is_multiaddr
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.finder import Finder
from atoll.daemon.hosting import start_host, start_lanes
from atoll.daemon.lan import LanSearch
from atoll.daemon.reachability import Reachability
from atoll.daemon.status import duration
from atoll.daemon.storage.data_dir import DataDir
from atoll.dht.discovery import Discovery
from atoll.peers.lanes import Lanes
from atoll.peers.p2pd import GONE
from atoll.protocol.signing import Keyring
from atoll.protocol.text import plain

if TYPE_CHECKING:
    # A bootstrap node has none of these, and loads neither torch nor numpy.
    from atoll.daemon.members import Members
    from atoll.daemon.neighbours import Neighbours
    from atoll.peers.enrolment import EnrolServer
    from atoll.peers.relay_server import RelayServer

STARTS = 3
"""A p2pd that ends or hangs while the node starts is started so often."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A process that ran for so long did not end because of how it was started."""
CLOSE_S = 5.0
RESTART_S = 60.0
"""What starts again together with p2pd has so long."""
MAX_ADDRESS_BYTES = 256
MAX_PEER_ADDRESSES = 32

TELL_FIRST_S, TELL_AGAIN_S = 3.0, 30.0
TOLD, MAX_TOLD_CHARS = 4, 1000
"""So many of the addresses that are tried are named."""

log = logging.getLogger(__name__)


class Network:
    """Host, DHT and finder of one node. `neighbours` is set once the swarm's manifest is known."""

    def __init__(self, folder: DataDir, events: Events, alerts: Alerts, swarm_id: bytes | None) -> None:
        self._folder = folder
        self._events = events
        self._alerts = alerts
        self._swarm_id = swarm_id
        self.addresses: list[str] = []
        self.circuits: list[str] = []
        """Addresses of this node through relays, where others can't dial it."""
        self.neighbours: Neighbours | None = None
        self.lanes: Lanes | None = None
        self._learned: list[str] = []
        self._always: list[Callable[[], Awaitable[None]]] = []
        self._members: Members | None = None
        self.enrolments: EnrolServer | None = None
        """Answers newcomers, in a private swarm."""
        self.relay: RelayServer | None = None
        """Takes the place of p2pd's own, in a private swarm."""

    async def open(
        self,
        undo: AsyncExitStack,
        settings: Settings,
        keyring: Keyring,
        known: Iterable[str],
        changed: Callable[[], None],
    ) -> None:
        """Starts everything; `known` are addresses to dial. Raises AtollError."""
        before = self._folder.node_facts().get("port")
        for turn in range(1, STARTS + 1):
            try:
                async with AsyncExitStack() as so_far:
                    await self._start(so_far, settings)
                    undo.push_async_exit(so_far.pop_all())
                break
            except GONE as error:
                why = str(error) or type(error).__name__
                if turn == STARTS:
                    raise AtollError(Exit.TEMPORARY, "host", f"{why}.", "See the log.") from error
                self._events.emit("p2pd", f"The libp2p process does not run ({why}); it starts again.")
                await asyncio.sleep(FIRST_PAUSE_S)
        self._tell_of_another_port(before, settings)
        rng = random.Random(secrets.randbits(64))
        self.finder = Finder(self.host, self._discovery, keyring, known, self._announced, changed, rng)

    async def search_lan(self, undo: AsyncExitStack, keyring: Keyring) -> None:
        """Tells this network of the node, and tries whom it tells of. Without multicast it does without."""
        assert self._swarm_id is not None

        def found(address: str) -> None:
            self._events.emit(
                "found", f"A node of the swarm is in this network, at {address.split('/p2p/')[0]}."
            )
            self.finder.add(address)
            self.finder.look_now()

        search = LanSearch(found)
        undo.push_async_callback(search.close)
        try:
            await search.start(self._swarm_id, keyring.peer_id, self.addresses, self.port)
        except OSError as error:
            self._events.emit("found", f"Nobody can be found in this network by multicast: {error}.")

    def _announced(self) -> list[str]:
        """Where others may try to dial this node."""
        return [*self.addresses, *self.circuits]

    async def _start(self, undo: AsyncExitStack, settings: Settings) -> None:
        """Raises AtollError, or GONE where p2pd ends meanwhile."""
        self.host = await start_host(self._folder, settings)
        undo.push_async_callback(self._close_host)
        self._discovery = await Discovery.create(self.host.p2p, self._swarm_id)
        undo.push_async_callback(self._close_discovery)
        self.addresses = await self.host.addresses()
        self.reachability = Reachability(self, self._folder, self._events, self._alerts)
        self._always = [self.reachability.server.listen]
        await self.reachability.server.listen()

    def admit(self, members: Members) -> None:
        """Records in the DHT are kept, and believed, only of nodes that may take part; so may this one."""
        self._members = members
        self._discovery.admit(members.admits)
        self.finder.membership = lambda: members.own

    @property
    def refused_records(self) -> int:
        """Records for the DHT that were not taken since the libp2p process runs."""
        return self._discovery.refused_records

    @property
    def refused_requests(self) -> int:
        """Requests to the DHT that were not answered, for whoever asked had asked too much."""
        return self._discovery.refused_requests

    @property
    def up(self) -> bool:
        """Whether the libp2p process runs."""
        return self.host.process.returncode is None

    @property
    def serves_all(self) -> bool:
        """Whether it is of no swarm, and helps whoever comes."""
        return self._swarm_id is None

    @property
    def port(self) -> int:
        """TCP port for other nodes; 0 where that is not known."""
        ports = [part.split("/")[0] for text in self.addresses for part in text.split("/tcp/")[1:]]
        return int(ports[0]) if ports and ports[0].isdecimal() else 0

    async def _close_host(self) -> None:
        await self.host.close()

    async def serve(self, neighbours: Neighbours) -> None:
        """Listens for links and file requests, now and whenever p2pd was started again."""
        self.neighbours = neighbours
        try:
            await self._listen(neighbours)
        except GONE:
            # If p2pd has ended, whoever starts it again listens, too.
            async with asyncio.timeout(CLOSE_S):
                await self.host.process.wait()

    async def _listen(self, neighbours: Neighbours) -> None:
        await neighbours.listen()
        if self.enrolments is not None:
            await self.enrolments.listen()
        if self.relay is not None:
            await self.relay.listen()

    async def open_lanes(self, undo: AsyncExitStack, settings: Settings) -> Lanes | None:
        """Listens for direct lanes, which links then offer; None where they are off. Raises AtollError."""
        self.lanes = await start_lanes(self._folder, settings)
        if self.lanes is not None:
            undo.push_async_callback(self.lanes.close)
        return self.lanes

    def _tell_of_another_port(self, before: int | None, settings: Settings) -> None:
        now = self._folder.node_facts().get("port")
        if before and not settings.port and now != before:
            self._alerts.raise_(
                "port_changed",
                f"Port {before} of the last start is taken: this node listens on port {now} now, and tickets "
                f"that were made before name the old one.",
                "Free the port and start again, or hand out new tickets.",
            )

    @asynccontextmanager
    async def telling_whom_it_tries(self) -> AsyncIterator[None]:
        """Says every now and then which addresses don't answer, for as long as the context is open."""
        telling = asyncio.create_task(self._tell_whom_it_tries(), name="telling")
        try:
            yield
        finally:
            telling.cancel()

    async def _tell_whom_it_tries(self) -> None:
        pause = TELL_FIRST_S
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, TELL_AGAIN_S)
            tried = [f"{a.text} ({a.cause or a.state})" for a in self.finder.addresses.values()]
            more = f" and {len(tried) - TOLD} more" if len(tried) > TOLD else ""
            whom = plain(", ".join(tried[:TOLD]), MAX_TOLD_CHARS) or "nobody: it knows no address"
            self._events.emit(
                "connecting", f"No node of the swarm answers yet. It tries {whom}{more}, again and again."
            )

    async def _close_discovery(self) -> None:
        # Of a p2pd that is gone it can't take leave.
        with suppress(OSError, EOFError, TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_S):
                await self._discovery.close()

    def learned(self, address: str) -> None:
        """A peer's address, for the next start."""
        if len(address) > MAX_ADDRESS_BYTES or not is_multiaddr(address):
            return
        self._learned = [address, *self._learned][:MAX_PEER_ADDRESSES]

    async def save_learned(self) -> None:
        """Writes down, off the event loop, which addresses were learned."""
        learned, self._learned = self._learned, []
        if not learned:
            return
        known = self._folder.node_facts().get("peers", [])
        peers = list(dict.fromkeys([*learned, *known]))[:MAX_PEER_ADDRESSES]
        try:
            await asyncio.to_thread(self._folder.remember, peers=peers)
        except AtollError as error:
            self._alerts.raise_(error.code, error.message, error.fix)

    async def keep_up(self, clock: Callable[[], float]) -> None:
        """Starts p2pd again whenever it ends. Runs until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            began = clock()
            status = await self.host.process.wait()
            if clock() - began >= STEADY_S:
                pause = FIRST_PAUSE_S
            why = f"signal {-status}" if status < 0 else f"status {status}"
            text = f"The libp2p process ended ({why}). It starts again; training goes on."
            self._alerts.raise_("p2pd_ended", text, "See the log if it happens again and again.")
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                try:
                    await self._restart()
                    break
                except GONE as error:
                    # It may have ended again meanwhile: whatever speaks to it then fails in its own way.
                    why = str(error) or type(error).__name__
                    self._events.emit(
                        "p2pd", f"p2pd can't be started ({why}); next try in {duration(pause)}."
                    )
            self._alerts.clear("p2pd_ended")

    async def _restart(self) -> None:
        """Raises GONE."""
        await self._close_discovery()
        await self.host.restart()
        async with asyncio.timeout(RESTART_S):
            self._discovery = await Discovery.create(self.host.p2p, self._swarm_id)
            if self._members is not None:
                self._discovery.admit(self._members.admits)
            self.finder.attach(self._discovery)
            for listen in self._always:
                await listen()
            if self.neighbours is not None:
                await self._listen(self.neighbours)
            self.addresses = await self.host.addresses() or self.addresses
        self.finder.look_now()
        self._events.emit("p2pd", "The libp2p process runs again.")
