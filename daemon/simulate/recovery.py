"""Getting what a node lacks: the synchronous twin of daemon/recovery.py and daemon/rounds/sync.py.

A fetch is a generator that yields what it asks for and is sent the answer (None: it can't be had); only one
is under way at a time. Missed commits are tried first, then a whole state that most holders have the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate.download import Download
from atoll.daemon.simulate.store import Damaged
from atoll.daemon.storage.round_log import KEEP, RoundLogError, parse_record
from atoll.peers.roster import RosterEntry
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

BEHIND_S = 0.6
REPLAY_LIMIT = 3
RETRY_S = 1.0
ASK_S = 4.0
DISTRUST_S = 20.0


@dataclass(frozen=True)
class Small:
    """A file of one holder, in one piece."""

    holder: bytes
    kind: str
    version: int


@dataclass(frozen=True)
class Whole:
    """A state that these holders have."""

    version: int
    state: bytes
    holders: tuple[bytes, ...]


Fetch = Generator[Small | Whole, bytes | None, None]
"""Yields what it asks for, and is sent the answer."""


class Failed(Exception):
    """Nobody could give what was asked for."""


class Recovery:
    """Fetches for one node."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._fetch: Fetch | None = None
        self._behind_since: float | None = None
        self._distrusted: dict[bytes, float] = {}

    @property
    def fetching(self) -> bool:
        return self._fetch is not None

    # ---- generators on virtual time

    def _begin(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._answer(None)

    def _answer(self, content: bytes | None) -> None:
        assert self._fetch is not None
        try:
            wanted = self._fetch.send(content)
        except StopIteration:
            self._fetch = None
            return
        node = self._node
        if isinstance(wanted, Whole):
            Download(node, wanted.version, wanted.state, wanted.holders, self._answer).start()
        else:
            holder = node.others[wanted.holder]
            node.network.ask(node, holder, wanted.kind, wanted.version, self._answer, ASK_S)

    # ---- at the start

    def join(self) -> None:
        """A fresh node: the state that most holders have."""
        self._begin(self._join())

    def _join(self) -> Fetch:
        node = self._node
        try:
            yield from self._take_state(self._entries())
        except (Failed, Damaged, AtollError) as error:
            node.engine.say("{} can't have the state yet: {}", node.name, str(error))
            node.later(RETRY_S, self.join)
            return
        node.begin_rounds()

    def _entries(self) -> list[RosterEntry]:
        """Peers with a state, in an order that does not depend on chance."""
        now, entries = self._node.engine.now, self._node.roster.entries
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        return [
            entries[peer]
            for peer in sorted(entries)
            if entries[peer].status.state != pb.JOINING and peer not in self._distrusted
        ]

    def _take_state(self, believed: list[RosterEntry]) -> Fetch:
        """Takes over the newest state that most of `believed` have in the same bits, from all who have it."""
        node = self._node
        said = Counter((h.version, bytes(h.state)) for e in believed for h in e.status.held)
        most = max(said.values(), default=0)
        if not most:
            raise Failed("nobody has a state")
        version, state = max(key for key, count in said.items() if count == most)
        held = pb.HeldState(version=version, state=state)
        holders = [entry.peer for entry in self._entries() if held in entry.status.held]
        content = yield Whole(version, state, tuple(holders))
        if content is None:
            raise Failed("no holder gave it whole")
        if node.running:
            node.island.save()  # what commits accepted is in the books before the log forgets them
        node.store.take_over(content)

    # ---- later

    def keep_up(self) -> None:
        """Called again and again: fetches what the swarm has and this node lacks, when no round brings it."""
        node = self._node
        entries = self._entries()
        node.store.certify({link.digest for entry in entries for link in entry.chain if link.certified})
        best = node.roster.to_follow(node.store.chain, self._distrusted)
        if best is None or node.in_round or self._fetch is not None:
            self._behind_since = None if best is None else self._behind_since
            return
        now = node.engine.now
        self._behind_since = self._behind_since or now
        if now - self._behind_since >= BEHIND_S:
            self._behind_since = None
            self._begin(self._catch_up(best))

    def _catch_up(self, best: RosterEntry) -> Fetch:
        node = self._node
        node.engine.say("{} catches up with {}", node.name, node.others[best.peer].name)
        # No session may begin at a head that is about to be left.
        node.feed(t.CatchingUp(True))
        mine, before = node.store.chain, node.store.head.digest
        missed: list[tuple[pb.Commit, bytes]] = []  # commits from our head on
        later: list[tuple[pb.Commit, bytes]] = []  # commits from a state that was taken over on
        whole = False
        try:
            try:
                yield from self._replay(best, missed)
            except Failed as error:
                node.engine.say("{} can't replay: {}", node.name, str(error))
                # What replay brought is told and booked first: the rest of the way is the next call's.
                if not missed:
                    yield from self._take_state([best])
                    whole = True
                    node.oracle.left(node, mine, best.chain)
                    node.oracle.moved(node, None)
                    # A checkpoint lags behind its holder's head: a round from there would be a fork.
                    if node.store.head.version < best.status.version:
                        yield from self._replay(best, later)
        except (Failed, Damaged) as error:
            # Somebody who can't show what it claims is not believed again for a while.
            self._distrusted[best.peer] = node.engine.now + DISTRUST_S
            node.engine.say("{} can't catch up: {}", node.name, str(error))
        except AtollError as error:
            node.engine.say("{} can't catch up: {}", node.name, str(error))
        if node.store.head.digest != before:
            node.engine.say("{} has caught up with version {}", node.name, node.store.head.version)
            node.feed(t.HeadChanged(node.store.head))
        node.feed(t.CatchingUp(False))
        if node.store.head.digest != before:
            self._caught_up(missed, whole, later)

    def _caught_up(
        self, missed: list[tuple[pb.Commit, bytes]], whole: bool, later: list[tuple[pb.Commit, bytes]]
    ) -> None:
        """The trainer and its books follow; more steps behind than REPLAY_LIMIT, local progress goes."""
        node = self._node
        node.tell_everyone()
        if missed:
            node.driver.committed(missed)
        if whole or len(missed) > REPLAY_LIMIT:
            node.driver.taken_over()
        if later:
            node.driver.committed(later)
        node.driver.on_disk(node.store.save_if_due)

    def _replay(self, best: RosterEntry, replayed: list[tuple[pb.Commit, bytes]]) -> Fetch:
        """Commits between this head and the holder's, one by one; it goes on as the holder does."""
        node, store = self._node, self._node.store
        target = best.status.version
        if not 0 < target - store.head.version <= KEEP:
            raise Failed("the holder's log does not reach this head")
        while store.head.version < target:
            now = node.roster.entries.get(best.peer)
            if now and now.chain and forks.compare(store.chain, now.chain) is forks.Choice.AHEAD:
                target = max(target, now.status.version)
            version = store.head.version + 1
            data = yield Small(best.peer, "commit", version)
            payload = yield Small(best.peer, "payload", version)
            if data is None or payload is None:
                raise Failed(f"commit {version} can't be had")
            try:
                record = parse_record(data)
                commit, certified = store.check(record)
                store.disk.write(store.log.path(version, "payload"), payload)
                store.log.check_payload(version, commit)
            except RoundLogError as error:
                raise Failed(str(error)) from error
            store.decide(record.commit, tuple(record.votes))
            store.apply(record.commit, certified)
            if certified:
                node.oracle.certify(bytes(commit.session.parent), store.head.digest)
            replayed.append((commit, store.head.digest))
            store.save_if_due()  # or the log grows as long as the swarm is faster
