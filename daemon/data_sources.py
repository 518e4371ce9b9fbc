"""Where shards of the data come from: a path on this machine, the organiser's web server, peers.

Each source puts one shard where it belongs, or raises Unavailable with the reason; whoever asked goes on to
the next one. Nothing that does not have the shard's digest is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from atoll.daemon.storage.shard_files import ShardFiles, WrongShard
from atoll.daemon.training.corpus import Text, text_of
from atoll.daemon.training.errors import CorpusError
from atoll.peers.fetching import Progress
from atoll.peers.pacing import RateCap

_PIECE_BYTES = 1 << 20


class Unavailable(RuntimeError):
    """A source does not have a shard; the message says why."""


class FromPeers(Protocol):
    """What gets a shard from other nodes; `cap` bounds what comes in, from wherever."""

    cap: RateCap

    async def shard(self, index: int, target: Path, progress: Progress) -> None: ...


class PeerSource:
    """Whatever nodes are connected."""

    name = "peers"

    def __init__(self, files: ShardFiles, peers: FromPeers) -> None:
        self._files = files
        self._peers = peers

    async def fetch(self, index: int, progress: Progress) -> None:
        """Fetches the shard from all who have it. Raises Unavailable."""
        await self._peers.shard(index, self._files.path(index), progress)


class LocalSource:
    """A folder of shard files named by digest, or the text that they were cut from (BUILTIN as well)."""

    def __init__(self, files: ShardFiles, place: str) -> None:
        self.name = place
        self._files = files
        self._place = place

    async def fetch(self, index: int, progress: Progress) -> None:
        """Copies the shard. Raises Unavailable, AtollError."""
        await asyncio.to_thread(self.copy, index)

    def copy(self, index: int) -> None:
        """The same, blocking."""
        try:
            self._copy(index)
        except (CorpusError, WrongShard) as error:
            raise Unavailable(str(error)) from error

    def _copy(self, index: int) -> None:
        named = Path(self._place) / self._files.digests[index].hex()
        if named.is_file():
            self._files.put(index, text_of(str(named)).read(0, self._files.sizes[index]))
            return
        text, size = text_of(self._place), sum(self._files.sizes)
        if text.size_bytes != size:
            raise CorpusError(f"it has {text.size_bytes} bytes, the swarm's text has {size}")
        self._files.put(index, self._part(text, index))

    def _part(self, text: Text, index: int) -> Iterator[bytes]:
        return text.read(sum(self._files.sizes[:index]), self._files.sizes[index])
