"""The driver of the round machine: carries out its effects over links, threads and disk.

Three places do the work, and the event loop only passes bytes between them: the codec thread (encode,
average, decode checks), the disk thread (results, votes, outer steps, checkpoints; in order), and the links.
Every await here is part of a task that ends with its session or with the node; what fails becomes an event
of the machine or of the log, never silence.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.rounds.config import round_config
from atoll.daemon.rounds.drops import Drops
from atoll.daemon.rounds.guard import Guard
from atoll.daemon.rounds.judging import Own
from atoll.daemon.rounds.outer_state import OuterState, StateLost
from atoll.daemon.rounds.results import Results
from atoll.daemon.rounds.surroundings import Surroundings
from atoll.daemon.storage.round_log import NoVoteLeft, RoundLogError
from atoll.daemon.storage.spill import spill
from atoll.peers.identity import readable_name
from atoll.peers.links import LinkLost
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.audit import seed_of
from atoll.protocol.chain import Head, commit_digest
from atoll.protocol.codecs import CodecError, NonFinite
from atoll.protocol.manifest import MEAN
from atoll.protocol.outer import Float32
from atoll.protocol.round import inbox
from atoll.protocol.round import types as t
from atoll.protocol.round.codec_choice import codec_of
from atoll.protocol.round.commit import contribution_of
from atoll.protocol.round.machine import RoundMachine
from atoll.protocol.round.plan import MAX_MEMBERS, members_of
from atoll.protocol.round.session import Session
from atoll.protocol.signing import Keyring

log = logging.getLogger(__name__)

DISK_RETRY_S = 2.0
SEND_AHEAD = 4
"""Encoded chunks on their way out at once."""
HELD_BYTES = 12 << 20
"""Contributions, and means of groups, that wait for others in memory; those beyond wait in files."""


class RoundDriver:
    """Feeds the machine and does what it says. `applied` is awaited after each outer step."""

    def __init__(
        self,
        machine: RoundMachine,
        keyring: Keyring,
        state: OuterState,
        snapshot: Float32,
        links: Any,
        clock: Callable[[], float],
        before_apply: Callable[[], Awaitable[None]],
        applied: Callable[[pb.Commit, Head], Awaitable[None]],
        ended: Callable[[t.SessionReport], None],
        trouble: Callable[[str, str], None],
        around: Surroundings,
    ) -> None:
        self.machine = machine
        self.state = state
        self.dropped = Drops()
        self.offer = 0
        """Number of the offer that the snapshot in memory belongs to; a trainer's start makes it nobody's."""
        self.cosine: float | None = None
        """Between this node's last accepted contribution and the mean of all, in one chunk. Near 1 all say
        the same, near 1/√N they have nothing in common, below 0 this node pulls against the others."""
        self._keyring = keyring
        self._snapshot = snapshot
        self._links = links
        self._clock = clock
        self._before_apply = before_apply
        self._applied = applied
        self._ended = ended
        self._trouble = trouble
        rounds = state.manifest.body.rounds
        self._amendment = b""
        self._chunks = state.manifest.chunks
        seed = keyring.peer_id if rounds.random_rounding else None
        self._codec = CodecWorker(
            rounds.codec,
            rounds.result_codec,
            self._chunks,
            rounds.feedback,
            seed,
            measured=state.manifest.ahead is not None,
            merge=rounds.merge or MEAN,
            bucket=rounds.bucket or 1,
            noise=around.noise,
        )
        self._codec_thread = ThreadPoolExecutor(1, "codec")
        self.disk_thread = ThreadPoolExecutor(1, "disk")
        self._tasks: set[asyncio.Task[None]] = set()
        self._kick = asyncio.Event()
        self._fed = asyncio.Event()
        self._results = Results(state.rounds, self.on_disk, self._start, links.send_bulk)
        self._closed = False
        self.guard = Guard(
            state.manifest,
            keyring,
            around,
            self._codec,
            self.on_codec,
            self._start,
            self._present,
            self._own,
            self._stored,
            lambda: machine.voters,
        )
        self._clockwork = asyncio.create_task(self._tick_for_ever(), name="round-clock")
        self.amended()

    # ---- the machine's surroundings

    def feed(self, event: t.Event) -> None:
        """Gives the machine an event and starts what follows from it: nothing, once closed."""
        if self._closed:
            return
        if isinstance(event, t.HeadChanged):
            self.amended(event.head)
        self._carry_out(self.machine.handle(event, self._clock()))
        if isinstance(event, t.RosterChanged | t.AbortReceived):
            self.guard.pledging.changed()

    def amended(self, head: Head | None = None) -> None:
        """The manifest may have been amended: sessions to come go by what is in force after `head`.

        None: after this node's.
        """
        manifest = self.state.amendments.due(head or self.state.head)
        if manifest.amendment != self._amendment:
            self._amendment = manifest.amendment
            self.feed(t.ConfigChanged(round_config(manifest)))

    def _carry_out(self, effects: list[t.Effect]) -> None:
        self._kick.set()
        self._fed.set()
        for effect in effects:
            match effect:
                case t.Send():
                    for peer in effect.peers:
                        frame = pb.Frame()
                        frame.CopyFrom(effect.frame)
                        self._links.send(peer, frame)
                case t.Scatter():
                    self._start(self._scatter(effect))
                case t.Reduce():
                    self._start(self._reduce(effect))
                case t.SendPartial():
                    self._start(self._send_partial(effect))
                case t.StoreResult():
                    self._results.store(self.state.head.version + 1, effect)
                case t.SendResult():
                    self._results.send(self.state.head.version + 1, effect)
                case t.Persist():
                    self._start(self._persist(effect))
                case t.Apply():
                    self._start(self._apply(effect))
                case t.Ended():
                    self.guard.ended(effect.report)
                    if effect.report.outcome == "aborted" and effect.report.refused:
                        self._start(self._give_up())
                    self._ended(effect.report)
                case t.Dropped():
                    self.dropped.note(effect.sender, effect.reason)

    def _present(self) -> Collection[bytes]:
        """Contributors of the session under way that are alive."""
        session = self.machine.session
        return session.present if session is not None else ()

    def _own(self) -> Own | None:
        """What this node offers now; None: nothing, or another life of its trainer wrote the snapshot."""
        offer = self.machine.offer
        if offer is None or offer != self.offer:
            return None
        return Own(offer, self.state.parameters, self._snapshot)

    async def _stored(self, version: int, chunk: int, count: int, digest: bytes) -> wire.Payload:
        payload: bytes = await self.on_disk(self.state.rounds.get, version, chunk, count, digest)
        return payload

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, AtollError):
            self._trouble(error.code, error.sentence())
        elif isinstance(error, RoundLogError):
            self._trouble("results_lacking", f"The round's results are not on this disk: {error}.")
        else:
            self._trouble("bug", f"A round's task failed: {error!r}.")
            log.error("a round's task failed", exc_info=error)

    async def _tick_for_ever(self) -> None:
        while True:
            self._kick.clear()
            now = self._clock()
            deadline = self.machine.deadline()
            if deadline <= now:
                self._carry_out(self.machine.tick(now))
                # A deadline that stays in the past must not spin the loop.
                await asyncio.sleep(0.01)
                continue
            timeout = None if math.isinf(deadline) else deadline - now
            try:
                async with asyncio.timeout(timeout):
                    await self._kick.wait()
            except TimeoutError:
                continue

    def on_codec(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Runs `work` on the codec thread, after everything that was given to it before."""
        return asyncio.get_running_loop().run_in_executor(self._codec_thread, work, *arguments)

    def on_disk(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """The same on the disk thread."""
        return asyncio.get_running_loop().run_in_executor(self.disk_thread, work, *arguments)

    # ---- effects

    async def _scatter(self, effect: t.Scatter) -> None:
        """Encodes chunk by chunk, in its turn among the members, and streams to the targets."""
        plan, me = effect.plan, self._keyring.peer_id
        index = next(i for i, c in enumerate(plan.contributors) if c.peer == me)
        offer, codec = int(plan.contributors[index].offer), codec_of(plan, me)
        places = asyncio.Semaphore(SEND_AHEAD)

        async def encode(chunk: int) -> wire.Payload | None:
            """None: the snapshot may have changed while it was read."""
            payload: wire.Payload = await self.on_codec(
                self._codec.encode, self.state.parameters, self._snapshot, chunk, offer, codec
            )
            return payload if offer == self.offer else None

        if not await self.guard.before_scatter(plan, encode):
            return
        async with asyncio.TaskGroup() as group:
            for chunk, target in effect.targets:
                if not self._is_due(plan, chunk, target, offer):
                    continue
                await places.acquire()
                payload = await encode(chunk)
                if payload is None:
                    return
                group.create_task(self._contribute(plan.session, chunk, target, payload, places))

    async def _contribute(
        self,
        session: pb.SessionId,
        chunk: int,
        target: bytes,
        payload: wire.Payload,
        places: asyncio.Semaphore,
    ) -> None:
        try:
            if target == self._keyring.peer_id:
                kept = await self._kept(payload)
                self.feed(t.ContributionArrived(target, session, chunk, kept))
                return
            frame = pb.Frame(contribution=pb.Contribution(session=session, chunk=chunk))
            await self._links.send_bulk(target, frame, payload)
        except LinkLost as error:
            # The roster tells the machine that the target is gone; the session ends with that reason.
            log.info("chunk %d did not reach %s: %s", chunk, readable_name(target), error)
        finally:
            places.release()

    async def _send_partial(self, effect: t.SendPartial) -> None:
        frame = pb.Frame(contribution=effect.message)
        try:
            await self._links.send_bulk(effect.peer, frame, effect.part.payload)
        except LinkLost as error:
            log.info("the mean of chunk %d in this group did not reach its owner: %s", effect.chunk, error)

    def _is_due(self, plan: pb.Plan, chunk: int, target: bytes, offer: int) -> bool:
        """Whether the session, or one that continues it, still has this chunk at its target.

        And whether the snapshot is still the one that the plan names: a trainer that was started again writes
        another one in its place.
        """
        session = self.machine.session
        if offer != self.offer:
            return False
        if session is None or not session.exchange.knows(plan.session):
            return False
        return session.exchange.counterpart(chunk) == target

    async def _reduce(self, effect: t.Reduce) -> None:
        payload: wire.Payload = b""
        digest, left_out = hashlib.sha256(b"").digest(), tuple[int, ...]()
        if effect.parts:
            await self._results.room()
            payload, digest, left_out = await self.on_codec(self._reduced, effect)
            if effect.partial:
                payload = await self._kept(payload)
        plan, chunk, version = effect.plan, effect.chunk, self.state.head.version + 1
        members = tuple(member for member in effect.members if member not in left_out)
        self.guard.averaged(plan, chunk, left_out)
        self.feed(t.ChunkReduced(plan.session, chunk, members, payload, digest, effect.partial, left_out))
        session = self.machine.session
        if not effect.partial and session is not None and chunk in session.exchange.results:
            result, signed = session.exchange.results[chunk]
            await self.guard.seal(version, plan, chunk, signed)
            if result.payload_digest == digest:
                await self.guard.look(result, payload)

    def _reduced(self, effect: t.Reduce) -> tuple[wire.Payload, bytes, tuple[int, ...]]:
        """The encoded mean, its digest (nobody asks for that of a group's), and whom the merge left out."""
        weights = [int(c.weight) for c in effect.plan.contributors]
        seed = seed_of(effect.plan.session, effect.chunk)
        self.guard.keep(self.state.head.version + 1, effect)
        payload = self._codec.reduce(effect.parts, weights, self._chunks.size(effect.chunk), seed)
        digest = b"" if effect.partial else hashlib.sha256(payload).digest()
        return payload, digest, self._codec.left_out

    async def _persist(self, effect: t.Persist) -> None:
        version = self.state.head.version + 1
        session = self._under_way(effect.session)
        if session is None:
            return
        results = dict(session.exchange.results)
        self.guard.voted(version, results)
        may_vote, refusal, accused = True, "", tuple[bytes, ...]()
        try:
            commit = pb.Commit.FromString(effect.commit.body)
            refusal, accused = await self.guard.refuses(commit, results)
            if self._under_way(effect.session) is not session:
                return  # it ended meanwhile, without this node's vote
            # A vote says that all bytes are here: results that the disk refused must not be voted for.
            keep = self.state.rounds.hold if refusal else self.state.rounds.vote
            if not await self._disk_took(keep, version, effect.commit):
                return
        except NoVoteLeft as error:
            self._trouble("no_vote", f"This node holds version {version} and does not vote for it: {error}.")
            may_vote = False
        except RoundLogError as error:
            self._trouble("results_lacking", f"The results of version {version} are not all here: {error}.")
            return
        digest = commit_digest(effect.commit.body)
        self.feed(t.Persisted(effect.session, digest, may_vote, refusal, accused))

    def _under_way(self, session: pb.SessionId) -> Session | None:
        """The session of this id, or that continues it; None: it is over."""
        running = self.machine.session
        return running if running is not None and running.exchange.knows(session) else None

    async def _give_up(self) -> None:
        """A commit was voted down. Who voted for it has no other vote; but a start must not adopt it."""
        await self._disk_took(self.state.rounds.clear, self.state.head.version)

    async def _apply(self, effect: t.Apply) -> None:
        while not await self._trainer_lets():
            self._trouble("trainer_silent", "The trainer has not taken in the last version yet.")
        commit = pb.Commit.FromString(effect.commit.body)
        # While the parameters are still those that the contribution was measured from.
        await self._settle(commit)
        await self._compare(commit)
        version = effect.parent.version + 1
        votes = effect.votes
        # The commit is decided: a disk that refuses is told and tried again, for there is no way back.
        while not await self._disk_took(self.state.decide, version, effect.commit, votes):  # noqa: ASYNC110
            await asyncio.sleep(DISK_RETRY_S)
        try:
            head = await self.on_disk(self.state.apply, effect.commit, effect.certified)
        except StateLost as error:
            self._trouble("bug", f"This node has to start again, for {error}.")
            return
        self.feed(t.HeadChanged(head))
        self.guard.applied(commit)
        await self._applied(commit, head)
        await self._disk_took(self.state.save_if_due)

    async def _settle(self, commit: pb.Commit) -> None:
        """What the codec lost of an accepted contribution is added to the next one."""
        number, chunks = contribution_of(commit, self._keyring.peer_id)
        if chunks and number == self.offer:
            await self.on_codec(
                self._codec.settle, self.state.parameters, self._snapshot, tuple(chunks), number
            )

    async def _compare(self, commit: pb.Commit) -> None:
        """How far this node's contribution agrees with the others': one chunk of each commit, in turn."""
        number, chunks = contribution_of(commit, self._keyring.peer_id)
        if not chunks or number != self.offer or len(commit.contributors) < 2:
            return
        chunk = chunks[int(commit.version) % len(chunks)]
        try:
            mean = await self.on_disk(lambda: self.state.mean_of(commit, chunk).copy())
        except RoundLogError as error:
            log.info("no comparison with the mean of version %d: %s", commit.version, error)
            return
        vectors = self.state.parameters, self._snapshot
        self.cosine = await self.on_codec(self._codec.cosine, *vectors, chunk, mean)

    async def _trainer_lets(self) -> bool:
        """Whether the trainer has stopped reading the committed parameters."""
        try:
            await self._before_apply()
        except TimeoutError:
            return False
        return True

    async def _disk_took(self, work: Callable[..., Any], *arguments: Any) -> bool:
        """Whether the disk did it; if not, that is an alert."""
        try:
            await self.on_disk(work, *arguments)
        except AtollError as error:
            self._trouble(error.code, error.sentence())
            return False
        return True

    # ---- what came over a link

    async def received(self, sender: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        """Handles one frame that belongs to rounds; what is malformed is counted and dropped.

        Links outlive the driver, for they say goodbye; what still comes over them then is nobody's.
        """
        if self._closed:
            return
        try:
            await self._received(sender, frame, payload)
        except (DecodeError, CodecError, NonFinite, ValueError) as error:
            self.dropped.note(sender, f"malformed {frame.WhichOneof('message')}", str(error))

    async def _received(self, sender: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        match frame.WhichOneof("message"):
            case "contribution":
                await self._contribution(sender, frame.contribution, payload)
            case "result":
                await self._result(sender, frame.result, payload)
            case "pledge":
                self.guard.pledged(sender, frame.pledge)
            case "accusation":
                self.guard.accused(sender, frame.accusation)
            case _:
                event = inbox.event_of(sender, frame, self._verified)
                if isinstance(event, t.PlanReceived) and (reason := self.guard.leads(event.message)):
                    self._decline(event.message, reason)
                    return
                if isinstance(event, t.AbortReceived) and event.message.commit:
                    self._refused(event)
                self.feed(event)

    def _refused(self, event: t.AbortReceived) -> None:
        """A node is against a commit: what voters at this head say, people hear."""
        head = self.state.head
        if event.message.session.parent == head.digest and event.sender in head.electorate:
            self.guard.heard_refusal(event.sender, event.message)

    def _decline(self, plan: pb.Plan, reason: str) -> None:
        """Takes no part in a session, and lets its members know: nobody is to wait for this node."""
        me = self._keyring.peer_id
        self.dropped.note(bytes(plan.session.leader), reason)
        for peer in sorted(members_of(plan) - {me}):
            self._links.send(peer, pb.Frame(abort=pb.Abort(session=plan.session, reason=reason)))

    def _verified(self, kind: str, signed: pb.Signed) -> bytes:
        if not self._keyring.verify(kind, signed):
            raise ValueError(f"{kind} with a wrong signature")
        return bytes(signed.body)

    async def _contribution(self, sender: bytes, message: pb.Contribution, payload: wire.Payload) -> None:
        if message.chunk >= len(self._chunks):
            raise ValueError("contribution to a chunk that does not exist")
        if message.partial != bool(message.members) and (message.members or payload):
            raise ValueError("mean of nobody, or members without a mean")
        if len(message.members) > MAX_MEMBERS:
            raise ValueError(f"mean of {len(message.members)} members, at most {MAX_MEMBERS} are allowed")
        n = self._chunks.size(message.chunk)
        try:
            session = self.machine.session
            known = session is not None and session.exchange.knows(message.session)
            codec = codec_of(session.plan, sender) if session is not None and known else None
            if not message.partial:
                await self.on_codec(self._codec.check, payload, n, codec)
            elif message.members:
                await self.on_codec(self._codec.check_result, payload, n, len(message.members))
        except CodecError as error:
            reason = "contribution that the codec refuses"
            log.info("chunk %d of %s: %s", message.chunk, readable_name(sender), error)
            self.guard.refused_by_codec(sender)
            self.feed(t.ContributionRejected(sender, message.session, message.chunk, reason))
            return
        if refused := await self.guard.refusal(sender, message, payload, codec):
            self.feed(t.ContributionRejected(sender, message.session, message.chunk, refused))
            return
        kept, members = await self._kept(payload), inbox.members_of(message)
        self.feed(t.ContributionArrived(sender, message.session, message.chunk, kept, members))

    async def _kept(self, payload: wire.Payload) -> wire.Payload:
        """A contribution as it waits for others: in a file, where those in memory are as many as may be."""
        session = self.machine.session
        if session is None or session.exchange.held_bytes <= HELD_BYTES:
            return payload
        kept: wire.Payload = await self.on_codec(spill, self.state.rounds.folder, payload)
        return kept

    async def _result(self, sender: bytes, signed: pb.Signed, payload: wire.Payload) -> None:
        message = await self.on_codec(self._judged, signed, payload)
        self.feed(t.ResultArrived(sender, message, signed, payload))
        await self.guard.look(message, payload)
        await self._results.room()

    def _judged(self, signed: pb.Signed, payload: wire.Payload) -> pb.ChunkResult:
        """A result that is what it says. On the codec thread: hashing a chunk would hold up the loop."""
        message = pb.ChunkResult.FromString(self._verified("result", signed))
        if message.chunk >= len(self._chunks):
            raise ValueError("result of a chunk that does not exist")
        if hashlib.sha256(payload).digest() != message.payload_digest:
            raise ValueError("result without its digest")
        if bool(message.contributors) != bool(payload):
            raise ValueError("result with contributors and no payload, or the other way round")
        if payload:
            n, count = self._chunks.size(message.chunk), len(message.contributors)
            self._codec.check_result(payload, n, count)
        return message

    async def first_non_finite(self) -> str | None:
        """Name of the first tensor whose pseudo-gradient is not finite, or None."""
        position = await self.on_codec(self._codec.find_non_finite, self.state.parameters, self._snapshot)
        return None if position is None else self.state.schema.tensor_at(position)

    async def roughness(self) -> float:
        """Of this node's loss, where the manifest deals out bits by it; else 0."""
        if not self.state.manifest.body.rounds.by_roughness:
            return 0.0
        return float(await self.on_codec(self._codec.roughness, self.state.parameters, self._snapshot))

    @property
    def writing(self) -> bool:
        """The committed parameters are on the move: nobody may begin to read them."""
        return self.machine.applying or self.machine.catching_up

    async def idle(self) -> None:
        """Returns when no session is under way and no commit is being applied."""
        while self.machine.session is not None or self.machine.applying:
            self._fed.clear()
            await self._fed.wait()

    async def close(self) -> None:
        """Cancels what is under way and gives the threads back, after what is already on them."""
        self._closed = True
        tasks = [self._clockwork, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in (self._codec_thread, self.disk_thread):
            await asyncio.to_thread(pool.shutdown, True)
