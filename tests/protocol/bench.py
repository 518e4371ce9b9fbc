"""One round machine on a bench: fed by hand, with real messages of its peers. SECOND is the usual one."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any, TypeVar

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, leader_rank
from atoll.protocol.round import RoundConfig, RoundMachine
from atoll.protocol.round import types as t
from atoll.protocol.round.plan import make_plan

from .fakes import event_of
from .swarm import SWARM, genesis

E = TypeVar("E")
KEYS = {key.peer_id: key for key in (FakeKeyring(f"rule-{k}") for k in range(4))}
RANKED = sorted(KEYS, key=lambda p: leader_rank(genesis(KEYS).digest, 0, p), reverse=True)
FIRST, SECOND, THIRD, OUTSIDER = RANKED
"""By their right to lead the head HEAD; the outsider is in no roster."""
TRIO = (FIRST, SECOND, THIRD)
HEAD = replace(genesis(TRIO), version=1, digest=genesis(KEYS).digest)
CONFIG = RoundConfig(
    swarm_id=SWARM,
    chunks=3,
    codec="int8",
    result_codec="int8",
    outer_lr=lambda n: 0.5,
    genesis_node=FIRST,
    holds=True,
    grace_floor_s=1.0,
    grace_cap_s=30.0,
    scatter_s=10.0,
    reduce_s=10.0,
    vote_s=10.0,
    repeat_s=5.0,
)


def of(kind: type[E], effects: list[Any]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def reasons(effects: list[t.Effect]) -> list[str]:
    return [d.reason for d in of(t.Dropped, effects)]


def frames(effects: list[t.Effect], kind: str) -> list[t.Send]:
    return [s for s in of(t.Send, effects) if s.frame.WhichOneof("message") == kind]


class Bench:
    """A machine of `me` among the trio, all of them training at HEAD."""

    def __init__(self, me: bytes, head: Head = HEAD, config: RoundConfig = CONFIG) -> None:
        self.me = me
        self.head = head
        self.config = config
        self.machine = RoundMachine(config, KEYS[me], head)
        self.now = 100.0
        self.peers = {p: t.PeerView(head.digest, True) for p in TRIO if p != me}
        self.roster()
        self.feed(t.TrainingChanged(True))

    def feed(self, event: t.Event) -> list[t.Effect]:
        return self.machine.handle(event, self.now)

    def roster(self) -> list[t.Effect]:
        return self.feed(t.RosterChanged(dict(self.peers)))

    def lose(self, peer: bytes) -> list[t.Effect]:
        self.peers.pop(peer)
        return self.roster()

    def local(self, tokens: int = 100) -> list[t.Effect]:
        return self.feed(t.LocalReady(tokens, 5))

    def tick(self) -> list[t.Effect]:
        """To the next deadline, which must lie ahead."""
        due = self.machine.deadline()
        assert self.now < due < math.inf
        self.now = due
        return self.machine.tick(due)

    def ready(self, peer: bytes, **fields: Any) -> list[t.Effect]:
        return self.feed(t.ReadyReceived(peer, ready(self.head, **fields)))

    # ---- as a member of FIRST's session

    def plan(self, leader: bytes = FIRST, view: int = 0, **change: Any) -> pb.Plan:
        tokens = {p: ready(self.head) for p in TRIO}
        plan = make_plan(self.config, self.head, leader, tokens, TRIO, view, (10.0, 10.0, 10.0))
        for name, value in change.items():
            setattr(plan, name, value)
        return plan

    def planned(self, plan: pb.Plan | None = None) -> list[t.Effect]:
        plan = plan or self.plan()
        leader = bytes(plan.session.leader)
        return self.feed(t.PlanReceived(leader, plan, leader))

    @property
    def session(self) -> Any:
        assert self.machine.session is not None
        return self.machine.session

    def result(
        self, chunk: int, text: bytes = b"mean", members: tuple[int, ...] = (0, 1, 2)
    ) -> list[t.Effect]:
        plan = self.session.plan
        owner = plan.contributors[plan.owners[chunk]].peer
        frame, payload = result(plan, chunk, text, members)
        return self.feed(event_of(KEYS[self.me], owner, frame, payload))

    def results(self) -> list[t.Effect]:
        """All results that others own; this node's own come from its driver."""
        effects: list[t.Effect] = []
        for chunk in range(3):
            effects += self.own(chunk) if chunk in self.session.exchange.owned else self.result(chunk)
        return effects

    def own(self, chunk: int, members: tuple[int, ...] = (0, 1, 2)) -> list[t.Effect]:
        payload = b"mean" if members else b""
        digest = hashlib.sha256(payload).digest()
        return self.feed(t.ChunkReduced(self.session.id, chunk, members, payload, digest))

    def commit(self, sender: bytes = FIRST, signer: bytes = FIRST, **change: Any) -> list[t.Effect]:
        return self.feed(commit_event(self.session.plan, sender, signer, **change))

    def persisted(
        self, may_vote: bool = True, refusal: str = "", accused: tuple[bytes, ...] = ()
    ) -> list[t.Effect]:
        """The disk has the commit in hand."""
        commit = self.session.commit[2]
        return self.feed(t.Persisted(self.session.id, commit, may_vote, refusal, accused))

    def refuse(self, voter: bytes, commit: bytes | None = None) -> list[t.Effect]:
        """A voter is against a commit, by default the one in hand."""
        commit = commit or self.session.commit[2]
        abort = pb.Abort(session=self.session.id, reason="it points away", commit=commit)
        return self.feed(t.AbortReceived(voter, abort))

    def holding(self, peer: bytes, *chunks: int) -> list[t.Effect]:
        message = pb.Holding(session=self.session.id, chunks=chunks)
        return self.feed(t.HoldingReceived(peer, message))

    def vote(self, voter: bytes, commit: bytes | None = None) -> list[t.Effect]:
        commit = commit or self.session.commit[2]
        vote = pb.Vote(session=self.session.id, commit=commit)
        signed = KEYS[voter].sign("vote", vote.SerializeToString())
        return self.feed(t.VoteReceived(voter, vote, signed))

    def abort(
        self, sender: bytes, reason: str = "so it is", missing: tuple[bytes, ...] = ()
    ) -> list[t.Effect]:
        return self.feed(
            t.AbortReceived(sender, pb.Abort(session=self.session.id, reason=reason, missing=missing))
        )


