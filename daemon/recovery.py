"""Getting what this node lacks: outer state at its start, missed rounds and better heads later, data.

From this disk where it can be, else from peers; every try that fails says why, and is repeated. What is
fetched is checked before it replaces anything (sync.py, checkpoint.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from atoll.daemon.alerts import Alerts
from atoll.daemon.data_sources import Unavailable
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.island import Island
from atoll.daemon.neighbours import Neighbours
from atoll.daemon.rounds import sync
from atoll.daemon.rounds.ahead import Ahead
from atoll.daemon.rounds.driver import RoundDriver
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.status import State
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLog
from atoll.daemon.training.errors import SharedMemoryError
from atoll.daemon.training.memory import SharedMemory
from atoll.peers.fetching import Options, Progress
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.peers.roster import RosterEntry
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import types as t
from atoll.protocol.schema import ParameterSchema

AGREEMENT_S = 3.0
"""A state that only one peer names is taken after so long, where there are others."""
BEHIND_S = 3.0
"""A head that is ahead of ours for so long is fetched: a round under way would have brought it by then."""
REPLAY_LIMIT = 3
"""More steps behind than this, local progress is dropped (ROUND: local progress)."""
RETRY_S = 2.0
DISTRUST_S = 60.0

Enter = Callable[[State, str], None]


class Recovery:
    """Fetches for one node. `fetched` is (bytes here, bytes in all) while something is on its way."""

    def __init__(
        self,
        folder: DataDir,
        manifest: SwarmManifest,
        host: Host,
        neighbours: Neighbours,
        events: Events,
        alerts: Alerts,
        enter: Enter,
    ) -> None:
        self.fetched: tuple[int, int] | None = None
        self.retry_at: float | None = None
        self._folder = folder
        self._manifest = manifest
        self._host = host
        self._neighbours = neighbours
        self._events = events
        self._alerts = alerts
        self._enter = enter
        self.cap = RateCap()
        rounds = self._round_log()
        self._ahead = Ahead(rounds.folder / "ahead", manifest.swarm_id, rounds.payload_bytes)
        self._distrusted: dict[bytes, float] = {}
        self._behind_since: float | None = None

    def _progress(self, here: int, total: int) -> None:
        self.fetched = (here, total)
        self._events.changed()

    async def _retry(self, state: State, reason: str) -> None:
        """Says why nothing goes on, and waits a little."""
        self.fetched = None
        self._enter(state, reason)
        self.retry_at = time.monotonic() + RETRY_S
        # While nobody is linked yet, the first link should not have to wait for us.
        await asyncio.sleep(RETRY_S if self._neighbours.links.peers else 0.25)
        self.retry_at = None

    def limit(self, state_rate: int) -> None:
        """Caps what states and texts take, in bytes per second each way; 0: no cap."""
        self.cap, self._neighbours.files.cap = RateCap(state_rate), RateCap(state_rate)

    def _options(self, candidates: Callable[[], list[bytes]], progress: Progress) -> Options:
        return Options(candidates, progress, self._dropped, self.cap)

    def _dropped(self, peer: bytes, reason: str) -> None:
        self._events.emit("transfer", f"{readable_name(peer)} is not asked any more: {reason}.")

    async def shard(self, index: int, target: Path, progress: Progress) -> None:
        """Fetches a shard of the data from peers. Raises Unavailable."""
        links = self._neighbours.links
        options = self._options(lambda: list(links.peers), progress)
        try:
            await sync.fetch_data(self._host, list(links.peers), self._manifest, index, target, options)
        except sync.SyncFailed as error:
            raise Unavailable(str(error)) from error

    # ---- at the start

    def memory(self) -> SharedMemory:
        """The memory that the trainer will share. Raises AtollError."""
        try:
            return SharedMemory.create(self._manifest.body.total_values, self._folder.run)
        except SharedMemoryError as error:
            raise AtollError(Exit.PREFLIGHT, "memory", str(error), error.fix) from error

    async def state(self, memory: SharedMemory) -> OuterState:
        """The outer state, from this disk if there is any, else from peers."""
        await asyncio.to_thread(checkpoints.tidy, self._folder.checkpoints)
        while (schema := self._schema()) is None:
            await self._fetch_checkpoint()
        outer = OuterState(
            self._manifest, schema, memory.committed, self._folder.checkpoints, self._round_log()
        )
        while True:
            try:
                for problem in await asyncio.to_thread(outer.restore):
                    self._events.emit("disk", f"Not used: {problem}.")
            except AtollError as error:
                if error.code != "no_checkpoint":
                    raise
                self._events.emit("disk", error.sentence())
                await self._fetch_checkpoint()
                continue
            self._events.emit("state-here", f"Version {outer.head.version} of the outer state is here.")
            return outer

    def _round_log(self) -> RoundLog:
        return RoundLog(self._folder.rounds, self._manifest.chunks, self._manifest.body.rounds.result_codec)

    def _schema(self) -> ParameterSchema | None:
        """The parameter schema, from any checkpoint on this disk."""
        for version in checkpoints.versions(self._folder.checkpoints):
            path = checkpoints.path_of(self._folder.checkpoints, version)
            try:
                return checkpoints.schema_of(path, self._manifest.swarm_id, self._manifest.body.schema_digest)
            except CheckpointError as error:
                self._events.emit("disk", f"Not used: {error}.")
        return None

    def _trusted(self) -> list[RosterEntry]:
        """Peers whose word counts."""
        now = time.monotonic()
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        entries = self._neighbours.roster.entries.values()
        return [e for e in entries if e.status.state != pb.JOINING and e.peer not in self._distrusted]

    def _holding(self, choice: sync.Choice) -> list[bytes]:
        """Who may give a state: those who named it when it was chosen (what they deleted since they keep open
        for a while), and those who name it now."""
        return [
            e.peer
            for e in self._trusted()
            if e.peer in choice.peers or any(held.state == choice.state for held in e.status.held)
        ]

    async def _agreed_state(self) -> sync.Choice:
        """The state to fetch. One peer's word is taken where there is no other, or they don't agree."""
        since = time.monotonic()
        while True:
            entries = self._trusted()
            choice = sync.choose_state(entries, sync.begun(self._folder.checkpoints))
            if choice is None:
                await self._retry(State.CONNECTING, "no peer that is connected has the swarm's state")
                since = time.monotonic()
                continue
            others = {bytes(peer) for e in entries for peer in (e.peer, *e.status.linked)}
            if len(choice.peers) > 1 or others <= {*choice.peers, self._host.peer_id}:
                return choice
            if time.monotonic() - since >= AGREEMENT_S:
                self._events.emit("transfer", f"Only {readable_name(choice.peers[0])} names this state.")
                return choice
            self._enter(State.CONNECTING, "a second peer that holds the same state is looked for")
            await asyncio.sleep(0.25)

    async def _fetch_checkpoint(self) -> None:
        """Puts a checkpoint that peers agree on into this data dir."""
        while True:
            choice = await self._agreed_state()
            self._enter(State.FETCHING, "the swarm's state is on its way")
            try:
                path = await self._fetched(choice)
            except sync.SyncFailed as error:
                await self._retry(State.CONNECTING, f"the swarm's state can't be had yet ({error})")
                continue
            self.fetched = None
            path.replace(checkpoints.path_of(self._folder.checkpoints, choice.version))
            return

    async def _fetched(self, choice: sync.Choice) -> Path:
        """The chosen state in a file. Raises SyncFailed; who lied is not believed for a while."""
        options = self._options(lambda: self._holding(choice), self._progress)
        folder = self._folder.checkpoints
        try:
            async with self._ahead.kept(self._host, self._trusted, choice.version, self.cap):
                return await sync.fetch_checkpoint(self._host, choice, self._manifest, folder, options)
        except sync.SyncFailed as error:
            self._distrusted.update(dict.fromkeys(error.liars, time.monotonic() + DISTRUST_S))
            raise

    # ---- later

    def _better(self, outer: OuterState) -> RosterEntry | None:
        """The peer whose head this node should have, if any."""
        self._trusted()
        return self._neighbours.roster.to_follow(outer.chain, self._distrusted)

    async def keep_up(
        self, outer: OuterState, driver: RoundDriver, island: Island, told: Callable[[], None]
    ) -> None:
        """Called again and again: fetches what the swarm has and this node lacks, when no round brings it."""
        best = self._better(outer)
        if best is None or driver.machine.applying or driver.machine.session is not None:
            self._behind_since = None if best is None else self._behind_since
            return
        now = time.monotonic()
        self._behind_since = self._behind_since or now
        if now - self._behind_since < BEHIND_S:
            return
        self._behind_since = None
        before = outer.chain
        forked = forks.compare(before, best.chain) is forks.Choice.WINS
        gap = int(best.status.version) - outer.head.version
        what = "The swarm took another way" if forked else f"This node is {gap} rounds behind"
        self._events.emit("behind", f"{what}; it fetches what it missed.")
        # No session may begin at a head that is about to be left.
        driver.feed(t.CatchingUp(True))
        replayed: sync.Applied = []
        whole = False
        try:
            await island.merged()
            if not forked:
                possible = await self._replay(best, outer, driver.on_disk, replayed)
            # What replay brought is told and booked first: the rest of the way is the next call's.
            if forked or not (possible or replayed):
                above = -1 if forked else outer.head.version
                whole = await self._take_state_of(best, outer, driver.on_disk, island, replayed, above)
        except (AtollError, OSError, TimeoutError) as error:
            self._told_trouble(error)
        finally:
            moved = outer.head.digest != driver.machine.head.digest
            if moved:
                driver.feed(t.HeadChanged(outer.head))
                driver.feed(t.RosterChanged(self._neighbours.views()))
            driver.feed(t.CatchingUp(False))
        if not moved:
            return
        told()
        if whole or len(replayed) > REPLAY_LIMIT:
            island.taken_over(outer.chain, replayed)
        else:
            island.committed(replayed, outer.head)
        self._events.emit("behind", f"Caught up with version {outer.head.version}.")
        try:
            await driver.on_disk(outer.save_if_due)
        except AtollError as error:
            self._told_trouble(error)

    def _told_trouble(self, error: AtollError | OSError | TimeoutError) -> None:
        """What stops catching up is told; it is tried again as long as the swarm is ahead."""
        if isinstance(error, AtollError):
            self._alerts.raise_(error.code, error.message, error.fix)
        else:
            why = "the trainer does not answer" if isinstance(error, TimeoutError) else str(error)
            self._alerts.raise_("disk", f"Catching up failed: {why}.", "See the log.")

    async def _replay(
        self,
        best: RosterEntry,
        outer: OuterState,
        on_disk: Callable[..., Awaitable[object]],
        replayed: sync.Applied,
    ) -> bool:
        """Moves this head as far as it goes; whether that is the whole way."""
        try:
            # The swarm goes on meanwhile: a slow line would never be done with it otherwise.
            while best.status.version > outer.head.version:
                await sync.catch_up(self._host, self._at_head_of(best), outer, on_disk, replayed, self._ahead)
                best = self._neighbours.roster.entries.get(best.peer, best)
            return True
        except sync.SyncFailed as error:
            then = "it tries again" if replayed else "the whole state is fetched"
            self._events.emit("behind", f"Replay ends at version {outer.head.version} ({error}); {then}.")
            return False

    def _at_head_of(self, best: RosterEntry) -> list[RosterEntry]:
        """The best peer, and those that hold the same head."""
        same = [e for e in self._trusted() if e.status.digest == best.status.digest and e.peer != best.peer]
        return [best, *same]

    async def _take_state_of(
        self,
        best: RosterEntry,
        outer: OuterState,
        on_disk: Callable[..., Awaitable[object]],
        island: Island,
        replayed: sync.Applied,
        above: int,
    ) -> bool:
        """Takes over a state of a peer's chain after version `above`, and what followed it.

        Whether that went well.
        """
        try:
            begun = sync.begun(self._folder.checkpoints)
            choice = sync.choose_state(self._trusted(), begun, best, above)
            if choice is None:
                raise sync.SyncFailed("it has none that others do not contradict")
            path = await self._fetched(choice)
            if not await island.books_are_saved():
                return False  # what a commit accepted would be forgotten with the log; the disk has an alert
            await on_disk(self._take_over, outer, path, choice.version, best.chain)
        except (sync.SyncFailed, CheckpointError) as error:
            # Somebody who can't show what it claims is not believed again for a while.
            self._distrusted[best.peer] = time.monotonic() + DISTRUST_S
            self._events.emit("behind", f"The state can't be fetched: {error}.")
            return False
        finally:
            self.fetched = None
        try:
            now = self._neighbours.roster.entries.get(best.peer, best)
            await sync.catch_up(self._host, self._at_head_of(now), outer, on_disk, replayed, self._ahead)
        except sync.SyncFailed as error:
            self._events.emit("behind", f"The rounds since then are not here yet ({error}).")
        return True

    def _take_over(self, outer: OuterState, path: Path, version: int, chain: forks.Chain) -> None:
        """Another chain's checkpoint becomes ours. On the disk thread.

        First it is put in its place, then what it replaces goes: in between, either chain is whole.
        """
        folder = self._folder.checkpoints
        path.replace(checkpoints.path_of(folder, version))
        outer.adopt(checkpoints.path_of(folder, version))
        for higher in checkpoints.versions(folder):
            if higher > version:
                checkpoints.forget(folder, higher)
        outer.rounds.clear()
        # What led to it is not on this disk; the peer's word for it is good enough to find a common commit.
        outer.chain = forks.tail(chain, outer.head.version, outer.head.digest) or outer.chain
        outer.hold()
