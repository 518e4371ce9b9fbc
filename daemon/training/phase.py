"""The account of an inner phase: how far it is, and what has been trained since the last contribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from atoll.daemon.training.channel import Committed, Progress, Ready, Shard

REPORT_INTERVAL_S = 0.5
"""Progress goes to the daemon at most this often."""


@dataclass
class Phase:
    """Where the loop stands. `version` is that of the anchor, the last commit taken in."""

    version: int
    length: int
    shard: Shard
    text: str | None = None
    step: int = 0
    """Steps done in this phase."""
    carried_steps: int = 0
    carried_tokens: int = 0
    """Trained since the last contribution (or Begin): what the next snapshot holds beyond its anchor."""
    carried_loss: float = 0.0
    """Sum of the losses of `carried_steps`."""
    offered: tuple[int, int, float] = (0, 0, 0.0)
    """What of that is in the snapshot that was offered, where training went on since."""
    origin: int | None = None
    """Number of the phase's first step in the whole run; None: as many phases as versions came before."""

    @property
    def position(self) -> int:
        """Number of the next step in the whole run: schedules and batches depend on it, not on uptime."""
        return (self.version * self.length if self.origin is None else self.origin) + self.step

    @property
    def complete(self) -> bool:
        return self.step >= self.length

    def add(self, loss: float, tokens: int) -> None:
        """Counts one finished step."""
        self.step += 1
        self.carried_steps += 1
        self.carried_tokens += tokens
        self.carried_loss += loss

    def ready(self) -> Ready:
        """The snapshot is taken."""
        mean = self.carried_loss / self.carried_steps if self.carried_steps else 0.0
        self.offered = self.carried_steps, self.carried_tokens, self.carried_loss
        return Ready(self.carried_steps, self.carried_tokens, mean)

    def after(self, message: Committed, waiting: bool) -> Phase:
        """The account after a commit; `waiting`: Ready was sent, so the phase is over.

        Contributed: everything starts at zero, but what was trained since Ready. Not contributed: local
        progress is carried on; in the middle of a phase its step count goes on too, after Ready the next
        phase begins (waiting for the others' whole phase would waste it).
        """
        step = max(0, self.step - self.length) if waiting else self.step
        taken = self.offered if message.contributed else (0, 0, 0.0)
        return Phase(
            message.version,
            message.steps,
            message.shard,
            message.text,
            0 if message.contributed and not waiting else step,
            self.carried_steps - taken[0],
            self.carried_tokens - taken[1],
            self.carried_loss - taken[2] if self.carried_steps > taken[0] else 0.0,
            origin=message.origin,
        )


class Reporter:
    """Thins Progress out to REPORT_INTERVAL_S and measures the speed between two reports."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s = clock()
        self._tokens = 0

    def restart(self) -> None:
        """After a wait, which is no training time."""
        self._since_s = self._clock()
        self._tokens = 0

    def report(self, phase: Phase, loss: float, tokens: int) -> Progress | None:
        """The Progress to send after a step of `tokens`, if it is time for one."""
        self._tokens += tokens
        elapsed_s = self._clock() - self._since_s
        if elapsed_s < REPORT_INTERVAL_S or not math.isfinite(loss):
            return None
        rate = self._tokens / elapsed_s
        self.restart()
        step = min(phase.step, phase.length)
        return Progress(step, phase.length, loss, phase.carried_tokens, rate, phase.carried_steps)
