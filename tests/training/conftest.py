"""A scripted daemon at the other end of a real socket pair and real shared memory, and a loop to drive."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atoll.daemon.training import channel
from atoll.daemon.training.channel import Endpoint, Welcome
from atoll.daemon.training.errors import SwarmStopped, TrainingError
from atoll.daemon.training.flat import flatten, schema_of
from atoll.daemon.training.memory import SharedMemory
from atoll.daemon.training.session import Session, receive_welcome
from atoll.protocol.schema import ParameterSchema

WAIT_S = 60.0


class FakeDaemon:
    """Says what a test tells it to and hands back what the trainer says, in order."""

    def __init__(self, schema: ParameterSchema, directory: Path, ahead: bool = False) -> None:
        self.schema = schema
        self.memory = SharedMemory.create(schema.total, directory, ahead)
        self.socket, self.trainer_socket = socket.socketpair()
        self.socket.settimeout(WAIT_S)
        self._lines = self.socket.makefile("rb")

    def welcome(self, **changes: Any) -> Welcome:
        fields: dict[str, Any] = {
            "version": channel.VERSION,
            "memory": self.memory.path,
            "total": self.schema.total,
            "block": self.schema.block,
            "schema_digest": self.schema.digest.hex(),
            "model": None,
            "data": {},
            "inner": {},
            "node_id": "node-a",
            "seed": 7,
            "threads": 1,
            "state_path": None,
            "device": "cpu",
            "missed": "keep",
        }
        return Welcome(**{**fields, **changes})

    def say(self, message: channel.FromDaemon) -> None:
        self.socket.sendall(channel.encode(message))

    def hear(self, kind: type[Any]) -> Any:
        """The next message, which must be a `kind`; Progress is skipped unless asked for."""
        while True:
            line = self._lines.readline(channel.MAX_LINE_BYTES + 1)
            assert line, f"the trainer closed the channel instead of saying {kind.__name__}"
            message = channel.decode_from_trainer(line)
            if isinstance(message, kind):
                return message
            assert isinstance(message, channel.Progress), message

    def hear_end(self) -> None:
        """The trainer has closed its end."""
        while line := self._lines.readline():
            assert isinstance(channel.decode_from_trainer(line), channel.Progress), line

    def close(self) -> None:
        self._lines.close()
        self.socket.close()
        self.trainer_socket.close()
        self.memory.close()


class Loop:
    """A training loop in a thread. Each step adds 1 to every parameter; the test permits them one by one."""

    def __init__(self, daemon: FakeDaemon, model: nn.Module, **options: Any) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        self.error: BaseException | None = None
        self.session: Session | None = None
        self._daemon = daemon
        self._options = options
        self._losses: queue.Queue[float] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def steps(self, count: int, loss: float = 2.0) -> None:
        for _ in range(count):
            self._losses.put(loss)

    def end(self) -> None:
        """Stops the loop, wherever it waits."""
        self._daemon.say(channel.Stop(save=False))
        self.steps(1)
        self.join()
        assert self.error is None

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        endpoint = Endpoint(self._daemon.trainer_socket)
        try:
            welcome = receive_welcome(endpoint, WAIT_S)
            assert welcome is not None
            self.session = Session(endpoint, welcome, self.model, self.optimizer, **self._options)
            with self.session:
                self.session.begin()
                while True:
                    loss = self._losses.get(timeout=WAIT_S)
                    for parameter in self.model.parameters():
                        parameter.grad = torch.ones_like(parameter)
                    self.optimizer.step()
                    with torch.no_grad():
                        for parameter in self.model.parameters():
                            parameter.add_(1.0)
                    self.session.step(loss, tokens=10)
        except (TrainingError, SwarmStopped, queue.Empty, AssertionError) as error:
            self.error = error


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., FakeDaemon]]:
    """Makes a FakeDaemon whose committed parameters are those of a module."""
    made: list[FakeDaemon] = []

    def make(module: nn.Module, ahead: bool = False) -> FakeDaemon:
        daemon = FakeDaemon(schema_of(module), tmp_path, ahead)
        daemon.memory.committed[:] = flatten(module)[1]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def make_loop() -> type[Loop]:
    return Loop


@pytest.fixture
def small_model() -> nn.Module:
    """1000 and 3 parameters: more than one block, and padding."""
    torch.manual_seed(1)
    return nn.ModuleDict({"a": nn.Linear(100, 10, bias=False), "b": nn.Linear(3, 1, bias=False)})


@pytest.fixture
def values() -> Callable[[nn.Module], np.ndarray[Any, np.dtype[np.float32]]]:
    """The parameters of a module, flat and padded."""
    return lambda module: flatten(module)[1]
