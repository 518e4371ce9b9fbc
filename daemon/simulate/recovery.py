"""Getting what a node lacks: the synchronous twin of daemon/recovery.py and daemon/rounds/sync.py.

A fetch is a generator that yields what it asks for and is sent the answer (None: it can't be had); only one
is under way at a time. Missed commits are tried first, then a whole state that most holders have the same.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate.download import Download
from atoll.daemon.simulate.store import Damaged
from atoll.daemon.storage.round_log import KEEP, RoundLogError, parse_record
from atoll.peers.following import Choice, Prove, Replay, Take, Timing, choose_state
from atoll.peers.roster import RosterEntry
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import types as t

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

TIMING = Timing(patience=0.6, distrust=20.0, again=3.0, fresh=12.0)
"""Shorter than the daemon's, as rounds are."""
REPLAY_LIMIT = 3
RETRY_S = 1.0
AGREEMENT_S = 1.5
ASK_S = 4.0


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


@dataclass(frozen=True)
class Idle:
    """A moment without a session."""


Wanted = Small | Whole | Idle
Fetch = Generator[Wanted, bytes | None, None]
"""Yields what it asks for, and is sent the answer."""
Applied = list[tuple[pb.Commit, bytes]]
Work = Generator[Wanted, bytes | None, bool]
"""Moves the head; whether a whole state was taken over."""


class Failed(Exception):
    """Nobody could give what was asked for."""