def ready(head: Head = HEAD, tokens: int = 100, **fields: Any) -> pb.Ready:
    return pb.Ready(parent=head.digest, version=head.version, tokens=tokens, **fields)


def result(plan: pb.Plan, chunk: int, text: bytes, members: tuple[int, ...]) -> tuple[pb.Frame, bytes]:
    message = pb.ChunkResult(
        session=plan.session,
        chunk=chunk,
        contributors=members,
        payload_digest=hashlib.sha256(text).digest(),
    )
    owner = KEYS[plan.contributors[plan.owners[chunk]].peer]
    return pb.Frame(result=owner.sign("result", message.SerializeToString())), text


def commit_event(plan: pb.Plan, sender: bytes, signer: bytes, **change: Any) -> t.CommitReceived:
    digest = hashlib.sha256(b"mean").digest()
    chunks = [pb.CommittedChunk(contributors=[0, 1, 2], payload_digest=digest) for _ in range(3)]
    commit = pb.Commit(
        swarm_id=plan.swarm_id,
        session=plan.session,
        version=plan.version + 1,
        contributors=plan.contributors,
        chunks=chunks,
        result_codec=plan.result_codec,
        outer_lr=plan.outer_lr,
        cumulative_tokens=300,
    )
    for name, value in change.items():
        setattr(commit, name, value)
    return t.CommitReceived(sender, commit, KEYS[signer].sign("commit", commit.SerializeToString()))
