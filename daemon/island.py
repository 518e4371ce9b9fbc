"""The island: this node's trainer in the rhythm of the rounds.

Turns what the trainer says into events of the round machine, and commits into what the trainer has to take
in; keeps the token account; pauses, resumes and finishes. Knows no sockets and no tensors.

A node is expected in rounds (it "trains") only once it has been ready since it began: so a newcomer never
keeps the others waiting. A trainer that ends by itself is started again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atoll.daemon.events import Events
from atoll.daemon.left_out import Seen, Work, sentence
from atoll.daemon.memory_cap import MemoryCap
from atoll.daemon.reading import Place
from atoll.daemon.rhythm import Phase, Rhythm, Terms
from atoll.daemon.status import duration, size
from atoll.daemon.trainers import Trainer
from atoll.daemon.training import channel as ch
from atoll.daemon.training.errors import DeviceError
from atoll.daemon.welcome import MicroBatch
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError
from atoll.protocol.chain import Head
from atoll.protocol.ledger import Ledger
from atoll.protocol.round import types as t
from atoll.protocol.schema import ChunkTable

if TYPE_CHECKING:
    from atoll.daemon.rounds.driver import RoundDriver

log = logging.getLogger(__name__)

FIRST_RESTART_S = 1.0
LONGEST_RESTART_S = 60.0
BOOKS_RETRY_S = 2.0


class Island:
    """Owns the trainer and the account; `driver` is set once rounds run."""

    def __init__(
        self,
        rhythm: Rhythm,
        ledger: Ledger,
        events: Events,
        me: bytes,
        chunks: ChunkTable,
        find_place: Callable[[], Place],
        save_account: Callable[[], None],
        books_are_saved: Callable[[], Awaitable[bool]],
        changed: Callable[[], None],
        make_welcome: Callable[[], ch.Welcome],
        launch: Callable[[Trainer], Awaitable[None]],
        may_restart: bool,
        resets: bool,
        bug: Callable[[str], None],
        last_version: int = 0,
        terms: Callable[[Head], Terms] = lambda head: Terms(),
    ) -> None:
        self.ledger = ledger
        self.account = ledger.account
        self.phase = Phase(steps=rhythm.steps)
        self.begun = False
        self.training = False
        self.paused: str | None = None
        self.paused_until: float | None = None
        self.held = False
        """A rule of the owner pauses (rules.py)."""
        self.finishing = False
        self.trouble: str | None = None
        self.loss_is_bad = False
        """Not finite, since the last phase that ended well."""
        self.unusable: str | None = None
        """Why the trainer will never run here, however often it is started: a device that is not there."""
        self.restart_at: float | None = None
        self.device = ""
        self.process: int | None = None
        """Of the trainer, as it says; a script of one's own is no child of the daemon."""
        self.val_losses: dict[int, float] = {}
        self.first_accepted = False
        self.driver: RoundDriver | None = None
        self.speeds: Callable[[], tuple[int, int, bool]] = lambda: (0, 0, False)
        """Upload, download (bits per second; 0: not known), and whether all links are relayed."""
        self._standing = t.TrainingChanged(False)
        self._rhythm = rhythm
        self._length = rhythm.steps
        self._origin = 0  # number of the phase's first step in the whole run
        self._since = 0  # version of the last commit with this node's contribution, or of the start
        self._events = events
        self._me = me
        self._chunks = chunks
        self._find_place = find_place
        self._place = Place()
        self._save_account = save_account
        self.books_are_saved = books_are_saved
        """Writes the books if they changed; whether what they hold now is on disk."""
        self._changed = changed
        self._make_welcome = make_welcome
        self._launch = launch
        self._may_restart = may_restart
        self._resets = resets
        self._bug = bug
        self._terms = terms
        self._last_version = last_version
        self._trainer: Trainer | None = None
        self._micro_batch = MicroBatch()
        self._memory = MemoryCap()
        self._welcomed = False
        self._tokens = 0
        self._orphaned_before: int | None = None  # where another chain is being taken over
        self._ready: tuple[int, int] | None = None
        self._ready_at = 0.0
        self.seen: Seen | None = None
        self._roughness = 0.0
        self._generation = 0  # of the trainer: a snapshot belongs to the one that wrote it
        self._offered: int | None = None  # generation whose snapshot may be in the session under way
        self._offered_tokens = 0  # what that snapshot holds, as its trainer counts
        self._tasks: set[asyncio.Task[None]] = set()
        self._restart_pause = FIRST_RESTART_S
        self._stopping = False
        self._begin_due = False
        self._rested_at: int | None = None  # the version when a rest began
        self.ended = asyncio.Event()
        """Set when a trainer that can't be restarted has gone: a script of one's own, an unusable device."""

    # ---- the trainer's life

    async def start(self) -> None:
        """Starts the trainer; it is told what to train at once."""
        self._generation += 1
        self._welcomed = False
        self._trainer = Trainer(self._heard, self._trainer_ended)
        await self._launch(self._trainer)
        self._trainer.send(self._micro_batch.applied(self._make_welcome()))
        self._welcomed = True

    @property
    def trainer_pid(self) -> int | None:
        return self._trainer.pid if self._trainer else None

    @property
    def on_gpu(self) -> bool:
        """Whether it trains on a GPU of which nvidia-smi may tell."""
        return self.device.startswith("cuda")

    def cap_memory(self, cap_bytes: int) -> None:
        """The built-in trainer may take so much memory (0: any); one that has more already starts again."""
        if cap_bytes == 0 or cap_bytes > self._memory.cap_bytes > 0:
            self._micro_batch.forget()
        self._memory.change(cap_bytes)
        if self._memory.is_over:
            self._end_trainer()

    async def merged(self) -> None:
        """Returns when the trainer does not read the committed parameters."""
        if self._trainer is not None:
            await self._trainer.merged()

    def begin(self, with_others: bool = False) -> None:
        """The trainer starts afresh from the head, once that stands still; what it carried is gone.

        `with_others`: a commit came just now, and all begin; else they may be in the middle of a phase.
        """
        assert self.driver is not None and self._trainer is not None
        self._begin_due = self.driver.writing
        if self._begin_due:
            self._withdraw()
            self.begun = False
            return
        head = self.driver.state.head
        self._withdraw()
        self.driver.offer = -1
        self.ledger.begin_life()
        self._tokens = 0
        before = self.phase
        speed, rhythm = before.tokens_per_s, self._rhythm
        self._length = rhythm.length(speed) if with_others else rhythm.first_length(speed, head)
        self._origin = rhythm.origin(head)
        self._since = head.version
        self.phase = Phase(0, self._length, before.loss, before.phase_loss, before.tokens_per_s)
        self._place = self._find_place()
        terms = self._terms(head)
        self._trainer.send(
            ch.Begin(
                version=head.version,
                steps=self._length,
                shard=self._place.part,
                evaluate=self._rhythm.take_evaluation(head, terms.validate_every),
                text=self._place.text,
                outer_lr=terms.outer_lr,
                origin=self._origin,
                inner=terms.inner,
            )
        )
        self.begun = True

    def settled(self, with_others: bool = False) -> None:
        """The committed parameters stand still: a trainer that waited for that begins."""
        if self._begin_due:
            self.begin(with_others)

    def _trainer_ended(self, reason: str) -> None:
        trainer, capped = self._trainer, self._memory.holds
        self._memory.ended()
        # Not every library reports memory that it is refused: some end the process.
        killed = trainer is not None and (trainer.was_killed or (capped and trainer.failed))
        if killed and capped and self._micro_batch.is_least:
            self.trouble = self._memory.too_small
        self._micro_batch.ended(killed)
        self._withdraw()
        self.account.drop("lost")
        self._save_account()
        self.begun = self._begin_due = False
        self.process = None
        self._set_training(False)
        if self.unusable is not None:
            return
        if not self._may_restart:
            self._events.emit("trainer", "The training script has ended.")
            self.ended.set()
            return
        self.trouble = self.trouble or reason  # what the trainer said itself tells more than its exit status
        self.restart_at = time.monotonic() + self._restart_pause
        self._events.emit(
            "trainer", f"Training stopped: {reason}. It starts again in {duration(self._restart_pause)}."
        )
        self._spawn(self._restart(self._restart_pause))
        self._restart_pause = min(2 * self._restart_pause, LONGEST_RESTART_S)

    async def _restart(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if self._stopping:
            return
        self.restart_at = None
        try:
            await self.start()
        except OSError as error:
            self._trainer_ended(f"the trainer can't be started: {error}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._bug(f"A task of the trainer's side failed: {task.exception()!r}.")

    def retire(self) -> None:
        """This node is about to stop: it is no longer expected in rounds."""
        self._stopping = True
        self._send(ch.Pause())
        self._withdraw()
        self._set_training(False)

    async def stop(self) -> None:
        """Ends the trainer, its inner state saved, and books what it still carried."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        if self._trainer is not None:
            await self._trainer.stop(save=True)
        self._save_account()

    # ---- what the trainer says

    def _heard(self, message: ch.FromTrainer) -> None:
        match message:
            case ch.Hello():
                self._greeted(message)
            case ch.Progress():
                self._progress(message)
            case ch.Ready():
                self._spawn(self._trainer_ready(message))
            case ch.Merged():
                self._merged(message)
            case ch.Notice():
                self._micro_batch.noticed(message.code)
                self._events.emit("trainer", message.message, code=message.code)
            case ch.Failed():
                self._failed(message)
            case ch.Stopped():
                pass
        self._changed()

    def _greeted(self, message: ch.Hello) -> None:
        """The trainer has its model: it begins, if it may have so much memory."""
        self.device, self.trouble, self.process = message.device, None, message.pid
        if self._may_restart:
            self._memory.begins(message.pid, self.on_gpu)
        if self._memory.is_over:
            # It has seen no batch yet, so a smaller one would not help.
            self.trouble = self._memory.too_small
            self._end_trainer()
            return
        self.begin()
        assert self.driver is not None
        self._pause_at_the_end(self.driver.state.head.version)
        if self.resting:
            self._send(ch.Pause())

    def _end_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.kill()

    def _send(self, message: ch.FromDaemon) -> None:
        if self._trainer is not None:
            self._trainer.send(message)

    def _produced(self, tokens: int) -> None:
        """`tokens` since the last contribution, as the trainer counts."""
        self.account.produce(max(0, tokens - self._tokens))
        self._tokens = max(tokens, self._tokens)

    def _progress(self, message: ch.Progress) -> None:
        self._produced(message.tokens)
        self.phase.progressed(message)

    async def _trainer_ready(self, message: ch.Ready) -> None:
        assert self.driver is not None
        self._ready_at = time.monotonic()
        self._produced(message.tokens)
        self.phase.step, self.phase.phase_loss = self.phase.steps, message.loss
        before = (self.driver.state.head.digest, self._generation, self.begun)
        bad = await self.driver.first_non_finite()
        if before != (self.driver.state.head.digest, self._generation, self.begun):
            # A commit came meanwhile, and the trainer says Ready anew after its next phase; or it is gone.
            return
        if bad is not None:
            self._events.emit("trainer", f"The pseudo-gradient of {bad} is not finite; it is not sent.")
            self.account.drop("lost")
            self.loss_is_bad = True
            self.begin()
            return
        self.loss_is_bad = False
        self._restart_pause = FIRST_RESTART_S
        roughness = await self.driver.roughness()
        if before != (self.driver.state.head.digest, self._generation, self.begun):
            return
        self._ready, self._roughness = (message.tokens, message.steps), roughness
        await self._offer()

    async def _offer(self) -> None:
        """Offers the snapshot once it is in the books on disk: a commit may hold it whatever happens here."""
        assert self.driver is not None
        ready, head = self._ready, self.driver.state.head
        parent = head.digest
        if ready is None or self.resting:
            return
        offer = self.ledger.offer(parent, self._chunks.due(head.version))
        self._save_account()
        while not await self.books_are_saved():  # noqa: ASYNC110  (a disk tells nobody when it has room)
            await asyncio.sleep(BOOKS_RETRY_S)
        if self._ready != ready or self.resting or self.driver.state.head.digest != parent:
            return  # withdrawn meanwhile, or a commit came
        self._offered, self._offered_tokens = self._generation, ready[0]
        self.driver.offer = offer.number
        self._set_training(True)
        self.driver.feed(
            t.LocalReady(
                offer.tokens,
                ready[1],
                offer.number,
                self._place.shard,
                phase_s=self._length * (self.phase.step_s or 0.0),
                rounds=head.version + 1 - self._since,
                roughness=self._roughness,
            )
        )

    def _withdraw(self) -> None:
        self._ready = None
        if self.driver is not None:
            self.driver.feed(t.LocalWithdrawn())

    def _set_training(self, training: bool) -> None:
        standing = t.TrainingChanged(training, *self.speeds()) if training else t.TrainingChanged(False)
        if standing != self._standing and self.driver is not None:
            self.training, self._standing = training, standing
            self.driver.feed(standing)
            self._changed()

    def _merged(self, message: ch.Merged) -> None:
        if message.val_loss is not None:
            self.val_losses[message.version] = message.val_loss
            self._events.emit(
                "validation",
                f"Validation loss of version {message.version}: {message.val_loss:.4f}.",
                version=message.version,
                val_loss=message.val_loss,
            )

    def _failed(self, message: ch.Failed) -> None:
        if message.code == DeviceError.code and not self.device:
            # One that was there once may come back. This ends the node, which says so itself, once.
            self.unusable = message.message
            self.ended.set()
            return
        self.trouble = message.message
        self._events.emit("trainer", f"Training failed: {message.message}", code=message.code)
        if message.code == "loss_not_finite":
            self.loss_is_bad = True
            self.account.drop("lost")
            self.begin()

    # ---- commits

    def committed(
        self, commits: Sequence[tuple[pb.Commit, bytes]], head: Head, replayed: bool = False
    ) -> None:
        """Outer steps were taken, by a round or by replay: books the tokens, tells the trainer.

        `commits`: each with the digest of the head that it makes. After a replay the others are in the middle
        of their phases.

        Of several commits only the first can hold this node's contribution to its last anchor.
        """
        mine = {chunk for commit, digest in commits for chunk in self._book(commit, digest)}
        # A snapshot of a trainer that is gone means nothing to the one that runs now.
        contributed = bool(mine) and self._offered == self._generation
        self._offered = None
        waited, self._ready = self._ready is not None, None
        self._save_account()
        if not self.begun:
            self.settled(with_others=not replayed)
            return
        # Whether it contributed or came too late, the trainer says Ready anew: at the end of its next phase,
        # or, where commits are small, at once, for what it offered is for the next one.
        if contributed:
            self.phase.step, self._since = 0, min(c.version for c, _ in commits)
        small = self._rhythm.small_commits
        if contributed or (waited and not small):
            # Steps are never taken twice, though a node may be further than the rounds of the chain.
            least = self._origin + self._length if small else 0
            self._length = self._rhythm.length(self.phase.tokens_per_s)
            self._origin = max(self._rhythm.origin(head), least)
        elif not small:
            self._origin = self._rhythm.origin(head)
        due = sorted({chunk for commit, _ in commits for chunk in self._chunks.due(commit.version - 1)})
        others = [n for n in due if n not in mine or not contributed]
        whole = len(self._chunks.fragments) == 1
        resets = self._resets and (contributed or waited)
        if not (mine or small or self.resting):
            ready_at = self._ready_at if waited else None
            work = Work(self.phase.step, self.phase.steps, ready_at, expired=resets)
            self._events.emit("left-out", sentence(head.version, self.seen, work), version=head.version)
        if resets:
            # A phase that was over, and that the round did without: the trainer takes what was committed.
            self.account.drop("expired", others)
        if not any(self.account.pending):
            # What is carried was read here: an offer names one shard, so it stays until a commit has it all.
            self._place = self._find_place()
        if resets and not contributed and whole:
            self.begin(with_others=not replayed)
        else:
            terms = self._terms(head)
            self._send(
                ch.Committed(
                    version=head.version,
                    steps=self._length,
                    shard=self._place.part,
                    keep=self._spans(others),
                    contributed=contributed,
                    evaluate=self._rhythm.take_evaluation(head, terms.validate_every),
                    text=self._place.text,
                    due=() if whole else self._spans(due),
                    outer_lr=terms.outer_lr,
                    origin=self._origin,
                    inner=terms.inner,
                )
            )
        if mine and self.finishing:
            self.finishing = False
            self.pause("it has finished: its last contribution was accepted")
        self._pause_at_the_end(head.version)

    def _book(self, commit: pb.Commit, digest: bytes) -> list[int]:
        """Chunks in which a commit holds what this trainer contributed; its tokens are accepted."""
        try:
            mine = self.ledger.book(commit, digest, self._me)
        except AccountError as error:
            self._events.emit("account", f"The token account can't follow version {commit.version}: {error}.")
            return []
        if not mine:
            return []
        if self._offered == self._generation:
            self._tokens -= min(self._tokens, self._offered_tokens)
        self._accepted(commit, len(mine))
        return mine

    def _pause_at_the_end(self, version: int) -> None:
        if self._last_version and version >= self._last_version and self.paused is None:
            self.pause(f"version {version} is reached, as you asked")

    def _accepted(self, commit: pb.Commit, chunks: int) -> None:
        self.first_accepted = True
        mine = next(c for c in commit.contributors if c.peer == self._me)
        share = mine.weight / sum(c.weight for c in commit.contributors)
        payload = size(1.01 * self._chunks.total)
        self._events.emit(
            "accepted",
            f"Round {commit.version} accepted your update ({payload}, weight {share:.0%}).",
            version=int(commit.version),
            tokens=int(mine.tokens),
            chunks=chunks,
        )

    def _spans(self, chunks: list[int]) -> tuple[tuple[int, int], ...]:
        """Flat positions of these chunks, neighbours joined."""
        spans: list[tuple[int, int]] = []
        for chunk in chunks:
            span = self._chunks.span(chunk)
            if spans and spans[-1][1] == span.start:
                spans[-1] = (spans[-1][0], span.stop)
            else:
                spans.append((span.start, span.stop))
        return tuple(spans)

    def left(self, digests: Mapping[int, bytes], common: int) -> None:
        """Another chain was taken over, which has nothing of ours after the version `common`: books that.

        `digests`: this node's chain now, by version, as far back as it is known.
        """
        self._orphaned_before = self.account.orphaned
        self.ledger.leave(digests, common)
        self._save_account()

    def taken_over(self, digests: Mapping[int, bytes], replayed: Sequence[tuple[pb.Commit, bytes]]) -> None:
        """Another node's state was taken over: local progress against the old anchor ends.

        `digests`: this node's chain now, by version; `replayed`: commits that were applied on the way.
        """
        self.account.drop("expired")
        self.ledger.begin_life()
        # First what gave way: the same contribution may be in a commit of this chain.
        before = self.account.orphaned if self._orphaned_before is None else self._orphaned_before
        self.ledger.reconcile(digests, newest=max(digests))
        for commit, digest in replayed:
            self._book(commit, digest)
        gone, self._orphaned_before = (self.account.orphaned - before) // self.account.chunks, None
        if gone > 0:
            self._events.emit("account", f"{gone} tokens were accepted in a branch that was left.")
        self._offered = None
        self._save_account()
        if self.begun or self._begin_due:
            self.begin()
            assert self.driver is not None
            self._pause_at_the_end(self.driver.state.head.version)

    # ---- the owner's controls

    @property
    def resting(self) -> bool:
        """Whether it does not train: the owner paused it, or one of the owner's rules does."""
        return self.paused is not None or self.held

    def pause(self, reason: str, for_s: float | None = None) -> None:
        """Stops training before the next step; the node stays in the swarm and follows."""
        self.paused = reason
        self.paused_until = time.monotonic() + for_s if for_s else None
        self._rest()
        self._events.emit("paused", f"Paused: {reason}.")
        if for_s:
            self._spawn(self._resume_later(self.paused_until or 0.0))

    def _rest(self) -> None:
        self._send(ch.Pause())
        if self.driver is not None:
            if self._rested_at is None:
                self._rested_at = self.driver.state.head.version
            self.driver.feed(t.LocalWithdrawn())
        self._set_training(False)

    async def _resume_later(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if self.paused is not None and self.paused_until == at:
            self.resume()

    def resume(self) -> None:
        """The owner's pause is over: goes on training, unless a rule pauses."""
        self.paused, self.paused_until, self.finishing = None, None, False
        if self.held:
            self._events.emit("resumed", "Your pause is over; one of your rules still holds this node.")
            return
        self._events.emit("resumed", "Training goes on.")
        self._go_on()

    def _go_on(self) -> None:
        rested_at, self._rested_at = self._rested_at, None
        if self.begun and self.driver is not None and self.driver.state.head.version != rested_at:
            # What was learned before the rounds that went by would pull the others back there.
            self.account.drop("expired")
            self.begin()
        self._send(ch.Resume())
        if self._ready is not None:
            self._spawn(self._offer())

    def hold(self, held: bool) -> None:
        """The rules pause, or let go. The owner's own pause stays what it is."""
        if held == self.held:
            return
        self.held = held
        if self.paused is not None:
            return
        if held:
            self._rest()
        else:
            self._go_on()

    def use_threads(self, count: int) -> None:
        """CPU threads of the built-in trainer, from its next step on; 0: one for each core."""
        if self._welcomed:  # else the welcome says it
            self._send(ch.Threads(count))
