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

    @property
    def position(self) -> int:
        """Number of the next step in the whole run: schedules and batches depend on it, not on uptime."""
        return self.version * self.length + self.step

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
        mean = self.carried_loss / self.carried_steps if self.carried_steps else 0.0
        return Ready(self.carried_steps, self.carried_tokens, mean)

    def after(self, message: Committed, waiting: bool) -> Phase:
        """The account after a commit; `waiting`: Ready was sent, so the phase is over.

        Contributed: everything starts at zero. Not contributed: local progress is carried on; in the
        middle of a phase its step count goes on too, after Ready the next phase begins (waiting for the
        others' whole phase would waste it).
        """
        if message.contributed:
            return Phase(message.version, message.steps, message.shard, message.text)
        return Phase(
            message.version,
            message.steps,
            message.shard,
            message.text,
            0 if waiting else self.step,
            self.carried_steps,
            self.carried_tokens,
            self.carried_loss,
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
        return Progress(phase.step, phase.length, loss, phase.carried_tokens, rate)
