"""One session, from an accepted plan to its end: scatter, reduce, commit, vote.

Every wait has a deadline, counted from the moment the plan was accepted (durations, never wall-clock times):

    start ── scatter_s ──▸ owners reduce with what came ── reduce_s ──▸ leader needs all results
    then, for members ── vote_s ──▸ the leader has to have proposed
    commit seen ── vote_s ──▸ a majority has certified it, or it is provisional

When the leader leaves before a commit is seen here, one may still be with others: if all results or a vote
are here, half of vote_s is given to whoever has it (members pass a commit on when its leader leaves).

A session ends once, as `certified`, `provisional` (this node holds the commit, a majority was not heard),
`aborted` (nothing changes) or `missed` (others may have committed; this node has to catch up).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, commit_digest
from atoll.protocol.round.ballot import Ballot
from atoll.protocol.round.commit import CommitError, accepted_tokens, check_commit, make_commit
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.types import (
    Apply,
    ChunkReduced,
    CommitReceived,
    ContributionArrived,
    ContributionRejected,
    Dropped,
    Effect,
    Ended,
    Persist,
    Reduce,
    ResultArrived,
    RoundConfig,
    Scatter,
    Send,
    SendResult,
    SessionReport,
    StoreResult,
    VoteReceived,
    WantReceived,
)
from atoll.protocol.signing import Keyring

WANT_AFTER = 0.1
"""Part of the voting time after which results that are still missing are asked for."""
GIVE_UP_AFTER = 0.5
"""Part of the voting time in which a commit may still come when its leader has left."""


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
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._me = keyring.peer_id
        self._live = set(live) | {self._me}
        self._declined: set[bytes] = set()
        self.head = head
        self.plan = plan
        self.id = plan.session
        self.exchange = Exchange(plan, self._me)
        self.ballot = Ballot(head.electorate)
        self.commit: tuple[pb.Commit, pb.Signed, bytes] | None = None
        self.persisting = False
        self.voted = False
        self.report: SessionReport | None = None
        self.blamed: frozenset[bytes] = frozenset()
        self.scatter_at = now + plan.scatter_s
        self.reduce_at = self.scatter_at + plan.reduce_s
        self.vote_at = math.inf
        self.want_at = math.inf
        self.give_up_at = self.reduce_at + plan.vote_s
        self._asked: dict[int, bytes] = {}
        self._patient = True
        self._passed_on = False
        self._began = now
        self._marks: dict[str, float] = {}

    @property
    def leads(self) -> bool:
        return bool(self.id.leader == self._me)

    @property
    def others(self) -> tuple[bytes, ...]:
        return tuple(sorted(self.exchange.members - {self._me}))

    def deadline(self) -> float:
        """When `tick` has something to do."""
        if self.commit is not None:
            return min(self.vote_at, self.want_at)
        times = [self.reduce_at if self.leads else self.give_up_at]
        if any(owned.waiting for owned in self.exchange.owned.values()):
            times.append(self.scatter_at)
        return min(times)

    # ---- scatter and reduce

    def start(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.exchange.me is not None:
            effects.append(Scatter(self.plan, self.scatter_at))
        return effects + self.roster(self._live, now)

    def contribution(self, event: ContributionArrived, now: float) -> list[Effect]:
        reason = self.exchange.contribute(event.sender, event.chunk, event.payload)
        return [Dropped(event.sender, reason)] if reason else self._reduce_due()

    def refused(self, event: ContributionRejected, now: float) -> list[Effect]:
        self.exchange.refuse(event.sender, event.chunk, event.reason)
        return [Dropped(event.sender, event.reason), *self._reduce_due()]

    def _reduce_due(self) -> list[Effect]:
        return [Reduce(self.plan, chunk, given) for chunk, given in self.exchange.due()]

    def reduced(self, event: ChunkReduced, now: float) -> list[Effect]:
        message = pb.ChunkResult(
            session=self.id,
            chunk=event.chunk,
            contributors=event.contributors,
            payload_digest=event.payload_digest,
        )
        signed = self._keyring.sign("result", message.SerializeToString(deterministic=True))
        reason = self.exchange.add_result(message, signed)
        if reason:
            return [Dropped(self._me, reason)]  # before a restart, this node signed another one
        return [
            StoreResult(self.id, event.chunk, event.payload),
            SendResult(self.others, self.id, event.chunk, signed),
            *self._results_changed(now),
        ]

    def result(self, event: ResultArrived, now: float) -> list[Effect]:
        known = event.message.chunk in self.exchange.results
        reason = self.exchange.add_result(event.message, event.signed)
        if reason:
            return [Dropped(event.sender, reason)]
        if known:
            return []  # it was asked for and came twice
        return [StoreResult(self.id, event.message.chunk, event.payload), *self._results_changed(now)]

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
            return self._seek(now)
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
        if event.signed.signer != self.id.leader:
            return [Dropped(event.sender, "commit that is not by the session's leader")]
        if self.commit is not None:
            same = self.commit[1].body == event.signed.body
            return [] if same else [Dropped(event.sender, "second, different commit in one session")]
        try:
            check_commit(self.head, self.exchange, event.message)
        except CommitError as error:
            return [Dropped(event.sender, str(error))]
        self.commit = (event.message, event.signed, commit_digest(event.signed.body))
        self.vote_at = now + self.plan.vote_s
        # A commit is small and overtakes the last results: they get a moment before they are asked for.
        self.want_at = now + self.plan.vote_s * WANT_AFTER
        self._marks["propose_s"] = now
        return self._seek(now)

    def _seek(self, now: float) -> list[Effect]:
        """Puts the commit on stable storage once all of it is here; asks for what does not come by itself."""
        assert self.commit is not None
        if self.persisting:
            return []
        message, signed, _ = self.commit
        lacking = self.exchange.mismatched(message)
        if not lacking:
            self.persisting, self.want_at = True, math.inf
            return [Persist(self.id, signed)]
        # A held result that differs gives way to the commit's; one whose owner is gone is not on its way.
        other = self.exchange.forget(lacking)
        gone = {chunk for chunk in lacking if self.exchange.owner(chunk) not in self._live}
        holder = self._holder()
        due = [
            chunk
            for chunk in lacking
            if (chunk in other | gone or not self._patient) and self._asked.get(chunk) != holder
        ]
        if holder is None or not due:
            return []
        self._asked.update(dict.fromkeys(due, holder))
        return [Send((holder,), pb.Frame(want=pb.Want(session=self.id, chunks=due)))]

    def _holder(self) -> bytes | None:
        """A live member that holds all of the commit: its leader, else a voter."""
        assert self.commit is not None
        voters = [bytes(signed.signer) for signed in self.ballot.votes(self.commit[2])]
        holders = [peer for peer in (bytes(self.id.leader), *voters) if peer in self._live]
        return next((peer for peer in holders if peer != self._me), None)

    def persisted(self, now: float) -> list[Effect]:
        assert self.commit is not None
        self.voted = True
        self._marks["persist_s"] = now
        if self._me not in self.head.electorate:
            return self._count(now)  # it holds the commit, but has no vote on it
        vote = pb.Vote(session=self.id, commit=self.commit[2])
        signed = self._keyring.sign("vote", vote.SerializeToString(deterministic=True))
        self.ballot.put(self.commit[2], signed)
        return [Send(self.others, pb.Frame(vote=signed)), *self._count(now)]

    def vote(self, event: VoteReceived, now: float) -> list[Effect]:
        reason = self.ballot.put(bytes(event.message.commit), event.signed)
        if reason:
            return [Dropped(event.sender, reason)]
        return [] if self.commit is None else self._seek(now) + self._count(now)

    def _count(self, now: float) -> list[Effect]:
        assert self.commit is not None
        if not self.voted:
            return []
        if self.ballot.certified(self.commit[2]):
            return self._apply("certified", "a majority holds it", now)
        if not set(self.ballot.missing()) & self._live:
            return self._apply("provisional", "the voters that are missing have left", now)
        return []

    def _apply(self, outcome: str, reason: str, now: float) -> list[Effect]:
        assert self.commit is not None
        _, signed, digest = self.commit
        missing = () if outcome == "certified" else self.ballot.missing()
        return [
            *self.end(outcome, reason, now, missing),
            Apply(signed, self.ballot.votes(digest), outcome == "certified", self.head),
        ]

    # ---- time, loss and the end

    def roster(self, live: Collection[bytes], now: float) -> list[Effect]:
        """Who is alive has changed; the lost are not waited for."""
        self._live = (set(live) | {self._me}) - self._declined
        lost = self.exchange.members - self._live
        self.exchange.lose(lost)
        effects = self._reduce_due()
        leader = bytes(self.id.leader)
        if self.commit is not None:
            return [*effects, *self._pass_on(leader in lost), *self._seek(now), *self._count(now)]
        owners = self.exchange.missing_owners() & lost
        if self.leads and owners:
            return effects + self.abort("an owner of chunks left", now, owners)
        if leader in lost:
            if self.exchange.missing_results() and not self.ballot.heard():
                return effects + self.end("aborted", "the leader left", now, (leader,))
            self.give_up_at = min(self.give_up_at, now + GIVE_UP_AFTER * self.plan.vote_s)
        return effects

    def _pass_on(self, leader_lost: bool) -> list[Effect]:
        """Sends the commit to everyone, once: its leader may have left before it did."""
        if not leader_lost or self._passed_on:
            return []
        assert self.commit is not None
        self._passed_on = True
        return [Send(self.others, pb.Frame(commit=self.commit[1]))]

    def declined(self, peer: bytes, now: float) -> list[Effect]:
        """A member says that it takes no part: nobody waits for it."""
        self._declined.add(peer)
        return self.roster(self._live, now)

    def tick(self, now: float) -> list[Effect]:
        if self.commit is not None:
            return self._tick_commit(now)
        effects: list[Effect] = []
        if now >= self.scatter_at:
            self.exchange.expire()
            effects += self._reduce_due()
        if self.leads and now >= self.reduce_at:
            return effects + self.abort(
                "owners of chunks did not deliver", now, self.exchange.missing_owners()
            )
        if not self.leads and now >= self.give_up_at:
            leader = bytes(self.id.leader)
            reason = "the leader proposed nothing in time" if leader in self._live else "the leader left"
            return effects + self.end("aborted", reason, now, (leader,))
        return effects

    def _tick_commit(self, now: float) -> list[Effect]:
        if now >= self.vote_at:
            if self.voted:
                return self._apply("provisional", "no majority answered in time", now)
            return self.end("missed", "results of the commit did not come in time", now, ())
        if now < self.want_at:
            return []
        self.want_at, self._patient = math.inf, False
        return self._seek(now)

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
            tokens=accepted_tokens(self.commit[0]) if self.commit else 0,
            outer_lr=self.plan.outer_lr,
            phases={name: at - self._began for name, at in self._marks.items()},
        )
        return [Ended(self.report)]
