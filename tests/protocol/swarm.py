"""A small swarm in memory that drives the shipping RoundMachine: virtual clock, seeded delays, no threads.

Each node has the real machine, a keyring with real sizes, and a driver that answers its effects after a
seeded delay. Control frames between two nodes keep their order, as on a link; bulk frames keep theirs, and
either may overtake the other. After every step the swarm checks what must always hold:

- equal chain digests have equal bits (`state` is a digest over all payloads that were applied);
- there are never two different certified commits with one parent;
- a node votes at most once for one parent, and only for what it made durable before;
- a session ends exactly once, with an outcome that is known, and a clock that was ticked does not stay due.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import chain, forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import electorate

from .fakes import event_of

SWARM = hashlib.sha256(b"swarm").digest()
OUTCOMES = ("certified", "provisional", "aborted", "missed")


def genesis(nodes: Iterable[bytes]) -> Head:
    """Version 0 with these voters (a real swarm has one; tests may begin in the middle)."""
    return Head(0, chain.genesis_digest(SWARM, bytes(32)), tuple(sorted(nodes)))


@dataclass(frozen=True)
class Delays:
    """Seconds, each drawn evenly from (low, high)."""

    control: tuple[float, float] = (0.01, 0.05)
    bulk: tuple[float, float] = (0.02, 0.3)
    work: tuple[float, float] = (0.01, 0.1)  # encode, reduce, persist, apply
    inner: tuple[float, float] = (1.0, 2.0)
    detect: tuple[float, float] = (0.1, 0.6)  # from a death to its notice
    fetch: tuple[float, float] = (0.1, 8.0)
    behind: float = 3.0  # a node behind for so long takes over the head it sees


@dataclass
class Node:
    """One node: machine, what it holds, and what it reported."""

    name: str
    keyring: FakeKeyring
    machine: RoundMachine
    training: bool
    state: bytes
    alive: bool = True
    stuck: bool = False  # says that it trains, but is never ready
    upload_bps: int = 0
    store: dict[tuple[int, int], bytes] = field(default_factory=dict)
    durable: dict[bytes, bytes] = field(default_factory=dict)  # parent -> commit digest
    reports: list[t.SessionReport] = field(default_factory=list)
    seen: Counter[bytes] = field(default_factory=Counter)  # sessions accepted
    dropped: Counter[str] = field(default_factory=Counter)
    peers: dict[bytes, t.PeerView] = field(default_factory=dict)
    session: pb.SessionId | None = None
    accepted: int = 0
    behind_since: float | None = None
    catching_up: bool = False

    @property
    def id(self) -> bytes:
        return self.keyring.peer_id

    @property
    def head(self) -> Head:
        return self.machine.head

    def outcomes(self) -> list[str]:
        return [report.outcome for report in self.reports]


Filter = Callable[[Node, Node, pb.Frame], bool]
"""(from, to, frame): whether the frame is delivered."""


class Swarm:
    """Runs nodes until nothing more happens or a condition holds."""

    def __init__(
        self,
        size: int,
        seed: int = 0,
        *,
        delays: Delays | None = None,
        head: Head | None = None,
        training: Callable[[int], bool] = lambda k: True,
        catches_up: bool = True,
        **config: object,
    ) -> None:
        self.random = random.Random(seed)
        self.delays = delays or Delays()
        self.now = 0.0
        self.deliver: Filter = lambda a, b, frame: True
        self.catches_up = catches_up
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._last: dict[tuple[bytes, bytes, bool], float] = {}
        self._certified: dict[bytes, bytes] = {}
        self._states: dict[bytes, bytes] = {}
        self._votes: dict[tuple[bytes, bytes], bytes] = {}
        self._heads: dict[bytes, tuple[Head, bytes]] = {}
        self.commits: dict[bytes, pb.Commit] = {}
        keys = [FakeKeyring(f"node-{k}") for k in range(size)]
        start = head or genesis(k.peer_id for k in keys)
        basis = RoundConfig(
            swarm_id=SWARM,
            chunks=4,
            codec="fp32",
            result_codec="int8",
            outer_lr=lambda n: 0.5 + n / 8,
            genesis_node=keys[0].peer_id,
            grace_floor_s=0.5,
            grace_cap_s=20.0,
            scatter_s=10.0,
            reduce_s=10.0,
            vote_s=6.0,
            repeat_s=2.0,
        )
        self.config = replace(basis, **config)  # type: ignore[arg-type]
        self.nodes = [
            Node(f"node-{k}", key, RoundMachine(self.config, key, start), training(k), b"genesis")
            for k, key in enumerate(keys)
        ]
        self.by_id = {node.id: node for node in self.nodes}
        for node in self.nodes:
            node.peers = {o.id: self._view(o) for o in self.nodes if o is not node}
            self.at(0.0, lambda node=node: self._start(node))

    # ---- time

    def at(self, when: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._count), work))

    def after(self, span: tuple[float, float], work: Callable[[], None]) -> None:
        self.at(self.now + self.random.uniform(*span), work)

    def run(self, until: Callable[[], bool] | None = None, limit_s: float = 600.0) -> None:
        """Runs until `until()`, or for `limit_s` of virtual time. Fails if `until` never comes."""
        end = self.now + limit_s
        while until is None or not until():
            dues = [(n.machine.deadline(), k) for k, n in enumerate(self.nodes) if n.alive]
            due, k = min(dues, default=(float("inf"), 0))
            when = self._queue[0][0] if self._queue else float("inf")
            if min(due, when) > end:
                assert until is None, f"not reached by {end}: {self.describe()}"
                return
            if due < when:
                self.now = max(self.now, due)
                node = self.nodes[k]
                self._carry_out(node, node.machine.tick(self.now))
                assert node.machine.deadline() > self.now, f"{node.name} would be ticked for ever"
            else:
                when, _, work = heapq.heappop(self._queue)
                self.now = max(self.now, when)
                work()

    def describe(self) -> str:
        return "; ".join(
            f"{n.name} v{n.head.version} {n.machine.situation(self.now)} {n.outcomes()}" for n in self.nodes
        )

    # ---- nodes

    def _view(self, node: Node) -> t.PeerView:
        training = node.training and node.alive
        return t.PeerView(node.head.digest, training, node.upload_bps)

    def _start(self, node: Node) -> None:
        self.roster(node)
        self.feed(node, t.TrainingChanged(node.training, node.upload_bps))
        self._train(node)

    def _train(self, node: Node) -> None:
        digest = node.head.digest

        def ready() -> None:
            if node.alive and node.training and not node.stuck and node.head.digest == digest:
                self.feed(node, t.LocalReady(self.random.randint(50, 150), 10))

        if node.training:
            self.after(self.delays.inner, ready)

    def kill(self, node: Node) -> None:
        """The node is gone at once; the others notice after a while, each in its own time."""
        node.alive = False
        for other in self.nodes:
            self.cut(other, node)

    def cut(self, node: Node, other: Node) -> None:
        """`node` notices that its link to `other` ended."""

        def notice() -> None:
            if node.alive and node.peers.pop(other.id, None) is not None:
                self.roster(node)

        self.after(self.delays.detect, notice)

    def roster(self, node: Node) -> None:
        """Feeds the node what it now knows of its peers."""
        views = {
            peer: replace(view, ahead=view.ahead or self._version(view.digest) > node.head.version)
            for peer, view in node.peers.items()
        }
        self.feed(node, t.RosterChanged(views))

    def _version(self, digest: bytes) -> int:
        known = self._heads.get(digest)
        return known[0].version if known else 0

    def set_training(self, node: Node, training: bool) -> None:
        node.training = training
        self.feed(node, t.TrainingChanged(training, node.upload_bps))
        if not training:
            self.feed(node, t.LocalWithdrawn())
        self.tell(node)
        self._train(node)

    def tell(self, node: Node) -> None:
        """A heartbeat to everyone."""
        view = self._view(node)
        for other in self.nodes:
            self._transmit(node, other, False, lambda other=other: self._heard(other, node, view))

    def _heard(self, node: Node, other: Node, view: t.PeerView) -> None:
        if other.id in node.peers and node.peers[other.id] != view:
            node.peers[other.id] = view
            self.roster(node)
        self._look(node)

    def _look(self, node: Node) -> None:
        """Catching up, as a daemon does it: the head of the furthest peer, after a while."""
        best = self._better(node) if self.catches_up else None
        if best is None:
            node.behind_since = None
            return
        if node.catching_up:
            return
        if node.behind_since is None:
            node.behind_since = self.now
            self.at(self.now + self.delays.behind, lambda: self._look(node))
            return
        if self.now - node.behind_since < self.delays.behind or not node.alive:
            return
        if node.machine.session is not None or node.machine.applying:
            self.at(self.now + 1.0, lambda: self._look(node))
            return
        node.behind_since, node.catching_up = None, True
        self.feed(node, t.CatchingUp(True))

        def fetched() -> None:
            # The swarm went on meanwhile; a node follows commit by commit until it is there.
            newest = self._better(node)
            if newest is not None:
                head, node.state = self._heads[newest.digest]
                self._moved(node, head)
            node.catching_up = False
            self.feed(node, t.CatchingUp(False))

        self.after(self.delays.fetch, fetched)

    def _better(self, node: Node) -> Head | None:
        """The head that a node should have instead of its own: a further one, or by fork choice."""
        heads = [self._heads[v.digest][0] for v in node.peers.values() if v.digest in self._heads]
        best = max(heads, key=lambda h: (h.version, h.certified, h.cumulative_tokens), default=node.head)
        mine, other = (forks.link_of(head) for head in (node.head, best))
        return best if forks.compare((mine,), (other,)).follow else None

    def _moved(self, node: Node, head: Head) -> None:
        self._heads[head.digest] = (head, node.state)
        assert self._states.setdefault(head.digest, node.state) == node.state, "one digest, different bits"
        self.feed(node, t.HeadChanged(head))
        self.tell(node)
        self._train(node)

    # ---- what the machine asks for

    def feed(self, node: Node, event: t.Event) -> None:
        if node.alive:
            self._carry_out(node, node.machine.handle(event, self.now))

    def _carry_out(self, node: Node, effects: list[t.Effect]) -> None:
        for effect in effects:
            self._effect(node, effect)
        session = node.machine.session
        if session is not None:
            assert session.report is None, "an ended session was left standing"
            node.seen[session.id.SerializeToString(deterministic=True)] |= 1
            assert node.machine.deadline() < float("inf"), "a session without a deadline"

    def _effect(self, node: Node, effect: t.Effect) -> None:
        work = self.delays.work
        match effect:
            case t.Send():
                for peer in effect.peers:
                    self._send(node, peer, effect.frame)
            case t.Scatter():
                for c, to in effect.targets:
                    self.after(work, lambda c=c, to=to: self._contribute(node, effect.plan, c, to))
            case t.Reduce():
                self.after(work, lambda: self._reduce(node, effect))
            case t.SendPartial():
                self._send(
                    node, effect.peer, pb.Frame(contribution=effect.message), bytes(effect.part.payload)
                )
            case t.StoreResult():
                node.store[node.head.version + 1, effect.chunk] = effect.payload
            case t.SendResult():
                payload = node.store[node.head.version + 1, effect.chunk]
                for peer in effect.peers:
                    self._send(node, peer, pb.Frame(result=effect.signed), payload)
            case t.Persist():
                self._persist(node, effect)
            case t.Apply():
                self.after(work, lambda: self._apply(node, effect))
            case t.Ended():
                self._ended(node, effect.report)
            case t.Dropped():
                node.dropped[effect.reason] += 1

    def _contribute(self, node: Node, plan: pb.Plan, chunk: int, to: bytes) -> None:
        payload = f"{node.name}/{plan.version}/{chunk}".encode()
        frame = pb.Frame(contribution=pb.Contribution(session=plan.session, chunk=chunk))
        self._send(node, to, frame, payload)

    def _reduce(self, node: Node, effect: t.Reduce) -> None:
        mean = b"|".join(b"%d*%s" % (part.weight, part.payload) for part in effect.parts)
        payload = hashlib.sha256(mean).digest() if effect.parts else b""
        digest = hashlib.sha256(payload).digest()
        session, partial = effect.plan.session, effect.partial
        self.feed(node, t.ChunkReduced(session, effect.chunk, effect.members, payload, digest, partial))

    def _persist(self, node: Node, effect: t.Persist) -> None:
        commit = pb.Commit.FromString(effect.commit.body)
        for chunk, committed in enumerate(commit.chunks):
            held = hashlib.sha256(node.store[commit.version, chunk]).digest()
            assert held == committed.payload_digest, "a commit is made durable without its bytes"

        def done() -> None:
            node.durable[bytes(commit.session.parent)] = chain.commit_digest(effect.commit.body)
            self.feed(node, t.Persisted(effect.session, chain.commit_digest(effect.commit.body)))

        self.after(self.delays.work, done)

    def _apply(self, node: Node, effect: t.Apply) -> None:
        if not node.alive:
            return
        body = effect.commit.body
        commit = pb.Commit.FromString(body)
        digest = chain.commit_digest(body)
        votes = {v.signer for v in effect.votes if pb.Vote.FromString(v.body).commit == digest}
        voters = effect.parent.electorate
        majority = chain.is_majority(len(votes & set(voters)), len(voters))
        assert majority == effect.certified, "the votes do not say what the machine says"
        if effect.certified:
            known = self._certified.setdefault(effect.parent.digest, digest)
            assert known == digest, "two certified commits with one parent"
        total = hashlib.sha256(node.state)
        for chunk, committed in enumerate(commit.chunks):
            payload = node.store[commit.version, chunk]
            assert hashlib.sha256(payload).digest() == committed.payload_digest
            total.update(payload)
        node.state = total.digest()
        head = Head(
            version=effect.parent.version + 1,
            digest=chain.next_digest(effect.parent.digest, body),
            electorate=electorate(commit),
            certified=effect.certified,
            cumulative_tokens=int(commit.cumulative_tokens),
        )
        self.commits[head.digest] = commit
        self._moved(node, head)

    def _ended(self, node: Node, report: t.SessionReport) -> None:
        assert report.outcome in OUTCOMES and report.reason
        key = report.session.SerializeToString(deterministic=True)
        ended = [r for r in node.reports if r.session == report.session]
        assert not ended, "a session ended twice"
        node.seen[key] |= 1
        node.reports.append(report)

    # ---- the network

    def _transmit(self, source: Node, target: Node, bulk: bool, arrive: Callable[[], None]) -> None:
        """Delivers in order per pair and kind, if both live by then and the link is up."""
        if target is source or not source.alive or target.id not in source.peers:
            return
        delay = self.random.uniform(*(self.delays.bulk if bulk else self.delays.control))
        key = (source.id, target.id, bulk)
        when = max(self.now + delay, self._last.get(key, 0.0))
        self._last[key] = when
        self.at(when, lambda: arrive() if target.alive and source.id in target.peers else None)

    def _send(self, source: Node, peer: bytes, frame: pb.Frame, payload: bytes | None = None) -> None:
        if frame.HasField("vote"):
            self._check_vote(source, pb.Vote.FromString(frame.vote.body))
        if peer == source.id:
            self._receive(source, source, frame, payload or b"")
            return
        target = self.by_id[peer]
        if self.deliver(source, target, frame):
            body = frame.SerializeToString()
            self._transmit(
                source,
                target,
                payload is not None,
                lambda: self._receive(target, source, pb.Frame.FromString(body), payload or b""),
            )

    def _check_vote(self, node: Node, vote: pb.Vote) -> None:
        parent = bytes(vote.session.parent)
        assert node.durable.get(parent) == vote.commit, "a vote for what is not durable"
        known = self._votes.setdefault((node.id, parent), bytes(vote.commit))
        assert known == vote.commit, "two votes of one node for one parent"

    def _receive(self, node: Node, sender: Node, frame: pb.Frame, payload: bytes) -> None:
        event = event_of(node.keyring, sender.id, frame, payload)
        self.feed(node, event)
