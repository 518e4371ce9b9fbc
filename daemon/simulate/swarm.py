"""A swarm over lines that have a speed: the shipping round machine in virtual time, for those who plan one.

As in big.py there is a round machine for each node and a driver that does at once what the daemon does with
codecs and disks: of the things that take time only inner steps, lines, latency and newcomers' downloads do.
Payloads have sizes and no content; results are what the machine makes of who contributed.

A node's upload is a queue: one frame at a time, one of each receiver in turn, as fast as the line. A frame
begins to come in when it begins to go out, as far as the receiver's download has room. Frames without a
payload go ahead of those, at the speed of the line. What comes from files (a newcomer's state, a commit that
a node missed) waits for the receiver's download alone: many holders share the work.

Nodes are lost at a constant rate, and noticed when their heartbeats stay away; as many join, fetch the state,
and train. A mode is how long the trainer goes on behind a synchronisation, and nothing else.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.daemon.rounds.config import leg_cap_s
from atoll.daemon.simulate.engine import Engine
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.daemon.simulate.planning import DAY_S, HOUR_S, STATE_BITS, Answer, Question, draw_lines
from atoll.daemon.simulate.timing import Line, stall_s
from atoll.peers.roster import EVICT_S
from atoll.protocol import chain
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundConfig, RoundMachine, inbox
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import electorate
from atoll.protocol.schema import default_chunk_values

SWARM = hashlib.sha256(b"a planned swarm").digest()
CHUNKS = 64
"""Of a synchronisation, at most: a real swarm has smaller and more of them."""
TELL_S = 0.2
"""Heads and losses that are seen within so long are told together."""
RETRY_S = 0.5
AT_ONCE_S = 0.1
"""Frames without a payload that leave within so long arrive together."""
FIRST = 1
"""Version at which it begins, with everybody in the electorate."""
PAYLOAD = b"x"
DIGEST = hashlib.sha256(PAYLOAD).digest()


@dataclass
class Run:
    """What was simulated, and the answer that it gave; None where not even two rounds ended."""

    peers: int
    chunks: int
    answer: Answer | None = None
    commits: int = 0
    lost: int = 0
    joined: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How synchronisations ended, counted by every node."""
    virtual_s: float = 0.0
    events: int = 0
    cpu_s: float = 0.0


class Node:
    """A machine, a line, and a trainer."""

    def __init__(self, index: int, line: Line, now: float) -> None:
        self.keyring = FakeKeyring(f"planned-{index}")
        self.id = self.keyring.peer_id
        self.line = line
        self.since = now
        self.alive = True
        self.machine: RoundMachine | None = None  # while it fetches the state
        self.fetching = False
        self.expected = False
        """Whether rounds wait for it: a newcomer follows until its first phase is over."""
        self.due = float("inf")
        # The line.
        self.outbox: OrderedDict[bytes, deque[tuple[float, t.Event]]] = OrderedDict()
        self.sending = False
        self.control_free = self.download_free = now
        self.sent_bits = 0.0
        # The trainer.
        self.computed_s = 0.0
        """In phases that ended;"""
        self.offered_at: float | None = None
        """the present one began then, if it is not the first,"""
        self.began_at = now
        self.training = False
        """and this is whether it can end without a head."""
        self.offers = 0

    def computed(self, now: float, hidden_s: float) -> float:
        """Seconds spent in inner steps until now."""
        if self.machine is None:
            return 0.0
        present = now - self.began_at
        return self.computed_s + (present if self.training else min(present, hidden_s))


@dataclass(frozen=True)
class Mark:
    """What the nodes that live have done when most of them have taken a head."""

    at: float
    head: Head
    computed_s: Mapping[bytes, float]
    sent_bits: Mapping[bytes, float]


