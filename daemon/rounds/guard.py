"""What a node does so that members who lie do no harm: the one place where the rounds' driver asks.

Standings hold in every swarm. Where the manifest's merge holds against liars, contributions many times longer
than is usual are not taken, and results that point against what this node learned are not voted for; where
rounds are audited, contributions are pledged before they are shown, and results are made again by others
(protocol/judgement.py, pledge.py, audit.py, standing.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from atoll.daemon.rounds.audits import Auditor
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.judging import Judging, Own, Stored
from atoll.daemon.rounds.norms import Norms
from atoll.daemon.rounds.pledging import Pledging
from atoll.daemon.rounds.surroundings import Surroundings
from atoll.peers.files import ServedFile
from atoll.peers.identity import readable_name
from atoll.protocol import audit, standing, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.pledge import Equivocation, Pledges
from atoll.protocol.round import types as t
from atoll.protocol.round.plan import due_chunks
from atoll.protocol.signing import Keyring
from atoll.protocol.text import plain

log = logging.getLogger(__name__)


class Guard:
    """Of one node. `present`: contributors of the session under way that are alive; `own` and `stored`: see
    Judging; `voters`: those of this head who are here."""

    def __init__(
        self,
        manifest: SwarmManifest,
        keyring: Keyring,
        around: Surroundings,
        codec: CodecWorker,
        on_codec: Callable[..., asyncio.Future[Any]],
        start: Callable[[Coroutine[Any, Any, None]], object],
        present: Callable[[], Collection[bytes]],
        own: Callable[[], Own | None],
        stored: Stored,
        voters: Callable[[], Collection[bytes]],
    ) -> None:
        self.audits = bool(manifest.body.rounds.audit)
        self._holds = manifest.holds
        self._me = keyring.peer_id
        self._manifest = manifest
        self._around = around
        self._codec = codec
        self._on_codec = on_codec
        self._start = start
        self._norms = Norms()
        self._lengths: dict[int, list[float]] = {}
        self._disagreed: dict[bytes, int] = {}
        self._averaged = 0
        self._struck: set[tuple[bytes, str]] = set()
        self._sizes: dict[int, list[int]] = {}
        """Of the payloads of chunks that this node averages now."""
        self._owners: tuple[int, Mapping[int, bytes]] = (0, {})
        self._judging = Judging(codec, on_codec, own, stored)
        self._accused: tuple[bytes, ...] = ()
        self._against: tuple[bytes, set[bytes]] = (b"", set())
        """The last head at which this node was against commits, and their leaders."""
        self._voters = voters
        self._heard: set[bytes] = set()
        """Whose refusals at this head people have been told of."""
        chunks = manifest.chunks
        held = Pledges(keyring, manifest.swarm_id, chunks.fragments)
        self.pledging = Pledging(keyring, held, around.send, present)
        self.auditor = Auditor(keyring, held, chunks, codec, on_codec, self.strike, around)
        if self.audits:
            around.records.clear()
            start(self.auditor.answer())

    # ---- standings

    def strike(self, peer: bytes, reason: str) -> None:
        """Notes a wrong; the same again before the next commit counts once."""
        if (peer, reason) not in self._struck:
            self._struck.add((peer, reason))
            self._around.standings.strike(peer, reason)

    def quarantined(self, peer: bytes) -> str | None:
        """Why a node's contributions do not count here; None: they do."""
        return self._around.standings.quarantined(peer)

    def leads(self, plan: pb.Plan) -> str | None:
        """Why a plan is not taken part in."""
        leader = bytes(plan.session.leader)
        if self._around.standings.proven(leader):
            return "plan led by a node that was proved to lie"
        parent = plan.session.parent
        if leader in self._against_at(parent) and not self._gives_way(parent):
            return "plan led by a node whose results were refused at this head"
        return None

    # ---- contributions

    async def before_scatter(
        self, plan: pb.Plan, encode: Callable[[int], Coroutine[Any, Any, wire.Payload | None]]
    ) -> bool:
        """Returns when contributions of a plan may go out; False: the snapshot was changed meanwhile."""
        if not self.audits or not self.pledging.due(plan):
            return True
        if self.pledging.mine(plan) is None:
            digests = {}
            for chunk in due_chunks(plan):
                payload = await encode(chunk)
                if payload is None:
                    return False
                digests[chunk] = await self._on_codec(audit.digest_of, payload)
            self.pledging.pledge(plan, digests)
        await self.pledging.exchange(plan)
        return True

    async def refusal(
        self, sender: bytes, message: pb.Contribution, payload: wire.Payload, codec: str | None
    ) -> str | None:
        """Why a contribution that its codec takes is not averaged; None: it is."""
        if self._around.standings.quarantined(sender):
            return "contribution of a node in quarantine"
        if message.partial:
            return None
        if self.audits:
            digest = await self._on_codec(audit.digest_of, payload)
            if not await self.pledging.fits(sender, message.session, message.chunk, digest):
                self.strike(sender, standing.UNPLEDGED)
                return "contribution that was not pledged"
        if self._holds:
            n = self._manifest.chunks.size(message.chunk)
            length = await self._on_codec(self._codec.length, payload, n, codec)
            limit = self._norms.limit(message.chunk)
            if limit is not None and length > limit:
                self.strike(sender, standing.HUGE)
                return "contribution many times longer than is usual"
            self._lengths.setdefault(message.chunk, []).append(length)
        return None

    def refused_by_codec(self, sender: bytes) -> None:
        """A contribution that no codec makes."""
        self.strike(sender, standing.MALFORMED)

    def pledged(self, sender: bytes, signed: pb.Signed) -> None:
        """A pledge came. Raises ValueError, or DecodeError."""
        if not self.audits:
            raise ValueError("pledge in a swarm that has none")
        try:
            self.pledging.take(sender, signed)
        except Equivocation:
            self.strike(sender, standing.TWO_PLEDGES)
            raise

    # ---- results

    def averaged(self, plan: pb.Plan, chunk: int, left_out: Collection[int]) -> None:
        """This node made the result of a chunk without these."""
        self._norms.saw(chunk, self._lengths.pop(chunk, []))
        self._averaged += 1
        for member in left_out:
            peer = bytes(plan.contributors[member].peer)
            self._disagreed[peer] = self._disagreed.get(peer, 0) + 1

    def keep(self, version: int, effect: t.Reduce) -> None:
        """Writes down what came for a chunk of this node's. Blocking."""
        if not self.audits or effect.partial:
            return
        self._sizes[effect.chunk] = [len(part.payload) for part in effect.parts]
        try:
            self._around.records.put(version, effect.chunk, effect.parts)
        except OSError as error:
            log.warning("no record of chunk %d for audits: %s", effect.chunk, error.strerror)

    async def seal(self, version: int, plan: pb.Plan, chunk: int, result: pb.Signed | None) -> None:
        """The result of a chunk is signed: its record is complete, and can be asked for."""
        if not self.audits or result is None:
            return
        said = pb.ChunkResult.FromString(result.body)
        members = sorted({*said.contributors, *said.left_out})
        pledges = [self.pledging.of(plan, bytes(plan.contributors[i].peer)) for i in members]
        if not members or any(signed is None for signed in pledges):
            return
        sizes = self._sizes.pop(chunk, [])
        record = pb.AuditRecord(result=result, pledges=[p for p in pledges if p is not None], sizes=sizes)
        try:
            await asyncio.to_thread(self._around.records.seal, version, chunk, record)
        except OSError as error:
            log.warning("no record of chunk %d for audits: %s", chunk, error.strerror)

    async def look(self, message: pb.ChunkResult, payload: wire.Payload) -> None:
        """The result of a chunk is here: what comes of it if it is voted on."""
        if self._holds:
            digest, count = bytes(message.payload_digest), len(message.contributors)
            await self._judging.look(message.chunk, count, digest, payload)

    async def refuses(
        self, commit: pb.Commit, results: Mapping[int, tuple[pb.ChunkResult, pb.Signed]]
    ) -> tuple[str, tuple[bytes, ...]]:
        """Why this node does not vote for a commit (empty: it does), and whose results it is against.

        `results`: of all chunks that are due. Raises RoundLogError.
        """
        self._accused = ()
        self._judging.begin()
        if not self._holds or self._gives_way(commit.session.parent):
            return "", ()
        owners = {chunk: bytes(signed.signer) for chunk, (_, signed) in results.items()}
        reason, made_by = await self._judging.against(commit, owners)
        self._accused = tuple(peer for peer in made_by if peer != self._me)
        if reason:
            parent, leaders = bytes(commit.session.parent), self._against_at(commit.session.parent)
            self._against = parent, {*leaders, bytes(commit.session.leader)}
            leader = readable_name(bytes(commit.session.leader))
            self._around.say(f"This node votes against round {commit.version}, led by {leader}: {reason}.")
        return reason, self._accused

    def _against_at(self, parent: bytes) -> set[bytes]:
        head, leaders = self._against
        return leaders if head == parent else set()

    def _gives_way(self, parent: bytes) -> bool:
        """Whether this node was against commits of more than half as many leaders as there are voters here.

        Then some of them are honest: members who differ so much have to go on all the same.
        """
        leaders = self._against_at(parent)
        return bool(leaders) and 2 * len(leaders) > len(self._voters())

    def heard_refusal(self, sender: bytes, message: pb.Abort) -> None:
        """Another voter is against a commit at this head: people are told, once."""
        if self._holds and sender not in self._heard:
            self._heard.add(sender)
            leader, why = readable_name(bytes(message.session.leader)), plain(message.reason)
            self._around.say(f"{readable_name(sender)} votes against a round led by {leader}: {why}.")

    def ended(self, report: t.SessionReport) -> None:
        """A session is over. Where others refused its results as well, their makers stand worse here."""
        if report.outcome == "aborted" and self._me in report.refused:
            for peer in self._accused:
                self.strike(peer, standing.VOTED_DOWN)
        self._accused = ()

    def voted(self, version: int, results: Mapping[int, tuple[pb.ChunkResult, pb.Signed]]) -> None:
        """A commit is about to be made of these results."""
        owners = {c: bytes(signed.signer) for c, (message, signed) in results.items() if message.contributors}
        self._owners = version, owners

    def applied(self, commit: pb.Commit) -> None:
        """A commit was applied: standings rise, and one of its chunks is audited."""
        for peer, chunks in self._disagreed.items():
            if 2 * chunks > self._averaged:
                self.strike(peer, standing.DISAGREES)
        self._disagreed, self._averaged, self._struck = {}, 0, set()
        self._heard = set()
        self._judging.applied()
        self._lengths = {}
        self._around.standings.commit()
        version, owners = self._owners
        if self.audits and version == commit.version:
            self.auditor.applied(commit, owners)
            self._start(self._look(version))

    async def _look(self, version: int) -> None:
        await asyncio.to_thread(self._around.records.tidy, version)
        await self.auditor.look(version)

    def accused(self, sender: bytes, accusation: pb.Accusation) -> None:
        """Raises ValueError where an accusation is not worth a look."""
        reason = self.auditor.accused(sender, accusation) if self.audits else "accusation without audits"
        if reason:
            raise ValueError(reason)

    def served(self, kind: str, version: int, chunk: int) -> ServedFile | None:
        """A record, or a proof, for a peer."""
        return self._around.records.served(kind, version, chunk) if self.audits else None
