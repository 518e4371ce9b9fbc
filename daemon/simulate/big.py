"""Big swarms: rounds of the shipping machine with a thousand nodes and more, in virtual time.

`chaos` looks at everything that can befall a few nodes; this looks at one thing, whether rounds with two
levels hold together when there are many: all nodes that live end with the same bits, each contribution is in
a chunk once, and few exchange payloads with others than their group and their row. A payload is a number that
nobody else has, a mean is a sum, and numbers are too big for two different sums to be equal by chance.

Nodes that die are noticed by all others after a moment. Nothing else goes wrong here, and nothing but rounds
happens: who lives, and at which head, everybody is told.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from atoll.daemon.simulate.engine import Engine, Violation
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import chain
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import RoundConfig, RoundMachine, inbox
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import electorate

SWARM = hashlib.sha256(b"a big simulated swarm").digest()
NUMBER_BYTES = 16
TOKENS = 100
CONTROL_S, BULK_S, WORK_S, NOTICE_S = (0.02, 0.08), (0.05, 0.5), (0.001, 0.02), (0.5, 1.5)
TICK_S = 0.5
LIMIT_S = 300.0
"""Virtual seconds in which a round has to end."""


@dataclass
class Outcome:
    """What a run showed. `partners`: nodes that the busiest one exchanged payloads with in one round."""

    nodes: int
    lost: int
    rounds: int = 0
    groups: int = 0
    partners: int = 0
    payloads: int = 0
    """Sent by the busiest node in one round,"""
    chunks: int = 0
    """of so many chunks."""
    events: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class Node:
    """A machine, its results, and the digest of its state."""

    def __init__(self, index: int, config: RoundConfig, head: Head) -> None:
        self.keyring = FakeKeyring(f"big-{index}")
        self.id = self.keyring.peer_id
        self.machine = RoundMachine(config, self.keyring, head)
        self.alive = True
        self.state = b""
        self.results: dict[int, bytes] = {}
        self.partners: set[bytes] = set()
        self.sent = 0


class Big:
    """`nodes` machines for some rounds; in each but the first, `losses` of them die."""

    def __init__(self, nodes: int, seed: int, losses: int = 0, chunks: int = 0) -> None:
        ids = [FakeKeyring(f"big-{k}").peer_id for k in range(nodes)]
        self._chunks = chunks or max(8, 2 * round(nodes**0.5))
        config = RoundConfig(
            swarm_id=SWARM,
            chunks=self._chunks,
            codec="fp32",
            result_codec="fp32",
            outer_lr=lambda n: 0.5,
            genesis_node=ids[0],
            min_peers_to_start=nodes,
        )
        head = Head(0, chain.genesis_digest(SWARM, bytes(32)), (ids[0],))
        self.nodes = [Node(k, config, head) for k in range(nodes)]
        self._by_id = {node.id: node for node in self.nodes}
        self._engine = Engine(seed)
        self._losses = losses
        self._arrivals: dict[tuple[bytes, bytes, bool], float] = {}
        self._reported: Counter[str] = Counter()
        self._groups = 0

    # ---- rounds

    def run(self, rounds: int) -> Outcome:
        """Raises Violation."""
        outcome = Outcome(len(self.nodes), 0, chunks=self._chunks)
        began = time.process_time()
        for node in self.nodes:
            node.machine.handle(t.TrainingChanged(True), 0.0)
        self._tick()
        for number in range(1, rounds + 1):
            self._round(number)
            outcome.partners = max(outcome.partners, *(len(node.partners) for node in self.nodes))
            outcome.payloads = max(outcome.payloads, *(node.sent for node in self.nodes))
        outcome.rounds, outcome.groups, outcome.outcomes = rounds, self._groups, self._reported
        outcome.lost = sum(not node.alive for node in self.nodes)
        outcome.events, outcome.virtual_s = self._engine.events, self._engine.now
        outcome.cpu_s = time.process_time() - began
        return outcome

    def _round(self, number: int) -> None:
        engine, living = self._engine, [node for node in self.nodes if node.alive]
        doomed = engine.random.sample(living[1:], self._losses) if number > 1 else []
        for node in living:
            node.results, node.partners, node.sent = {}, set(), 0
        self._arrivals.clear()
        for node in living:
            self._tell_roster(node)
        for node in living:
            engine.after(engine.between((0.0, 0.5)), self._feed, node, t.LocalReady(TOKENS, 1, number))
        for node in doomed:
            # When everybody is ready and payloads are under way.
            engine.after(engine.between((0.6, 1.5)), self._kill, node)

        def over() -> bool:
            return all(node.machine.head.version >= number for node in living if node.alive)

        if not engine.run(over, engine.now + LIMIT_S):
            behind = sum(node.alive and node.machine.head.version < number for node in self.nodes)
            raise Violation("progress", f"round {number}: {behind} nodes never applied its commit")
        # What is still under way, also the losses, ends before the next round begins.
        engine.run(lambda: False, engine.now + 2.0)
        states = {node.state for node in self.nodes if node.alive}
        if len(states) != 1:
            raise Violation("equal bits", f"round {number}: {len(states)} different states")

    def _kill(self, node: Node) -> None:
        node.alive = False
        for other in self.nodes:
            if other.alive:
                self._engine.after(self._engine.between(NOTICE_S), self._tell_roster, other)

    def _tell_roster(self, node: Node) -> None:
        """Who lives, and where."""
        views = {
            other.id: t.PeerView(other.machine.head.digest, True)
            for other in self.nodes
            if other.alive and other is not node
        }
        self._feed(node, t.RosterChanged(views))

    def _tick(self) -> None:
        for node in self.nodes:
            if node.alive and node.machine.deadline() <= self._engine.now:
                self._carry_out(node, node.machine.tick(self._engine.now))
        self._engine.after(TICK_S, self._tick)

    # ---- a node's driver

    def _feed(self, node: Node, event: t.Event) -> None:
        if node.alive:
            self._carry_out(node, node.machine.handle(event, self._engine.now))

    def _later(self, node: Node, work: Any, *arguments: Any) -> None:
        self._engine.after(self._engine.between(WORK_S), work, node, *arguments)

    def _carry_out(self, node: Node, effects: list[t.Effect]) -> None:
        for effect in effects:
            match effect:
                case t.Send():
                    # One event for all receivers, for it never changes; nobody here signs what another said.
                    event = inbox.event_of(node.id, effect.frame, _believed)
                    for peer in effect.peers:
                        self._send(node, peer, event)
                case t.Scatter():
                    self._groups = int(effect.plan.groups)
                    self._later(node, self._scatter, effect)
                case t.SendPartial():
                    part, session = effect.part, effect.session
                    arrived = t.ContributionArrived(
                        node.id, session, effect.chunk, part.payload, part.members
                    )
                    self._send(node, effect.peer, arrived, bulk=True)
                case t.Reduce():
                    self._later(node, self._reduce, effect)
                case t.StoreResult():
                    node.results[effect.chunk] = bytes(effect.payload)
                case t.SendResult():
                    self._later(node, self._send_result, effect)
                case t.Persist():
                    digest = chain.commit_digest(effect.commit.body)
                    self._later(node, self._feed, t.Persisted(effect.session, digest))
                case t.Apply():
                    self._later(node, self._apply, effect)
                case t.Ended():
                    self._reported[effect.report.outcome] += 1

    def _scatter(self, node: Node, effect: t.Scatter) -> None:
        for chunk, target in effect.targets:
            number = _number(node.id, effect.plan.session.parent, chunk)
            arrived = t.ContributionArrived(node.id, effect.plan.session, chunk, _payload(number))
            self._send(node, target, arrived, bulk=True)

    def _reduce(self, node: Node, effect: t.Reduce) -> None:
        total = _payload(sum(int.from_bytes(part.payload, "big") for part in effect.parts))
        payload = total if effect.parts else b""
        digest = hashlib.sha256(payload).digest()
        reduced = t.ChunkReduced(
            effect.plan.session, effect.chunk, effect.members, payload, digest, effect.partial
        )
        self._feed(node, reduced)

    def _send_result(self, node: Node, effect: t.SendResult) -> None:
        message = pb.ChunkResult.FromString(effect.signed.body)
        payload = node.results[effect.chunk]
        event = t.ResultArrived(node.id, message, effect.signed, payload)
        for peer in effect.peers:
            self._send(node, peer, event, bulk=True)

    def _apply(self, node: Node, effect: t.Apply) -> None:
        body, parent = effect.commit.body, effect.parent
        commit = pb.Commit.FromString(body)
        state = hashlib.sha256(node.state)
        for chunk, committed in enumerate(commit.chunks):
            peers = [bytes(commit.contributors[i].peer) for i in committed.contributors]
            total = sum(_number(peer, commit.session.parent, chunk) for peer in peers)
            if peers and node.results[chunk] != _payload(total):
                raise Violation("conservation", f"chunk {chunk} is not the sum of its contributors")
            if missing := {other.id for other in self.nodes if other.alive} - set(peers):
                raise Violation("everybody", f"chunk {chunk} is without {len(missing)} nodes that live")
            state.update(node.results[chunk])
        node.state = state.digest()
        digest = chain.next_digest(parent.digest, body)
        tokens = int(commit.cumulative_tokens)
        head = Head(parent.version + 1, digest, electorate(commit), effect.certified, tokens)
        self._feed(node, t.HeadChanged(head))

    # ---- the network

    def _send(self, node: Node, peer: bytes, event: t.Event, bulk: bool = False) -> None:
        engine = self._engine
        if peer == node.id:
            engine.after(0.0, self._feed, node, event)
            return
        if bulk:
            node.partners.add(peer)
            self._by_id[peer].partners.add(node.id)
            node.sent += 1
        # Frames of one kind between two nodes keep their order.
        way = (node.id, peer, bulk)
        when = max(engine.now + engine.between(BULK_S if bulk else CONTROL_S), self._arrivals.get(way, 0.0))
        self._arrivals[way] = when
        engine.at(when, self._feed, self._by_id[peer], event)


def _number(peer: bytes, parent: bytes, chunk: int) -> int:
    """What a node contributes to a chunk."""
    drawn = hashlib.sha256(peer + parent + chunk.to_bytes(4, "big")).digest()
    return int.from_bytes(drawn[: NUMBER_BYTES - 4], "big")


def _payload(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big")


def _believed(kind: str, signed: pb.Signed) -> bytes:
    return bytes(signed.body)
