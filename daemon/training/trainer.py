"""The built-in trainer: a process that trains the byte-level GPT and uses `Session` like anybody's loop.

Started by the daemon with one end of a socket pair in the environment variable ATOLL_TRAINER_FD. It dies
with the daemon (PDEATHSIG on Linux, the end of the channel elsewhere), leaves Ctrl-C to it, and runs at
low priority. What can go wrong before training is a Failed with its code, then exit status 1; when the
device is out of memory the micro-batch is halved, which changes nothing else, and a Notice says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from atoll.daemon.training.channel import FD_VARIABLE, MAX_TEXT, Endpoint, Failed
from atoll.daemon.training.data import Windows
from atoll.daemon.training.errors import (
    ChannelClosedError,
    ChannelError,
    ConfigError,
    DeviceError,
    SwarmStopped,
    TrainingError,
)
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer, micro_batches
from atoll.daemon.training.model import GPT, GPTConfig
from atoll.daemon.training.session import Session, Validate, receive_welcome

LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
WELCOME_TIMEOUT_S = 60.0
VALIDATION_WINDOWS = 64
_VALIDATION_BATCH = 16
_NICENESS = 10
_PR_SET_PDEATHSIG = 1


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Trains until the daemon says stop. Returns the exit status."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lower_priority()
    try:
        endpoint = Endpoint(socket.socket(fileno=int(environ[FD_VARIABLE])))
    except (KeyError, ValueError, OSError) as error:
        print(f"The trainer is started by the daemon ({FD_VARIABLE}: {error!r}).", file=sys.stderr)
        return 2
    load_libraries()
    try:
        train(endpoint)
    except SwarmStopped:
        return 0
    except ChannelClosedError as error:
        print(error, file=sys.stderr)
        return 1
    except TrainingError as error:
        endpoint.send(Failed(error.code, str(error)[:MAX_TEXT]))
        return 1
    return 0


def load_libraries() -> None:
    """Has torch load what it loads at the first use of an optimizer, which takes as long as torch itself.

    The daemon looks for peers and fetches the state meanwhile: training begins as soon as that is here.
    """
    make_optimizer(torch.nn.Linear(1, 1), InnerConfig())


def train(endpoint: Endpoint) -> None:
    """Welcome, model, data, optimizer, then steps until SwarmStopped (or an error) is raised."""
    welcome = receive_welcome(endpoint, WELCOME_TIMEOUT_S)
    if welcome is None:
        raise ChannelError(f"The daemon said nothing for {WELCOME_TIMEOUT_S:.0f} s.")
    if welcome.model is None:
        raise ConfigError("This swarm trains a model of its own.", "Join it from its own training script.")
    config = InnerConfig.from_dict(welcome.inner)
    threads, all_threads = welcome.threads, torch.get_num_threads()
    device = pick_device(welcome)
    model = GPT(GPTConfig.from_dict(welcome.model)).to(device)
    context = model.config.context
    held_out = Windows.mapped(_named(welcome.data.get("validation")), context)
    optimizer = make_optimizer(model, config)
    session = Session(endpoint, welcome, model, optimizer, validate=validation(held_out, device))
    session.begin()
    loss_of = Compiled(model.loss, session.notice) if welcome.compile else model.loss
    micro_batch, told = config.micro_batch, dict[str, Any]()
    text, windows = session.text, Windows.mapped(_named(session.text), context)
    while session.running:
        if session.text != text:
            text, windows = session.text, Windows.mapped(_named(session.text), context)
        if session.inner != told:
            told = session.inner
            config = InnerConfig.from_dict({**welcome.inner, **told})
        if session.threads != threads:
            threads = session.threads
            torch.set_num_threads(threads or all_threads)
        batch = windows.batch(welcome.seed, welcome.node_id, session.position, session.shard, config.batch)
        parts = batch[0].to(device), batch[1].to(device)
        try:
            loss = inner_step(loss_of, optimizer, config, parts, session.position, micro_batch)
        except RuntimeError as error:
            micro_batch = halved(micro_batch, error)
            session.notice("micro_batch_halved", f"Out of memory: {micro_batch} sequences at a time now.")
            continue
        session.step(loss, tokens=parts[0].numel())


class Compiled:
    """A loss function through torch.compile, which compiles at the first call.

    Where that fails (no C++ compiler, a model that it can't trace) it says so once and goes on without: the
    steps are the same, only slower.
    """

    def __init__(
        self,
        loss_of: LossOf,
        notice: Callable[[str, str], None],
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._plain = loss_of
        self._loss_of: LossOf | None = torch.compile(loss_of, backend=backend)
        self._notice = notice

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self._loss_of is not None:
            try:
                return self._loss_of(inputs, targets)
            except (RuntimeError, OSError) as error:
                if is_out_of_memory(error):
                    raise
                # What is not the compiler's fault comes again below.
                self._loss_of = None
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._notice("compile_failed", f"The model can't be compiled, and trains without: {why}")
        return self._plain(inputs, targets)


def halved(micro_batch: int, error: RuntimeError) -> int:
    """The micro-batch to go on with after a step that failed by `error`.

    Raises that where memory was not its reason, and ConfigError where nothing is left to halve.
    """
    if not is_out_of_memory(error):
        raise error
    if micro_batch == 1:
        raise ConfigError("The device is too small for this model.", "Choose another.") from error
    torch.cuda.empty_cache()
    return micro_batch // 2


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device ran out of memory. torch's CPU allocator says so in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _named(path: object) -> Path:
    """A text that the daemon names; it has checked its digest. Raises ConfigError where there is none."""
    if not isinstance(path, str):
        raise ConfigError("the daemon names no text to train on.")
    return Path(path)


class Asked(Protocol):
    """Which device, and how many threads (0: as torch likes)."""

    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...


def pick_device(welcome: Asked) -> torch.device:
    """ "auto" is CUDA where there is one. Sets the thread count. Raises DeviceError, ConfigError."""
    if welcome.threads:
        torch.set_num_threads(welcome.threads)
    try:
        if welcome.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(welcome.device)
        torch.empty(1, device=device)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"Device {welcome.device!r} has no memory left.", "Free some, or use cpu."
        ) from error
    except (RuntimeError, AssertionError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DeviceError(f"Device {welcome.device!r} can't be used: {why}.", "Use auto or cpu.") from error
    return device


def validation(windows: Windows, device: torch.device) -> Validate:
    """Mean loss over fixed windows of the validation shard, in nats per byte."""
    inputs, targets = (part.to(device) for part in windows.spread(VALIDATION_WINDOWS))

    def validate(model: torch.nn.Module) -> float:
        assert isinstance(model, GPT)
        total = 0.0
        for rows in micro_batches(len(inputs), _VALIDATION_BATCH):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                total += float(model.loss(inputs[rows], targets[rows])) * len(inputs[rows])
        return total / len(inputs)

    return validate


def die_with_parent() -> None:
    """On Linux the kernel kills this process when the daemon ends, whatever ended it."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def lower_priority() -> None:
    """The machine's owner comes first."""
    os.nice(_NICENESS)


if __name__ == "__main__":
    sys.exit(main())
