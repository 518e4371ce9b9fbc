"""The node: puts identity, host, DHT, links, rounds, trainer and page together, in stages.

    page → host and DHT → manifest → links and files → text → outer state → trainer and rounds

Each stage may have to wait for peers; it then says so in the sentence and goes on trying. The page answers
from the first stage on. `run` returns the exit status; whatever ends it, the stages are taken down in
reverse and nothing is left behind: no process, no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atoll import __version__
from atoll.daemon.config import Config, shard_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.finder import Finder
from atoll.daemon.history import History
from atoll.daemon.island import Island
from atoll.daemon.rounds import sync
from atoll.daemon.rounds.driver import RoundDriver
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.status import State
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage import files as disk
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLog
from atoll.daemon.trainers import Trainer
from atoll.daemon.training import channel, corpus
from atoll.daemon.training.errors import CorpusError, SharedMemoryError
from atoll.daemon.training.memory import SharedMemory
from atoll.dht.discovery import Discovery
from atoll.peers import identity
from atoll.peers.files import FileServer, ServedFile
from atoll.peers.links import Callbacks, Link, Links
from atoll.peers.p2pd import Host, HostError
from atoll.peers.roster import EVICT_S, HEARTBEAT_S, Roster, RosterEntry
from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError, TokenAccount
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.schema import ParameterSchema

log = logging.getLogger(__name__)

BEHIND_S = 3.0
"""A head that is ahead of ours for so long is fetched: a round under way would have brought it by then."""
REPLAY_LIMIT = 3
"""More steps behind than this, local progress is dropped (ROUND: local progress)."""
RETRY_S = 2.0
LAG_PROBE_S = 0.1
FINISH_SESSION_S = 4.0
"""A node that is stopped still gives the session under way so long: others count on its chunks."""
SOFTWARE = f"atoll {__version__}"

Consent = Callable[[SwarmManifest], bool]


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
    ) -> None:
        self.folder = folder
        self.config = config
        self.settings = config.settings
        self.started = time.time()
        self.state = State.STARTING
        self.state_since = time.time()
        self.reason = ""
        self.fetched: tuple[int, int] | None = None
        self.retry_at: float | None = None
        self.manifest: SwarmManifest | None = None
        self.swarm_id = swarm_id
        self.roster = Roster()
        self.history = History()
        self.alerts: dict[str, dict[str, Any]] = {}
        self.loop_lag_s = 0.0
        self.island: Island | None = None
        self.driver: RoundDriver | None = None
        self.outer: OuterState | None = None
        self.finder: Finder | None = None
        self.links: Links | None = None
        self.files: FileServer | None = None
        self.host: Host | None = None
        self.addresses: list[str] = []
        self._given = addresses
        self._trainer_socket = trainer_socket
        self._consent = consent
        self._stop = asyncio.Event()
        self._stop_reason = "you asked for it"
        self._exit: Exit = Exit.OK
        self._failure: AtollError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._status_due = asyncio.Event()
        self._echoes: dict[int, tuple[bytes, float]] = {}
        self._behind_since: float | None = None
        self._round_traffic = (0, 0)
        self.events = Events(folder.events, time.time)

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
            stopped.cancel()
            if work in done:
                work.result()
            else:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            await self._wind_down()
        if self._failure is not None:
            raise self._failure
        return self._exit

    async def _stages(self, undo: contextlib.AsyncExitStack) -> None:
        self.keyring = identity.load_or_create(self.folder.identity)
        self.name = identity.readable_name(self.keyring.peer_id)
        self.events.emit("start", f"{SOFTWARE}: node {self.name} starts in {self.folder.root}.")
        if self.folder.manifest.exists():
            self.manifest = self.folder.load_manifest()
            self.swarm_id = self.manifest.swarm_id
        await self._start_page(undo)
        await self._start_host(undo)
        if self.manifest is None:
            self.manifest = await self._obtain_manifest()
        if self._consent is not None and not await asyncio.to_thread(self._consent, self.manifest):
            self.stop("the terms were not accepted")
            return
        disk.write_bytes(self.folder.manifest, self.manifest.signed.SerializeToString())
        await self._start_links(undo)
        text = await self._obtain_data()
        await self._obtain_state(undo)
        await self._start_rounds(undo, text)
        self._spawn(self._watch(), "watch")
        await asyncio.Event().wait()

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        log.error("task %s failed", task.get_name(), exc_info=error)
        failure = error if isinstance(error, AtollError) else None
        self._failure = failure or AtollError(
            Exit.BUG, "bug", f"Task {task.get_name()} failed: {error!r}.", "Please report it with the log."
        )
        self._stop.set()

    async def _wind_down(self) -> None:
        """Lets a session under way end, then stops expecting and watching anything."""
        if self.driver is not None and self.island is not None:
            self.island.pause(self._stop_reason)
            self._tell_everyone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SESSION_S):
                    await self.driver.idle()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what people are told

    def enter(self, state: State, reason: str = "") -> None:
        """A new state with its reason; the log has it once."""
        if state != self.state:
            self.state, self.state_since = state, time.time()
        self.reason = reason
        self.events.changed()

    def alert(self, code: str, text: str, fix: str) -> None:
        """Raises an alert, or renews its text."""
        if code not in self.alerts:
            self.events.emit("alert", text, code=code)
        since = self.alerts.get(code, {}).get("since", time.time())
        self.alerts[code] = {"code": code, "since": since, "text": text, "fix": fix}

    def clear(self, code: str) -> None:
        if self.alerts.pop(code, None) is not None:
            self.events.emit("alert-over", f"Over: {code}.", code=code)

    # ---- stage: page

    async def _start_page(self, undo: contextlib.AsyncExitStack) -> None:
        from atoll.daemon.view import View
        from atoll.web_ui.server import DEFAULT_PORT, PortTaken, WebServer, WebServerError

        s = self.settings
        view = View(self)
        ports = [s.api_port] if s.api_port else [DEFAULT_PORT, 0]
        for port in ports:
            self.page = WebServer(view, host=s.api_host, port=port, token=self.folder.token())
            try:
                await self.page.start()
                break
            except PortTaken as error:
                if port == ports[-1]:
                    raise AtollError(Exit.PREFLIGHT, "port_taken", error.message, error.fix) from error
            except WebServerError as error:
                raise AtollError(Exit.PREFLIGHT, error.code, error.message, error.fix) from error
        undo.push_async_callback(self.page.close)
        undo.callback(self.folder.api.unlink, missing_ok=True)
        disk.write_json(self.folder.api, {"url": self.page.url, "pid": os.getpid()})
        self.events.emit("page", f"The dashboard is at {self.page.login_url()} (the link works once).")

    # ---- stage: host, DHT, finding

    async def _start_host(self, undo: contextlib.AsyncExitStack) -> None:
        self.host = await self._host_on_a_port()
        undo.push_async_callback(self.host.close)
        self._spawn(self._watch_host(), "p2pd-watch")
        self.discovery = await Discovery.create(self.host.p2p, self.swarm_id)
        undo.push_async_callback(self.discovery.close)
        self.addresses = await self.host.addresses()
        self.folder.remember(addresses=self.addresses)
        known = self.folder.node_facts().get("peers", [])
        manifest_addresses = list(self.manifest.body.bootstrap) if self.manifest else []
        self.finder = Finder(
            self.host,
            self.discovery,
            self.keyring,
            [*self._given, *self.settings.bootstrap, *manifest_addresses, *known],
            lambda: self.addresses,
            self.events.changed,
            random.Random(secrets.randbits(64)),
        )
        self._spawn(self.finder.run(swarm=self.swarm_id is not None), "finder")

    async def _host_on_a_port(self) -> Host:
        """31337 or the port of last time if it is free, else any; a port that was asked for, or nothing."""
        s = self.settings
        remembered = int(self.folder.node_facts().get("port", 31337))
        for port in [s.port] if s.port else [remembered, 0]:
            try:
                family = "ip6" if ":" in s.host else "ip4"
                host = await Host.start(
                    self.folder.identity,
                    [f"/{family}/{s.host}/tcp/{port}"],
                    self.folder.run,
                    announce=s.announce,
                    nat_port_map=s.nat_port_map,
                )
            except HostError as error:
                if error.port_taken and not s.port and port:
                    continue
                if error.port_taken:
                    raise AtollError(
                        Exit.PREFLIGHT,
                        "port_taken",
                        f"Port {port} on {s.host} is taken by another process.",
                        "Give another --port, or 0 for any free one.",
                    ) from error
                raise AtollError(Exit.TEMPORARY, "host", f"{error}.", "See the log.") from error
            listening = [a for a in await host.addresses() if "/tcp/" in a]
            if listening:
                self.folder.remember(port=int(listening[0].split("/tcp/")[1].split("/")[0]))
            return host
        raise AssertionError("the last port either works or raises")

    async def _watch_host(self) -> None:
        assert self.host is not None
        status = await self.host.process.wait()
        raise AtollError(
            Exit.TEMPORARY, "p2pd", f"The libp2p process ended with status {status}.", "Start the node again."
        )

    async def _obtain_manifest(self) -> SwarmManifest:
        assert self.swarm_id is not None and self.host is not None and self.finder is not None
        self.enter(State.CONNECTING, "no node of the swarm has answered yet")
        while True:
            try:
                return await sync.fetch_manifest(
                    self.host, list(self.finder.connected), self.swarm_id, self.folder.run / "manifest.pb"
                )
            except sync.SyncFailed as error:
                await self._retry(f"the manifest can't be had yet ({error})")

    async def _retry(self, reason: str) -> None:
        """Says why nothing goes on, and waits a little."""
        self.reason = reason
        self.retry_at = time.monotonic() + RETRY_S
        self.events.changed()
        await asyncio.sleep(RETRY_S if self.finder is None or self.finder.connected else 0.25)
        self.retry_at = None

    # ---- stage: links

    async def _start_links(self, undo: contextlib.AsyncExitStack) -> None:
        assert self.host is not None and self.finder is not None and self.manifest is not None
        me = self.keyring.peer_id
        callbacks = Callbacks(self._hello, self._refuse, self._link_up, self._link_down, self._frame)
        self.links = Links(self.host.p2p, me, callbacks)
        undo.push_async_callback(self._say_goodbye)
        self.files = FileServer(self.host.p2p, self.manifest.swarm_id, self._serve_file)
        await self.links.listen()
        await self.files.listen()
        self.finder.links = self.links
        self.finder.look_now()
        self._spawn(self._heartbeats(), "heartbeats")

    async def _say_goodbye(self) -> None:
        assert self.links is not None
        await self.links.close(self._stop_reason)

    def status_message(self) -> pb.NodeStatus:
        """What this node says of itself."""
        island, outer = self.island, self.outer
        status = pb.NodeStatus(state=pb.JOINING, label=self.settings.label, reason=str(self.state))
        if outer is None:
            return status
        head = outer.head
        status.state = pb.TRAINING if island is not None and island.training else pb.FOLLOWING
        status.version, status.digest, status.certified = head.version, head.digest, head.certified
        status.cumulative_tokens = head.cumulative_tokens
        if outer.saved is not None:
            status.checkpoint_version = outer.saved.head.version
            status.checkpoint_state = outer.saved.state
        if island is not None:
            status.tokens_per_s = island.phase.tokens_per_s if island.paused is None else 0.0
            status.step, status.steps = island.phase.step, island.phase.steps
            status.accepted_tokens = island.account.summary()["accepted"]
        return status

    def _hello(self) -> pb.Hello:
        assert self.manifest is not None
        return pb.Hello(
            swarm_id=self.manifest.swarm_id,
            protocol=pb.ProtocolRange(lowest=PROTOCOL_LOWEST, highest=PROTOCOL_HIGHEST),
            software=SOFTWARE,
            schema_digest=self.manifest.body.schema_digest,
            data_digest=self.manifest.body.data.digest,
            status=self.status_message(),
            addresses=self.addresses[:16],
        )

    def _refuse(self, peer: bytes, hello: pb.Hello) -> str | None:
        assert self.manifest is not None
        body = self.manifest.body
        if hello.swarm_id != self.manifest.swarm_id:
            return f"swarm {hello.swarm_id.hex()[:16]} is not swarm {self.manifest.swarm_id.hex()[:16]}"
        for what, mine, theirs in (
            ("parameter schema", body.schema_digest, hello.schema_digest),
            ("text", body.data.digest, hello.data_digest),
        ):
            if mine != theirs:
                return f"{what} {theirs.hex()[:16]} is not {mine.hex()[:16]}"
        return None

    def _link_up(self, link: Link) -> None:
        self.roster.up(link.peer, link.hello, time.monotonic())
        self.events.emit("peer-up", f"{identity.readable_name(link.peer)} is connected.")
        for address in list(link.hello.addresses)[:4]:
            if self.finder is not None and len(address) <= 256:
                self._remember_peer(address)
        self._roster_changed()

    def _remember_peer(self, address: str) -> None:
        known = [a for a in self.folder.node_facts().get("peers", []) if a != address]
        self.folder.remember(peers=[address, *known][:32])

    def _link_down(self, peer: bytes, reason: str) -> None:
        if self.roster.down(peer):
            self.events.emit("peer-down", f"{identity.readable_name(peer)} is gone: {reason}.")
            self._roster_changed()
        if self.finder is not None:
            self.finder.look_now()

    def _roster_changed(self) -> None:
        if self.driver is not None:
            views = {
                peer: t.PeerView(bytes(e.status.digest), e.status.state == pb.TRAINING, self._upload(peer))
                for peer, e in self.roster.entries.items()
            }
            self.driver.feed(t.RosterChanged(views))
        self.events.changed()

    def _upload(self, peer: bytes) -> int:
        return int(self.roster.entries[peer].status.upload_bps)

    async def _frame(self, peer: bytes, frame: pb.Frame, payload: bytes) -> None:
        now = time.monotonic()
        self.roster.seen(peer, now)
        match frame.WhichOneof("message"):
            case "heartbeat":
                self._heartbeat(peer, frame.heartbeat, now)
            case "hello":
                pass
            case _ if self.driver is not None:
                await self.driver.received(peer, frame, payload)

    def _heartbeat(self, peer: bytes, beat: pb.Heartbeat, now: float) -> None:
        if beat.echo:
            sent = self._echoes.pop(beat.echo, None)
            if sent is not None and sent[0] == peer:
                self.roster.measured(peer, now - sent[1])
        if beat.nonce and self.links is not None:
            self.links.send(
                peer, pb.Frame(heartbeat=pb.Heartbeat(status=self.status_message(), echo=beat.nonce))
            )
        if self.roster.heard(peer, beat.status, now):
            self._roster_changed()

    async def _heartbeats(self) -> None:
        """Tells everyone how this node is, every HEARTBEAT_S and whenever it matters."""
        assert self.links is not None
        while True:
            now = time.monotonic()
            for peer in self.links.peers:
                nonce = secrets.randbits(63) | 1
                self._echoes[nonce] = (peer, now)
                beat = pb.Heartbeat(status=self.status_message(), nonce=nonce)
                self.links.send(peer, pb.Frame(heartbeat=beat))
            self._echoes = {n: (p, at) for n, (p, at) in self._echoes.items() if now - at < EVICT_S}
            for peer in self.roster.silent(now):
                self.links.cut(peer, f"it was silent for {EVICT_S:.0f} s")
            self._status_due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._status_due.wait()

    def _tell_everyone(self) -> None:
        """Sends the status at once: rounds wait for it."""
        if self.links is not None:
            status = self.status_message()
            for peer in self.links.peers:
                self.links.send(peer, pb.Frame(heartbeat=pb.Heartbeat(status=status)))

    # ---- stage: files, text, state

    def _serve_file(self, kind: str, version: int) -> ServedFile | None:
        folder, outer = self.folder, self.outer
        match kind:
            case "manifest":
                return ServedFile(folder.manifest)
            case "data":
                path = folder.data / "corpus.bin"
                return ServedFile(path) if path.exists() else None
            case "checkpoint" if outer is not None and outer.saved is not None:
                newest = outer.saved.head.version
                return ServedFile(checkpoints.path_of(folder.checkpoints, newest), newest)
            case "commit" | "payload" if outer is not None and version <= outer.head.version:
                return ServedFile(outer.rounds.path(version, kind), version)
        return None

    def _progress(self, here: int, total: int) -> None:
        self.fetched = (here, total)
        self.events.changed()

    async def _obtain_data(self) -> str | None:
        """Where the trainer finds the text: built in, or a file that is here or fetched from peers."""
        assert self.manifest is not None and self.host is not None
        data = self.manifest.body.data
        if not data.digest:
            return None
        if data.name.startswith("builtin:"):
            return data.name
        path = self.folder.data / "corpus.bin"
        while True:
            try:
                await asyncio.to_thread(corpus.load_corpus, str(path), data.digest)
                return str(path)
            except CorpusError as error:
                if path.exists():
                    self.events.emit("data", f"The text that is here can't be used: {error}")
                    path.unlink()
            self.enter(State.FETCHING, f"the text {data.name} is on its way")
            try:
                holders = list(self.links.peers if self.links else ())
                await sync.fetch_data(self.host, holders, self.manifest, path, self._progress)
            except sync.SyncFailed as error:
                await self._retry(f"the text can't be had yet ({error})")
            self.fetched = None

    async def _obtain_state(self, undo: contextlib.AsyncExitStack) -> None:
        """Outer state from this disk if there is any, else from peers."""
        assert self.manifest is not None
        body = self.manifest.body
        try:
            self.memory = SharedMemory.create(body.total_values, self.folder.run)
        except SharedMemoryError as error:
            raise AtollError(Exit.PREFLIGHT, "memory", str(error), "") from error
        undo.callback(self.memory.close)
        schema = self._schema_here() or await self._schema_from_peers()
        rounds = RoundLog(self.folder.rounds, self.manifest.chunks, body.rounds.result_codec)
        outer = OuterState(self.manifest, schema, self.memory.committed, self.folder.checkpoints, rounds)
        while self.outer is None:
            try:
                for problem in await asyncio.to_thread(outer.restore):
                    self.events.emit("disk", f"Not used: {problem}.")
                self.outer = outer
            except AtollError as error:
                self.events.emit("disk", error.message)
                await self._checkpoint_from_peers()
        self.events.emit("state", f"Version {outer.head.version} of the outer state is here.")
        self.enter(State.PREPARING, "the trainer is starting")

    def _schema_here(self) -> ParameterSchema | None:
        assert self.manifest is not None
        for version in checkpoints.versions(self.folder.checkpoints):
            path = checkpoints.path_of(self.folder.checkpoints, version)
            try:
                return checkpoints.schema_of(path, self.manifest.swarm_id, self.manifest.body.schema_digest)
            except CheckpointError as error:
                self.events.emit("disk", f"Not used: {error}.")
        return None

    async def _schema_from_peers(self) -> ParameterSchema:
        assert self.manifest is not None
        while (schema := self._schema_here()) is None:
            await self._checkpoint_from_peers()
        return schema

    def _holders(self) -> list[RosterEntry]:
        """Peers with a checkpoint, the furthest first."""
        holders = [e for e in self.roster.entries.values() if e.status.checkpoint_state]
        return sorted(holders, key=lambda e: -e.status.checkpoint_version)

    async def _checkpoint_from_peers(self) -> None:
        """Puts the newest checkpoint of a peer into this data dir."""
        assert self.manifest is not None and self.host is not None
        while True:
            self.enter(State.FETCHING, "the swarm's state is on its way")
            try:
                holders = self._holders()
                path = await sync.fetch_checkpoint(
                    self.host, holders, self.manifest, self.folder.checkpoints, self._progress
                )
            except sync.SyncFailed as error:
                self.enter(State.CONNECTING, f"the swarm's state can't be had yet ({error})")
                await self._retry(self.reason)
                continue
            finally:
                self.fetched = None
            found, _ = checkpoints.read_header(path, self.manifest.swarm_id)
            path.replace(checkpoints.path_of(self.folder.checkpoints, found.head.version))
            return

    # ---- stage: trainer and rounds

    async def _start_rounds(self, undo: contextlib.AsyncExitStack, text: str | None) -> None:
        assert self.manifest is not None and self.outer is not None and self.links is not None
        body = self.manifest.body
        config = RoundConfig(
            swarm_id=self.manifest.swarm_id,
            chunks=len(self.manifest.chunks),
            codec=body.rounds.codec,
            result_codec=body.rounds.result_codec,
            outer_lr=self.manifest.outer_lr,
            genesis_node=bytes(body.genesis_node),
            min_peers_to_start=body.rounds.min_peers_to_start,
            grace_floor_s=body.rounds.grace_floor_s,
            grace_cap_s=body.rounds.grace_cap_s,
        )
        island = Island(
            body.inner.steps,
            body.rounds.validate_every,
            self._load_account(),
            self.events,
            self.keyring.peer_id,
            self.manifest.chunks,
            self._shard,
            self._save_account,
            self._island_changed,
            lambda: self._welcome(text),
            self._launch_trainer,
            may_restart=self._trainer_socket is None,
            last_version=self.settings.rounds,
        )
        self.driver = RoundDriver(
            RoundMachine(config, self.keyring, self.outer.head),
            self.keyring,
            self.outer,
            self.memory.snapshot,
            self.links,
            time.monotonic,
            before_apply=island.merged,
            applied=self._applied,
            ended=self._session_ended,
            trouble=self._trouble,
        )
        undo.push_async_callback(self.driver.close)
        self.island = island
        island.driver = self.driver
        undo.push_async_callback(self._save_all)
        undo.push_async_callback(island.stop)
        self._roster_changed()
        await island.start()
        self._tell_everyone()

    async def _launch_trainer(self, trainer: Trainer) -> None:
        if self._trainer_socket is not None:
            await trainer.attach(self._trainer_socket)
        else:
            await trainer.start()

    def _welcome(self, text: str | None) -> channel.Welcome:
        assert self.manifest is not None
        body, model = self.manifest.body, self.manifest.body.model
        built_in = model.kind == "gpt"
        inner = body.inner
        return channel.Welcome(
            version=channel.VERSION,
            memory=self.memory.path,
            total=body.total_values,
            schema_digest=body.schema_digest.hex(),
            model={
                "layers": model.layers,
                "width": model.width,
                "heads": model.heads,
                "context": model.context,
            }
            if built_in
            else None,
            data={"path": text, "digest": body.data.digest.hex()} if built_in else {},
            inner={
                "lr": inner.lr,
                "warmup_steps": inner.warmup_steps,
                "total_steps": inner.total_steps,
                "schedule": inner.schedule,
                "batch": inner.batch,
                "micro_batch": inner.batch,
                "weight_decay": inner.weight_decay,
                "clip": inner.clip,
                "betas": [inner.beta1, inner.beta2],
            }
            if built_in
            else {},
            node_id=self.keyring.peer_id.hex(),
            seed=body.seed,
            threads=self.settings.threads,
            state_path=str(self.folder.trainer / "optimizer.safetensors"),
            device=self.settings.device,
        )

    def _shard(self) -> tuple[int, int]:
        """This node's part of the text: by setting, else its place among the nodes that train now."""
        fixed = shard_of(self.settings.shard)
        if fixed is not None:
            return fixed
        me = self.keyring.peer_id
        training = {p for p, e in self.roster.entries.items() if e.status.state == pb.TRAINING} | {me}
        return sorted(training).index(me), len(training)

    def _island_changed(self) -> None:
        self._status_due.set()
        self.events.changed()

    async def _applied(self, commit: pb.Commit, head: Head) -> None:
        assert self.island is not None
        self._tell_everyone()
        self.history.applied(commit, head)
        self.island.committed(commit, head)
        self.events.changed()

    def _session_ended(self, report: t.SessionReport) -> None:
        assert self.links is not None and self.island is not None
        traffic = self.links.traffic
        sent, received = self._round_traffic
        self._round_traffic = (traffic.sent, traffic.received)
        entry = self.history.ended(
            report,
            time.time(),
            traffic.sent - sent,
            traffic.received - received,
            self.island.phase.phase_loss,
        )
        names = ", ".join(identity.readable_name(p) for p in report.missing)
        text = f"Round {report.version} ended {report.outcome}: {report.reason}"
        self.events.emit("round", f"{text}; missing: {names}." if names else f"{text}.", round=entry)

    def _trouble(self, code: str, text: str) -> None:
        self.alert(code, text, "See the log.")
        if code == "bug":
            self._failure = AtollError(Exit.BUG, code, text, "Please report it with the log.")
            self._stop.set()

    def _load_account(self) -> TokenAccount:
        assert self.manifest is not None
        chunks = len(self.manifest.chunks)
        kept = disk.read_json(self.folder.account)
        try:
            account = TokenAccount.from_json(kept) if kept is not None else TokenAccount(chunks)
            if account.chunks != chunks:
                raise AccountError("the token account is of another table of chunks")
        except AccountError as error:
            self.events.emit("disk", f"A new token account is begun: {error}.")
            account = TokenAccount(chunks)
        # What was carried when the last run ended was in a trainer that is gone.
        account.drop("lost")
        return account

    def _save_account(self) -> None:
        if self.island is not None:
            try:
                disk.write_json(self.folder.account, self.island.account.to_json())
                self.clear("account_not_saved")
            except AtollError as error:
                self.alert("account_not_saved", error.message, error.fix)

    async def _save_all(self) -> None:
        assert self.driver is not None and self.outer is not None
        try:
            await self.driver.on_disk(self.outer.save_if_due, True)
        except AtollError as error:
            self.events.emit("disk", f"The last checkpoint was not written: {error.sentence()}")

    # ---- watching

    async def _watch(self) -> None:
        """Catches up when the swarm is ahead, keeps alerts, measures how late the loop is."""
        assert self.island is not None
        while not self.island.ended.is_set():
            before = time.monotonic()
            await asyncio.sleep(LAG_PROBE_S)
            late = time.monotonic() - before - LAG_PROBE_S
            self.loop_lag_s = max(0.98 * self.loop_lag_s, late)
            await self._catch_up_if_behind()
            self._check_alerts()
        self.stop("the training script has ended")

    def _best_ahead(self) -> RosterEntry | None:
        """The peer whose head this node should have, if any."""
        assert self.outer is not None
        best, head = self.roster.best_head(), self.outer.head
        if best is None or best.status.digest == head.digest:
            return None
        status = best.status
        if status.version != head.version:
            return best if status.version > head.version else None
        loses = not head.beats(status.certified, status.cumulative_tokens, bytes(status.digest))
        return best if loses else None

    async def _catch_up_if_behind(self) -> None:
        assert self.driver is not None and self.outer is not None
        best = self._best_ahead()
        if best is None or self.driver.machine.applying:
            self._behind_since = None
            return
        now = time.monotonic()
        self._behind_since = self._behind_since or now
        if now - self._behind_since < BEHIND_S:
            return
        await self._catch_up(best)
        self._behind_since = None

    async def _catch_up(self, best: RosterEntry) -> None:
        assert self.driver and self.outer and self.host and self.island and self.manifest
        driver, outer, island = self.driver, self.outer, self.island
        gap = int(best.status.version) - outer.head.version
        self.events.emit("behind", f"This node is {gap} rounds behind; it fetches what it missed.")
        if driver.machine.session is not None:
            return  # its deadline ends it; what it holds may be the missing commit itself
        await island.merged()
        try:
            applied = await sync.catch_up(self.host, best, outer, driver.on_disk)
            whole = applied > REPLAY_LIMIT
        except sync.SyncFailed as error:
            self.events.emit("behind", f"Replay is not possible: {error}. The whole state is fetched.")
            try:
                path = await sync.fetch_checkpoint(
                    self.host, [best], self.manifest, self.folder.checkpoints, self._progress
                )
                await driver.on_disk(self._take_over, path)
            except (sync.SyncFailed, CheckpointError) as failure:
                self.events.emit("behind", f"The state can't be fetched: {failure}.")
                return
            finally:
                self.fetched = None
            applied, whole = gap, True
        driver.feed(t.HeadChanged(outer.head))
        self._tell_everyone()
        if whole:
            island.taken_over()
        else:
            island.missed(outer.head)
        await driver.on_disk(outer.save_if_due)
        self.events.emit("behind", f"Caught up with version {outer.head.version}.")

    def _take_over(self, path: Path) -> None:
        """Another chain's checkpoint becomes ours. On the disk thread."""
        assert self.outer is not None
        self.outer.adopt(path)
        self.outer.rounds.clear()
        path.replace(checkpoints.path_of(self.folder.checkpoints, self.outer.head.version))

    def _check_alerts(self) -> None:
        assert self.outer is not None and self.island is not None
        alone = not self.roster.entries
        if alone and self.island.training:
            self.alert(
                "training_alone",
                "No other node is connected: this one trains alone.",
                "Nothing has to be done; give others a ticket with `atoll ticket`.",
            )
        else:
            self.clear("training_alone")
        head = self.outer.head
        forked = any(
            e.status.version == head.version and e.status.digest != head.digest
            for e in self.roster.entries.values()
            if e.status.digest
        )
        if forked:
            self.alert(
                "fork_suspected",
                f"Two heads of version {head.version} are known.",
                "The nodes settle it by themselves: certified first, then more tokens.",
            )
        else:
            self.clear("fork_suspected")
        if self.events.failed:
            self.alert("disk", self.events.failed, "Free some disk space.")
        else:
            self.clear("disk")
        refused = self.finder.refused if self.finder else {}
        if refused:
            why = "; ".join(sorted(set(refused.values())))
            self.alert(
                "peers_refused",
                f"{len(refused)} nodes were refused: {why}.",
                "Use the same version, swarm and text everywhere.",
            )
        else:
            self.clear("peers_refused")
