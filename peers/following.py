"""What this node should fetch of its peers, and whose word counts. Sans-IO; time comes in as numbers.

A peer says which commits led to its head, which of them are certified, and which states it holds. Alone, its
word decides little:

    that a commit is certified  counts once its votes were seen (`Prove`); if they can't be, two must say so,
                                or one to a node that has not been in a round with others for a while
    a state that is ahead       is the one that most peers name in the same bits; one peer is enough only for
                                a node that has not been in a round with others for a while; where it sees
                                two of them train that share a commit with it, for a while longer
    a history with no version   in common with ours: a node that goes on alone gives way to two that go on
                                together, even if it is further
    a state of our own chain    in other bits than ours: the minority takes the majority's

Where members may lie (`wary`), a chain that goes on from our head counts if the votes for the commit after it
were seen, or if as many of those who train have it as have not: else a few could make one alone, and all
would follow it. Of two commits of one version without seen votes the one counts that more of them have, what
tokens it claims decides only between equals; so it is with chains that have no version in common.

Whoever shows something else than it said is not believed for a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from atoll.peers.roster import Roster, RosterEntry
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import DIGEST_BYTES

MAX_HELD = 8
"""States that a peer may name; those after are not looked at."""
PROVEN_KEPT = 256
FRESH_ROUNDS = 3
"""A node that was in a round so many rounds' time ago knows where the swarm is."""


@dataclass(frozen=True)
class Timing:
    """Seconds. `patience`: so long a head may be ahead before it is fetched; a round may bring it.

    `distrust` and `again`: how long a peer is not believed, a claim not asked about. `fresh`: the least that
    FRESH_ROUNDS may be.
    """

    patience: float = 3.0
    distrust: float = 60.0
    again: float = 30.0
    fresh: float = 60.0


@dataclass(frozen=True)
class Choice:
    """A state to fetch, and who names it."""

    version: int
    state: bytes
    peers: tuple[bytes, ...]


@dataclass(frozen=True)
class Prove:
    """`peer` says that this commit is certified: its record, with the votes, is to be looked at."""

    peer: bytes
    link: forks.Link


@dataclass(frozen=True)
class Replay:
    """The commits up to this peer's head are to be fetched one by one."""

    entry: RosterEntry


@dataclass(frozen=True)
class Take:
    """A whole state is to be fetched, and takes the place of ours. `why`: "behind", "forked" or "bits"."""

    entry: RosterEntry
    choice: Choice
    why: str


Step = Prove | Replay | Take


def _held(entry: RosterEntry) -> dict[int, bytes]:
    """The states that a peer names, one for each version."""
    found: dict[int, bytes] = {}
    for held in list(entry.status.held)[:MAX_HELD]:
        if len(held.state) == DIGEST_BYTES:
            found.setdefault(int(held.version), bytes(held.state))
    return found


def choose_state(
    entries: Collection[RosterEntry],
    begun: Collection[bytes] = (),
    offered_by: RosterEntry | None = None,
    above: int = -1,
) -> Choice | None:
    """The state that most peers name in the same bits, of those the newest; None where there is none.

    One of which a part is here already (`begun`) goes first, if several name it or nobody is agreed on any.
    With `offered_by` only states that this peer holds, and that no more peers contradict than confirm; and
    only versions after `above`.
    """
    named: dict[tuple[int, bytes], list[bytes]] = {}
    for entry in sorted(entries, key=lambda e: e.peer):
        for held in _held(entry).items():
            named.setdefault(held, []).append(entry.peer)
    allowed = set(named)
    if offered_by is not None:
        most: dict[int, int] = {}
        for (version, _), peers in named.items():
            most[version] = max(most.get(version, 0), len(peers))
        own = set(_held(offered_by).items())
        allowed = {key for key in own & allowed if len(named[key]) == most[key[0]]}
    allowed = {key for key in allowed if key[0] > above}
    if not allowed:
        return None
    agreed = any(len(named[key]) > 1 for key in allowed)

    def rank(key: tuple[int, bytes]) -> tuple[bool, bool, int, int, bytes]:
        several = len(named[key]) > 1 or not agreed
        return several, several and key[1] in begun, len(named[key]), *key

    version, state = max(allowed, key=rank)
    return Choice(version, state, tuple(named[version, state]))


