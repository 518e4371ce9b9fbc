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
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atoll import __version__
from atoll.daemon.account_book import AccountBook
from atoll.daemon.alerts import Alerts
from atoll.daemon.amending import Amending, load
from atoll.daemon.config import Config, size_of
from atoll.daemon.container import tell_of_loss
from atoll.daemon.controls import Controls
from atoll.daemon.enrolling import Invitation
from atoll.daemon.entry import Entry
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.farewell import FAILED, SCRIPT_ENDED, farewell
from atoll.daemon.finder import Finder
from atoll.daemon.front import Front
from atoll.daemon.history import History, Said
from atoll.daemon.island import Island
from atoll.daemon.left_out import Seen
from atoll.daemon.machine import MachineFacts
from atoll.daemon.meeting import Meeting
from atoll.daemon.members import Members
from atoll.daemon.neighbours import Hooks, Neighbours
from atoll.daemon.network import Network
from atoll.daemon.privacy_book import PrivacyBook, open_privacy
from atoll.daemon.pulse import Pulse
from atoll.daemon.reading import Reader, reader_of
from atoll.daemon.recovery import Recovery
from atoll.daemon.rhythm import rhythm_of, terms_of
from atoll.daemon.rounds.config import round_config
from atoll.daemon.rounds.noise import Noise
from atoll.daemon.rounds.outer_state import OuterState, served_file
from atoll.daemon.saying import status_message
from atoll.daemon.service_manager import ServiceManager
from atoll.daemon.situation import circumstances
from atoll.daemon.status import State, duration
from atoll.daemon.storage import files as disk
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.files import TROUBLE_CODES
from atoll.daemon.storage.receipts import Receipts
from atoll.daemon.ticket_book import TicketBook
from atoll.daemon.traffic import TrafficBook
from atoll.daemon.trainers import Trainer, WarmTrainer
from atoll.daemon.training.errors import DeviceError
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.trust import standing_file_of, surroundings_of
from atoll.daemon.welcome import welcome
from atoll.peers import identity
from atoll.peers.enrolment import EnrolServer
from atoll.peers.files import ServedFile
from atoll.peers.relay_server import RelayServer
from atoll.protocol import forks, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import RoundMachine
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
SOFTWARE = f"atoll {__version__}"

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
        self._book: AccountBook | None = None
        self.island: Island | None = None
        self.driver: RoundDriver | None = None
        self.outer: OuterState | None = None
        self.network: Network | None = None
        self.traffic: TrafficBook | None = None
        self.neighbours: Neighbours | None = None
        self.recovery: Recovery | None = None
        self.reader: Reader | None = None
        self._given = addresses
        self._trainer_socket = trainer_socket
        self._warm: WarmTrainer | None = None
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
        self._round_traffic = (0, 0)
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
        return self._trainer_socket is None

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
            await self._warm_up(undo)
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
        await self._warm_up(undo)
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

    async def _warm_up(self, undo: contextlib.AsyncExitStack) -> None:
        """Starts the trainer's process, unless nothing will train or it runs already.

        Its libraries take seconds to load: that goes on while peers are looked for and the state is fetched.
        """
        if self.observes and self._warm is not None:
            await self._warm.close()
            self._warm = None
        elif self.trains_by_itself and not self.observes and self._warm is None:
            self._warm = await WarmTrainer.start()
            undo.push_async_callback(self._warm.close)

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
        self._failure = failure or AtollError(
            Exit.BUG, "bug", f"Task {task.get_name()} failed: {error!r}.", "Please report it with the log."
        )
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
        assert self.network and self.manifest and self.members and self.amending
        host, finder = self.network.host, self.network.finder
        hooks = Hooks(
            status=lambda: status_message(self),
            chain=self._chain,
            addresses=lambda: self.addresses,
            provide=self._served,
            changed=self.roster_changed,
            lost=finder.look_now,
            learned=self.network.learned,
            frame=self._frame,
            between_rounds=self._between_rounds,
            carries=lambda: self.controls.network.is_open,
            weighs=lambda peer: self.standings.quarantined(peer) is None,
            past=lambda: self.outer.position.ancestors if self.outer is not None else (),
        )
        lanes = await self.network.open_lanes(undo, self.settings)
        self.neighbours = Neighbours(
            host,
            self.keyring,
            self.manifest,
            SOFTWARE,
            self.events,
            hooks,
            lanes,
            self.settings.pack,
            self.members.admission,
            self.amending,
        )
        self._spawn(self.amending.keep(), "amendments")
        self.members.neighbours = self.neighbours
        self.neighbours.links.limit(self.settings.connections)
        self.recovery = Recovery(
            self.folder,
            self.manifest,
            host,
            self.neighbours,
            self.events,
            self.alerts,
            self.enter,
            self.controls.network.wait,
            self.amending.amendments,
        )
        self.recovery.limit(self.settings.state_rate)
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

    def _served(self, kind: str, version: int, chunk: int) -> ServedFile | None:
        """A file for a peer; nothing large while the owner does not let this node use the network."""
        if kind != "manifest" and not self.controls.network.is_open:
            return None
        if kind in ("audit", "proof"):
            return self.driver.guard.served(kind, version, chunk) if self.driver is not None else None
        return served_file(self.folder, self.outer, self.reader, kind, version)

    async def _say_goodbye(self) -> None:
        assert self.neighbours is not None
        code = self._failure.code if self._failure is not None else ""
        await self.neighbours.close(farewell(self._stop_reason, code))

    def _speeds(self) -> tuple[int, int, bool]:
        """What a plan may ask of this node's line."""
        assert self.neighbours is not None
        line = self.neighbours.links.line
        return line.upload_bps, line.likely_download_bps, self.neighbours.links.relayed

    def _chain(self) -> forks.Chain:
        return self.outer.chain if self.outer is not None else ()

    def roster_changed(self) -> None:
        if self.driver is not None and self.neighbours is not None:
            self.driver.feed(t.RosterChanged(self.neighbours.views()))
        self.events.changed()

    async def _between_rounds(self) -> None:
        if self.driver is not None:
            await self.driver.idle()

    async def _frame(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        if self.driver is not None:
            await self.driver.received(peer, frame, payload)

    # ---- stage: trainer and rounds

    async def _start_rounds(self, undo: contextlib.AsyncExitStack, memory: SharedMemory) -> None:
        assert self.manifest and self.outer and self.neighbours and self.reader
        from atoll.daemon.rounds.driver import RoundDriver

        manifest, body = self.manifest, self.manifest.body
        in_force = self.outer.amendments.due(self.outer.head)
        opened = asyncio.to_thread(open_privacy, self.settings, self.folder.privacy)
        self.privacy, self.noise = await opened
        book = AccountBook(self.folder, len(manifest.chunks), self.events, self.alerts)
        book.catch_up(self.outer, self.keyring.peer_id)
        reader, me = self.reader, self.keyring.peer_id
        island = Island(
            rhythm_of(manifest, self.neighbours.roster),
            book.ledger,
            self.events,
            self.keyring.peer_id,
            manifest.chunks,
            reader.place,
            book.note,
            book.save,
            self._island_changed,
            lambda: welcome(manifest, self.settings, self.folder, memory, reader.validation, me),
            self._launch_trainer,
            may_restart=self._trainer_socket is None,
            resets=body.outer.missed == "reset",
            bug=lambda text: self._trouble("bug", text),
            terms=partial(terms_of, self.outer.amendments),
            last_version=self.settings.rounds,
        )
        self.driver = RoundDriver(
            RoundMachine(round_config(in_force), self.keyring, self.outer.head, life=time.time_ns()),
            self.keyring,
            self.outer,
            memory.snapshot,
            self.neighbours,
            time.monotonic,
            before_apply=island.merged,
            applied=self._applied,
            ended=self._session_ended,
            trouble=self._trouble,
            around=surroundings_of(self),
        )
        undo.push_async_callback(self.driver.close)
        self.island = island
        island.cap_memory(size_of(self.settings.memory) or 0)
        self.controls.look()
        island.speeds = self._speeds
        island.driver = self.driver
        self._book = book
        undo.push_async_callback(self._save_all)
        undo.push_async_callback(island.stop)
        self.roster_changed()
        self.neighbours.tell_everyone()

    async def _launch_trainer(self, trainer: Trainer) -> None:
        if self._trainer_socket is not None:
            await trainer.attach(self._trainer_socket)
        else:
            warm, self._warm = self._warm, None
            await trainer.start(warm)

    def _island_changed(self) -> None:
        assert self.neighbours is not None and self.island is not None
        if self.island.val_losses:
            version, loss = next(reversed(self.island.val_losses.items()))
            self.front.measured(version, loss)
        self.neighbours.tell_soon()
        self.events.changed()

    async def _applied(self, commit: pb.Commit, head: Head) -> None:
        assert self.island is not None and self.neighbours is not None
        self.roster_changed()
        self.neighbours.tell_everyone()
        for code in TROUBLE_CODES:
            self.alerts.clear(code)
        self.history.applied(head)
        if len(commit.contributors) > 1:
            self.neighbours.following.met(time.monotonic())
        self.island.committed([(commit, head.digest)], head)
        self.front.applied()
        self.events.changed()

    def _session_ended(self, report: t.SessionReport) -> None:
        assert self.neighbours is not None and self.island is not None
        self.island.seen = Seen.of(report, self.keyring.peer_id, time.monotonic())
        traffic = self.neighbours.links.traffic
        sent, received = self._round_traffic
        self._round_traffic = (traffic.sent, traffic.received)
        roster, members = self.neighbours.roster.entries, set(report.contributed)
        entry = self.history.ended(
            report,
            time.time(),
            traffic.sent - sent,
            traffic.received - received,
            self.island.phase.phase_loss,
            [_said(entry.status) for peer, entry in roster.items() if peer in members],
        )
        self.front.ended(entry)
        names = ", ".join(identity.readable_name(p) for p in report.missing)
        text = f"Round {report.version} ended {report.outcome}: {report.reason}"
        text = f"{text}; missing: {names}." if names else f"{text}."
        self.events.emit("round", f"{text} {report.codec_reason}".rstrip(), record={"round": entry})

    def _trouble(self, code: str, text: str) -> None:
        self.alerts.raise_(code, text, "See the log.")
        if code == "bug":
            self._failure = AtollError(Exit.BUG, code, text, "Please report it with the log.")
            self._stop.set()

    async def _save_all(self) -> None:
        assert self.driver is not None and self.outer is not None and self._book is not None
        await self._book.save()
        try:
            await self.driver.on_disk(self.outer.save_if_due, True)
        except AtollError as error:
            self.events.emit("disk", f"The last checkpoint was not written: {error.sentence()}")

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
        assert self.island and self.outer and self.neighbours and self.network and self._book
        while not self.island.ended.is_set():
            await asyncio.sleep(WATCH_S)
            await self.network.save_learned()
            await self._book.save()
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


def _said(status: pb.NodeStatus) -> Said:
    """What a member said of its last phase."""
    return Said(
        status.loss if status.HasField("loss") else None,
        status.cosine if status.HasField("cosine") else None,
    )
