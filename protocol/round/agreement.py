"""The second half of a session, from the first sight of a commit: hold it, vote for it, see it certified.

A member that lacks results asks for them, puts everything on stable storage, and only then votes, or says
that it is against the commit. When a majority of the parent's electorate has voted the commit is certified;
when its time is over, or the voters that are missing have left, it is provisional; `outcome` then says which
and why. A member that never got all results has missed it. A commit is aborted where at least half of the
voters in the session are against it; and, if no majority is for it in time, by whoever is.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head, commit_digest
from atoll.protocol.round.ballot import Ballot
from atoll.protocol.round.commit import CommitError, check_commit
from atoll.protocol.round.exchange import Exchange
from atoll.protocol.round.types import (
    AbortReceived,
    CommitReceived,
    Dropped,
    Effect,
    Persist,
    Persisted,
    Send,
    VoteReceived,
)
from atoll.protocol.signing import Keyring

WANT_AFTER = 0.1
"""Part of the voting time after which results that are still missing are asked for."""


class Agreement:
    """One session's commit as this node sees it. `live` is who is here, this node among them."""

    def __init__(self, keyring: Keyring, head: Head, exchange: Exchange, ballot: Ballot) -> None:
        self._keyring = keyring
        self._me = keyring.peer_id
        self._head = head
        self._exchange = exchange
        self.ballot = ballot
        self.commit: tuple[pb.Commit, pb.Signed, bytes] | None = None
        self.since = math.inf
        """When the commit was first seen."""
        self.voted = False
        """Whether this node holds all of it durably, and has voted, or refused to, if it may."""
        self.outcome: tuple[str, str] | None = None
        """Outcome and reason, once it is decided."""
        self.persisting = False
        self._vote_at = math.inf
        self._want_at = math.inf
        self._asked: dict[int, bytes] = {}
        self._patient = True
        self._passed_on = False

    def deadline(self) -> float:
        """When `tick` has something to do."""
        return min(self._vote_at, self._want_at)

    def _others(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._exchange.members - {self._me}))

    def propose(self, event: CommitReceived, live: Collection[bytes], now: float) -> list[Effect]:
        """A commit came, of this session or of one that it continues."""
        plan = self._exchange.plan
        if event.signed.signer != event.message.session.leader:
            return [Dropped(event.sender, "commit that is not by the session's leader")]
        if self.commit is not None:
            same = self.commit[1].body == event.signed.body
            return [] if same else [Dropped(event.sender, "second, different commit in one session")]
        try:
            check_commit(self._head, self._exchange, event.message)
        except CommitError as error:
            return [Dropped(event.sender, str(error))]
        self.commit = (event.message, event.signed, commit_digest(event.signed.body))
        self.since, self._vote_at = now, now + plan.vote_s
        # A commit is small and overtakes the last results: they get a moment before they are asked for.
        self._want_at = now + plan.vote_s * WANT_AFTER
        inherited = event.message.session != plan.session and plan.session.leader == self._me
        return self.pass_on(live, inherited) + self.seek(live)

    def pass_on(self, live: Collection[bytes], always: bool = False) -> list[Effect]:
        """Sends the commit to everyone, once, if its leader may have left before it did."""
        assert self.commit is not None
        if self._passed_on or not (always or self._exchange.plan.session.leader not in live):
            return []
        self._passed_on = True
        return [Send(self._others(), pb.Frame(commit=self.commit[1]))]

    def seek(self, live: Collection[bytes]) -> list[Effect]:
        """Puts the commit on stable storage once all of it is here; asks for what does not come by itself."""
        assert self.commit is not None
        if self.persisting:
            return []
        message, signed, _ = self.commit
        session = self._exchange.plan.session
        lacking = self._exchange.mismatched(message)
        if not lacking:
            self.persisting, self._want_at = True, math.inf
            return [Persist(session, signed)]
        # A held result that differs gives way to the commit's; one whose owner is gone is not on its way.
        other = self._exchange.forget(lacking)
        gone = {chunk for chunk in lacking if self._exchange.counterpart(chunk) not in live}
        holder = self._holder(live)
        due = [
            chunk
            for chunk in lacking
            if (chunk in other | gone or not self._patient) and self._asked.get(chunk) != holder
        ]
        if holder is None or not due:
            return []
        self._asked.update(dict.fromkeys(due, holder))
        return [Send((holder,), pb.Frame(want=pb.Want(session=session, chunks=due)))]

    def _holder(self, live: Collection[bytes]) -> bytes | None:
        """A live member that holds all of the commit: its leader, else a voter."""
        assert self.commit is not None
        voters = [bytes(signed.signer) for signed in self.ballot.votes(self.commit[2])]
        holders = [peer for peer in (bytes(self._exchange.plan.session.leader), *voters) if peer in live]
        return next((peer for peer in holders if peer != self._me), None)

    def persisted(self, live: Collection[bytes], event: Persisted) -> list[Effect]:
        """It is on stable storage: votes, if this node has a vote left for the parent, or says why not."""
        assert self.commit is not None
        self.voted = True
        if event.refusal:
            refused = self.ballot.refuse(self.commit[2], self._me)
            self._count(live)
            if refused is not None:
                return []  # it is no voter, or had voted before it started again
            # Whoever was left out of the session hears that its leader can't bring it to an end.
            peers = (self._exchange.members | set(self._head.electorate)) - {self._me}
            session = self.commit[0].session
            abort = pb.Abort(session=session, reason=event.refusal, commit=self.commit[2])
            return [Send(tuple(sorted(peers)), pb.Frame(abort=abort))]
        if self._me not in self._head.electorate or not event.may_vote:
            self._count(live)
            return []  # it holds the commit, but has no vote on it
        # The session of the commit: whoever is still in that one counts it as well.
        vote = pb.Vote(session=self.commit[0].session, commit=self.commit[2])
        signed = self._keyring.sign("vote", vote.SerializeToString(deterministic=True))
        self.ballot.put(self.commit[2], signed)
        self._count(live)
        return [Send(self._others(), pb.Frame(vote=signed))]

    def vote(self, event: VoteReceived, live: Collection[bytes]) -> list[Effect]:
        """Somebody's vote; votes may come before the commit."""
        reason = self.ballot.put(bytes(event.message.commit), event.signed)
        if reason:
            return [Dropped(event.sender, reason)]
        return [] if self.commit is None else self.changed(live)

    def refusal(self, event: AbortReceived, live: Collection[bytes]) -> list[Effect]:
        """Somebody is against a commit; that may come before the commit."""
        reason = self.ballot.refuse(bytes(event.message.commit), event.sender)
        if reason:
            return [Dropped(event.sender, reason)]
        return [] if self.commit is None else self.changed(live)

    def changed(self, live: Collection[bytes]) -> list[Effect]:
        """Votes came, or members left."""
        effects = self.seek(live)
        self._count(live)
        return effects

    def _count(self, live: Collection[bytes]) -> None:
        assert self.commit is not None
        # Whoever is not in the session has no vote on it.
        if self.ballot.outvoted(self.commit[2], self._exchange.members, live):
            self.outcome = "aborted", self._refused()
            return
        if not self.voted:
            return
        if self.ballot.certified(self.commit[2]):
            self.outcome = "certified", "a majority holds it"
            return
        if not self.ballot.awaits(live, self._me):
            alone = self.ballot.missing() == (self._me,)
            why = "this node has no vote left for it" if alone else "the voters that are missing have left"
            self.outcome = self._without_majority(why)

    def _without_majority(self, why: str) -> tuple[str, str]:
        """Outcome and reason of a commit that this node holds, and that is not certified."""
        assert self.commit is not None
        if self._me in self.ballot.refusals(self.commit[2]):
            return "aborted", self._refused()
        return "provisional", why

    def _refused(self) -> str:
        assert self.commit is not None
        against, voters = len(self.ballot.refusals(self.commit[2])), len(self._head.electorate)
        return f"{against} of {voters} voters refuse its results"

    def tick(self, live: Collection[bytes], now: float) -> list[Effect]:
        """Time has passed."""
        if now >= self._vote_at:
            self.outcome = (
                self._without_majority("no majority answered in time")
                if self.voted
                else ("missed", "results of the commit did not come in time")
            )
            return []
        if now < self._want_at:
            return []
        self._want_at, self._patient = math.inf, False
        return self.seek(live)
