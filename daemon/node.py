"""The node: puts identity, host, DHT, links, rounds, trainer and page together, in stages.

    page → host and DHT → manifest → links and files → outer state → rounds → data → trainer

Each stage may have to wait for peers; it then says so in the sentence and goes on trying. The page answers
from the first stage on. `run` returns the exit status; whatever ends it, the stages are taken down in
reverse and nothing is left behind: no process, no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atoll.daemon.alerts import Alerts
from atoll.daemon.amending import Amending, load
from atoll.daemon.config import Config
from atoll.daemon.container import tell_of_loss
from atoll.daemon.controls import Controls
from atoll.daemon.enrolling import Invitation
from atoll.daemon.entry import Entry
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.farewell import FAILED, SCRIPT_ENDED, farewell
from atoll.daemon.finder import Finder
from atoll.daemon.front import Front
from atoll.daemon.history import History
from atoll.daemon.island import Island
from atoll.daemon.link_stage import LinkStage
from atoll.daemon.machine import MachineFacts
from atoll.daemon.meeting import Meeting
from atoll.daemon.members import Members
from atoll.daemon.neighbours import Neighbours
from atoll.daemon.network import Network
from atoll.daemon.privacy_book import PrivacyBook
from atoll.daemon.pulse import Pulse
from atoll.daemon.reading import Reader, reader_of
from atoll.daemon.recovery import Recovery
from atoll.daemon.round_stage import RoundStage
from atoll.daemon.rounds.noise import Noise
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.saying import SOFTWARE
from atoll.daemon.service_manager import ServiceManager
from atoll.daemon.situation import circumstances
from atoll.daemon.status import State, duration
from atoll.daemon.storage import files as disk
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.receipts import Receipts
from atoll.daemon.ticket_book import TicketBook
from atoll.daemon.traffic import TrafficBook
from atoll.daemon.training.errors import DeviceError
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.trust import standing_file_of
from atoll.peers import identity
from atoll.peers.enrolment import EnrolServer
from atoll.peers.relay_server import RelayServer
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import types as t
from atoll.protocol.signing import peer_text

if TYPE_CHECKING:
    from atoll.daemon.rounds.driver import RoundDriver

log = logging.getLogger(__name__)

WATCH_S = 0.1
ROUNDS = "atoll.daemon.rounds.driver"
"""Brings PyTorch, which takes seconds to load: the page is up by then, and peers are being looked for."""
FINISH_SESSION_S = 4.0
"""A node that is stopped still gives the session under way so long: others count on its chunks."""
Consent = Callable[[SwarmManifest], Awaitable[bool]]


class Node:
    """One node in one data dir. `swarm_id` and `addresses` come from a ticket, where there is no manifest."""

    def __init__(
        self,
        folder: DataDir,
        config: Config,
        *,
        swarm_id: bytes | None = None,
        addresses: tuple[str, ...] = (),
        trainer_socket: socket.socket | None = None,
        consent: Consent | None = None,
        invitation: Invitation | None = None,
        greet: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.settings = config.settings
        self.started = time.time()
        self.state = State.STARTING
        self.state_since = time.time()
        self.reason = ""
        self.manifest: SwarmManifest | None = None
        self.amending: Amending | None = None
        self.swarm_id = swarm_id
        self.history = History(self.started)
        self.front = Front(self)
        self._pulse: Pulse | None = None
        self.island: Island | None = None
        self.driver: RoundDriver | None = None
        self.outer: OuterState | None = None
        self.network: Network | None = None
        self.traffic: TrafficBook | None = None
        self.neighbours: Neighbours | None = None
        self.recovery: Recovery | None = None
        self.reader: Reader | None = None
        self._given = addresses
        self._links = LinkStage(self)
        self._rounds = RoundStage(self, trainer_socket)
        self._consent = consent
        self._invitation = invitation
        self.members: Members | None = None
        self._greet = greet
        self._manager = ServiceManager()
        self.tickets = TicketBook(folder.tickets)
        self._stop = asyncio.Event()
        self._stop_reason = FAILED  # unless it is asked to end
        self._exit: Exit = Exit.OK
        self._failure: AtollError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.events = Events(folder.events, time.time)
        self.standings = standing_file_of(self)
        self.privacy: PrivacyBook | None = None
        self.noise: Noise | None = None
        self.alerts = Alerts(self.events)
        self.machine = MachineFacts(folder.root, lambda: self.island is not None and self.island.on_gpu)
        self.controls = Controls(self)

    def use(self, config: Config) -> None:
        """Other settings are in force from now on."""
        self.config, self.settings = config, config.settings

    @property
    def trains_by_itself(self) -> bool:
        """Whether it brings the trainer along; else a person's own script trains."""
        return self._rounds.trains_by_itself

    @property
    def observes(self) -> bool:
        """Whether its role lets it see everything and train nothing."""
        return self.members is not None and not self.members.admission.contributes(self.keyring.peer_id)

    @property
    def loop_lag_s(self) -> float:
        """How late the event loop came back at its worst, of late."""
        return self._pulse.lag_s if self._pulse is not None else 0.0

    @property
    def round_lag_p99_s(self) -> float | None:
        """What 99 of 100 delays of the event loop in recent rounds stayed below."""
        return self._pulse.round_lag_p99_s if self._pulse is not None else None

    def _in_round(self) -> bool:
        return self.driver is not None and self.driver.machine.session is not None

    # ---- life

    def stop(self, reason: str = "you asked for it", status: Exit = Exit.OK) -> None:
        """Asks the node to end in order."""
        self._stop_reason, self._exit = reason, status
        self._stop.set()

    async def run(self) -> Exit:
        """Runs the stages until stopped. Raises AtollError for what a person has to mend."""
        async with contextlib.AsyncExitStack() as undo:
            work = asyncio.create_task(self._stages(undo), name="stages")
            stopped = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            self.enter(State.STOPPING, self._stop_reason)
            self._manager.tell(STOPPING="1")
            self.front.stopping()
            stopped.cancel()
            try:
                if work in done:
                    work.result()
                else:
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
            finally:
                await self._wind_down()
        if self._failure is not None:
            raise self._failure
        self.events.emit("stop", f"The node has ended: {self._stop_reason}.")
        return self._exit

    async def _stages(self, undo: contextlib.AsyncExitStack) -> None:
        self.keyring = self.folder.keyring(self.folder.identity)
        self.name = identity.readable_name(self.keyring.peer_id)
        self.folder.remember(node_id=peer_text(self.keyring.peer_id), role="node")
        self.events.emit("start", f"{SOFTWARE}: node {self.name} starts in {self.folder.root}.")
        tell_of_loss(self.folder.root, self.alerts)
        if self.folder.manifest.exists():
            await self._know(self.folder.load_manifest())
        self._spawn(self.machine.keep(), "machine")
        await self._start_page(undo)
        libraries = asyncio.create_task(asyncio.to_thread(import_module, ROUNDS), name="libraries")
        undo.callback(libraries.cancel)
        if self._consent is None:
            await self._rounds.warm_up(undo)
        self.controls.owner.restore()
        self._spawn(self.controls.watch(), "rules")
        await self._start_network(undo)
        assert self.network is not None
        entry = Entry(self, self.network, self._invitation)
        if self.manifest is None:
            await self._know(await entry.manifest())
        assert self.manifest is not None
        await libraries
        if self._consent is not None and not await self._consent(self.manifest):
            self.stop("nothing was accepted")
            return
        disk.write_bytes(self.folder.manifest, self.manifest.signed.SerializeToString())
        self.folder.remember(swarm_id=self.manifest.swarm_id.hex())
        self.members = await entry.member(self.manifest)
        self.network.admit(self.members)
        if self.members.admission.roll is not None:
            self.tickets.used = self.members.admission.roll.uses_of
        self._spawn(self.members.keep(), "members")
        await self._rounds.warm_up(undo)
        await self._start_links(undo)
        assert self.recovery is not None
        memory = self.recovery.memory()
        undo.callback(memory.close)
        self.outer = await self.recovery.state(memory)
        self.outer.receipts = Receipts(self.folder.receipts, self.keyring.peer_id)
        self.enter(State.PREPARING, "the trainer is starting")
        await self._start_rounds(undo, memory)
        self._pulse = Pulse(time.monotonic, time.time, self._stalled, self._clock_jumped, self._in_round)
        undo.callback(self._pulse.close)
        self._spawn(self._pulse.beats(asyncio.sleep), "pulse")
        self._spawn(self._watch(), "watch")
        self._spawn(self._follow(), "follow")
        assert self.reader is not None and self.island is not None
        if self.observes:
            self.enter(State.SERVING, "this node observes: it follows the swarm and trains nothing")
            await asyncio.Event().wait()
        self._spawn(self.reader.keep(), "data")
        await self.reader.ready(self.enter)
        self.enter(State.PREPARING, "the trainer is starting")
        await self.island.start()
        await asyncio.Event().wait()

    async def _know(self, manifest: SwarmManifest) -> None:
        """The swarm's description is here, with what has amended it, as far as this disk tells."""
        amendments = await asyncio.to_thread(load, self.folder, manifest)
        self.amending = Amending(self.folder, amendments, self.events, self.alerts, self._amended)
        self.manifest, self.swarm_id = manifest, manifest.swarm_id

    def _amended(self) -> None:
        assert self.amending is not None
        for address in self.amending.amendments.newest.body.bootstrap:
            if self.finder is not None:
                self.finder.add(address)
        if self.driver is not None:
            self.driver.amended()
        self.events.changed()

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        failure = error if isinstance(error, AtollError) else None
        if failure is None:
            log.error("task %s failed", task.get_name(), exc_info=error)
        what = f"Task {task.get_name()} failed: {error!r}."
        self.fail(failure or AtollError(Exit.BUG, "bug", what, "Please report it with the log."))

    def fail(self, error: AtollError) -> None:
        """Ends the node by what a person has to mend, or to report."""
        self._failure = error
        self._stop.set()

    async def _wind_down(self) -> None:
        """Lets a session under way end, then stops expecting and watching anything."""
        if self.driver is not None and self.island is not None and self.neighbours is not None:
            self.island.retire()
            self.neighbours.tell_everyone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SESSION_S):
                    await self.driver.idle()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what people are told

    @property
    def finder(self) -> Finder | None:
        return self.network.finder if self.network else None

    @property
    def addresses(self) -> list[str]:
        return self.network.addresses if self.network else []

    def enter(self, state: State, reason: str = "") -> None:
        """A new state with its reason; the log has it once."""
        if state != self.state:
            self.state, self.state_since = state, time.time()
        self.reason = reason
        self.events.changed()

    # ---- stage: page

    async def _start_page(self, undo: contextlib.AsyncExitStack) -> None:
        await self.front.open(undo, self._spawn)
        # The link lets its holder in, so it goes to whoever started the node and not into the log.
        self._manager.tell(READY="1")
        self._spawn(self._manager.keep(lambda: self.front.view.sentence()[0].text), "service manager")
        self._greet(f"Open the dashboard with {self.front.page.login_url()} (works once).")

    # ---- stage: host, DHT, finding

    async def _start_network(self, undo: contextlib.AsyncExitStack) -> None:
        known = self.folder.node_facts().get("peers", [])
        of_manifest = list(self.amending.amendments.newest.body.bootstrap) if self.amending else []
        addresses = [*self._given, *self.settings.bootstrap, *of_manifest, *known]
        network = Network(self.folder, self.events, self.alerts, self.swarm_id)
        await network.open(undo, self.settings, self.keyring, addresses, self.events.changed)
        self.network = network
        self.traffic = TrafficBook(
            self.folder.traffic, network.host.line, lambda: network.host.process.pid, self.events
        )
        undo.push_async_callback(self.traffic.save)
        self._spawn(self.traffic.keep(), "traffic")
        self._spawn(network.keep_up(time.monotonic), "p2pd-watch")
        self._spawn(network.finder.run(swarm=self.swarm_id is not None), "finder")
        self._spawn(network.reachability.keep(), "reachability")
        if self.settings.mdns and self.swarm_id is not None:
            await network.search_lan(undo, self.keyring)

    # ---- stage: links

    async def _start_links(self, undo: contextlib.AsyncExitStack) -> None:
        assert self.network and self.members and self.amending
        host, finder = self.network.host, self.network.finder
        lanes = await self.network.open_lanes(undo, self.settings)
        self.neighbours = self._links.neighbours(lanes)
        self._spawn(self.amending.keep(), "amendments")
        self.members.neighbours = self.neighbours
        self.recovery = self._links.recovery(self.neighbours)
        newest = self.amending.amendments.newest
        self.reader = await asyncio.to_thread(reader_of, self, newest, self.neighbours, self.recovery)
        undo.push_async_callback(self._say_goodbye)
        finder.links = self.neighbours.links
        if not self.members.admission.is_open:
            self.network.enrolments = EnrolServer(host, self.members.answer)
            self.network.relay = RelayServer(host, self.neighbours.links.is_direct)
        await self.network.serve(self.neighbours)
        finder.look_now()
        self._spawn(self.neighbours.heartbeats(), "heartbeats")
        self._spawn(Meeting(self.network, self.neighbours, self.events).keep(), "meeting")

    async def _say_goodbye(self) -> None:
        assert self.neighbours is not None
        code = self._failure.code if self._failure is not None else ""
        await self.neighbours.close(farewell(self._stop_reason, code))

    def roster_changed(self) -> None:
        if self.driver is not None and self.neighbours is not None:
            self.driver.feed(t.RosterChanged(self.neighbours.views()))
        self.events.changed()

    # ---- stage: rounds

    async def _start_rounds(self, undo: contextlib.AsyncExitStack, memory: SharedMemory) -> None:
        assert self.neighbours is not None
        self.island, self.driver = await self._rounds.open(undo, memory)
        self.controls.look()
        self.roster_changed()
        self.neighbours.tell_everyone()

    # ---- watching

    def _stalled(self, silent: float, where: str) -> None:
        text = f"The daemon stood still for {duration(silent)}; peers may have taken it for dead."
        self.events.emit("stall", text, where=where)

    def _clock_jumped(self, by: float) -> None:
        assert self.network is not None
        self.events.emit("clock", f"The clock jumped by {by:+.0f} s; this node is announced anew.")
        self.network.finder.announce_now()

    async def _watch(self) -> None:
        """Keeps books, known addresses and alerts."""
        assert self.island and self.outer and self.neighbours and self.network
        while not self.island.ended.is_set():
            await asyncio.sleep(WATCH_S)
            await self.network.save_learned()
            await self._rounds.book.save()
            self.alerts.check(circumstances(self))
        if self.island.unusable is not None:
            raise AtollError(Exit.PREFLIGHT, DeviceError.code, self.island.unusable)
        self.stop(SCRIPT_ENDED)

    async def _follow(self) -> None:
        """Catches up whenever the swarm is ahead: that may take long, and nothing else waits for it."""
        assert self.island and self.recovery and self.outer and self.driver and self.neighbours
        while True:
            await asyncio.sleep(WATCH_S)
            await self.controls.network.wait()
            await self.recovery.keep_up(self.outer, self.driver, self.island, self.neighbours.tell_everyone)
