"""The rhythm of a node's training: how long a phase is, where it stands in the run, what is evaluated.

Phases are the manifest's inner steps. Where it says so (`inner.by_speed`), slower nodes take fewer, so that
all arrive together (DyLU, 2401.09135, section 4). Who begins while the others are in the middle of a phase
takes fewer in its first one, so that the round which ends theirs has it, if it is as fast as they. Where
small commits follow each other, versions are no count of rounds: the chain's progress is
(modes/asynchronous.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from atoll.daemon.training.channel import Progress
from atoll.peers.roster import Roster
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import Amendments
from atoll.protocol.chain import Head
from atoll.protocol.manifest import DILOCO, MODES, SwarmManifest
from atoll.protocol.modes.asynchronous import ROUND, SLOWEST, inner_steps_by_speed

IN_TIME = 2 / 3
"""A first phase takes so much of what the others have left of theirs: who is early waits a little, who is
late is not in the round."""
SMOOTHING = 0.3
"""Of the measured speed, the part that is the newest report's: others set their phases by it."""


@dataclass
class Phase:
    """Where the trainer is: inner `step` of `steps`, its last loss and speed."""

    step: int = 0
    steps: int = 0
    loss: float | None = None
    phase_loss: float | None = None
    tokens_per_s: float = 0.0
    step_s: float | None = None

    def progressed(self, message: Progress) -> None:
        """Takes in what the trainer says of its progress."""
        self.step, self.steps, self.loss = message.step, message.of, message.loss
        if message.tokens_per_s > 0 and message.step:
            part = SMOOTHING if self.tokens_per_s else 1.0
            self.tokens_per_s += part * (message.tokens_per_s - self.tokens_per_s)
            self.step_s = message.tokens / (message.steps or message.step) / self.tokens_per_s


@dataclass(frozen=True)
class Terms:
    """What the manifest says of the phase after a head, as it is in force there.

    `validate_every`: rounds between evaluations; `outer_lr`: of the outer step that is likely to end it;
    `inner`: of the inner steps, where an amendment says it.
    """

    validate_every: int = 1
    outer_lr: float = 0.0
    inner: dict[str, Any] | None = None


def terms_of(amendments: Amendments, head: Head) -> Terms:
    """In the round after `head`."""
    manifest = amendments.due(head)
    inner, outer_lr = manifest.body.inner, manifest.outer_lr(len(head.electorate))
    if not manifest.amendment or manifest.body.model.kind != "gpt":
        return Terms(int(manifest.body.rounds.validate_every), outer_lr)
    return Terms(
        int(manifest.body.rounds.validate_every),
        outer_lr,
        {"lr": inner.lr, "warmup_steps": inner.warmup_steps, "total_steps": inner.total_steps},
    )


class Rhythm:
    """`steps`: of a whole phase; `small_commits`: as above."""

    def __init__(
        self,
        steps: int,
        small_commits: bool = False,
        speeds: Callable[[], Iterable[float]] | None = None,
        left: Callable[[Head], Iterable[float]] | None = None,
    ) -> None:
        """`speeds`: of the others that train (tokens per second, 0: not known); None: all take `steps`.

        `left`: what those who train from this head have left of their phases, in parts of them; None: a first
        phase is as long as any.
        """
        self.steps = steps
        self.small_commits = small_commits
        self._speeds = speeds
        self._left = left
        self._evaluated = -1

    def length(self, own: float) -> int:
        """Inner steps of the next phase of a node that trains at `own` tokens per second (0: not known)."""
        others = [speed for speed in self._speeds() if speed > 0] if self._speeds and own > 0 else []
        if not others:
            return self.steps
        shorter = inner_steps_by_speed([own, *others], self.steps)[0]
        return max(1, self.steps // SLOWEST, shorter)

    def first_length(self, own: float, head: Head) -> int:
        """The same for a phase that begins now from `head`, in the middle of those of the others."""
        whole = self.length(own)
        left = list(self._left(head)) if self._left else []
        steps = int(IN_TIME * statistics.median(left) * whole) if left else whole
        return steps if steps >= max(1, whole // SLOWEST) else whole

    def origin(self, head: Head) -> int:
        """Number, in the whole run, of the first inner step after `head`."""
        if self.small_commits:
            return head.progress * self.steps // ROUND
        return head.version * self.steps

    def take_evaluation(self, head: Head, every: int) -> bool:
        """Whether the parameters of `head` are to be evaluated, `every` so many rounds.

        With small commits once in a round.
        """
        if not self.small_commits:
            return head.version % every == 0
        number = head.progress // (ROUND * every)
        due, self._evaluated = number != self._evaluated, number
        return due


def rhythm_of(manifest: SwarmManifest, roster: Roster) -> Rhythm:
    """As the manifest says; `roster`: who else trains, and how fast."""

    def speeds() -> list[float]:
        statuses = [entry.status for entry in roster.entries.values()]
        return [status.tokens_per_s for status in statuses if status.state == pb.TRAINING]

    def left(head: Head) -> list[float]:
        statuses = [entry.status for entry in roster.entries.values()]
        there = [s for s in statuses if s.state == pb.TRAINING and s.digest == head.digest]
        # Who is at the end waits for others, or has not told yet that a new phase has begun.
        return [1 - status.step / status.steps for status in there if status.step < status.steps]

    by_speed = speeds if manifest.body.inner.by_speed else None
    # Merges that hold against liars count each node alike, and leave out who says something else.
    rules = MODES[manifest.body.sync.mode or DILOCO]
    whole = not rules.by_speed or manifest.small_commits or manifest.holds
    return Rhythm(manifest.segment_steps, manifest.small_commits, by_speed, None if whole else left)
