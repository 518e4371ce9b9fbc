"""One simulated node: the shipping round machine and roster, its links, its clock, its lives.

The synchronous twin of daemon/node.py and daemon/neighbours.py. A life begins from what the disk holds and
ends with `kill`; whatever was asked for in one life never happens in another (`soon`, `later`). While a node
is stalled nothing happens in it; what came meanwhile is dealt with in order when it goes on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate import facts
from atoll.daemon.simulate.disk import PowerCut, SimulatedDisk
from atoll.daemon.simulate.driver import Driver
from atoll.daemon.simulate.engine import Engine, Violation
from atoll.daemon.simulate.invariants import Oracle
from atoll.daemon.simulate.island import Island
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.daemon.simulate.network import Link, Network
from atoll.daemon.simulate.payloads import Payloads
from atoll.daemon.simulate.recovery import TIMING, Recovery
from atoll.daemon.simulate.store import Store
from atoll.daemon.storage.round_log import KEEP
from atoll.peers.following import Following
from atoll.peers.roster import HEARTBEAT_S, Roster
from atoll.peers.routing import Router, RoutingError
from atoll.protocol import forks, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.schema import ChunkTable

WATCH_S = 0.5


MakeIsland = Callable[[Store, bytes, int], Island]


@dataclass(frozen=True)
class Traits:
    """What a node is like: seconds and bytes per second."""

    inner_s: tuple[float, float]
    work_s: tuple[float, float]
    upload_bps: float
    download_bps: float
    interval: int  # versions from checkpoint to checkpoint


class SimNode:
    """A node with an identity and a disk that outlive its processes."""

    def __init__(
        self,
        index: int,
        name: str,
        engine: Engine,
        oracle: Oracle,
        config: RoundConfig,
        genesis: Head,
        traits: Traits,
        make_island: MakeIsland,
        payloads: Payloads,
        chunks: ChunkTable,
        refusing: float = 0.0,
    ) -> None:
        self.index = index
        self.name = name
        self.keyring = FakeKeyring(name)
        self.id = self.keyring.peer_id
        self.disk = SimulatedDisk()
        self.engine = engine
        self.oracle = oracle
        self.config = config
        self.genesis = genesis
        self.traits = traits
        self._make_island = make_island
        self.payloads = payloads
        self.chunks = chunks
        self.refusing, self.wary = refusing, refusing > 0
        self.network: Network
        self.others: dict[bytes, SimNode] = {}
        self.liar: Any = None
        self.upload_bps, self.download_bps = traits.upload_bps, traits.download_bps
        self.upload_free = self.download_free = 0.0
        self.slowness = 1.0
        self.life = 0
        self.alive = False
        self.stalled = False
        self.resumed_at = 0.0
        self._waiting: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque()
        self._empty()

    def _empty(self) -> None:
        """What a process holds in memory."""
        self.links: dict[bytes, Link] = {}
        self.roster = Roster()
        self.router = Router(self.keyring, (self.life + 1) << 32)
        self.following = Following(self.roster, KEEP, self._doubted, TIMING, self.wary)
        self.store = Store(
            self.disk,
            self.keyring,
            self.genesis,
            self.traits.interval,
            self.payloads,
            self.chunks,
            self._applied,
        )
        self.island = self._make_island(self.store, self.id, self.index)
        self.machine = RoundMachine(self.config, self.keyring, self.genesis)
        self.driver = Driver(self)
        self.recovery = Recovery(self)
        self.dropped: Counter[str] = Counter()
        self._for_idle: list[Callable[[], None]] = []
        self.training = False
        self.running = False  # it has a state, and takes part in rounds
        self.session_since = 0.0
        self._session: pb.SessionId | None = None
        self._tick_at = float("inf")
        self._heartbeat: bytes | None = None

    # ---- life

    @property
    def awake(self) -> bool:
        return self.alive and not self.stalled

    def start(self) -> None:
        """A process starts from what the disk holds."""
        self._empty()
        self.life += 1
        self.alive, self.stalled = True, False
        self._waiting.clear()
        self.engine.say("{} starts", self.name)
        self.soon(self._restore)

    def _restore(self) -> None:
        try:
            found = self.store.restore()
        except AtollError:
            # A promise can't be kept on a disk that is full: the service manager starts the daemon again.
            self.later(WATCH_S, self.start)
            return
        if found:
            self.begin_rounds()
        else:
            self.recovery.join()
        self._beat()
        self._watch()

    def begin_rounds(self) -> None:
        """A state is here: the trainer starts, rounds may begin."""
        try:
            self.island.resume()
        except AtollError:
            self.later(WATCH_S, self.begin_rounds)  # the disk is full
            return
        self.machine = RoundMachine(self.config, self.keyring, self.store.head, life=self.life)
        self.running = True
        self.oracle.moved(self, None)
        self.engine.say("{} has version {}", self.name, self.store.head.version)
        self.roster_changed()
        self.tell_everyone()
        self.driver.train()

    def _doubted(self, peer: bytes, reason: str) -> None:
        self.engine.say("{} does not believe {}: {}", self.name, self.others[peer].name, reason)

    def _applied(self, commit: pb.Commit) -> None:
        self.oracle.moved(self, commit)

    def kill(self, power: bool) -> None:
        """The process ends at once; with the power, unsynced writes may be gone."""
        self.engine.say("{} is killed{}", self.name, ", power cut" if power else "")
        self.alive = self.running = False
        self.life += 1
        self.disk.cut_after = None
        if power:
            self.disk.power_cut(self.engine.random)
        self._waiting.clear()
        self.network.break_links(lambda a, b: self in (a, b), 1.0 if power else 0.0)
        self.links = {}

    def stall(self, seconds: float) -> None:
        self.engine.say("{} is stopped for {:.1f} s", self.name, seconds)
        self.stalled = True
        self.engine.after(seconds, self._wake, self.life)

    def _wake(self, life: int) -> None:
        if life != self.life or not self.stalled:
            return
        self.engine.say("{} goes on", self.name)
        self.stalled, self.resumed_at = False, self.engine.now
        waiting, self._waiting = self._waiting, deque()
        for started, work, arguments in waiting:
            self.do(started, work, *arguments)

    # ---- this process's time

    def soon(self, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` now, or when the node is no longer stalled; never in another life."""
        self.do(self.life, work, *arguments)

    def later(self, delay: float, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` after a while, in this life only."""
        self.engine.after(delay, self.do, self.life, work, *arguments)

    def do(self, life: int, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` now if this life still lasts."""
        if life != self.life or not self.alive:
            return
        if self.stalled:
            self._waiting.append((life, work, arguments))
            return
        try:
            work(*arguments)
        except PowerCut:
            self.kill(power=True)
        except (Violation, AssertionError):
            raise
        except Exception as error:
            raise Violation("no exceptions", f"{self.name}: {error!r}") from error

    def when_idle(self, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` as soon as no session is under way."""
        if self.in_round:
            self._for_idle.append(partial(self.when_idle, work, *arguments))
        else:
            work(*arguments)

    def between_rounds(self, patience_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work` when no session is under way, or after so long."""
        waiting = [partial(work, *arguments)]

        def go() -> None:
            if waiting:
                waiting.pop()()

        if self.in_round:
            self.later(patience_s, go)
        self.when_idle(go)

    @property
    def in_round(self) -> bool:
        return self.machine.session is not None or self.machine.applying

    def work_s(self) -> float:
        return self.engine.between(self.traits.work_s) * self.slowness

    # ---- the machine

    def feed(self, event: t.Event) -> None:
        """Gives the machine an event and carries out what follows."""
        self._carry_out(self.machine.handle(event, self.engine.now))

    def _carry_out(self, effects: list[t.Effect]) -> None:
        for effect in effects:
            self.driver.effect(effect)
        machine = self.machine
        session = machine.session
        if session is not None and session.id is not self._session:
            self._session, self.session_since = session.id, self.engine.now
        if self._for_idle and not self.in_round:
            waiting, self._for_idle = self._for_idle, []
            for work in waiting:
                self.later(0.0, work)  # whoever has just ended the session comes first
        due = machine.deadline()
        if session is not None and due == float("inf"):
            raise Violation("sessions", f"{self.name}: a session without a deadline")
        if due < self._tick_at:
            self._tick_at = due
            self.engine.at(due, self.do, self.life, self._tick, due)

    def _tick(self, due: float) -> None:
        if due != self._tick_at:
            return
        self._tick_at = float("inf")
        now = self.engine.now
        if self.machine.deadline() > now:
            self._carry_out([])
            return
        self._carry_out(self.machine.tick(now))
        if self.machine.deadline() <= now:
            raise Violation("no busy loop", f"{self.name}: the machine stays due after a tick")

    # ---- peers

    def status(self) -> pb.NodeStatus:
        """What this node says of itself."""
        status = pb.NodeStatus(state=pb.JOINING, label=self.name)
        if self.running:
            head, store = self.store.head, self.store
            status.state = pb.TRAINING if self.training else pb.FOLLOWING
            status.version, status.digest, status.certified = head.version, head.digest, head.certified
            status.cumulative_tokens = head.cumulative_tokens
            status.life = self.life
            status.accepted_tokens = self.island.account.accepted // facts.COUNT
            status.chain.extend(forks.write_chain(store.chain))
            status.held.extend(pb.HeldState(version=v, state=s) for v, s in store.held())
        status.linked.extend(self.links)
        if self.liar is not None:
            self.liar.status(status, self.store)
        return status

    def serve(self, kind: str, version: int) -> bytes | None:
        """A file that a peer asked for."""
        content = self.store.serve(kind, version)
        return self.liar.serve(kind, version, content) if self.liar is not None else content

    def hello(self) -> bytes:
        return wire.encode_frame(pb.Frame(hello=pb.Hello(swarm_id=facts.SWARM, status=self.status())))

    def tell_everyone(self) -> None:
        """Sends the status at once: rounds wait for it."""
        frame = pb.Frame(heartbeat=pb.Heartbeat(status=self.status()))
        self.send([*self.links, *self.router.indirect(self.links, self.engine.now)], frame)

    def send(self, peers: Iterable[bytes], frame: pb.Frame, payload: bytes = b"") -> None:
        """Sends a frame to each over its link, or in an envelope through somebody who has one."""
        data = wire.encode_frame(frame, len(payload))
        for peer in peers:
            if self.network.send(self, peer, data, payload):
                continue
            via = self.router.via(peer)
            if via is not None:
                wrapped = self.router.wrap(peer, frame, payload)
                self.network.send(self, via, wire.encode_frame(wrapped, len(payload)), payload)

    def _beat(self) -> None:
        self.tell_everyone()
        for peer in self.roster.silent(self.engine.now):
            if self.roster.entries[peer].direct:
                link = self.links[peer]
                self.network.close(self, link)
                self.link_ended(link)
            else:
                self.roster.down(peer)
                self.roster_changed()
        self.later(HEARTBEAT_S, self._beat)

    def _watch(self) -> None:
        if self.running:
            if self.liar is None:
                self.oracle.look(self, self.engine.now)
            self.recovery.keep_up()
        self.later(WATCH_S, self._watch)

    def link_ended(self, link: Link) -> None:
        """This side noticed that a link is over."""
        other = link.ends[1 - link.side(self)]
        if self.links.get(other.id) is link:
            del self.links[other.id]
            self.router.lost(other.id)
            self.roster.down(other.id)
            self.engine.say("{} loses {}", self.name, other.name)
            self.roster_changed()

    def roster_changed(self) -> None:
        if not self.running:
            return
        ahead = self.following.ahead(self.store.chain, self.engine.now)
        views = {
            peer: t.PeerView(
                bytes(entry.status.digest),
                entry.status.state == pb.TRAINING,
                int(entry.status.upload_bps),
                peer in ahead,
                entry.direct,
                entry.since,
                int(entry.status.life),
            )
            for peer, entry in self.roster.entries.items()
        }
        self.feed(t.RosterChanged(views))

    def received(self, link: Link, sender: bytes, data: bytes, payload: bytes) -> None:
        """One frame came over a link."""
        self.do(self.life, self._received, link, sender, data, payload)

    def _received(self, link: Link, sender: bytes, data: bytes, payload: bytes) -> None:
        now = self.engine.now
        frame = wire.decode_frame(data[wire.LENGTH_BYTES :])
        kind = frame.WhichOneof("message")
        if self.links.get(sender) is not link:
            if kind != "hello" or link.up[link.side(self)]:
                return  # of a link that is over here
            link.up[link.side(self)] = True
            self.links[sender] = link
            self.roster.up(sender, frame.hello, now)
            self.engine.say("{} is linked to {}", self.name, self.others[sender].name)
            self.roster_changed()
            return
        self.roster.seen(sender, now)
        if kind == "forward":
            self._forward(sender, frame.forward, payload, now)
        elif kind == "heartbeat":
            self.router.heard(sender, frame.heartbeat.status.linked)
            self._heard(sender, frame.heartbeat.status, now)
        elif kind != "hello":
            self._said(sender, frame, payload)

    def _heard(self, sender: bytes, status: pb.NodeStatus, now: float) -> None:
        if self.roster.heard(sender, status, now):
            self.roster_changed()

    def _forward(self, sender: bytes, message: pb.Forward, payload: bytes, now: float) -> None:
        """An envelope: for this node, or to be passed on."""
        try:
            if message.target != self.id:
                target = self.router.pass_on(sender, message, self.links)
                data = wire.encode_frame(pb.Frame(forward=message), len(payload))
                self.network.send(self, target, data, payload)
                return
            origin, frame = self.router.unwrap(message, payload)
        except RoutingError as error:
            self.dropped[str(error)] += 1
            return
        if frame.WhichOneof("message") == "heartbeat":
            if self.roster.up_through_others(origin, frame.heartbeat.status, now):
                self.engine.say("{} reaches {} through others", self.name, self.others[origin].name)
                self.roster_changed()
            self._heard(origin, frame.heartbeat.status, now)
        elif origin in self.roster.entries:
            self.roster.seen(origin, now)
            self._said(origin, frame, payload)

    def _said(self, sender: bytes, frame: pb.Frame, payload: bytes) -> None:
        """Something that belongs to rounds."""
        if self.running:
            kind = frame.WhichOneof("message")
            self.engine.say("{} <- {}: {}", self.name, self.others[sender].name, kind)
            self.driver.received(sender, frame, payload)