class Swarm:
    """Simulates `question`, which has a number of inner steps, over these lines."""

    def __init__(self, question: Question, lines: Sequence[Line]) -> None:
        self._question = question
        self._engine = Engine(question.seed)
        # Of its own, so that who is lost does not depend on how many messages there are.
        self._chance = random.Random(f"churn {question.seed}")
        values = int(question.parameters) // question.parts
        self._chunks = min(CHUNKS, max(1, -(-values // default_chunk_values(int(question.parameters)))))
        self.nodes = [Node(k, line, 0.0) for k, line in enumerate(lines)]
        self._by_id = {node.id: node for node in self.nodes}
        self._config = self._round_config()
        self._head = Head(FIRST, hashlib.sha256(SWARM).digest(), tuple(sorted(self._by_id)))
        self._heads: dict[bytes, Head] = {}  # by their digest: all nodes take the same ones
        self._noticed: set[bytes] = set()  # of those lost
        self._telling = False
        self._taken: Counter[bytes] = Counter()  # how many nodes have taken each head
        self._living = len(lines)
        self._marks: list[Mark] = []
        self._waits: list[float] = []
        self._ends: Counter[str] = Counter()
        self._run = Run(len(lines), self._chunks)

    def _round_config(self) -> RoundConfig:
        question, chunks = self._question, self._chunks
        leg_s = leg_cap_s(int(question.parameters))
        fragments = tuple(tuple(range(k * chunks, (k + 1) * chunks)) for k in range(question.parts))
        return RoundConfig(
            swarm_id=SWARM,
            chunks=chunks * question.parts,
            fragments=fragments if question.parts > 1 else (),
            codec=question.codec,
            result_codec=question.result_codec,
            values=int(question.parameters),
            outer_lr=lambda n: 0.5,
            genesis_node=self.nodes[0].id,
            scatter_s=leg_s,
            reduce_s=leg_s,
        )

    # ---- the run

    def run(self, commits: int, hours: float) -> Run:
        """Until most nodes have taken so many commits, or the time is over."""
        began, engine, run = time.process_time(), self._engine, self._run
        for node in self.nodes:
            self._begin(node, self._head)
            self._expect(node)
        self._tell()
        if self._question.churn_per_h:
            self._next_churn(self._lose)
            self._next_churn(self._join)
        engine.run(lambda: self._marked() >= FIRST + commits, hours * HOUR_S)
        run.commits, run.virtual_s, run.events = self._marked() - FIRST, engine.now, engine.events
        run.answer, run.outcomes = self._answer(), dict(self._ends)
        run.cpu_s = time.process_time() - began
        return run

    def _answer(self) -> Answer | None:
        """From the first commit to the last: the first round has nothing before it."""
        if len(self._marks) < 2:
            return None
        first, last, parts = self._marks[0], self._marks[-1], self._question.parts
        span = last.at - first.at
        per_day = DAY_S / span
        stayed = first.sent_bits.keys() & last.sent_bits.keys()
        sent = [last.sent_bits[peer] - first.sent_bits[peer] for peer in stayed]
        lived = sum(max(0.0, last.at - max(first.at, self._by_id[p].since)) for p in last.computed_s)
        computed = sum(s - first.computed_s.get(peer, 0.0) for peer, s in last.computed_s.items())
        return Answer(
            peers=len(last.computed_s),
            round_s=parts * span / (last.head.version - first.head.version),
            sync_s=sum(self._waits) / len(self._waits),
            utilisation=computed / lived,
            node_bytes_per_day=per_day * sum(sent) / len(sent) / 8,
            busiest_bytes_per_day=per_day * max(sent) / 8,
            tokens_per_day=per_day * (last.head.cumulative_tokens - first.head.cumulative_tokens),
        )

    def _marked(self) -> int:
        """The last version that most nodes have taken."""
        return self._marks[-1].head.version if self._marks else FIRST

    def _mark(self, head: Head) -> Mark:
        now, hidden = self._engine.now, self._question.hidden_s
        living = [node for node in self.nodes if node.alive]
        computed = {node.id: node.computed(now, hidden) for node in living}
        sent = {node.id: node.sent_bits for node in living}
        return Mark(now, head, computed, sent)

    # ---- who is here

    def _begin(self, node: Node, head: Head) -> None:
        """A node has a state: it trains, and takes part."""
        node.machine = RoundMachine(self._config, node.keyring, head)
        node.began_at, node.training = self._engine.now, True
        self._engine.after(self._question.phase_s, self._offer, node)

    def _expect(self, node: Node) -> None:
        node.expected = True
        line = node.line
        self._feed(node, t.TrainingChanged(True, int(line.up_bps), int(line.down_bps)))

    def _next_churn(self, happens: Any) -> None:
        rate = self._question.churn_per_h / HOUR_S * self._run.peers
        self._engine.after(self._chance.expovariate(rate), self._churn, happens)

    def _churn(self, happens: Any) -> None:
        happens()
        self._next_churn(happens)

    def _lose(self) -> None:
        living = [node for node in self.nodes if node.alive]
        if len(living) <= 2:
            return
        node = self._chance.choice(living)
        node.alive = False
        self._living -= 1
        self._run.lost += 1
        self._engine.after(EVICT_S, self._notice, node)

    def _notice(self, node: Node) -> None:
        self._noticed.add(node.id)
        self._tell_soon()

    def _join(self) -> None:
        line = draw_lines(self._question, 1, self._chance)[0]
        node = Node(len(self.nodes), line, self._engine.now)
        self.nodes.append(node)
        self._by_id[node.id] = node
        self._living += 1
        self._run.joined += 1
        self._fetch(node, STATE_BITS * self._question.parameters, self._joined)

    def _joined(self, node: Node) -> None:
        self._begin(node, self._head)
        self._tell_soon()

    def _fetch(self, node: Node, bits: float, then: Any) -> None:
        """A file comes to a node."""
        now = self._engine.now
        node.download_free = max(now, node.download_free) + bits / node.line.down_bps
        self._engine.at(node.download_free + 2 * self._question.latency_s, self._fetched, node, then)

    def _fetched(self, node: Node, then: Any) -> None:
        if node.alive:
            then(node)

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._engine.after(TELL_S, self._tell)

    def _tell(self) -> None:
        """What heartbeats say: who is here, and at which head."""
        self._telling = False
        here = [(node, node.machine.head) for node in self.nodes if node.machine and self._seen(node)]
        views = {
            own: {n.id: t.PeerView(h.digest, n.expected, ahead=_standing(h) > own) for n, h in here}
            for own in {_standing(head) for _, head in here}
        }
        for node, head in here:
            others = views[_standing(head)].copy()
            del others[node.id]
            self._feed(node, t.RosterChanged(others))
            self._catch_up(node)

    def _seen(self, node: Node) -> bool:
        """Whether others think that it lives."""
        return node.id not in self._noticed

    def _catch_up(self, node: Node) -> None:
        """A node that missed commits fetches them between sessions."""
        machine = node.machine
        if machine is None or node.fetching or machine.session is not None or machine.applying:
            return
        if node.alive and _standing(machine.head) < _standing(self._head):
            node.fetching = True
            self._feed(node, t.CatchingUp(True))
            commits = max(1, self._head.version - machine.head.version)
            self._fetch(node, commits * self._question.bits(self._run.peers)[1], self._caught_up)

    def _caught_up(self, node: Node) -> None:
        node.fetching = False
        self._take(node, self._head)
        self._feed(node, t.CatchingUp(False))

    # ---- the trainer

    def _offer(self, node: Node) -> None:
        """A phase of inner steps ends. While the parameters are on the move the snapshot has to wait."""
        machine = node.machine
        if not node.alive or machine is None:
            return
        if machine.catching_up or machine.applying:
            self._engine.after(RETRY_S, self._offer, node)
            return
        if not node.expected:
            self._expect(node)
            self._tell_soon()
        question, now = self._question, self._engine.now
        node.computed_s += question.phase_s
        node.offered_at, node.began_at, node.training = now, now, False
        node.offers += 1
        steps = question.inner_steps
        self._feed(node, t.LocalReady(steps * question.tokens_per_step, steps, node.offers))

    def _take(self, node: Node, head: Head) -> None:
        """A node takes a head; a trainer that waited for one, or soon would have, goes on."""
        engine, question = self._engine, self._question
        if _standing(head) > _standing(self._head):
            self._head = head
        self._taken[head.digest] += 1
        self._feed(node, t.HeadChanged(head))
        if not node.training and node.offered_at is not None:
            took = engine.now - node.offered_at
            stall = stall_s(took, question.hidden_s)
            self._waits.append(took)
            node.began_at, node.training = node.offered_at + stall, True
            engine.at(node.began_at + question.phase_s, self._offer, node)
        if 2 * self._taken[head.digest] > self._living and head.version > self._marked():
            self._marks.append(self._mark(head))
        self._tell_soon()

    # ---- a node's driver

    def _feed(self, node: Node, event: t.Event) -> None:
        if not node.alive or node.machine is None:
            return
        effects = node.machine.handle(event, self._engine.now)
        # Most votes change nothing.
        if effects or not isinstance(event, t.VoteReceived):
            self._carry_out(node, effects)

    def _carry_out(self, node: Node, effects: list[t.Effect]) -> None:
        for effect in effects:
            self._effect(node, effect)
        assert node.machine is not None
        due = node.machine.deadline()
        if due < node.due:
            node.due = due
            self._engine.at(due, self._tick, node, due)

    def _tick(self, node: Node, due: float) -> None:
        if due == node.due and node.alive and node.machine is not None:
            node.due = float("inf")
            now = self._engine.now
            self._carry_out(node, node.machine.tick(now) if node.machine.deadline() <= now else [])

    def _effect(self, node: Node, effect: t.Effect) -> None:
        engine = self._engine
        match effect:
            case t.Send():
                self._send(node, effect)
            case t.Scatter():
                for chunk, owner in effect.targets:
                    event = t.ContributionArrived(node.id, effect.plan.session, chunk, PAYLOAD)
                    self._send_bulk(node, owner, event)
            case t.SendPartial():
                part, session = effect.part, effect.session
                partial = t.ContributionArrived(node.id, session, effect.chunk, part.payload, part.members)
                self._send_bulk(node, effect.peer, partial)
            case t.Reduce():
                payload, digest = (PAYLOAD, DIGEST) if effect.parts else (b"", hashlib.sha256().digest())
                reduced = t.ChunkReduced(
                    effect.plan.session, effect.chunk, effect.members, payload, digest, effect.partial
                )
                engine.after(0.0, self._feed, node, reduced)
            case t.SendResult():
                message = pb.ChunkResult.FromString(effect.signed.body)
                result = t.ResultArrived(node.id, message, effect.signed, PAYLOAD)
                for peer in effect.peers:
                    self._send_bulk(node, peer, result)
            case t.Persist():
                digest = chain.commit_digest(effect.commit.body)
                engine.after(0.0, self._feed, node, t.Persisted(effect.session, digest))
            case t.Apply():
                engine.after(0.0, self._apply, node, effect)
            case t.Ended():
                self._ends[effect.report.outcome] += 1
                self._tell_soon()

    def _apply(self, node: Node, effect: t.Apply) -> None:
        body, parent = effect.commit.body, effect.parent
        digest = chain.next_digest(parent.digest, body)
        head = self._heads.get(digest)
        if head is None:
            commit = pb.Commit.FromString(body)
            tokens = int(commit.cumulative_tokens)
            head = self._heads[digest] = Head(
                parent.version + 1, digest, electorate(commit), effect.certified, tokens
            )
        if node.alive:
            self._take(node, head)

    # ---- lines

    def _send(self, node: Node, effect: t.Send) -> None:
        """A frame without a payload goes to each of some peers, one after the other."""
        engine, latency = self._engine, self._question.latency_s
        event = inbox.event_of(node.id, effect.frame, _believed)
        bits = 8.0 * effect.frame.ByteSize()
        each_s, count = bits / node.line.up_bps, len(effect.peers)
        start = max(engine.now, node.control_free)
        node.control_free = start + count * each_s
        node.sent_bits += count * bits
        if count * each_s <= AT_ONCE_S:
            engine.at(node.control_free + latency, self._arrive, effect.peers, event)
            return
        for k, peer in enumerate(effect.peers, start=1):
            engine.at(start + k * each_s + latency, self._arrive, (peer,), event)

    def _arrive(self, peers: Sequence[bytes], event: t.Event) -> None:
        for peer in peers:
            self._feed(self._by_id[peer], event)

    def _send_bulk(self, node: Node, peer: bytes, event: t.ContributionArrived | t.ResultArrived) -> None:
        """A frame with a payload joins the queue of its receiver."""
        if peer == node.id:
            self._engine.after(0.0, self._feed, node, event)
            return
        own = isinstance(event, t.ContributionArrived) and event.members is None
        bits = self._question.bits(self._run.peers)[0 if own else 1] / self._chunks
        node.outbox.setdefault(peer, deque()).append((bits, event))
        if not node.sending:
            self._next_frame(node)

    def _next_frame(self, node: Node) -> None:
        """The line is free for the next receiver's first frame."""
        node.sending = False
        while node.outbox and node.alive:
            peer, frames = node.outbox.popitem(last=False)
            if not self._seen(self._by_id[peer]):
                continue
            bits, event = frames.popleft()
            if frames:
                node.outbox[peer] = frames
            node.sending = True
            node.sent_bits += bits
            self._transfer(node, self._by_id[peer], bits, event)
            return

    def _transfer(self, node: Node, target: Node, bits: float, event: t.Event) -> None:
        engine, latency = self._engine, self._question.latency_s
        sent = engine.now + bits / node.line.up_bps
        target.download_free = max(target.download_free, engine.now + latency) + bits / target.line.down_bps
        engine.at(sent, self._next_frame, node)
        engine.at(max(target.download_free, sent + latency), self._feed, target, event)


def _standing(head: Head) -> tuple[int, bool, bytes]:
    """Which of two heads a swarm follows: the further one, the certified one; else any, but all the same."""
    return head.version, head.certified, head.digest


def _believed(kind: str, signed: pb.Signed) -> bytes:
    return bytes(signed.body)