class Recovery:
    """Fetches for one node."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._fetch: Fetch | None = None
        self._joining_since = node.engine.now

    @property
    def fetching(self) -> bool:
        return self._fetch is not None

    # ---- generators on virtual time

    def _begin(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._answer(None)

    def _answer(self, content: bytes | AtollError | None) -> None:
        assert self._fetch is not None
        node = self._node
        try:
            if isinstance(content, AtollError):
                wanted = self._fetch.throw(content)
            else:
                wanted = self._fetch.send(content)
            while isinstance(wanted, Idle) and not node.in_round:
                wanted = self._fetch.send(None)
        except StopIteration:
            self._fetch = None
            return
        match wanted:
            case Idle():
                node.when_idle(self._answer, None)
            case Whole():
                Download(node, wanted.version, wanted.state, wanted.holders, self._answer).start()
            case Small():
                holder = node.others[wanted.holder]
                node.network.ask(node, holder, wanted.kind, wanted.version, self._answer, ASK_S)

    # ---- at the start

    def join(self) -> None:
        """A fresh node: the state that most holders have."""
        self._begin(self._join())

    def _join(self) -> Fetch:
        node = self._node
        try:
            content = yield from self._state(self._agreed())
            node.store.take_over(content)
        except (Failed, Damaged, AtollError) as error:
            node.engine.say("{} can't have the state yet: {}", node.name, str(error))
            node.later(RETRY_S, self.join)
            return
        node.begin_rounds()

    def _agreed(self) -> Choice:
        """The state that most name; where one alone does, a second opinion is waited for a little."""
        node = self._node
        entries = node.following.trusted(node.engine.now)
        choice = choose_state(entries)
        if choice is None:
            raise Failed("nobody has a state")
        if len(choice.peers) == 1 < len(entries) and node.engine.now - self._joining_since < AGREEMENT_S:
            raise Failed("a second peer that names it is looked for")
        return choice

    def _state(self, choice: Choice) -> Generator[Wanted, bytes | None, bytes]:
        content = yield Whole(choice.version, choice.state, choice.peers)
        if content is None:
            raise Failed("no holder gave it whole")
        return content

    # ---- later

    def keep_up(self) -> None:
        """Called again and again: one step towards what the swarm has and this node lacks."""
        node = self._node
        if node.in_round or self._fetch is not None:
            return
        store = node.store
        match node.following.next(store.chain, store.held(), node.engine.now):
            case Prove() as step:
                self._begin(self._prove(step))
            case Replay() as step:
                node.engine.say("{} catches up with {}", node.name, node.others[step.entry.peer].name)
                missed: Applied = []
                self._begin(self._move(self._replay(step.entry, missed), missed))
            case Take() as step:
                self._begin(self._take(step))

    def _prove(self, step: Prove) -> Fetch:
        """Looks whether a commit is certified, as a peer says."""
        node, digest = self._node, step.link.digest
        data = yield Small(step.peer, "commit", step.link.version)
        following, store, now = node.following, node.store, node.engine.now
        verdict, record = None, None
        if data is not None:
            try:
                record = parse_record(data)
                verdict = store.judge(record, step.link)
            except RoundLogError:
                verdict = False
        try:
            if verdict:
                following.proven(digest)
                store.certify({digest}, record)
            elif verdict is None:
                following.unshown(step.peer, digest, now)
            else:
                following.distrust(step.peer, "it shows another commit than it names", now)
            store.certify(following.known(store.chain))
        except AtollError as error:
            node.engine.say("{} can't keep a proof: {}", node.name, str(error))

    def _move(self, work: Work, replayed: Applied) -> Fetch:
        """Changes the head while no session can begin; then everyone is told."""
        node = self._node
        before = node.store.head.digest
        node.feed(t.CatchingUp(True))
        whole = False
        try:
            whole = yield from work
        except AtollError as error:
            node.engine.say("{} can't catch up: {}", node.name, str(error))
        moved = whole or node.store.head.digest != before
        if moved:
            node.engine.say("{} has caught up with version {}", node.name, node.store.head.version)
            node.feed(t.HeadChanged(node.store.head))
            node.roster_changed()
        node.feed(t.CatchingUp(False))
        if moved:
            node.tell_everyone()
            if whole or (len(replayed) > REPLAY_LIMIT and not node.config.small_commits):
                node.driver.taken_over(replayed)
            else:
                node.driver.committed(replayed)
            node.driver.on_disk(node.store.save_if_due)

    def _take(self, step: Take) -> Fetch:
        """Fetches a whole state, while rounds go on, and then takes it over."""
        node = self._node
        node.engine.say("{} is {} and fetches version {}", node.name, step.why, step.choice.version)
        try:
            content = yield from self._state(step.choice)
        except Failed as error:
            node.following.distrust(step.entry.peer, str(error), node.engine.now)
            return
        except AtollError as error:
            node.engine.say("{} can't take the state: {}", node.name, str(error))
            return
        yield Idle()
        if node.following.still(step, node.store.chain):
            later: Applied = []
            yield from self._move(self._switch(step, content, later), later)

    def _switch(self, step: Take, content: bytes, later: Applied) -> Work:
        """Takes over a state that is here, and what followed it."""
        node, mine = self._node, self._node.store.chain
        node.island.save()  # what commits accepted is in the books before the log forgets them
        try:
            node.store.take_over(content, mine if step.why == "bits" else step.entry.chain)
        except Damaged as error:
            node.following.distrust(step.entry.peer, str(error), node.engine.now)
            return False
        # Before commits are replayed: the chain may grow so long that what was left is out of sight.
        node.driver.left(forks.last_common(mine, step.entry.chain, node.store.head.version))
        node.oracle.left(node, mine, step.entry.chain)
        node.oracle.moved(node, None)
        # A checkpoint lags behind its holder's head: a round of our own from there would be a fork.
        try:
            yield from self._replay(step.entry, later)
        except AtollError as error:
            node.engine.say("{} has the state, but not what followed: {}", node.name, str(error))
        return True

    def _replay(self, best: RosterEntry, replayed: Applied) -> Work:
        """Applies the commits up to a peer's head, as far as they can be had; it goes on as the peer does."""
        node, store = self._node, self._node.store
        try:
            target = best.status.version
            if target - store.head.version > KEEP:
                raise Failed("the holder's log does not reach this head")
            now = best
            while store.head.version < target and (yield from self._replay_one(now, replayed)):
                now = node.roster.entries.get(best.peer, now)
                if now.chain and forks.compare(store.chain, now.chain) is forks.Choice.AHEAD:
                    target = max(target, now.status.version)
        except Failed as error:
            # What came until then is told and booked before anything else is tried.
            node.engine.say("{} can't replay: {}", node.name, str(error))
            if not replayed:
                node.following.stuck(store.head.digest)
        return False

    def _replay_one(self, best: RosterEntry, replayed: Applied) -> Generator[Wanted, bytes | None, bool]:
        """Whether the next commit of a peer was applied: one without a majority's votes has to count."""
        node, store, holder = self._node, self._node.store, best.peer
        version = store.head.version + 1
        data = yield Small(holder, "commit", version)
        payload = yield Small(holder, "payload", version)
        if data is None or payload is None:
            raise Failed(f"commit {version} can't be had")
        try:
            record = parse_record(data)
            commit, certified = store.check(record)
            if not (certified or node.following.leads(store.chain, best)):
                return False
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
        return True
