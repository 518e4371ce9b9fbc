"""Carries out what the round machine asks for: the synchronous twin of daemon/rounds/driver.py and island.py.

Codec and disk take their (virtual) time; the disk does one thing after the other, and what it did is told a
moment later, so that a node can die in between. A disk that refuses is tried again where there is no way
back, and costs the vote where there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate import facts
from atoll.daemon.storage.round_log import NoVoteLeft, RoundLogError
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.chain import commit_digest
from atoll.protocol.codecs import CodecError
from atoll.protocol.round import inbox
from atoll.protocol.round import types as t

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

DISK_RETRY_S = 1.0
RETRY_S = 0.1
TOKENS = (50, 150)
STEPS = 10
Commits = list[tuple[pb.Commit, bytes]]


class Driver:
    """Effects of one node's machine, and the phases of its trainer."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._disk_free = 0.0
        self._phase = 0  # the inner phase under way, by number
        self._over = False  # it is over, and waits for the commit before

    # ---- the trainer

    def train(self) -> None:
        """An inner phase begins."""
        self._phase += 1
        self._over = False
        node = self._node
        span = node.traits.inner_s
        node.later(node.engine.between(span) * node.slowness, self._phase_done, self._phase)

    def _phase_done(self, phase: int) -> None:
        if phase == self._phase:
            self._node.island.train(self._node.engine.random.randint(*TOKENS))
            self._over = self._node.island.has_snapshot
            if not self._over:
                self._offer(phase)

    def _offer(self, phase: int) -> None:
        """The books are made durable, then the snapshot is offered."""
        node = self._node
        if phase != self._phase:
            return
        if node.machine.catching_up or node.machine.applying:
            # The committed parameters are on the move: the snapshot has to wait for where they end.
            node.later(RETRY_S, self._offer, phase)
            return
        try:
            offer = node.island.offer()
        except AtollError:
            node.later(DISK_RETRY_S, self._offer, phase)
            return
        node.oracle.offered(node.id, offer)
        node.engine.say("{} is ready with {} tokens", node.name, offer.tokens)
        node.feed(t.TrainingChanged(True, int(node.upload_bps), int(node.download_bps)))
        if not node.training:
            node.training = True
            node.tell_everyone()
        node.feed(t.LocalReady(offer.tokens, STEPS, offer.number))
        if node.island.ahead:
            self.train()

    def trainer_died(self) -> None:
        """The trainer starts again; what it carried is lost."""
        node = self._node
        node.engine.say("{} loses its trainer", node.name)
        node.feed(t.LocalWithdrawn())
        node.island.begin()
        self._retire()
        self.train()

    def _retire(self) -> None:
        """The node is not expected in rounds until it is ready again."""
        node = self._node
        if node.training:
            node.training = False
            node.feed(t.TrainingChanged(False))
            node.tell_everyone()

    def left(self, common: int) -> None:
        """Another state is here, whose chain has nothing of ours after this version."""
        self._node.island.left(common)
        self._save(self._node.island.save)

    def taken_over(self, replayed: Commits) -> None:
        """Another state is here, and what followed it: everything local starts afresh."""
        self._node.island.taken_over(replayed)
        self._save(self._node.island.save)
        self.train()

    def committed(self, commits: Commits) -> None:
        """Outer steps were taken: the trainer goes on from there, or with the phase it is in."""
        island = self._node.island
        waiting = island.has_snapshot
        island.committed(commits)
        self._save(island.save)
        if waiting and island.again:
            self._offer(self._phase)
        elif waiting and not island.ahead:
            self.train()
        elif self._over:
            self._over = False
            self._offer(self._phase)

    def _save(self, work: Callable[[], None]) -> None:
        """What the disk refuses now is written with the next change."""
        try:
            work()
        except AtollError:
            self._node.engine.say("{} has no room on its disk", self._node.name)

    # ---- effects

    def effect(self, effect: t.Effect) -> None:
        node = self._node
        match effect:
            case t.Send():
                if effect.frame.HasField("vote") and node.liar is None:
                    node.oracle.voted(node, effect.frame.vote)
                self.send(effect.peers, effect.frame)
            case t.Scatter():
                node.later(node.work_s(), self._scatter, effect.plan, effect.targets)
            case t.Reduce():
                node.later(node.work_s(), self._reduce, effect)
            case t.SendPartial():
                self.send((effect.peer,), pb.Frame(contribution=effect.message), bytes(effect.part.payload))
            case t.StoreResult():
                version = node.store.head.version + 1
                kept = (version, effect.chunk, effect.payload, effect.payload_digest)
                self.on_disk(lambda: node.store.log.put(*kept))
            case t.SendResult():
                self._send_result(effect)
            case t.Persist():
                self._persist(effect)
            case t.Apply():
                self._decide(effect)
            case t.Ended():
                node.engine.say("{} ends {}: {}", node.name, effect.report.outcome, effect.report.reason)
                if node.liar is None:
                    node.oracle.session_ended(node, effect.report)
                if effect.report.outcome == "aborted" and effect.report.refused:
                    # What it voted for must not be taken up by a start.
                    self.on_disk(lambda: node.store.log.clear(node.store.head.version))
            case t.Dropped():
                node.dropped[effect.reason] += 1
                node.oracle.dropped(node, effect)
                node.engine.say("{} drops: {}", node.name, effect.reason)

    def _persist(self, effect: t.Persist) -> None:
        node, version = self._node, self._node.store.head.version + 1
        digest = commit_digest(effect.commit.body)
        if node.refusing and node.engine.random.random() < node.refusing:
            node.engine.say("{} is against version {}", node.name, version)
            refused = t.Persisted(effect.session, digest, refusal="it points away")
            self.on_disk(lambda: node.store.log.hold(version, effect.commit), lambda _: node.feed(refused))
            return
        self.on_disk(
            lambda: self._vote(version, effect.commit),
            lambda may_vote: node.feed(t.Persisted(effect.session, digest, may_vote)),
        )

    def _vote(self, version: int, commit: pb.Signed) -> bool:
        """Makes commit and results durable; whether this node may vote for it."""
        try:
            self._node.store.log.vote(version, commit)
        except NoVoteLeft as error:
            self._node.engine.say(
                "{} holds version {} without a vote: {}", self._node.name, version, str(error)
            )
            return False
        return True

    def send(self, peers: tuple[bytes, ...], frame: pb.Frame, payload: bytes = b"") -> None:
        node = self._node
        if node.liar is not None:
            for peer in peers:
                for lie, spoilt in node.liar.frames(frame, payload):
                    node.network.send(node, peer, wire.encode_frame(lie, len(spoilt)), spoilt)
            return
        node.send(peers, frame, payload)

    def on_disk(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None] | None = None,
        refused: Callable[[], None] | None = None,
    ) -> None:
        """Does `work` after all that the disk has to do before, then tells, in an event of its own."""
        node = self._node

        def done() -> None:
            try:
                result = work()
            except (AtollError, RoundLogError) as error:
                node.engine.say("{}: the disk refuses: {}", node.name, str(error))
                if refused is not None:
                    refused()
                return
            if then is not None:
                node.later(0.1 * node.work_s(), then, result)

        self._disk_free = max(self._disk_free, node.engine.now) + 0.2 * node.work_s()
        node.later(self._disk_free - node.engine.now, done)

    def _scatter(self, plan: pb.Plan, targets: tuple[tuple[int, bytes], ...]) -> None:
        """Encodes and sends chunk by chunk what is still wanted."""
        node = self._node
        while targets and not self._is_due(plan, *targets[0]):
            targets = targets[1:]
        if not targets:
            return
        chunk, target = targets[0]
        values = np.zeros(facts.VALUES, np.float32)
        values[node.index] = node.island.delta(chunk)
        values[facts.TAG], values[facts.PARENT] = 1, facts.mark(node.store.head.digest)
        payload = node.payloads.contribution(values)
        if target == node.id:
            node.feed(t.ContributionArrived(target, plan.session, chunk, payload))
        else:
            frame = pb.Frame(contribution=pb.Contribution(session=plan.session, chunk=chunk))
            self.send((target,), frame, payload)
        node.later(0.2 * node.work_s(), self._scatter, plan, targets[1:])

    def _is_due(self, plan: pb.Plan, chunk: int, target: bytes) -> bool:
        """Whether the session, or one that continues it, still has this chunk at its target.

        And whether what it is to have is still here: a trainer that died meanwhile has made another snapshot.
        """
        session = self._node.machine.session
        if session is None or not session.exchange.knows(plan.session):
            return False
        offer = next(c.offer for c in plan.contributors if c.peer == self._node.id)
        if not self._node.island.holds(offer):
            return False
        return bool(session.exchange.counterpart(chunk) == target)

    def _reduce(self, effect: t.Reduce) -> None:
        node = self._node
        if node.liar is None:
            node.oracle.reducing(effect, [node.payloads.part(part) for part in effect.parts])
        payload = node.payloads.reduce(effect.parts)
        digest = facts.digest(payload)
        reduced = t.ChunkReduced(
            effect.plan.session, effect.chunk, effect.members, payload, digest, effect.partial
        )
        node.feed(reduced)

    def _send_result(self, effect: t.SendResult) -> None:
        node = self._node
        version = node.store.head.version + 1
        frame = pb.Frame(result=effect.signed)
        count = len(pb.ChunkResult.FromString(effect.signed.body).contributors)
        if not count:
            self.send(effect.peers, frame)
            return
        self.on_disk(
            lambda: node.store.log.get(version, effect.chunk, count),
            lambda payload: self.send(effect.peers, frame, payload),
        )

    def _decide(self, effect: t.Apply) -> None:
        """The commit is decided: a disk that refuses is tried again, for there is no way back."""
        node = self._node
        node.oracle.decided(node, effect)
        self.on_disk(
            lambda: node.store.decide(effect.commit, effect.votes),
            lambda _: self._apply(effect),
            lambda: node.later(DISK_RETRY_S, self._decide, effect),
        )

    def _apply(self, effect: t.Apply) -> None:
        node = self._node
        head = node.store.apply(effect.commit, effect.certified)
        commit = pb.Commit.FromString(effect.commit.body)
        node.engine.say("{} applies version {}, {}", node.name, head.version, effect.certified)
        if len(commit.contributors) > 1:
            node.following.met(node.engine.now)
        node.feed(t.HeadChanged(head))
        node.tell_everyone()
        self.committed([(commit, head.digest)])
        self.on_disk(node.store.save_if_due)

    # ---- what came over a link

    def received(self, sender: bytes, frame: pb.Frame, payload: bytes) -> None:
        """One frame that belongs to rounds; what is malformed is counted and dropped."""
        try:
            event = self._event(sender, frame, payload)
        except (DecodeError, CodecError, ValueError) as error:
            self._node.dropped["malformed"] += 1
            self._node.engine.say("{} drops a malformed message: {}", self._node.name, str(error))
            return
        self._node.feed(event)

    def _event(self, sender: bytes, frame: pb.Frame, payload: bytes) -> t.Event:
        match frame.WhichOneof("message"):
            case "contribution":
                return self._contribution(sender, frame.contribution, payload)
            case "result":
                return self._result(sender, frame.result, payload)
            case _:
                return inbox.event_of(sender, frame, self._verified)

    def _verified(self, kind: str, signed: pb.Signed) -> bytes:
        if not self._node.keyring.verify(kind, signed):
            raise ValueError(f"{kind} with a wrong signature")
        return bytes(signed.body)

    def _contribution(self, sender: bytes, message: pb.Contribution, payload: bytes) -> t.Event:
        if message.chunk >= facts.COUNT:
            raise ValueError("contribution to a chunk that does not exist")
        members = inbox.members_of(message)
        try:
            if members != ():
                self._node.payloads.check(payload, None if members is None else len(members))
        except CodecError as error:
            return t.ContributionRejected(sender, message.session, message.chunk, str(error))
        return t.ContributionArrived(sender, message.session, message.chunk, payload, members)

    def _result(self, sender: bytes, signed: pb.Signed, payload: bytes) -> t.Event:
        message = pb.ChunkResult.FromString(self._verified("result", signed))
        if message.chunk >= facts.COUNT:
            raise ValueError("result of a chunk that does not exist")
        if facts.digest(payload) != message.payload_digest:
            raise ValueError("result without its digest")
        if bool(message.contributors) != bool(payload):
            raise ValueError("result with contributors and no payload, or the other way round")
        if payload:
            self._node.payloads.check(payload, len(message.contributors))
        return t.ResultArrived(sender, message, signed, payload)
