"""What a training loop holds of a swarm: one object, one call per step.

    with atoll.join(ticket, model, optimizer, data_dir="data") as swarm:
        for inputs, targets in batches:
            loss = ...; loss.backward(); optimizer.step(); optimizer.zero_grad()
            swarm.step(loss, tokens=inputs.numel())

`Session` counts inner steps. After the last one of a phase it writes the local parameters to the shared
snapshot, says Ready, and waits while the swarm averages; then it takes the committed parameters in by the
rules of `rebase`. It owns its end of the control channel and its mapping of the shared memory; the module
and the optimizer remain the caller's.

What can fail: the daemon goes away (ChannelClosedError), it asks for the end (SwarmStopped, which also
ends a `with` block quietly), or the loss is not finite. Then nothing is contributed: the daemon is told,
`step` waits for its answer, and training starts again from the committed parameters with a fresh
optimizer state.

Waits in `step` have no deadline of their own: the daemon owns the deadlines of a round and answers every
Ready; its death ends the channel and so the wait.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from atoll.daemon.training import channel
from atoll.daemon.training.ahead import AheadReplica, DifferenceReplica
from atoll.daemon.training.channel import (
    Begin,
    Committed,
    Endpoint,
    FromDaemon,
    Pause,
    Resume,
    Stop,
    Threads,
    Welcome,
)
from atoll.daemon.training.errors import (
    ChannelError,
    ConfigError,
    SchemaMismatchError,
    StateError,
    SwarmStopped,
)
from atoll.daemon.training.flat import schema_of
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.phase import Phase, Reporter
from atoll.daemon.training.rebase import Missed
from atoll.daemon.training.replica import Replica
from atoll.daemon.training.state import load_state, save_state
from atoll.protocol.modes.asynchronous import ASYNC
from atoll.protocol.schema import ParameterSchema

Validate = Callable[[nn.Module], float]
"""Validation loss of a module whose parameters are the outer ones while it is called."""


def receive_welcome(endpoint: Endpoint, timeout_s: float | None) -> Welcome | None:
    """The daemon's first message, or None after `timeout_s`. Raises ChannelError, SwarmStopped."""
    match endpoint.receive(timeout_s):
        case None:
            return None
        case Welcome(version=channel.VERSION) as welcome:
            return welcome
        case Welcome() as welcome:
            raise ChannelError(
                f"The daemon speaks trainer protocol {welcome.version}, this library {channel.VERSION}.",
                "Install the same version of Atoll for both.",
            )
        case Stop():
            endpoint.send(channel.Stopped(False))
            raise SwarmStopped(False)
        case other:
            raise ChannelError(f"The daemon began with {type(other).__name__} instead of Welcome.")


