"""One session, from an accepted plan to its end: scatter, reduce, commit, vote.

Every wait has a deadline, counted from the moment the plan was accepted (durations, never wall-clock times):

    start ── scatter_s ──▸ owners reduce with what came ── reduce_s ──▸ leader needs all results
             (whoever collects for an owner: COLLECT_PART of scatter_s)
    then, for members ── vote_s ──▸ the leader has to have proposed
    commit seen ── vote_s ──▸ a majority has certified it, or it is provisional

When an owner leaves or is too slow, the leader asks the members what they hold, gives the chunks that nobody
holds to other owners, and goes on under the next view (`resume`: the machine makes the plan). When the leader
leaves or stays silent, the next contributor in rank does the same; members tell it what they hold, and
whoever has seen the leader's commit passes that on instead. A result that any live member holds is used,
not reduced anew.

A session ends once, as `certified`, `provisional` (this node holds the commit, a majority was not heard),
`aborted` (nothing changes: too many voters are against the commit, or there is none) or `missed` (others may
have committed; this node has to catch up).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.round import codec_choice
from atoll.protocol.round.agreement import Agreement
from atoll.protocol.round.ballot import Ballot
from atoll.protocol.round.commit import accepted_tokens, make_commit
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.plan import COLLECT_PART
from atoll.protocol.round.salvage import ANSWER_PART, Salvage, successor
from atoll.protocol.round.types import (
    AbortReceived,
    Apply,
    ChunkReduced,
    CommitReceived,
    ContributionArrived,
    ContributionRejected,
    Dropped,
    Effect,
    Ended,
    HoldingReceived,
    InquiryReceived,
    Persisted,
    ResultArrived,
    RoundConfig,
    Scatter,
    Send,
    SendPartial,
    SendResult,
    SessionReport,
    StoreResult,
    VoteReceived,
    WantReceived,
)
from atoll.protocol.signing import Keyring


class Session:
    """State of one accepted plan. Methods return effects; `report` is set when the session has ended."""

    def __init__(
        self,
        config: RoundConfig,
        keyring: Keyring,
        head: Head,
        plan: pb.Plan,
        live: Collection[bytes],
        now: float,
        previous: Session | None = None,
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._me = keyring.peer_id
        self._live = set(live) | {self._me}
        self._declined: set[bytes] = set()
        self.head = head
        self.plan = plan
        self.id = plan.session
        self.exchange: Exchange = Exchange(plan, self._me, previous.exchange if previous else None)
        ballot = previous.agreement.ballot if previous else Ballot(head.electorate)
        self.agreement: Agreement = Agreement(keyring, head, self.exchange, ballot)
        self.unfit: set[bytes] = {*previous.unfit} if previous else set()
        """Members that were too slow as owners: they own nothing in sessions that continue this one."""
        self.trouble = ""
        """Why this session can't end by itself, for people."""
        self.hurried = False
        """Whether results were not given time enough."""
        self.resume: dict[int, bytes] | None = None
        """Set when this node has to go on with the session under a new plan: who holds what it lacks."""
        self._salvage: Salvage | None = None
        self._fetching: dict[int, bytes] = {}
        self._early: dict[bytes, set[int]] = {}  # what members told before this node asked
        self._told: bytes | None = None
        # Who was sent the result of a chunk, as its audience.
        self._given: dict[int, set[bytes]] = {**previous._given} if previous else {}
        self.report: SessionReport | None = None
        self.blamed: frozenset[bytes] = frozenset()
        self.voted_down = False
        """Whether it ended because voters were against its commit."""
        self._accused: frozenset[bytes] = frozenset()
        self.collect_at = now + COLLECT_PART * plan.scatter_s
        self.scatter_at = now + plan.scatter_s
        self.reduce_at = self.scatter_at + plan.reduce_s
        self.give_up_at = self.reduce_at + plan.vote_s
        self._began = now
        self._marks: dict[str, float] = {}
        self.arrivals: dict[str, list[float]] = {"scatter": [], "reduce": [], "vote": []}
        """Seconds that contributions, results and votes took to come, for the durations of the next plan."""

    @property
    def commit(self) -> tuple[pb.Commit, pb.Signed, bytes] | None:
        """The commit that was seen: message, signed, its digest."""
        return self.agreement.commit

    @property
    def leads(self) -> bool:
        return bool(self.id.leader == self._me)

    @property
    def leader(self) -> bytes:
        """Who leads the session now: its leader, or whoever has to follow it."""
        leader = bytes(self.id.leader)
        if leader in self._live:
            return leader
        contributors = (bytes(c.peer) for c in self.plan.contributors)
        return successor(self.id.parent, self.id.fragment, contributors, self._live)

    @property
    def present(self) -> set[bytes]:
        """Contributors that are alive."""
        return self.exchange.index.keys() & self._live

    @property
    def able(self) -> set[bytes]:
        """Contributors that can own chunks."""
        return self.present - self.unfit

    @property
    def others(self) -> tuple[bytes, ...]:
        return tuple(sorted(self.exchange.members - {self._me}))

    def deadline(self) -> float:
        """When `tick` has something to do."""
        if self.commit is not None:
            return self.agreement.deadline()
        if self._salvage is not None:
            times = [self._salvage.deadline]
        else:
            times = [self.reduce_at if self.leads else self.give_up_at]
        collects, owns = self.exchange.waits()
        times += [self.collect_at] * collects + [self.scatter_at] * owns
        return min(times)

    # ---- scatter and reduce

    def start(self, now: float, held: Mapping[int, bytes] | None = None) -> list[Effect]:
        """Sends what is to be sent. `held`: who has results that the leader of a continued session lacks."""
        effects = self._send_due()
        self._fetching = dict(held or {})
        for peer in sorted(set(self._fetching.values())):
            chunks = sorted(chunk for chunk, holder in self._fetching.items() if holder == peer)
            effects.append(Send((peer,), pb.Frame(want=pb.Want(session=self.id, chunks=chunks))))
        effects += self._reduce_due() + self._give(self.exchange.results.keys() & self._given.keys())
        return effects + (self._results_changed(now) or self.roster(self._live, now))

    def _send_due(self) -> list[Effect]:
        """Contributions, own or of a group, that those who have to get them did not get yet."""
        sends = self.exchange.due_sends()
        scatter: list[Effect] = [Scatter(self.plan, sends)] if sends else []
        return scatter + [SendPartial(to, self.id, c, part) for c, to, part in self.exchange.due_partials()]

    def contribution(self, event: ContributionArrived, now: float) -> list[Effect]:
        self.arrivals["scatter"].append(now - self._began)
        reason = self.exchange.contribute(event.sender, event.chunk, event.payload, event.members)
        return [Dropped(event.sender, reason)] if reason else self._reduce_due()

    def refused(self, event: ContributionRejected, now: float) -> list[Effect]:
        self.exchange.refuse(event.sender, event.chunk, event.reason)
        return [Dropped(event.sender, event.reason), *self._reduce_due()]

    def _reduce_due(self) -> list[Effect]:
        return [*self.exchange.due()]

    def reduced(self, event: ChunkReduced, now: float) -> list[Effect]:
        if event.partial:
            self.exchange.averaged(event.chunk, event.contributors, event.payload)
            return self._send_due() + self._reduce_due()
        message = pb.ChunkResult(
            session=self.id,
            chunk=event.chunk,
            contributors=event.contributors,
            payload_digest=event.payload_digest,
            left_out=event.left_out,
        )
        signed = self._keyring.sign("result", message.SerializeToString(deterministic=True))
        reason = self.exchange.add_result(message, signed)
        if reason:
            return [Dropped(self._me, reason)]  # before a restart, this node signed another one
        return [
            StoreResult(self.id, event.chunk, event.payload, event.payload_digest),
            *self._give([event.chunk]),
            *self._results_changed(now),
        ]

    def result(self, event: ResultArrived, now: float) -> list[Effect]:
        self.arrivals["reduce"].append(now - self._began)
        known = event.message.chunk in self.exchange.results
        commit = self.commit[0] if self.commit else None
        reason = self.exchange.add_result(event.message, event.signed, commit)
        if reason:
            return [Dropped(event.sender, reason)]
        if known:
            return []  # it was asked for and came twice
        message = event.message
        stored = StoreResult(self.id, message.chunk, event.payload, message.payload_digest)
        return [stored, *self._give([message.chunk]), *self._results_changed(now)]

    def _give(self, chunks: Iterable[int]) -> list[Effect]:
        """Sends results to those who have to get them from this node and did not yet."""
        effects: list[Effect] = []
        for chunk in chunks:
            given = self._given.setdefault(chunk, set())
            due = self.exchange.audience(chunk) - given
            given |= due
            if due:
                signed = self.exchange.results[chunk][1]
                effects.append(SendResult(tuple(sorted(due)), self.id, chunk, signed))
        return effects

    def want(self, event: WantReceived, now: float) -> list[Effect]:
        if event.sender not in self.exchange.members:
            return [Dropped(event.sender, "want of a node outside the session")]
        held = {c for c in event.message.chunks if c in self.exchange.results}
        return [
            SendResult((event.sender,), self.id, chunk, self.exchange.results[chunk][1])
            for chunk in sorted(held)
        ]

    # ---- commit

    def _results_changed(self, now: float) -> list[Effect]:
        missing = self.exchange.missing_results()
        if not missing:
            self._marks.setdefault("reduce_s", now)
        if self.commit is not None:
            return self._agreed(self.agreement.seek(self._live), now)
        if missing or not self.leads:
            return []
        if not self.exchange.contributed():
            return self.abort("no contribution arrived", now)
        commit = make_commit(self.head, self.exchange)
        signed = self._keyring.sign("commit", commit.SerializeToString(deterministic=True))
        return [
            Send(self.others, pb.Frame(commit=signed)),
            *self.proposed(CommitReceived(self._me, commit, signed), now),
        ]

    def proposed(self, event: CommitReceived, now: float) -> list[Effect]:
        effects = self.agreement.propose(event, self._live, now)
        if self.commit is not None:
            self.resume = None  # there is nothing to go on with: this is the end of it
        return self._agreed(effects, now)

    def persisted(self, event: Persisted, now: float) -> list[Effect]:
        if self.commit is None or event.commit != self.commit[2]:
            return []  # of a session that this one continues, which ended otherwise
        self._marks["persist_s"] = now
        self._accused = frozenset(event.accused)
        return self._agreed(self.agreement.persisted(self._live, event), now)

    def vote(self, event: VoteReceived, now: float) -> list[Effect]:
        if self.commit is not None:
            self.arrivals["vote"].append(now - self.agreement.since)
        return self._agreed(self.agreement.vote(event, self._live), now)

    def refusal(self, event: AbortReceived, now: float) -> list[Effect]:
        return self._agreed(self.agreement.refusal(event, self._live), now)

    def _agreed(self, effects: list[Effect], now: float) -> list[Effect]:
        """Draws the consequence when it is decided what becomes of the commit."""
        if self.agreement.outcome is None:
            return effects
        assert self.commit is not None
        outcome, reason = self.agreement.outcome
        missing = self.agreement.ballot.missing() if outcome == "provisional" else ()
        effects = effects + self.end(outcome, reason, now, missing)
        if outcome == "aborted":
            self.voted_down = True
            self.blamed = self._accused | {bytes(self.id.leader)}
        if outcome in ("missed", "aborted"):
            return effects
        _, signed, digest = self.commit
        votes = self.agreement.ballot.votes(digest)
        return [*effects, Apply(signed, votes, outcome == "certified", self.head)]

    # ---- time, loss and the end

    def roster(self, live: Collection[bytes], now: float, without: Collection[bytes] = ()) -> list[Effect]:
        """Who is alive has changed; the lost are not waited for.

        `without`: these take no part any more, alive as they are.
        """
        self._declined |= self.exchange.members & set(without)
        self._live = (set(live) | {self._me}) - self._declined
        lost = self.exchange.members - self._live
        changed = self.exchange.lose(lost)
        effects = self._reduce_due()
        if self.commit is not None:
            effects += self.agreement.pass_on(self._live) + self.agreement.changed(self._live)
            return self._agreed(effects, now)
        if changed:
            effects += self._send_due() + self._give(self.exchange.results.keys() & self._given.keys())
        if self.id.leader not in self._live:
            self.trouble = self.trouble or "the leader left"
        if self.leader != self._me:
            return effects + self._follow(now)
        if self._salvage is None and (not self.leads or self._open_chunks()):
            self.trouble = self.trouble or "an owner of chunks left"
            effects += self._ask(now)
        return effects + self._salvaged(now)

    def renewed(self, peers: Collection[bytes]) -> list[Effect]:
        """The way to these members is another one: what was on the old one goes again, it may be lost."""
        if self.report is not None or self.commit is not None:
            return []  # whoever lacks a result of a commit asks for it
        members = self.exchange.members & set(peers) & self._live
        self.exchange.renew(members)
        effects = self._send_due()
        for chunk, (_, signed) in sorted(self.exchange.results.items()):
            to = members if signed.signer == self._me else members & self.exchange.audience(chunk)
            if to:
                effects.append(SendResult(tuple(sorted(to)), self.id, chunk, signed))
        return effects

    def declined(self, peer: bytes, now: float) -> list[Effect]:
        """A member says that it takes no part: nobody waits for it."""
        return self.roster(self._live, now, {peer})

    def tick(self, now: float) -> list[Effect]:
        if self.commit is not None:
            return self._agreed(self.agreement.tick(self._live, now), now)
        effects: list[Effect] = []
        if now >= self.collect_at:
            self.exchange.expire(collected=True)
        if now >= self.scatter_at:
            self.exchange.expire()
        effects += self._reduce_due()
        if self._salvage is not None:
            return effects + self._salvaged(now)
        if self.leads and now >= self.reduce_at:
            return effects + self._slow_owners(now)
        if not self.leads and now >= self.give_up_at:
            # Neither a commit nor a plan that goes on: whoever had to make it is passed over.
            self.trouble = self.trouble or "the leader proposed nothing in time"
            self.give_up_at = now + self.plan.vote_s
            return effects + self.declined(self.leader, now)
        return effects

    # ---- an owner or the leader is gone

    def _open_chunks(self) -> list[int]:
        """Chunks whose result is missing and can't be expected from anybody."""
        return [
            chunk
            for chunk in self.exchange.missing_results()
            if self.exchange.owner(chunk) not in self.able and self._fetching.get(chunk) not in self._live
        ]

    def _slow_owners(self, now: float) -> list[Effect]:
        """The time for results is over: others own what is missing, if there is anybody."""
        slow = self.exchange.missing_owners()
        if not self.able - slow:
            return self.abort("no owner of chunks delivered", now, slow)
        self.unfit |= slow | {*self._fetching.values()}
        self._fetching = {}
        self.hurried = True
        self.trouble = "owners of chunks did not deliver"
        return self._ask(now) + self._salvaged(now)

    def _ask(self, now: float) -> list[Effect]:
        """Begins to collect what members hold. Those of a leader that left tell by themselves."""
        self._salvage = Salvage(now + ANSWER_PART * self.plan.vote_s)
        if not self.leads:
            return []
        return [Send(self.others, pb.Frame(inquiry=pb.Inquiry(session=self.id)))]

    def _follow(self, now: float) -> list[Effect]:
        """Tells the next leader, once, what this node holds."""
        leader = self.leader
        if self.id.leader in self._live or leader == self._told:
            return []
        if not leader:
            return self.end("aborted", "no contributor is left", now, (bytes(self.id.leader),))
        self._told = leader
        self.give_up_at = now + self.plan.vote_s
        return [Send((leader,), pb.Frame(holding=self._holding()))]

    def _holding(self) -> pb.Holding:
        return pb.Holding(session=self.id, chunks=sorted(self.exchange.results))

    def inquiry(self, event: InquiryReceived, now: float) -> list[Effect]:
        if event.sender != self.id.leader:
            return [Dropped(event.sender, "inquiry of a node that does not lead")]
        effects: list[Effect] = []
        if self.commit is not None:
            effects.append(Send((event.sender,), pb.Frame(commit=self.commit[1])))
        return [*effects, Send((event.sender,), pb.Frame(holding=self._holding()))]

    def holding(self, event: HoldingReceived, now: float) -> list[Effect]:
        if event.sender not in self.exchange.members:
            return [Dropped(event.sender, "holding of a node outside the session")]
        if self.commit is not None:
            return [Send((event.sender,), pb.Frame(commit=self.commit[1]))]
        self._early[event.sender] = {c for c in event.message.chunks if c < len(self.plan.owners)}
        if self._salvage is None:
            return []  # this node still has its leader; it may notice in a moment
        return self._salvaged(now)

    def _salvaged(self, now: float) -> list[Effect]:
        """Goes on with the session when all live members have told what they hold."""
        if self._salvage is None:
            return []
        for peer, chunks in self._early.items():
            self._salvage.answer(peer, chunks)
        self._early = {}
        others = (self.exchange.members & self._live) - {self._me}
        if not self._salvage.complete(others, now):
            return []
        if others and not self._salvage.heard():
            return self.abort("no member answers", now, {bytes(self.id.leader)} - {self._me})
        if not self.able and self.exchange.me is None:
            return self.abort("no contributor is left", now, self.exchange.index.keys() - self._live)
        fit = self._live - self.unfit
        holders = {c: self._salvage.holder(c, fit) for c in self.exchange.missing_results()}
        self.resume = {chunk: holder for chunk, holder in holders.items() if holder is not None}
        return []

    def abort(self, reason: str, now: float, missing: Collection[bytes] = ()) -> list[Effect]:
        """The leader ends its session without a commit and tells everyone."""
        frame = pb.Frame(abort=pb.Abort(session=self.id, reason=reason, missing=sorted(missing)))
        return [Send(self.others, frame), *self.end("aborted", reason, now, missing)]

    def aborted(self, reason: str, now: float, missing: Collection[bytes] = ()) -> list[Effect]:
        """Somebody else ended it: its leader, or a newer plan. A commit in hand is not given up."""
        return [] if self.commit is not None else self.end("aborted", reason, now, missing)

    def end(self, outcome: str, reason: str, now: float, missing: Collection[bytes]) -> list[Effect]:
        """Ends the session with this outcome, once."""
        self.blamed = frozenset(missing) if outcome == "aborted" else frozenset()
        planned = tuple(self.exchange.index)
        contributed = self.exchange.contributed() if outcome != "aborted" else set()
        lost = (set(planned) - self._live) | set(missing)
        if self.commit is not None:
            self._marks["propose_s"] = self.agreement.since
        self._marks["end_s"] = now
        self.report = SessionReport(
            session=self.id,
            version=self.head.version + 1,
            outcome=outcome,
            reason=reason,
            planned=planned,
            followers=tuple(self.plan.followers),
            contributed=tuple(sorted(contributed)),
            late=tuple(sorted(self.exchange.late)),
            rejected=tuple(sorted(self.exchange.rejected.items())),
            missing=tuple(sorted(lost)),
            refused=self.agreement.ballot.refusals(self.commit[2]) if self.commit else (),
            tokens=accepted_tokens(self.commit[0]) if self.commit and outcome != "aborted" else 0,
            outer_lr=self.plan.outer_lr,
            codec=self.plan.codec,
            groups=self.exchange.grid.groups,
            codec_reason=codec_choice.reason(self.plan, self._config.codec),
            phases={name: at - self._began for name, at in self._marks.items()},
        )
        return [Ended(self.report)]
