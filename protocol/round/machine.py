"""The round machine of one node: leadership, the door, and one session at a time.

Owns the head it is told, its own readiness, what others said of theirs, and the session in progress.
It has no clock, no socket and no randomness: `handle` and `tick` take the time, everything else follows.

What can fail and what then happens: a leader that leaves or stays silent is passed over (suspects) and the
next in rank leads; what an owner that left or is too slow had to do goes to others, and a leader that leaves
in mid-session is followed by the next, both under a plan that continues the session; a member that can't
follow a plan declines it, so that nobody waits for it; a leader whose commit too many voters are against is
passed over; of two plans of one view, by two nodes that both think they lead, the one of the higher leader in
rank stays; a node that knows itself behind begins no round; messages for another head or a past view are
counted and dropped; messages that come early are kept (stash).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import offers
from atoll.protocol.round import plan as plans
from atoll.protocol.round import types as t
from atoll.protocol.round.company import PAST_HEADS, Company
from atoll.protocol.round.door import Door, Verdict
from atoll.protocol.round.legs import Legs
from atoll.protocol.round.session import Session
from atoll.protocol.round.stash import Early, Stash, session_of
from atoll.protocol.signing import Keyring
from atoll.protocol.text import plain

_ORDINARY_WHEN_LATE = (
    t.VoteReceived
    | t.ResultArrived
    | t.WantReceived
    | t.AbortReceived
    | t.HoldingReceived
    | t.InquiryReceived
)


class RoundMachine:
    """Feed it events; carry out the effects in order; call `tick` at `deadline()`."""

    def __init__(self, config: t.RoundConfig, keyring: Keyring, head: Head, life: int = 0) -> None:
        """`life`: different in each process of this node, so that a new one never takes up an old session."""
        self.life = life
        self._config = config
        self._keyring = keyring
        self._me = keyring.peer_id
        self.head = head
        self.session: Session | None = None
        self.applying = False
        self._door = Door(config.grace_floor_s, config.grace_cap_s, config.door, config.door_s)
        self._legs = Legs(config)
        keep_s = config.scatter_s + config.reduce_s
        self._stash = Stash(config.stash_events, config.stash_bytes, keep_s)
        self._company = Company(self._me, config)
        self._local: t.LocalReady | None = None
        self._ready_since = math.inf
        self._phase_since: float | None = None  # when the inner phase began, where that was seen
        self._inner_s = 0.0
        self._told: tuple[bytes | None, float] = (None, -math.inf)  # whom we told Ready, and when
        self._next_view = 0
        self._behind_since: float | None = None
        self._catching_up = False
        self._amended: t.RoundConfig | None = None  # what is in force once no session is under way
        self._views: dict[bytes, int] = {}  # the next view of heads that were left: a fork may lead back

    # ---- in

    def handle(self, event: t.Event, now: float) -> list[t.Effect]:
        """Effects of one event."""
        return self._settle(self._dispatch(event, now), now)

    def tick(self, now: float) -> list[t.Effect]:
        """Effects of time having passed."""
        return self._settle(self.session.tick(now) if self.session else [], now)

    def deadline(self) -> float:
        """The next time at which `tick` may have something to do; infinity if none."""
        if self.session is not None:
            return self.session.deadline()
        if self.applying or self._catching_up:
            return math.inf
        times = [math.inf]
        leader = self._leader()
        if leader == self._me:
            verdict = self._verdict(-math.inf)
            if verdict.until is not None:
                times.append(max(verdict.until, self._hold_ends()))
            elif verdict.close:
                times.append(self._hold_ends())  # else it would have begun
        elif leader is not None and self._local is not None:
            times += [self._told[1] + self._config.repeat_s, self._patience_ends()]
        return min(times)

    def _dispatch(self, event: t.Event, now: float) -> list[t.Effect]:
        match event:
            case t.RosterChanged():
                renewed, reborn = self._company.renewed(event.peers), self._company.reborn(event.peers)
                self._company.peers = event.peers
                self._door.keep({self._me, *event.peers})
                if self._behind_since is None and self._company.is_ahead():
                    self._behind_since = now
                if self.session is None:
                    return []
                return self.session.roster(event.peers, now, reborn) + self.session.renewed(renewed)
            case t.ConfigChanged():
                self._amended = event.config
                return []
            case t.TrainingChanged():
                self._company.me_trains = event
                return []
            case t.CatchingUp():
                self._catching_up = event.active
                return []
            case t.LocalReady():
                if self._phase_since is not None:
                    # The first one after a commit: a later one is the same phase, offered again.
                    self._inner_s, self._phase_since = now - self._phase_since, None
                if self._config.small_commits and event.phase_s:
                    self._inner_s = event.phase_s  # the commit before was not this node's
                self._local, self._ready_since = event, now
                self._told = (None, -math.inf)
                self._door.put(self._me, self._ready(), now)
                return []
            case t.LocalWithdrawn():
                self._local, self._phase_since = None, None
                self._door.remove(self._me)
                return []
            case t.ReadyReceived():
                return self._ready_received(event, now)
            case t.ChunkReduced() | t.ContributionRejected() | t.Persisted():
                return self._own(event, now)
            case t.HeadChanged():
                return self._head_changed(event.head, now)
            case _:
                return self._message(event, now)

    def _message(self, event: Early, now: float, since: float | None = None) -> list[t.Effect]:
        """A message that belongs to a session: for the present one, early, or stale."""
        session = session_of(event)
        if isinstance(event, t.AbortReceived) and event.message.commit and not self._config.holds:
            return [t.Dropped(event.sender, "refusal in a swarm whose members trust each other")]
        running = self._running()
        if running is not None and running.exchange.knows(session):
            return self._in_session(event, running, now)
        if isinstance(event, t.HoldingReceived) and session.parent == self.head.digest and not self.applying:
            # Whoever sent it thinks that this node goes on with a session; it can't.
            abort = pb.Abort(session=session, reason="this node is not in the session")
            return [t.Send((event.sender,), pb.Frame(abort=abort))]
        if isinstance(event, t.AbortReceived) and event.message.commit:
            return self._refused_elsewhere(event, now)
        voting = running is not None and running.commit is not None and session.parent == running.id.parent
        if voting and running is not None and isinstance(event, t.ResultArrived):
            return running.result(event, now)  # of a session that this node was not in
        if isinstance(event, t.PlanReceived) and session.parent == self.head.digest and not self.applying:
            return self._plan_received(event, now)
        past = session.parent in self._company.past
        if not past and (session.parent != self.head.digest or session.view >= self._next_view):
            kept = self._stash.put(event, now, since)
            return [] if kept else [t.Dropped(event.sender, "too many early messages")]
        # Of a session that is over, these are the ordinary end.
        ordinary = isinstance(event, _ORDINARY_WHEN_LATE)
        return [] if ordinary else [t.Dropped(event.sender, "message of a past session")]

    def _running(self) -> Session | None:
        """The session, unless it has just ended."""
        return self.session if self.session is not None and self.session.report is None else None

    def _in_session(self, event: Early, session: Session, now: float) -> list[t.Effect]:
        match event:
            case t.ContributionArrived():
                return session.contribution(event, now)
            case t.ResultArrived():
                return session.result(event, now)
            case t.CommitReceived():
                return session.proposed(event, now)
            case t.VoteReceived():
                return session.vote(event, now)
            case t.WantReceived():
                return session.want(event, now)
            case t.AbortReceived():
                return self._abort_received(event, session, now)
            case t.InquiryReceived():
                return session.inquiry(event, now)
            case t.HoldingReceived():
                return session.holding(event, now)
            case _:
                return [t.Dropped(event.sender, "plan sent twice")]

    def _own(
        self, event: t.ChunkReduced | t.ContributionRejected | t.Persisted, now: float
    ) -> list[t.Effect]:
        """The driver's answer to an effect; late ones of an ended session mean nothing any more."""
        session = self.session
        if session is None or not session.exchange.knows(event.session):
            return []
        match event:
            case t.ChunkReduced():
                return session.reduced(event, now)
            case t.ContributionRejected():
                return session.refused(event, now)
            case _:
                return session.persisted(event, now)

    # ---- leadership and the door

    def _leader(self) -> bytes | None:
        return self._company.leader(self.head)

    def _expected(self) -> set[bytes]:
        return self._company.expected(self.head)

    def _minimum(self) -> int:
        return self._config.min_peers_to_start if self.head.version == 0 else 1

    def _verdict(self, now: float) -> Verdict:
        return self._door.decide(self.head.digest, self._expected(), self._minimum(), now)

    def _patience_ends(self) -> float:
        """When a node that is ready stops waiting for its leader; never before the first round."""
        if self.head.version == 0:
            return math.inf
        return self._ready_since + self._config.grace_cap_s + 2 * self._config.repeat_s

    @property
    def catching_up(self) -> bool:
        """The head is being moved from outside."""
        return self._catching_up

    def _hold_ends(self) -> float:
        """Until when a node that is behind begins no round: it is catching up, and would fork."""
        if self._catching_up:
            return math.inf
        if self._behind_since is None or not self._company.is_ahead():
            return -math.inf
        return self._behind_since + 2 * self._config.repeat_s

    def _settle(self, effects: list[t.Effect], now: float) -> list[t.Effect]:
        """Draws the consequences until nothing more follows."""
        while True:
            if self.session is None and self._amended is not None:
                self._amend(self._amended)
            if self.session is None and not self.applying and not self._catching_up:
                effects = effects + self._begin(now)
            if self.session is not None and self.session.resume is not None:
                effects = effects + self._continue(self.session, self.session.resume, now)
            if self.session is None or self.session.report is None:
                return effects
            effects = effects + self._session_over(self.session, now)

    def _amend(self, config: t.RoundConfig) -> None:
        """Goes by another manifest. Leaders and fragments stay as they are, and what legs have taken."""
        self._config, self._amended = config, None
        self._door.limit(config.grace_floor_s, config.grace_cap_s)

    def _begin(self, now: float) -> list[t.Effect]:
        """Begins a round if this node leads, else tells the leader that it is ready."""
        leader = self._leader()
        if leader == self._me:
            return self._lead(now)
        if leader is None or self._local is None:
            return []
        if now >= self._patience_ends():
            # It never answers; whoever is next in rank is given the same time.
            self._company.suspects.add(leader)
            self._ready_since = now
            return self._begin(now)
        if self._told[0] == leader and now < self._told[1] + self._config.repeat_s:
            return []
        self._told = (leader, now)
        return [t.Send((leader,), pb.Frame(ready=self._ready()))]

    def _lead(self, now: float) -> list[t.Effect]:
        if now < self._hold_ends() or not self._verdict(now).close:
            return []
        ready = self._door.ready(self.head.digest, self._expected())
        here = self._company.here(self.head)
        furthest = max(r.next_view for r in ready.values())
        view = max(self._next_view, min(furthest, self._next_view + plans.MAX_VIEW_JUMP))
        plan = plans.make_plan(
            self._config,
            self.head,
            self._me,
            ready,
            here,
            view,
            self._legs.durations(),
            self._company.no_owners,
            self.life,
            self._inner_s,
            self._expected(),
        )
        self._door.closed(self.head.digest, ready)
        return [*self._announce(plan), *self._accept(plan, now)]

    def _announce(self, plan: pb.Plan) -> list[t.Effect]:
        signed = self._keyring.sign("plan", plan.SerializeToString(deterministic=True))
        others = tuple(sorted(plans.members_of(plan) - {self._me}))
        return [t.Send(others, pb.Frame(plan=signed))]

    def _continue(self, session: Session, held: Mapping[int, bytes], now: float) -> list[t.Effect]:
        """Goes on with a session whose leader or owner has left, under a plan of this node's."""
        lacking = set(session.exchange.missing_results()) - held.keys()
        open_chunks = {chunk for chunk in lacking if session.exchange.owner(chunk) not in session.able}
        able = session.able or {self._me}
        view = self._next_view
        plan = plans.continue_plan(
            session.plan, self._me, view, able, open_chunks, self._legs.durations(), self.life
        )
        missing = session.exchange.index.keys() - session.able
        effects = session.end("aborted", _goes_on(session, view), now, missing)
        self._legs.learn(session)
        return effects + self._announce(plan) + self._accept(plan, now, session, held)

    def _ready(self) -> pb.Ready:
        assert self._local is not None
        return offers.ready(self._config, self.head, self._company, self._local, self._next_view)

    # ---- sessions

    def _ready_received(self, event: t.ReadyReceived, now: float) -> list[t.Effect]:
        if event.message.tokens > plans.MAX_TOKENS:
            return [t.Dropped(event.sender, "ready with an impossible number of tokens")]
        kept = self._door.put(event.sender, event.message, now)
        return [] if kept else [t.Dropped(event.sender, "too many nodes are ready")]

    def _plan_received(self, event: t.PlanReceived, now: float) -> list[t.Effect]:
        plan, session = event.message, self._running()
        if not event.sender == event.signer == plan.session.leader:
            return [t.Dropped(event.sender, "plan that is not by its leader")]
        if self._catching_up:
            return self._decline(event, "plan while another head is being fetched")
        if session is not None and session.commit is not None:
            # Whoever leads now goes on with that commit.
            commit = t.Send((event.sender,), pb.Frame(commit=session.commit[1]))
            return [commit, *self._decline(event, "newer plan while a commit is being voted on")]
        lowest = self._next_view
        if session is not None and plans.outranks(plan.session, session.id):
            lowest = session.id.view
        try:
            mine = offers.offered(self._config, self._local) if self._local else None
            plans.check_plan(self._config, self.head, self._me, mine, lowest, plan)
            if session is not None and plan.HasField("continues"):
                self._check_continuation(session, plan)
        except plans.PlanError as error:
            return self._decline(event, str(error))
        if session is None:
            return self._accept(plan, now)
        if plan.HasField("continues") and session.exchange.knows(plan.continues):
            effects = session.aborted(_goes_on(session, plan.session.view), now)
            self._legs.learn(session)
            return effects + self._accept(plan, now, session)
        give_up = session.abort if session.leads else session.aborted
        return give_up("a newer plan came", now) + self._accept(plan, now)

    def _check_continuation(self, session: Session, plan: pb.Plan) -> None:
        if not session.exchange.knows(plan.continues):
            return
        plans.check_continuation(session.plan, plan)
        if plan.session.leader != session.id.leader and session.leader == session.id.leader:
            raise plans.PlanError("plan that continues a session whose leader is here")

    def _decline(self, event: t.PlanReceived, reason: str) -> list[t.Effect]:
        """Refuses a plan, and says so to whoever would wait for this node."""
        members = plans.members_of(event.message)
        dropped = t.Dropped(event.sender, reason)
        if self._me not in members:
            return [dropped]
        abort = pb.Abort(session=event.message.session, reason=reason)
        return [dropped, t.Send(tuple(sorted(members & self._company.peers.keys())), pb.Frame(abort=abort))]

    def _accept(
        self,
        plan: pb.Plan,
        now: float,
        previous: Session | None = None,
        held: Mapping[int, bytes] | None = None,
    ) -> list[t.Effect]:
        self._next_view = plan.session.view + 1
        self.session = Session(
            self._config, self._keyring, self.head, plan, self._company.peers, now, previous
        )
        effects = self.session.start(now, held)
        return effects + self._replay(now)

    def _replay(self, now: float) -> list[t.Effect]:
        effects: list[t.Effect] = []
        for since, event in self._stash.take_all():
            effects += self._message(event, now, since)
        return effects

    def _refused_elsewhere(self, event: t.AbortReceived, now: float) -> list[t.Effect]:
        """A voter is against what came of a session that this node is not in, or not any more."""
        leader = bytes(event.message.session.leader)
        waits_for = event.message.session.parent == self.head.digest and leader == self._leader()
        if not waits_for or event.sender not in self.head.electorate:
            return []
        if self._company.refused(self.head, leader, event.sender, event.message.commit):
            self._company.suspects.add(leader)
            self._ready_since = now
        return []

    def _abort_received(self, event: t.AbortReceived, session: Session, now: float) -> list[t.Effect]:
        if event.message.commit:
            return session.refusal(event, now)
        if event.message.session != session.id:
            return []  # of one that this session continues: that is settled
        if event.sender == session.id.leader:
            members = session.exchange.members
            missing = [peer for peer in event.message.missing[: len(members)] if peer in members]
            return session.aborted(plain(event.message.reason), now, missing)
        if event.sender not in session.exchange.members:
            return [t.Dropped(event.sender, "abort of a node outside the session")]
        # Whoever declines is planned with again when it has said Ready again.
        self._door.remove(event.sender)
        return session.declined(event.sender, now)

    def _session_over(self, session: Session, now: float) -> list[t.Effect]:
        """Leaves an ended session: to apply its commit, or to try again."""
        assert session.report is not None
        self._legs.learn(session)
        self.session = None
        self.applying = session.report.outcome in ("certified", "provisional")
        if self.applying:
            self._door.exchange_s = session.report.phases["end_s"]
            return []
        # A node that leads badly is passed over, one that owns badly owns nothing in the next view.
        # One whose commit was refused would make the same again, this node as well.
        passed_over = {bytes(session.id.leader)} - (set() if session.voted_down else {self._me})
        self._company.suspects |= session.blamed & passed_over
        self._company.no_owners |= session.blamed
        if self._company.is_ahead():
            self._behind_since = now
        for peer, _ in session.report.rejected:
            self._door.remove(peer)
        self._door.restart(self.head.digest, now)
        if self._local is not None:
            self._ready_since, self._told = now, (None, -math.inf)
            self._door.put(self._me, self._ready(), now)
        return self._replay(now)

    def _head_changed(self, head: Head, now: float) -> list[t.Effect]:
        effects: list[t.Effect] = []
        if self.session is not None:
            effects = self._leave(self.session, now)
        self._company.left(self.head)
        self._views[self.head.digest] = self._next_view
        while len(self._views) > PAST_HEADS:
            del self._views[next(iter(self._views))]
        self.head = head
        self.session, self.applying = None, False
        self._next_view = self._views.pop(head.digest, 0)
        self._door.opened_at = now
        self._local, self._phase_since = None, now
        self._behind_since = None
        self._door.remove(self._me)
        return effects + self._replay(now)

    def _leave(self, session: Session, now: float) -> list[t.Effect]:
        """Another head was taken over while a session was under way: nobody shall wait for this node."""
        reason = "this node took over another head"
        if session.commit is not None:
            return session.end("missed", reason, now, ())
        if session.leads:
            return session.abort(reason, now)
        declined = t.Send(session.others, pb.Frame(abort=pb.Abort(session=session.id, reason=reason)))
        return [declined, *session.end("missed", reason, now, ())]

    @property
    def offer(self) -> int | None:
        """Number of this node's offer that stands; None: it has nothing to contribute."""
        return None if self._local is None else self._local.offer

    @property
    def voters(self) -> set[bytes]:
        """Voters on the next commit who are here: they hold this head, or are about to apply it."""
        here = self._company.here(self.head) | self._expected()
        return here & set(self.head.electorate)

    # ---- for the sentence

    def situation(self, now: float) -> t.Situation:
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
            leader, phase = self._leader(), "waiting"
            because, until = self._waiting(leader, now)
        until = until if until is not None and math.isfinite(until) else None
        return t.Situation(phase, because, leader, until, ready, len(expected))

    def _waiting(self, leader: bytes | None, now: float) -> tuple[str, float | None]:
        """Why a node that is ready waits, and until when it will."""
        verdict = self._verdict(now)
        if leader is None:
            return "only the node that began the swarm may begin its first round, and it is not here", None
        if now < self._hold_ends():
            return "the swarm is further; this node is catching up", None
        if leader == self._me:
            return ("the round is about to begin" if verdict.close else verdict.because), verdict.until
        if len(self._expected()) < self._minimum():
            return verdict.because, None
        return "the node that leads this round has not begun it", self._patience_ends()


def _goes_on(session: Session, view: int) -> str:
    """Why a session ended that a later one continues, for people."""
    return f"{session.trouble or 'its leader was told of a loss'}; view {view} goes on with it"
