"""A round's results between the disk and the peers, with bounded memory.

What comes is written, and no more is taken for a moment where the disk does not keep up. What goes out is
read from the replay log when its turn has come: a peer on a slow line makes a list of names grow, not memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from atoll.daemon.storage.round_log import RoundLog, RoundLogError
from atoll.peers.identity import readable_name
from atoll.peers.links import LinkLost
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.round import types as t

log = logging.getLogger(__name__)

UNSTORED_BYTES = 4 << 20
"""Results that the disk has not taken yet; beyond these no more are taken from peers or made."""
STORE_WAIT_S = 2.0
"""For so long at a time. Far less than the silence after which a peer is gone: it is not heard meanwhile."""
LOADED_BYTES = 4 << 20
"""Results in memory for peers; beyond these each peer is sent one at a time."""
AHEAD = 4
"""Results on their way to one peer at once."""


@dataclass
class _Loaded:
    """A result that is in memory while somebody sends it."""

    payload: asyncio.Future[wire.Payload]
    users: int = 0


@dataclass(frozen=True)
class _Name:
    """One result in the replay log."""

    version: int
    chunk: int
    count: int
    digest: bytes


class Results:
    """Stores results and sends them. `start` runs a task and tells what becomes of it."""

    def __init__(
        self,
        rounds: RoundLog,
        on_disk: Callable[..., asyncio.Future[Any]],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        send_bulk: Callable[[bytes, pb.Frame, wire.Payload], Awaitable[None]],
    ) -> None:
        self._rounds = rounds
        self._on_disk = on_disk
        self._start = start
        self._send_bulk = send_bulk
        self.unstored_bytes = 0
        self.loaded_bytes = 0
        self._stored = asyncio.Event()
        self._waiting: dict[bytes, dict[int, tuple[_Name, pb.Signed]]] = {}
        """For each peer what it has to get, by chunk; asked for again, the same."""
        self._leaving: Counter[bytes] = Counter()
        self._loaded: dict[_Name, _Loaded] = {}

    # ---- to the disk

    def store(self, version: int, effect: t.StoreResult) -> None:
        """Writes a result, after what the disk was given before."""
        size = len(effect.payload)
        self.unstored_bytes += size
        put = self._on_disk(self._rounds.put, version, effect.chunk, effect.payload, effect.payload_digest)
        self._start(self._put(put, size))

    async def _put(self, put: asyncio.Future[None], size: int) -> None:
        try:
            await put
        finally:
            self.unstored_bytes -= size
            self._stored.set()

    async def room(self) -> None:
        """Returns when the disk keeps up with what it is given, or was waited for long enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_WAIT_S):
                while self.unstored_bytes > UNSTORED_BYTES:
                    self._stored.clear()
                    await self._stored.wait()

    # ---- to the peers

    def send(self, version: int, effect: t.SendResult) -> None:
        """Sends a stored result to peers, to each when it has taken those before."""
        message = pb.ChunkResult.FromString(effect.signed.body)
        name = _Name(version, message.chunk, len(message.contributors), bytes(message.payload_digest))
        for peer in effect.peers:
            self._waiting.setdefault(peer, {})[message.chunk] = (name, effect.signed)
            self._go_on(peer)

    def _go_on(self, peer: bytes) -> None:
        waiting = self._waiting.get(peer, {})
        while waiting and self._leaving[peer] < (AHEAD if self.loaded_bytes <= LOADED_BYTES else 1):
            name, signed = waiting.pop(next(iter(waiting)))
            self._leaving[peer] += 1
            self._start(self._deliver(peer, name, signed)).add_done_callback(partial(self._left, peer))
        if not waiting:
            self._waiting.pop(peer, None)

    def _left(self, peer: bytes, _: asyncio.Task[None]) -> None:
        self._leaving[peer] -= 1
        if not self._leaving[peer]:
            del self._leaving[peer]
        self._go_on(peer)

    async def _deliver(self, peer: bytes, name: _Name, signed: pb.Signed) -> None:
        try:
            async with self._in_memory(name) as payload:
                await self._send_bulk(peer, pb.Frame(result=signed), payload)
        except LinkLost as error:
            log.info("chunk %d did not reach %s: %s", name.chunk, readable_name(peer), error)
        except RoundLogError as error:
            # The disk refused it, and that was told; or another session or chain has taken its place.
            log.info("chunk %d is not sent to %s: %s", name.chunk, readable_name(peer), error)

    @contextlib.asynccontextmanager
    async def _in_memory(self, name: _Name) -> AsyncIterator[wire.Payload]:
        """The payload: read once for all who send it at the same time."""
        if not name.count:
            yield b""
            return
        loaded = self._loaded.get(name)
        if loaded is None:
            read = self._on_disk(self._rounds.get, name.version, name.chunk, name.count, name.digest)
            loaded = self._loaded[name] = _Loaded(read)
            self.loaded_bytes += self._rounds.size(name.chunk, name.count)
        loaded.users += 1
        try:
            yield await asyncio.shield(loaded.payload)
        finally:
            loaded.users -= 1
            if not loaded.users:
                del self._loaded[name]
                self.loaded_bytes -= self._rounds.size(name.chunk, name.count)
