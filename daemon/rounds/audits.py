"""Audits of chunk owners: what this node keeps of its own chunks, and what it looks at of the others'.

After each commit a node asks one owner, drawn at random, for the record of one of its chunks and makes the
result again (protocol/audit.py). A result that differs is told to the neighbours with the record as proof;
who shows no record is named, so that they ask as well. Each judges for itself: a neighbour's word is worth a
look, and one that cries wolf stands worse by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.daemon.rounds.audit_log import KEEP
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.surroundings import Surroundings
from atoll.peers.disk import DiskRefused, this_disk
from atoll.peers.identity import readable_name
from atoll.protocol import audit, standing, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.codecs import CODECS
from atoll.protocol.pledge import Equivocation, Pledges
from atoll.protocol.round.types import Part
from atoll.protocol.schema import ChunkTable
from atoll.protocol.signing import Keyring

log = logging.getLogger(__name__)

MAX_ACCUSATIONS = 8
"""Of others, that wait to be looked at."""
FETCH_S = 60.0

_About = tuple[int, int, bytes, bool]
"""Version, chunk, owner, and whether there is a proof."""


@dataclass(frozen=True)
class _Round:
    """A commit that was applied, and who made the result of each of its chunks."""

    commit: pb.Commit
    owners: Mapping[int, bytes]


class Auditor:
    """Audits others, and answers accusations. `strike` notes a wrong."""

    def __init__(
        self,
        keyring: Keyring,
        pledges: Pledges,
        chunks: ChunkTable,
        codec: CodecWorker,
        on_codec: Callable[..., asyncio.Future[bytes]],
        strike: Callable[[bytes, str], None],
        around: Surroundings,
    ) -> None:
        self._keyring = keyring
        self._pledges = pledges
        self._chunks = chunks
        self._codec = codec
        self._on_codec = on_codec
        self._strike = strike
        self._around = around
        self._rounds: dict[int, _Round] = {}
        self._told: set[_About] = set()
        self._accusations: asyncio.Queue[tuple[bytes, pb.Accusation]] = asyncio.Queue(MAX_ACCUSATIONS)
        self._early: list[tuple[bytes, pb.Accusation]] = []
        """Of a commit that this node is about to apply."""
        self._one = asyncio.Lock()
        """Records of one chunk have one place on disk."""
        self.done = 0
        """Audits that ended with a verdict."""

    def applied(self, commit: pb.Commit, owners: Mapping[int, bytes]) -> None:
        """A commit whose results were made by these."""
        version = int(commit.version)
        self._rounds[version] = _Round(commit, owners)
        self._rounds = {v: known for v, known in self._rounds.items() if v > version - KEEP}
        self._told = {told for told in self._told if told[0] in self._rounds}
        early, self._early = self._early, []
        for sender, accusation in early:
            self.accused(sender, accusation)

    async def look(self, version: int) -> None:
        """Audits one chunk of a commit that was applied."""
        known = self._rounds.get(version)
        chunk = audit.choose(known.owners, self._keyring.peer_id, self._around.draw) if known else None
        if known is not None and chunk is not None:
            await self._audit(known, chunk)

    async def _audit(self, known: _Round, chunk: int) -> None:
        """Asks the owner of a chunk for its record; what is wrong is told to everyone."""
        owner = known.owners[chunk]
        try:
            lied = await self._lied(known, chunk, owner, "audit")
        except audit.Unusable as error:
            if owner not in self._around.neighbours():
                return  # it has left, which is no wrong
            log.info("chunk %d of %s: %s", chunk, readable_name(owner), error)
            self._strike(owner, standing.NO_RECORD)
            lied = False
        else:
            if not lied:
                return
        accusation = pb.Accusation(version=known.commit.version, chunk=chunk, owner=owner, proof=lied)
        if _about(accusation) not in self._told:
            self._told.add(_about(accusation))
            self._tell(accusation)

    async def _lied(self, known: _Round, chunk: int, peer: bytes, kind: str) -> bool | None:
        """Whether the owner of a chunk lied, by the record that `peer` shows; None: that can't be told.

        Raises Unusable where the record shows nothing. Wrongs of the owner, and of contributors, are noted.
        """
        version, lied = int(known.commit.version), None
        target = self._around.records.path("proof", version, chunk)
        async with self._one:
            try:
                found = await self._judged(known, chunk, peer, kind, target)
                if found != known.owners[chunk]:
                    raise audit.Unusable("a record of another owner's result")
                lied = False
            except audit.Lie as lie:
                lied = True
                name = readable_name(lie.owner)
                self._around.say(f"{name} lied in round {version}, chunk {chunk}: {lie}.")
                self._strike(lie.owner, standing.LIED)
            except Equivocation as error:
                self._strike(error.peer, standing.TWO_PLEDGES)
            except (audit.Undecided, DiskRefused) as error:
                log.warning("no verdict on chunk %d of version %d: %s", chunk, version, error)
            finally:
                if not lied:
                    with contextlib.suppress(OSError):
                        target.unlink(missing_ok=True)
        self.done += lied is not None
        return lied

    async def _judged(self, known: _Round, chunk: int, peer: bytes, kind: str, target: Path) -> bytes:
        """The owner by a record of `peer`'s, kept in `target`. Raises as audit.judge, and DiskRefused."""
        commit, n = known.commit, self._chunks.size(chunk)
        piece = max(codec.bound(n) for codec in CODECS.values() if not n % codec.block)
        most = len(commit.contributors) * piece + audit.MAX_HEAD_BYTES
        try:
            async with asyncio.timeout(FETCH_S):
                await self._around.fetch(peer, kind, int(commit.version), chunk, target, most)
        except (OSError, EOFError, TimeoutError, wire.WireError) as error:
            raise audit.Unusable(f"no record: {error or 'nothing came'}") from error
        with this_disk(target):
            data = memoryview(await asyncio.to_thread(target.read_bytes))
        return await self._on_codec(
            audit.judge, data, commit, chunk, self._keyring, self._pledges, self._again(commit, n)
        )

    def _again(self, commit: pb.Commit, n: int) -> audit.Recompute:
        weights = [int(c.weight) for c in commit.contributors]

        def recompute(parts: Sequence[Part], seed: bytes) -> tuple[bytes, tuple[int, ...]]:
            for part in parts:
                self._codec.check(part.payload, n)
            return audit.digest_of(self._codec.reduce(parts, weights, n, seed)), self._codec.left_out

        return recompute

    # ---- what others say

    def _tell(self, accusation: pb.Accusation) -> None:
        for peer in self._around.neighbours():
            self._around.send(peer, pb.Frame(accusation=accusation))

    def accused(self, sender: bytes, accusation: pb.Accusation) -> str | None:
        """Notes an accusation to look at. Why not, where it is not worth that."""
        version = int(accusation.version)
        if version == max(self._rounds, default=0) + 1 and len(self._early) < MAX_ACCUSATIONS:
            self._early.append((sender, accusation))
            return None
        known = self._rounds.get(version)
        if known is None or accusation.chunk not in known.owners:
            return "accusation about a round that is not known here"
        if known.owners[accusation.chunk] != accusation.owner:
            return "accusation of a node that did not own the chunk"
        if _about(accusation) in self._told or accusation.owner == self._keyring.peer_id:
            return None
        if self._accusations.full():
            return "too many accusations at once"
        self._told.add(_about(accusation))
        self._accusations.put_nowait((sender, accusation))
        return None

    async def answer(self) -> None:
        """Looks at what others accuse each other of, one after the other, for ever."""
        while True:
            sender, accusation = await self._accusations.get()
            known = self._rounds.get(int(accusation.version))
            if known is None:
                continue
            if not accusation.proof:
                await self._audit(known, accusation.chunk)
                continue
            try:
                lied = await self._lied(known, accusation.chunk, sender, "proof")
            except audit.Unusable as error:
                log.info("an accusation by %s: %s", readable_name(sender), error)
                lied = False
            if lied:
                self._tell(accusation)
            elif lied is not None:
                self._strike(sender, standing.FALSE_ALARM)


def _about(accusation: pb.Accusation) -> _About:
    return int(accusation.version), accusation.chunk, bytes(accusation.owner), accusation.proof