class Following:
    """One node's judgement. `doubted` hears whom it does not believe any more, and why.

    `reach`: so many versions back the logs of peers go. `wary`: members may lie. `past`: digests of the
    versions that led to this node's head, further back than its chain goes, as far as they are known.
    `trains`: whether a peer that says so may; observers may not.
    """

    def __init__(
        self,
        roster: Roster,
        reach: int,
        doubted: Callable[[bytes, str], None],
        timing: Timing | None = None,
        wary: bool = False,
        past: Callable[[], Collection[bytes]] = tuple,
        trains: Callable[[bytes], bool] = lambda peer: True,
    ) -> None:
        self._roster = roster
        self._reach = reach
        self._doubted = doubted
        self._timing = timing or Timing()
        self._wary = wary
        self._past = past
        self._trains = trains
        self._distrusted: dict[bytes, float] = {}
        self._asked: dict[tuple[bytes, bytes], float] = {}
        self._proven: dict[bytes, None] = {}
        self._met: deque[float] = deque(maxlen=4)
        self._since: float | None = None
        self._stuck: bytes | None = None
        self._waiting: float | None = None
        self._together = self._away = -1
        self._company: set[bytes] = set()
        self._company_at = -math.inf
        self._alone: set[bytes] = set()
        self._claimed = False  # whether the last step was to look at a claim

    # ---- whose word counts

    def distrust(self, peer: bytes, reason: str, now: float) -> None:
        """A peer showed something else than it said."""
        self._distrusted[peer] = now + self._timing.distrust
        self._doubted(peer, reason)

    def trusted(self, now: float) -> list[RosterEntry]:
        """Peers with a state whose word counts, in an order that does not depend on chance."""
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        entries = self._roster.entries
        return [
            entries[peer]
            for peer in sorted(entries)
            if entries[peer].status.state != pb.JOINING and peer not in self._distrusted
        ]

    def met(self, now: float) -> None:
        """A round in which others took part brought a commit."""
        self._met.append(now)
        self._waiting = None

    def _look(self, mine: forks.Chain, now: float) -> None:
        """Two peers that go on together tell where the swarm is as well: on our chain, or elsewhere."""
        entries = [entry for entry in self.trusted(now) if entry.chain]
        here = [entry for entry in entries if forks.on_one_chain(mine, entry.chain)]
        if _second(here) > self._together > -1:
            self.met(now)
        self._together = _second(here)
        away = [e for e in entries if not forks.share(mine, e.chain) and e.chain[0].version < mine[0].version]
        if away:
            past = self._past()
            away = [e for e in away if e.chain[0].digest not in past]
        leader = max(away, key=lambda e: (e.chain[0].version, e.peer), default=None)
        company = [e for e in away if leader is not None and forks.on_one_chain(leader.chain, e.chain)]
        if _second(company) > self._away > -1:
            self._company_at = now
        self._away = _second(company)
        self._company = (
            {entry.peer for entry in company} if self._company_at > now - self._timing.fresh else set()
        )

    def _fresh(self, now: float) -> bool:
        """Whether this node was in a round with others a little while ago, or saw two others in one."""
        if not self._met:
            return False
        return now - self._met[-1] < max(self._timing.fresh, FRESH_ROUNDS * (self._met[-1] - self._met[0]))

    # ---- what is certified

    def known(self, mine: forks.Chain) -> set[bytes]:
        """Commits that are certified as far as this node knows."""
        return forks.certified_in([mine]) | self._proven.keys()

    def proven(self, digest: bytes) -> None:
        """The votes for a commit were seen."""
        self._proven[digest] = None
        while len(self._proven) > PROVEN_KEPT:
            del self._proven[next(iter(self._proven))]

    def unshown(self, peer: bytes, digest: bytes, now: float) -> None:
        """A peer could not show the votes, or they can't be judged here: then two peers' word counts.

        One is enough for a node that has not been in a round with others for a while.
        """
        self._asked = {key: until for key, until in self._asked.items() if until > now}
        self._asked[peer, digest] = now + self._timing.again
        chains = [entry.chain for entry in self.trusted(now) if entry.chain]
        say = sum(any(link.certified and link.digest == digest for link in chain) for chain in chains)
        if self._wary:
            enough = 2 * say > len(chains)
        else:
            enough = say >= (min(2, len(chains)) if self._fresh(now) else 1)
        if enough:
            self.proven(digest)

    def _claim(self, mine: forks.Chain, known: set[bytes], now: float) -> Prove | None:
        """A claim that would change something: of a commit that we hold, or that would win a fork."""
        held, training = {(link.version, link.digest) for link in mine}, self._training()
        for entry in self.trusted(now):
            news = [x for x in entry.chain if x.certified and x.version and x.digest not in known]
            news = [x for x in news if self._asked.get((entry.peer, x.digest), 0.0) <= now]
            if not news:
                continue
            pair = forks.parting(mine, entry.chain)
            for said in news:
                if (said.version, said.digest) in held:
                    return Prove(entry.peer, said)
                decides = pair is not None and pair[1].digest == said.digest
                goes_on = pair is None and said.version == mine[0].version + 1
                if goes_on and not self._leads_on(mine, entry, known, training):
                    return Prove(entry.peer, said)
                loses = decides and not self._compare(mine, entry.chain, known, training).follow
                if loses and self._compare(mine, entry.chain, known | {said.digest}, training).follow:
                    return Prove(entry.peer, said)
        return None

    # ---- which chain

    def _training(self) -> list[forks.Chain]:
        """Where members may lie: chains of the others who train, as they say and may, and are believed.

        To be asked once for a decision: whether a peer may is looked up in the roll of members.
        """
        if not self._wary:
            return []
        return [
            entry.chain
            for peer, entry in self._roster.entries.items()
            if entry.chain
            and entry.status.state == pb.TRAINING
            and peer not in self._distrusted
            and self._trains(peer)
        ]

    def _compare(
        self,
        mine: forks.Chain,
        theirs: forks.Chain,
        known: Collection[bytes],
        training: Sequence[forks.Chain] | None = None,
    ) -> forks.Choice:
        """What a peer's chain is to ours. `training`: as `_training` says, where it was asked already."""
        return forks.compare(mine, theirs, known, self._weights(mine, training))

    def _weights(self, mine: forks.Chain, training: Sequence[forks.Chain] | None = None) -> list[forks.Chain]:
        """By which chains it is judged how many have a commit; none where tokens are believed."""
        return [mine, *(self._training() if training is None else training)] if self._wary else []

    def _candidates(self, mine: forks.Chain, known: set[bytes], now: float) -> list[RosterEntry]:
        """Peers whose chain is to be followed instead of `mine`, if any is."""
        trusted, training = [e for e in self.trusted(now) if e.chain], self._training()
        found = [e for e in trusted if self._leads_on(mine, e, known, training)]
        if not found and not self._fresh(now):
            # Too far apart to compare: whoever goes on alone gives way to those who go on together.
            return [e for e in trusted if e.peer in self._company and not forks.share(mine, e.chain)]
        alone = {e.peer for e in found if not self._believed(mine, e, now)}
        for peer in alone - self._alone:
            self._doubted(peer, "nobody else names the state that it says is ahead")
        self._alone = alone
        return [e for e in found if e.peer not in alone]

    def _leads_on(
        self, mine: forks.Chain, entry: RosterEntry, known: set[bytes], training: Sequence[forks.Chain]
    ) -> bool:
        """Whether a peer's chain is to be had instead of `mine`: where members may lie, not by its claims."""
        choice = self._compare(mine, entry.chain, known, training)
        apart = not forks.share(mine, entry.chain)
        if not self._wary or choice.fork or not (apart or choice is forks.Choice.AHEAD):
            return choice.follow
        if apart and entry.chain[0].digest in self._past():
            return False  # it is behind us, however many are there
        after = mine[0].version + 1
        if any(link.version == after and link.digest in known for link in entry.chain):
            return True
        return forks.has_weight(mine, entry.chain, training)

    def leads(self, mine: forks.Chain, entry: RosterEntry) -> bool:
        """Whether the next commit of a peer's chain is to be had: it may have made the last ones alone."""
        return bool(entry.chain) and self._leads_on(mine, entry, self.known(mine), self._training())

    def ahead(self, mine: forks.Chain, now: float) -> set[bytes]:
        """Peers whose chain is to be followed instead of `mine`."""
        return {e.peer for e in self._candidates(mine, self.known(mine), now)}

    def best(self, mine: forks.Chain, now: float) -> RosterEntry | None:
        """The peer with the chain to have instead of `mine`; None where that is the best."""
        known = self.known(mine)
        candidates = self._candidates(mine, known, now)
        index = forks.best(mine, [e.chain for e in candidates], known, self._weights(mine))
        if index is None:
            return max(candidates, key=lambda e: e.chain[0].version, default=None)
        return candidates[index]

    def next(
        self,
        mine: forks.Chain,
        held: Collection[tuple[int, bytes]],
        now: float,
        begun: Callable[[], Collection[bytes]] = tuple,
        prefetched: bool = False,
    ) -> Step | None:
        """What to do now, if anything.

        `held`: (version, state) of our own checkpoints. `begun`: states of which a part is here.
        `prefetched`: the next commit is here already.
        """
        self._look(mine, now)
        known = self.known(mine)
        claim, best = self._claim(mine, known, now), self.best(mine, now)
        if best is None:
            self._since = None
        elif self._since is None:
            self._since = now
        waited = self._since is not None and now - self._since >= self._timing.patience
        replay = self._replay(best, mine, known, prefetched) if best is not None and waited else None
        # Where commits come fast there is always a claim: every other step goes on along our own chain.
        self._claimed = claim is not None and not (self._claimed and replay is not None)
        if claim is not None and self._claimed:
            return claim
        if best is None:
            return self._repair(mine, held, now)
        if not waited or replay is not None:
            return replay
        forked = self._compare(mine, best.chain, known) is not forks.Choice.AHEAD
        choice = choose_state(self.trusted(now), begun(), best, -1 if forked else mine[0].version)
        if choice is None:
            self.distrust(best.peer, "it has no state to show that others don't contradict", now)
            return None
        if not forked and not self._enough(mine, choice, now):
            self.distrust(best.peer, "its commits can't be had, and nobody else names its state", now)
            return None
        return Take(best, choice, "forked" if forked else "behind")

    def _replay(
        self, best: RosterEntry, mine: forks.Chain, known: set[bytes], prefetched: bool
    ) -> Replay | None:
        """Going on along our own chain, where that is near enough."""
        near = prefetched or best.chain[0].version - mine[0].version <= self._reach
        forked = self._compare(mine, best.chain, known) is not forks.Choice.AHEAD
        return Replay(best) if not forked and near and self._stuck != mine[0].digest else None

    def still(self, step: Take, mine: forks.Chain) -> bool:
        """Whether a fetched state is still to take the place of ours: rounds went on meanwhile."""
        if step.why == "bits":
            return True
        now = self._compare(mine, step.entry.chain, self.known(mine))
        if step.why == "behind":
            return now is forks.Choice.AHEAD and step.choice.version > mine[0].version
        return now is forks.Choice.WINS or not forks.share(mine, step.entry.chain)

    def stuck(self, digest: bytes) -> None:
        """From this head on nobody could give the next commit: a whole state is needed."""
        self._stuck = digest

    def _believed(self, mine: forks.Chain, entry: RosterEntry, now: float) -> bool:
        """Whether a head counts: its commits can be replayed or judged, or others name its state as well."""
        gap = entry.chain[0].version - mine[0].version
        if forks.share(mine, entry.chain) and (gap <= self._reach or forks.parting(mine, entry.chain)):
            return True
        choice = choose_state(self.trusted(now), (), entry, mine[0].version)
        return choice is None or self._enough(mine, choice, now)

    def _enough(self, mine: forks.Chain, choice: Choice, now: float) -> bool:
        """Whether as many name a state that is ahead as it takes to believe it."""
        if len(choice.peers) > 1:
            return True
        held = {(link.version, link.digest) for link in mine}
        together = sum(
            other.status.state == pb.TRAINING
            and any((link.version, link.digest) in held for link in other.chain)
            for other in self.trusted(now)
            if other.peer not in choice.peers
        )
        if self._fresh(now):
            return False
        if together < 2:
            return True
        # They may have lost the way together: when no round brings anything for long, it is tried.
        self._waiting = now if self._waiting is None else self._waiting
        return now - self._waiting >= self._timing.fresh

    def _repair(self, mine: forks.Chain, held: Collection[tuple[int, bytes]], now: float) -> Take | None:
        """A state of our own chain that most others have in other bits than we."""
        entries = self.trusted(now)
        named = [(entry, _held(entry)) for entry in entries]
        for version, state in held:
            others: dict[bytes, list[RosterEntry]] = {}
            for entry, states in named:
                other = states.get(version, state)
                if other != state and _both_have(mine, entry.chain, version):
                    others.setdefault(other, []).append(entry)
            if not others:
                continue
            same = 1 + sum(states.get(version) == state for _, states in named)
            other, those = max(others.items(), key=lambda item: (len(item[1]), item[0]))
            # Two alone can't know which of them is right, but they can agree.
            tie = len(those) == same and len(entries) == 1 and other < state
            if len(those) > same or tie:
                return Take(those[0], Choice(version, other, tuple(e.peer for e in those)), "bits")
        return None


def _second(entries: Collection[RosterEntry]) -> int:
    """The version that two of them have reached; -1 where there are no two."""
    versions = sorted(entry.chain[0].version for entry in entries)
    return versions[-2] if len(versions) > 1 else -1


def _both_have(mine: forks.Chain, theirs: forks.Chain, version: int) -> bool:
    """Whether a version of both chains is the same commit."""
    digests = {link.digest for link in mine if link.version == version}
    return any(link.digest in digests for link in theirs)
