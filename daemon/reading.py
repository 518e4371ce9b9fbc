"""What this node's trainer reads: its place among the training nodes, and a shard that is here for it.

A trainer never waits for a shard while any is here: it then reads one that is, and its offers say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from atoll.daemon.alerts import Alerts
from atoll.daemon.config import Settings, shard_of
from atoll.daemon.data_sources import FromPeers, LocalSource, PeerSource
from atoll.daemon.data_store import DataStore, Source
from atoll.daemon.events import Events
from atoll.daemon.neighbours import Neighbours
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.status import State
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.shard_files import ShardFiles
from atoll.daemon.training.corpus import BUILTIN
from atoll.peers.fetching import Progress
from atoll.peers.files import ServedFile
from atoll.peers.roster import Roster
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import shards
from atoll.protocol.manifest import SwarmManifest

if TYPE_CHECKING:
    from atoll.daemon.controls import Controls


@dataclass(frozen=True)
class Place:
    """What to read: `part` (index, count) of the text at path `text`, which is training shard `shard`.

    Where a swarm has no text, it is a part of whatever each node brings.
    """

    part: tuple[int, int] = (0, 1)
    shard: int = 0
    text: str | None = None


class Reader:
    """Finds this node's place anew whenever it is asked.

    `cursor`: tokens read from each shard; `fixed`: the place that the owner gave this node, (index, count);
    `store`: None where the swarm has no text.
    """

    def __init__(
        self,
        manifest: SwarmManifest,
        me: bytes,
        roster: Roster,
        cursor: Callable[[], tuple[int, ...]],
        store: DataStore | None,
        events: Events,
        fixed: tuple[int, int] | None = None,
    ) -> None:
        self.store = store
        self._seed = int(manifest.body.seed)
        self._sizes = shards.training_sizes(manifest.body.data)
        self._me = me
        self._roster = roster
        self._cursor = cursor
        self._events = events
        self._fixed = fixed
        self._last: int | None = None

    @property
    def validation(self) -> Path | None:
        """Where the validation shard is, or will be."""
        return self.store.files.path(self.store.files.validation) if self.store else None

    @property
    def fetched(self) -> tuple[int, int] | None:
        """(bytes here, bytes in all) of the shard that is on its way."""
        return self.store.fetched if self.store else None

    def served(self, index: int) -> ServedFile | None:
        """A shard for a peer."""
        return self.store.served(index) if self.store else None

    async def keep(self) -> None:
        """Fetches what is wanted, until cancelled."""
        if self.store is not None:
            await self.store.run()

    async def ready(self, enter: Callable[[State, str], None]) -> None:
        """Returns when there is something to train on; says meanwhile what is lacking."""
        if self.store is not None:
            self.store.want(self._wanted()[1])
            await self.store.ready(enter)

    def place(self) -> Place:
        """Where to read from now on; text None if all files have vanished."""
        if self.store is None:
            nodes = sorted(self._training())
            return Place(self._fixed or (nodes.index(self._me), len(nodes)))
        reading, wanted = self._wanted()
        self.store.want(wanted)
        files = self.store.files
        if not files.has(reading.shard):
            here = files.training()
            if not here:
                return Place()
            read = self._cursor()
            least = min(here, key=lambda i: (read[i] // self._sizes[i], i != self._last, i))
            reading = shards.Reading(least)
        if reading.shard != self._last:
            self._last = reading.shard
            self._events.emit("data", f"It reads shard {reading.shard} of {len(self._sizes)}.")
        self.store.read(reading.shard)
        return Place((reading.part, reading.parts), reading.shard, str(files.path(reading.shard)))

    def _training(self) -> set[bytes]:
        """Nodes that train now, this one among them."""
        entries = self._roster.entries.items()
        return {peer for peer, entry in entries if entry.status.state == pb.TRAINING} | {self._me}

    def _wanted(self) -> tuple[shards.Reading, list[int]]:
        """What this node is to read, and all shards that it should have: that one, and the next."""
        read = self._cursor()
        if self._fixed is not None:
            reading = shards.fixed(read, self._sizes, self._seed, *self._fixed)
            return reading, [reading.shard]
        plan = shards.assign(read, self._sizes, self._training(), self._seed)
        following = shards.upcoming(read, self._sizes, plan, self._seed, self._me)
        return plan[self._me], list(dict.fromkeys([plan[self._me].shard, following]))


class WhileOpen:
    """A source that is asked only while the owner lets this node use the network."""

    def __init__(self, source: Source, network: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._network = network

    @property
    def name(self) -> str:
        return self._source.name

    async def fetch(self, index: int, progress: Progress) -> None:
        await self._network()
        await self._source.fetch(index, progress)


class _Node(Protocol):
    """What `reader_of` needs of a node."""

    folder: DataDir
    settings: Settings
    events: Events
    alerts: Alerts
    outer: OuterState | None
    controls: Controls


def reader_of(node: _Node, manifest: SwarmManifest, neighbours: Neighbours, peers: FromPeers) -> Reader:
    """The reader of a node, with its sources of data. Blocking. Raises AtollError."""
    data, store = manifest.body.data, None
    if data.shards:
        network = node.controls.network.wait
        files = ShardFiles(node.folder.shards, data.shards)
        places = [node.settings.data] if node.settings.data else []
        places += [BUILTIN] if data.name == BUILTIN else []
        sources: list[Source] = [LocalSource(files, place) for place in places]
        if data.urls:
            from atoll.daemon.data_https import HttpsSource

            sources += [WhileOpen(HttpsSource(files, url, peers.cap), network) for url in data.urls]
        sources.append(WhileOpen(PeerSource(files, peers), network))
        store = DataStore(files, data.name, sources, node.events, node.alerts, node.settings.data_cap)
        store.open()
    return Reader(
        manifest,
        neighbours.links.me,
        neighbours.roster,
        lambda: node.outer.read if node.outer is not None else (),
        store,
        node.events,
        shard_of(node.settings.shard),
    )
