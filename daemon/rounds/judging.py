"""What a node makes of a session's results before it votes for them (protocol/judgement.py).

Each result is laid beside the node's own pseudo-gradient when it comes, on the codec thread, so that there is
little left to do when the commit is proposed. Whoever has nothing to contribute judges nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.norms import Norms
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.judgement import Look, accused, against, times_longer
from atoll.protocol.outer import Float32

Stored = Callable[[int, int, int, bytes], Awaitable[wire.Payload]]
"""Version, chunk, number of contributors and digest to the payload of a result; raises RoundLogError."""


@dataclass(frozen=True)
class Own:
    """What a node contributes, or would: the number of its offer, and whole vectors to measure it from."""

    offer: int
    anchor: Float32
    local: Float32


class Judging:
    """Of one node. `own`: what it offers at this moment; None: nothing."""

    def __init__(
        self,
        codec: CodecWorker,
        on_codec: Callable[..., asyncio.Future[Any]],
        own: Callable[[], Own | None],
        stored: Stored,
    ) -> None:
        self._codec = codec
        self._on_codec = on_codec
        self._own = own
        self._stored = stored
        self._looks: dict[int, tuple[int, bytes, Look]] = {}
        """By chunk: number of the offer, digest of the result."""
        self._norms = Norms()
        self._last: tuple[int, float] | None = None
        """Of the results that were judged last: their fragment, how many times longer they are."""

    async def look(self, chunk: int, count: int, digest: bytes, payload: wire.Payload) -> Look | None:
        """Lays the result of a chunk beside this node's own; None: it has none, or not the same any more."""
        own = self._own()
        if own is None or not payload:
            return None
        look: Look = await self._on_codec(self._codec.look, own.anchor, own.local, chunk, payload, count)
        now = self._own()
        if now is None or now.offer != own.offer:
            return None  # the snapshot may have changed while it was read
        self._looks[chunk] = own.offer, digest, look
        return look

    def begin(self) -> None:
        """Another commit is to be voted on: what was made of the last one says nothing of it."""
        self._last = None

    async def against(self, commit: pb.Commit, owners: Mapping[int, bytes]) -> tuple[str, tuple[bytes, ...]]:
        """Why this node does not vote for a commit, and whose results it is against; empty: it votes.

        `owners`: who made the result of each chunk that is due. Raises RoundLogError.
        """
        self.begin()
        looks: dict[int, Look] = {}
        for chunk in sorted(owners):
            committed = commit.chunks[chunk]
            if not committed.contributors:
                continue
            look = await self._look_again(commit, chunk)
            if look is None:
                return "", ()
            looks[chunk] = look
        if not looks:
            return "", ()
        fragment = int(commit.session.fragment)
        reason = against(looks, len(owners), self._norms.limit(fragment))
        longer = times_longer(looks.values())
        self._last = None if longer is None else (fragment, longer)
        return reason, accused(looks, owners) if reason else ()

    async def _look_again(self, commit: pb.Commit, chunk: int) -> Look | None:
        """What was seen of a result; where the offer or the result is another one, it is looked at again."""
        own, committed = self._own(), commit.chunks[chunk]
        if own is None:
            return None
        digest, count = bytes(committed.payload_digest), len(committed.contributors)
        known = self._looks.get(chunk)
        if known is not None and known[:2] == (own.offer, digest):
            return known[2]
        payload = await self._stored(int(commit.version), chunk, count, digest)
        return await self.look(chunk, count, digest, payload)

    def applied(self) -> None:
        """A commit was applied: what is seen of the next one has another anchor."""
        if self._last is not None:
            fragment, longer = self._last
            self._norms.saw(fragment, [longer])
        self._last = None
        self._looks = {}