class Session:
    """A training loop's place in a swarm. Made by `atoll.join`; the built-in trainer makes its own."""

    def __init__(
        self,
        endpoint: Endpoint,
        welcome: Welcome,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        validate: Validate | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_close: Callable[[bool], None] | None = None,
    ) -> None:
        """Agrees with the daemon on the schema and restores the optimizer's state; then call `begin`.

        `clock` gives seconds for the speed in Progress; `on_close` runs once, after the
        channel is closed, and hears whether the daemon had asked for the end.
        Raises SchemaMismatchError, SharedMemoryError, ConfigError, ChannelError.
        """
        self.welcome = welcome
        self.threads = welcome.threads
        """CPU threads that the daemon asks for; the built-in trainer follows."""
        self.inner: dict[str, Any] = {}
        """What the inner steps are told that is other than in the Welcome; the built-in trainer follows."""
        self._endpoint = endpoint
        self._model = model
        self._optimizer = optimizer
        self._validate = validate
        self._on_close = on_close
        self._reporter = Reporter(clock)
        self._phase: Phase | None = None
        self._running = True
        self._paused = False
        self._waiting = False
        self._poisoned = False
        try:
            missed = Missed(welcome.missed)
        except ValueError as error:
            raise ConfigError(f"unknown rule for missed rounds: {welcome.missed!r}.") from error
        schema = schema_of(model, welcome.block)
        if schema.digest.hex() != welcome.schema_digest or schema.total != welcome.total:
            raise SchemaMismatchError(
                f"This model ({schema.parameters} parameters) is not the one that the swarm trains.",
                "Build the same model as the organiser.",
            )
        self._memory = SharedMemory.open(welcome.memory, welcome.total, welcome.ahead is not None)
        self._replica = self._make_replica(schema, missed)
        self._endpoint.send(
            channel.Hello(
                channel.VERSION, os.getpid(), self._replica.device, welcome.schema_digest, schema.parameters
            )
        )
        self._restore_optimizer()

    def _make_replica(self, schema: ParameterSchema, missed: Missed) -> Replica:
        mode, memory = self.welcome.ahead, self._memory
        if mode is None:
            return Replica(self._model, schema, memory, missed, self.welcome.mix)
        if mode == ASYNC:
            return DifferenceReplica(self._model, schema, memory, self.welcome.braking)
        return AheadReplica(self._model, schema, memory, mode, self.welcome.outer_momentum)

    # What a training loop uses.

    def begin(self) -> None:
        """Waits for the first phase and loads the committed parameters. Raises SwarmStopped, ChannelError."""
        while self._phase is None or self._paused:
            self._handle(self._receive())
        self._reporter.restart()

    def step(self, loss: Tensor | float, tokens: int = 0) -> None:
        """Call once after each optimizer step, with its loss and the number of tokens (or samples) in it.

        Returns at once in the middle of a phase; at its end, when the round is over and the parameters are
        the new ones. Raises SwarmStopped when the loop should end, ChannelError when the daemon is gone.
        """
        phase = self._current()
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        self._replica.touch()
        if not math.isfinite(value):
            self._poison(f"The loss of step {phase.step + 1} is {value}.")
            return
        phase.add(value, tokens)
        if (progress := self._reporter.report(phase, value, tokens)) is not None:
            self._endpoint.send(progress)
        self._obey()
        self._exchange()

    @property
    def running(self) -> bool:
        """False after SwarmStopped or `close`."""
        return self._running

    @property
    def version(self) -> int:
        """Version of the committed parameters that local progress is measured against."""
        return self._current().version

    @property
    def position(self) -> int:
        """Number of the next inner step in the whole run: the argument of schedules and of batches."""
        return self._current().position

    @property
    def shard(self) -> tuple[int, int]:
        """(index, count): the part of the data that this node trains on."""
        return self._current().shard

    @property
    def text(self) -> str | None:
        """Path of the text that `shard` is a part of; None where the swarm has none."""
        return self._current().text

    def notice(self, code: str, message: str) -> None:
        """Tells the person who runs the node something that does not stop training."""
        self._endpoint.send(channel.Notice(code, message[: channel.MAX_TEXT]))

    def close(self) -> None:
        """Lets go of channel, memory and daemon. May be called twice."""
        self._close(asked_us=False)

    def _close(self, asked_us: bool) -> None:
        if not self._running:
            return
        self._running = False
        self._endpoint.close()
        self._memory.close()
        if self._on_close is not None:
            self._on_close(asked_us)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.close()
        return isinstance(error, SwarmStopped)

    # Messages.

    def _receive(self) -> FromDaemon:
        message = self._endpoint.receive(None)
        assert message is not None, "a wait without a deadline ends with a message"
        return message

    def _obey(self) -> None:
        """Handles what has arrived; while paused, waits for more."""
        while (message := self._endpoint.receive(None if self._paused else 0)) is not None:
            self._handle(message)
            if isinstance(message, Resume):
                self._reporter.restart()

    def _handle(self, message: FromDaemon) -> None:
        match message:
            case Begin():
                self._on_begin(message)
            case Committed():
                self._on_committed(message)
            case Pause():
                self._paused = True
            case Resume():
                self._paused = False
            case Threads():
                self.threads = message.count
            case Stop():
                self._on_stop(message)
            case Welcome():
                raise ChannelError("The daemon said Welcome twice.")
            case _:
                assert_never(message)

    def _on_begin(self, message: Begin) -> None:
        """Everything from `committed`: first phase, or after a state download."""
        self._restart(message)
        self._merged(message.version, message.evaluate)

    def _on_committed(self, message: Committed) -> None:
        phase = self._current()
        self._replica.outer_lr, self.inner = message.outer_lr, message.inner or {}
        if self._poisoned:
            self._restart(message)
        elif self._waiting and not message.contributed and self.welcome.ahead == ASYNC:
            # One of others: what was offered is for the next, and no step more is taken before that.
            self._merged(message.version, message.evaluate)
            self._endpoint.send(phase.ready())
            return
        elif not message.contributed and not (message.due and self._waiting):
            self._replica.miss()
            self._phase = phase.after(message, self._waiting)
        elif message.contributed and not self._replica.has_snapshot:
            raise ChannelError("The daemon counts a contribution that this trainer has not made.")
        else:
            self._replica.rebase(message.keep, message.due)
            self._phase = phase.after(message, self._waiting)
        self._waiting = False
        self._merged(message.version, message.evaluate)

    def _on_stop(self, message: Stop) -> None:
        saved = message.save and not self._poisoned and self._save_optimizer()
        self._endpoint.send(channel.Stopped(saved))
        self._close(asked_us=True)
        raise SwarmStopped(saved)

    def _merged(self, version: int, evaluate: bool) -> None:
        self._endpoint.send(channel.Merged(version, self._evaluate(version) if evaluate else None))

    # Phases.

    def _current(self) -> Phase:
        if self._phase is None or not self._running:
            raise ChannelError("This session has ended or not begun.", "Call atoll.join first.")
        return self._phase

    def _restart(self, message: Begin | Committed) -> None:
        """local = committed, a new phase; after a loss that was not finite the moments are void too."""
        self._replica.outer_lr, self.inner = message.outer_lr, message.inner or {}
        self._replica.load()
        if self._poisoned:
            self._optimizer.state.clear()
        self._poisoned = self._waiting = False
        self._phase = Phase(
            message.version, message.steps, message.shard, message.text, origin=message.origin
        )

    def _exchange(self) -> None:
        """Offers what is due, and waits where no step more may be taken without the commit before.

        With an overlap of a phase the next one is over when that commit is here, with one of two phases (a
        second outer step of delay) the one after it may be as well: it is offered with the other.
        """
        if self._waiting and self._current().step >= self._current().length + self.welcome.overlap:
            self._wait()
        if self._current().complete and not self._waiting:
            self._offer()
            if self._waiting and not self.welcome.overlap:
                self._wait()

    def _offer(self) -> None:
        """The end of a phase: snapshot and Ready."""
        if not self._replica.take_snapshot():
            self._poison("A parameter is not finite at the end of the phase.")
            return
        self._endpoint.send(self._current().ready())
        self._waiting = True

    def _wait(self) -> None:
        """No step more without the commit."""
        while self._waiting or self._paused:
            self._handle(self._receive())
        self._reporter.restart()

    def _poison(self, message: str) -> None:
        """Says once that local training failed, and waits until the daemon lets it start again."""
        self._poisoned = True
        self._waiting = False
        self._endpoint.send(channel.Failed("loss_not_finite", message))
        while self._poisoned or self._paused:
            self._handle(self._receive())
        self._reporter.restart()

    def _evaluate(self, version: int) -> float | None:
        if self._validate is None:
            return None
        with self._replica.outer():
            loss = float(self._validate(self._model))
        if math.isfinite(loss):
            return loss
        self.notice("val_loss_not_finite", f"The validation loss of version {version} is {loss}.")
        return None

    # The optimizer's state.

    def _restore_optimizer(self) -> None:
        path = self.welcome.state_path
        if path is None or not Path(path).exists():
            return
        try:
            load_state(self._optimizer, Path(path))
        except StateError as error:
            self.notice(error.code, f"{error} The inner optimizer starts fresh.")

    def _save_optimizer(self) -> bool:
        if self.welcome.state_path is None:
            return False
        try:
            save_state(self._optimizer, Path(self.welcome.state_path))
        except StateError as error:
            self.notice(error.code, str(error))
            return False
        return True
