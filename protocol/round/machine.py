"""The round machine of one node: leadership, the door, and one session at a time.

Owns the head it is told, its own readiness, what others said of theirs, and the session in progress.
It has no clock, no socket and no randomness: `handle` and `tick` take the time, everything else follows.

What can fail and what then happens: a leader that leaves or stays silent is passed over (suspects) and the
next in rank leads; an owner that leaves or is too slow ends the session and owns nothing in the next view;
messages for another head or a past view are counted and dropped; messages that come early are kept (stash).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, leader_of
from atoll.protocol.round.door import Door, Verdict
from atoll.protocol.round.plan import PlanError, check_plan, make_plan
from atoll.protocol.round.session import Session
from atoll.protocol.round.stash import Early, Stash, session_of
from atoll.protocol.round.types import (
    AbortReceived,
    Apply,
    ChunkReduced,
    CommitReceived,
    ContributionArrived,
    ContributionRejected,
    Dropped,
    Effect,
    Event,
    HeadChanged,
    LocalReady,
    LocalWithdrawn,
    PeerView,
    Persisted,
    PlanReceived,
    ReadyReceived,
    ResultArrived,
    RosterChanged,
    RoundConfig,
    Send,
    Situation,
    TrainingChanged,
    VoteReceived,
    WantReceived,
)
from atoll.protocol.signing import Keyring

_PAST_HEADS = 64


class RoundMachine:
    """Feed it events; carry out the effects in order; call `tick` at `deadline()`."""

    def __init__(self, config: RoundConfig, keyring: Keyring, head: Head) -> None:
        self._config = config
        self._keyring = keyring
        self._me = keyring.peer_id
        self.head = head
        self.session: Session | None = None
        self.applying = False
        self._door = Door(config.grace_floor_s, config.grace_cap_s)
        self._stash = Stash(config.stash_events, config.stash_bytes)
        self._peers: Mapping[bytes, PeerView] = {}
        self._training = False
        self._upload_bps = 0
        self._local: LocalReady | None = None
        self._ready_since = math.inf
        self._told: tuple[bytes | None, float] = (None, -math.inf)  # whom we told Ready, and when
        self._next_view = 0
        self._suspects: set[bytes] = set()
        self._no_owners: set[bytes] = set()
        self._past: deque[bytes] = deque(maxlen=_PAST_HEADS)

    # ---- in

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Effects of one event."""
        return self._settle(self._dispatch(event, now), now)

    def tick(self, now: float) -> list[Effect]:
        """Effects of time having passed."""
        return self._settle(self.session.tick(now) if self.session else [], now)

    def deadline(self) -> float:
        """The next time at which `tick` may have something to do; infinity if none."""
        if self.applying:
            return math.inf
        if self.session is not None:
            return self.session.deadline()
        times = [math.inf]
        leader = self._leader()
        if leader == self._me:
            times.append(self._verdict(-math.inf).until or math.inf)
        elif leader is not None and self._local is not None:
            times += [self._told[1] + self._config.repeat_s, self._patience_ends()]
        return min(times)

    def _dispatch(self, event: Event, now: float) -> list[Effect]:
        match event:
            case RosterChanged():
                self._peers = event.peers
                return self.session.roster(event.peers, now) if self.session else []
            case TrainingChanged():
                self._training, self._upload_bps = event.training, event.upload_bps
                return []
            case LocalReady():
                self._local, self._ready_since = event, now
                self._told = (None, -math.inf)
                self._door.put(self._me, self._ready(), now)
                return []
            case LocalWithdrawn():
                self._local = None
                self._door.remove(self._me)
                return []
            case ReadyReceived():
                kept = self._door.put(event.sender, event.message, now)
                return [] if kept else [Dropped(event.sender, "too many nodes are ready")]
            case AbortReceived():
                return self._abort_received(event, now)
            case ChunkReduced() | ContributionRejected() | Persisted():
                return self._own(event, now)
            case HeadChanged():
                return self._head_changed(event.head, now)
            case _:
                return self._message(event, now)

    def _message(self, event: Early, now: float) -> list[Effect]:
        """A message that belongs to a session: for the present one, early, or stale."""
        session = session_of(event)
        if self.session is not None and session == self.session.id:
            return self._in_session(event, self.session, now)
        if isinstance(event, PlanReceived) and session.parent == self.head.digest and not self.applying:
            return self._plan_received(event, now)
        past = session.parent in self._past
        if not past and (session.parent != self.head.digest or session.view >= self._next_view):
            return [] if self._stash.put(event) else [Dropped(event.sender, "too many early messages")]
        # Votes and repeated results of a session that is over are the ordinary end of it.
        ordinary = isinstance(event, VoteReceived | ResultArrived)
        return [] if ordinary else [Dropped(event.sender, "message of a past session")]

    def _in_session(self, event: Early, session: Session, now: float) -> list[Effect]:
        match event:
            case ContributionArrived():
                return session.contribution(event, now)
            case ResultArrived():
                return session.result(event, now)
            case CommitReceived():
                return session.proposed(event, now)
            case VoteReceived():
                return session.vote(event, now)
            case WantReceived():
                return session.want(event, now)
            case PlanReceived():
                return [Dropped(event.sender, "plan sent twice")]

    def _own(self, event: ChunkReduced | ContributionRejected | Persisted, now: float) -> list[Effect]:
        """The driver's answer to an effect; late ones of an ended session mean nothing any more."""
        session = self.session
        if session is None or event.session != session.id:
            return []
        match event:
            case ChunkReduced():
                return session.reduced(event, now)
            case ContributionRejected():
                return session.refused(event, now)
            case Persisted():
                return session.persisted(now)

    # ---- leadership and the door

    def _candidates(self) -> set[bytes]:
        """Training nodes at this head, suspects left out; at the genesis only the genesis node."""
        nodes = self._training_at({self.head.digest})
        return nodes & {self._config.genesis_node} if self.head.version == 0 else nodes - self._suspects

    def _expected(self) -> set[bytes]:
        """Training nodes at this head or one commit behind: those are about to apply it."""
        return self._training_at({self.head.digest, *list(self._past)[-1:]})

    def _training_at(self, digests: set[bytes]) -> set[bytes]:
        nodes = {peer for peer, view in self._peers.items() if view.training and view.digest in digests}
        return nodes | {self._me} if self._training else nodes

    def _leader(self) -> bytes | None:
        return leader_of(self.head.digest, 0, self._candidates())

    def _minimum(self) -> int:
        return self._config.min_peers_to_start if self.head.version == 0 else 1

    def _verdict(self, now: float) -> Verdict:
        return self._door.decide(self.head.digest, self._expected(), self._minimum(), now)

    def _patience_ends(self) -> float:
        """When a node that is ready stops waiting for its leader; never before the first round."""
        if self.head.version == 0:
            return math.inf
        return self._ready_since + self._config.grace_cap_s + 2 * self._config.repeat_s

    def _settle(self, effects: list[Effect], now: float) -> list[Effect]:
        """Draws the consequences until nothing more follows."""
        if self.session is not None and self.session.report is not None:
            effects = effects + self._session_over(effects, now)
        if self.session is not None or self.applying:
            return effects
        leader = self._leader()
        if leader == self._me:
            return effects + self._lead(now)
        if leader is None or self._local is None:
            return effects
        if now >= self._patience_ends():
            self._suspects.add(leader)
            self._ready_since = now
            return self._settle(effects, now)
        if self._told[0] == leader and now < self._told[1] + self._config.repeat_s:
            return effects
        self._told = (leader, now)
        return [*effects, Send((leader,), pb.Frame(ready=self._ready()))]

    def _lead(self, now: float) -> list[Effect]:
        if not self._verdict(now).close:
            return []
        ready = self._door.ready(self.head.digest, self._expected())
        here = {peer for peer, view in self._peers.items() if view.digest == self.head.digest}
        view = max([self._next_view, *(r.next_view for r in ready.values())])
        plan = make_plan(self._config, self.head, self._me, ready, here | {self._me}, view, self._no_owners)
        self._door.closed(self.head.digest, ready)
        signed = self._keyring.sign("plan", plan.SerializeToString(deterministic=True))
        others = tuple(sorted(({c.peer for c in plan.contributors} | set(plan.followers)) - {self._me}))
        return [Send(others, pb.Frame(plan=signed)), *self._accept(plan, now)]

    def _ready(self) -> pb.Ready:
        assert self._local is not None
        return pb.Ready(
            parent=self.head.digest,
            version=self.head.version,
            tokens=self._local.tokens,
            steps=self._local.steps,
            upload_bps=self._upload_bps,
            codecs=[self._config.codec],
            next_view=self._next_view,
        )

    # ---- sessions

    def _plan_received(self, event: PlanReceived, now: float) -> list[Effect]:
        plan = event.message
        if not event.sender == event.signer == plan.session.leader:
            return [Dropped(event.sender, "plan that is not by its leader")]
        tokens = self._local.tokens if self._local else None
        try:
            check_plan(self._config, self.head, self._me, tokens, self._next_view, plan)
        except PlanError as error:
            return [Dropped(event.sender, str(error))]
        effects: list[Effect] = []
        if self.session is not None:
            if self.session.commit is not None:
                return [Dropped(event.sender, "newer plan while a commit is being voted on")]
            effects = self.session.aborted("a newer plan came", (), now)
        return effects + self._accept(plan, now)

    def _accept(self, plan: pb.Plan, now: float) -> list[Effect]:
        self._next_view = plan.session.view + 1
        self.session = Session(self._config, self._keyring, self.head, plan, self._peers, now)
        effects = self.session.start(now)
        return effects + self._replay(now)

    def _replay(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for event in self._stash.take_all():
            effects += self._message(event, now)
        if self.session is not None and self.session.report is not None:
            effects += self._session_over(effects, now)
        return effects

    def _abort_received(self, event: AbortReceived, now: float) -> list[Effect]:
        session = self.session
        if session is None or event.message.session != session.id:
            return []
        if event.sender != session.id.leader:
            return [Dropped(event.sender, "abort that is not by the session's leader")]
        return session.aborted(event.message.reason, list(event.message.missing), now)

    def _session_over(self, effects: list[Effect], now: float) -> list[Effect]:
        """Leaves an ended session: to apply its commit, or to try again."""
        assert self.session is not None
        session, self.session = self.session, None
        self.applying = any(isinstance(effect, Apply) for effect in effects)
        if self.applying:
            return []
        # A node that leads badly is passed over, one that owns badly owns nothing in the next view.
        self._suspects |= session.blamed & {bytes(session.id.leader)} - {self._me}
        self._no_owners |= session.blamed
        self._door.restart(self.head.digest, now)
        if self._local is not None:
            self._ready_since, self._told = now, (None, -math.inf)
            self._door.put(self._me, self._ready(), now)
        return self._replay(now)

    def _head_changed(self, head: Head, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.session is not None:
            effects = self.session.end("missed", "this node took over another head", now, ())
        self._past.append(self.head.digest)
        self.head = head
        self.session, self.applying = None, False
        self._next_view = 0
        self._suspects, self._no_owners = set(), set()
        self._local = None
        self._door.remove(self._me)
        return effects + self._replay(now)

    # ---- for the sentence

    def situation(self, now: float) -> Situation:
        """Where this node stands in the round, and what it waits for."""
        expected = self._expected()
        ready = len(self._door.ready(self.head.digest, expected))
        leader: bytes | None = None
        until: float | None = None
        if self.applying:
            phase, because = "applying", "a commit was reached"
        elif self.session is not None:
            leader, until = bytes(self.session.id.leader), self.session.deadline()
            phase, because = "exchange", "pseudo-gradients are being averaged"
            if self.session.commit is not None:
                phase, because = "commit", "a majority has to hold the commit"
        elif self._local is None:
            phase, because = "inner", "the inner steps of this round are under way"
        else:
            verdict = self._verdict(now)
            leader, until, phase = self._leader(), verdict.until, "waiting"
            because = "the round is about to begin" if verdict.close else verdict.because
        return Situation(phase, because, leader, until, ready, len(expected))
