"""Getting what this node lacks: outer state at its start, missed rounds and better heads later, data.

From this disk where it can be, else from peers; every try that fails says why, and is repeated. What is
fetched is checked before it replaces anything (sync.py, checkpoint.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.daemon.alerts import Alerts
from atoll.daemon.data_sources import Unavailable
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.island import Island
from atoll.daemon.neighbours import Neighbours
from atoll.daemon.rounds import sync
from atoll.daemon.rounds.ahead import Ahead
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.status import State
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLog
from atoll.daemon.training.errors import SharedMemoryError
from atoll.daemon.training.memory import SharedMemory
from atoll.peers.fetching import Options, Progress
from atoll.peers.following import Choice, Prove, Replay, Take, choose_state
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.peers.roster import RosterEntry
from atoll.protocol import forks
from atoll.protocol.amendments import Amendments, UnknownAmendment
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import types as t
from atoll.protocol.schema import ParameterSchema

AGREEMENT_S = 3.0
"""A state that only one peer names is taken after so long, where there are others."""
DIRECT_S = 20.0
"""So long a hole is waited for, where only relays lead to who has the state."""
REPLAY_LIMIT = 3
"""More steps behind than this, local progress is dropped (ROUND: local progress)."""
RETRY_S = 2.0

if TYPE_CHECKING:
    from atoll.daemon.rounds.driver import RoundDriver

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
        network: Callable[[], Awaitable[None]] | None = None,
        amendments: Amendments | None = None,
        network_is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        """`network` returns when the network may be used, `network_is_open` says whether it may."""
        self.fetched: tuple[int, int] | None = None
        self.retry_at: float | None = None
        self._folder = folder
        self._manifest = manifest
        self._host = host
        self._neighbours = neighbours
        self._events = events
        self._alerts = alerts
        self._enter = enter
        self._network = network
        self._network_is_open = network_is_open
        self._amendments = amendments
        self.cap = RateCap()
        rounds = self._round_log()
        self._ahead = Ahead(rounds.folder / "ahead", manifest.swarm_id, rounds.payload_bytes)
        self._following = neighbours.following

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
        self.cap.change(state_rate)
        self._neighbours.files.cap.change(state_rate)

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
            total, ahead = self._manifest.body.total_values, self._manifest.ahead is not None
            return SharedMemory.create(total, self._folder.run, ahead)
        except SharedMemoryError as error:
            raise AtollError(Exit.PREFLIGHT, "memory", str(error), error.fix) from error

    async def state(self, memory: SharedMemory) -> OuterState:
        """The outer state, from this disk if there is any, else from peers."""
        await asyncio.to_thread(checkpoints.tidy, self._folder.checkpoints)
        while (schema := self._schema()) is None:
            await self._fetch_checkpoint()
        folder, rounds = self._folder.checkpoints, self._round_log()
        vectors = memory.committed, folder, rounds, memory.momentum
        outer = OuterState(self._manifest, schema, *vectors, self._amendments)
        while True:
            try:
                for problem in await asyncio.to_thread(outer.restore):
                    self._events.emit("disk", f"Not used: {problem}.")
            except AtollError as error:
                if error.code != "no_checkpoint":
                    raise
                self._events.emit("disk", error.sentence())
                # One may be here that goes by an amendment which is not: that comes with the next link.
                await self._retry(State.CONNECTING, "a state that can be gone on from is looked for")
                await self._fetch_checkpoint()
                continue
            self._events.emit("state-here", f"Version {outer.head.version} of the outer state is here.")
            return outer

    def _round_log(self) -> RoundLog:
        from atoll.protocol.codecs import result_codec

        wanted = self._manifest.body.rounds
        codec = result_codec(wanted.codec, wanted.result_codec, wanted.merge)
        return RoundLog(self._folder.rounds, self._manifest.chunks, codec)

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
        return self._following.trusted(time.monotonic())

    def _holding(self, choice: Choice) -> list[bytes]:
        """Who may give a state: those who named it when it was chosen (what they deleted since they keep open
        for a while), and those who name it now."""
        return [
            e.peer
            for e in self._trusted()
            if e.peer in choice.peers or any(held.state == choice.state for held in e.status.held)
        ]

    async def _agreed_state(self) -> Choice:
        """The state to fetch. One peer's word is taken where there is no other, or they don't agree."""
        since = time.monotonic()
        while True:
            entries = self._trusted()
            choice = choose_state(entries, sync.begun(self._folder.checkpoints))
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
        """Puts a checkpoint that peers agree on into this data dir, once the network may be used."""
        since = time.monotonic()
        while True:
            if self._network is not None:
                await self._network()
            choice = await self._agreed_state()
            if self._behind_relays(choice) and time.monotonic() - since < DIRECT_S:
                self._enter(State.CONNECTING, "a direct way to who has the swarm's state is looked for")
                await asyncio.sleep(0.25)
                continue
            self._enter(State.FETCHING, "the swarm's state is on its way")
            try:
                path = await self._fetched(choice)
            except sync.SyncFailed as error:
                await self._retry(State.CONNECTING, f"the swarm's state can't be had yet ({error})")
                continue
            except AtollError as error:
                # This disk's doing, and somebody may make room.
                self._told_trouble(error)
                await self._retry(State.FETCHING, error.message)
                continue
            self.fetched = None
            path.replace(checkpoints.path_of(self._folder.checkpoints, choice.version))
            return

    def _behind_relays(self, choice: Choice) -> bool:
        """Whether a relay is between this node and all who have a state: it would not carry that."""
        links, holding = self._neighbours.links, self._holding(choice)
        return any(map(links.get, holding)) and not any(map(links.is_direct, holding))

    async def _fetched(self, choice: Choice) -> Path:
        """The chosen state in a file. Raises SyncFailed; who lied is not believed for a while."""
        options = self._options(lambda: self._holding(choice), self._progress)
        folder = self._folder.checkpoints
        try:
            async with self._ahead.kept(self._host, self._trusted, choice.version, self.cap):
                return await sync.fetch_checkpoint(self._host, choice, self._manifest, folder, options)
        except sync.SyncFailed as error:
            for liar in error.liars:
                self._following.distrust(liar, "it gave another state than it named", time.monotonic())
            raise

    # ---- later

    async def keep_up(
        self, outer: OuterState, driver: RoundDriver, island: Island, told: Callable[[], None]
    ) -> None:
        """One step towards what the swarm has and this node lacks, if no round brings it.

        To be called again and again, by one task.
        """
        if driver.machine.applying or driver.machine.session is not None:
            return
        step = self._following.next(
            outer.chain,
            outer.held,
            time.monotonic(),
            lambda: sync.begun(self._folder.checkpoints),
            self._ahead.has(outer.head.version + 1),
        )
        try:
            match step:
                case Prove():
                    await self._prove(step, outer, driver)
                case Replay():
                    gap = int(step.entry.status.version) - outer.head.version
                    behind = "one round" if gap == 1 else f"{gap} rounds"
                    self._events.emit("behind", f"This node is {behind} behind; it fetches what it missed.")
                    work = partial(self._replay, step.entry, outer, driver)
                    await self._move(outer, driver, island, told, work)
                case Take():
                    await self._take(step, outer, driver, island, told)
        except (AtollError, OSError, TimeoutError) as error:
            self._told_trouble(error)

    def _told_trouble(self, error: AtollError | OSError | TimeoutError) -> None:
        """What stops catching up is told; it is tried again as long as the swarm is ahead."""
        if isinstance(error, AtollError):
            self._alerts.raise_(error.code, error.message, error.fix)
        else:
            why = "the trainer does not answer" if isinstance(error, TimeoutError) else str(error)
            self._alerts.raise_("disk", f"Catching up failed: {why}.", "See the log.")

    async def _prove(self, step: Prove, outer: OuterState, driver: RoundDriver) -> None:
        """Looks whether a commit is certified, as a peer says."""
        digest, now = step.link.digest, time.monotonic()
        try:
            record = await sync.fetch_record(self._host, step.peer, outer, step.link.version)
        except sync.SyncFailed:
            self._following.unshown(step.peer, digest, now)
        else:
            verdict = await driver.on_disk(outer.judge, record, step.link)
            if verdict:
                self._following.proven(digest)
                await driver.on_disk(outer.certify, {digest}, record)
            elif verdict is None:
                self._following.unshown(step.peer, digest, now)
            else:
                self._following.distrust(step.peer, "it shows another commit than it names", now)
        known = self._following.known(outer.chain)
        if any(link.digest in known and not link.certified for link in outer.chain):
            await driver.on_disk(outer.certify, known)

    async def _move(
        self,
        outer: OuterState,
        driver: RoundDriver,
        island: Island,
        told: Callable[[], None],
        work: Callable[[sync.Applied], Awaitable[bool]],
    ) -> None:
        """Changes the head by `work`, while no session can begin; then everyone is told.

        `work` fills in the commits that it applied, and says whether a whole state was taken over.
        """
        driver.feed(t.CatchingUp(True))
        replayed: sync.Applied = []
        whole = False
        try:
            await island.merged()
            whole = await work(replayed)
        finally:
            # The bits may have changed where the head has not.
            moved = whole or outer.head.digest != driver.machine.head.digest
            if moved:
                driver.feed(t.HeadChanged(outer.head))
                driver.feed(t.RosterChanged(self._neighbours.views()))
            driver.feed(t.CatchingUp(False))
            if moved:
                told()
                # Where commits are small, many are no more than a round; a phase has a start of its own.
                if whole or (len(replayed) > REPLAY_LIMIT and not self._manifest.small_commits):
                    island.taken_over(outer.digests, replayed)
                else:
                    island.committed(replayed, outer.head, replayed=True)
                self._events.emit("behind", f"Caught up with version {outer.head.version}.")
            else:
                island.settled()
        await driver.on_disk(outer.save_if_due)

    async def _replay(
        self, best: RosterEntry, outer: OuterState, driver: RoundDriver, replayed: sync.Applied
    ) -> bool:
        """Applies the commits up to a peer's head, as far as they can be had."""
        try:
            # The swarm goes on meanwhile: a slow line would never be done with it otherwise.
            while best.status.version > (version := outer.head.version) and self._network_is_open():
                await self._catch_up(best, outer, driver, replayed)
                if outer.head.version == version:
                    break  # what comes next does not count, so far
                best = self._neighbours.roster.entries.get(best.peer, best)
        except sync.SyncFailed as error:
            # What came until then is told and booked before anything else is tried.
            if not replayed:
                self._following.stuck(outer.head.digest)
            then = "it tries again" if replayed else "the whole state is fetched"
            self._events.emit("behind", f"Replay ends at version {outer.head.version} ({error}); {then}.")
        return False

    async def _catch_up(
        self, best: RosterEntry, outer: OuterState, driver: RoundDriver, replayed: sync.Applied
    ) -> None:
        """Commits of a peer's chain, as far as they count by what is known while each is applied."""
        holders = self._at_head_of(best)

        def leads(entry: RosterEntry) -> bool:
            return self._following.leads(outer.chain, entry)

        await sync.catch_up(self._host, holders, outer, driver.on_disk, replayed, self._ahead, leads)

    def _at_head_of(self, best: RosterEntry) -> list[RosterEntry]:
        """The best peer, and those that hold the same head."""
        same = [e for e in self._trusted() if e.status.digest == best.status.digest and e.peer != best.peer]
        return [best, *same]

    async def _take(
        self, step: Take, outer: OuterState, driver: RoundDriver, island: Island, told: Callable[[], None]
    ) -> None:
        """Fetches a whole state, while rounds go on, and then takes it over."""
        what = {
            "behind": "This node is too far behind to replay",
            "forked": "The swarm took another way",
            "bits": f"This node's version {step.choice.version} has other bits than that of most others",
        }[step.why]
        self._events.emit("behind", f"{what}; it fetches the whole state.")
        if step.why == "bits":
            self._alerts.raise_("bits_differ", f"{what}.", "The right state is fetched; test this memory.")
        try:
            path = await self._fetched(step.choice)
        except sync.SyncFailed as error:
            self._following.distrust(step.entry.peer, f"its state can't be had ({error})", time.monotonic())
            return
        finally:
            self.fetched = None
        await driver.idle()
        # From here to CatchingUp nothing else runs: no session begins in between.
        if self._following.still(step, outer.chain):
            work = partial(self._switch, step, path, outer, driver, island)
            await self._move(outer, driver, island, told, work)

    async def _switch(
        self,
        step: Take,
        path: Path,
        outer: OuterState,
        driver: RoundDriver,
        island: Island,
        replayed: sync.Applied,
    ) -> bool:
        """Takes over a state that is here, and what followed it. Whether that went well."""
        if not await island.books_are_saved():
            return False  # what a commit accepted would be forgotten with the log; the disk has an alert
        before, mine = outer.position, outer.chain
        chain = outer.chain if step.why == "bits" else step.entry.chain
        # What led to it is not on this disk; the peer's word is good enough to find a common commit by.
        chain = forks.as_known(chain, self._following.known(outer.chain))
        try:
            await driver.on_disk(self._take_over, outer, path, step.choice.version, chain)
        except CheckpointError as error:
            if isinstance(error.__cause__, UnknownAmendment):
                self._events.emit("behind", f"The state can't be taken over yet: {error}.")
            else:
                why = f"its state is not usable: {error}"
                self._following.distrust(step.entry.peer, why, time.monotonic())
            return False
        except AtollError as error:
            # Before the state was taken over, or in clearing up behind it.
            self._told_trouble(error)
            if outer.position is before:
                return False
        # Before commits are replayed: the chain may grow so long that what was left is out of sight.
        island.left(outer.digests, forks.last_common(mine, chain, outer.head.version))
        await island.books_are_saved()
        try:
            now = self._neighbours.roster.entries.get(step.entry.peer, step.entry)
            await self._catch_up(now, outer, driver, replayed)
        except sync.SyncFailed as error:
            self._events.emit("behind", f"The rounds since then are not here yet ({error}).")
        except (AtollError, OSError) as error:
            # The state is taken over already, and everyone has to be told.
            self._told_trouble(error)
        self._alerts.clear("bits_differ")
        return True

    def _take_over(self, outer: OuterState, path: Path, version: int, chain: forks.Chain) -> None:
        """A checkpoint of this chain becomes ours. On the disk thread. Raises CheckpointError.

        First it is put in its place, then what it replaces goes: in between, either chain is whole.
        """
        folder = self._folder.checkpoints
        head = checkpoints.read_header(path, self._manifest.swarm_id)[0].head
        if not forks.tail(chain, head.version, head.digest):
            raise CheckpointError("it is not of the chain that was named")
        outer.take_over(path, chain)
        for higher in checkpoints.versions(folder):
            if higher > version:
                checkpoints.forget(folder, higher)
        outer.rounds.clear()
        outer.hold()
