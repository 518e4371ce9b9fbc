"""The public API for training scripts: `atoll.join` and `atoll.create`.

`join` starts the daemon as a child process with one end of a socket pair, waits until the swarm's
parameters are here, loads them into the module and returns a `Session`. Everything that was started is
ended again when that fails, when the session is closed, and at the end of the script.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import torch
from safetensors.numpy import save_file
from torch import nn

from atoll.daemon.training.channel import MAX_TEXT, Endpoint, Failed
from atoll.daemon.training.errors import ChannelClosedError, DaemonStartError, TrainingError
from atoll.daemon.training.flat import flatten
from atoll.daemon.training.launch import DaemonProcess, atoll_command, run_command
from atoll.daemon.training.session import Session, Validate, receive_welcome

JOIN_TIMEOUT_S = 600.0
CREATE_TIMEOUT_S = 600.0


def join(
    ticket: str | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    data_dir: str | os.PathLike[str],
    validate: Validate | None = None,
    options: Sequence[str] = (),
    timeout_s: float = JOIN_TIMEOUT_S,
    output: TextIO | None = sys.stderr,
) -> Session:
    """Makes this script a node of a swarm; returns with the swarm's parameters in `model`.

    `ticket`: needed once; None for a data dir that has joined, or that `create` made. `model` must be built
    as the organiser's: what is averaged are its parameters that require grad; buffers stay local.
    `validate(model)` gives the validation loss; it is called with the swarm's parameters in the model.
    `options`: more arguments for the daemon, as on its command line (`["--up", "20Mbit"]`).
    `timeout_s`: how long the daemon may take to be ready for training (a download of the parameters is not
    counted). `output`: where the daemon's lines go; None hides them.

    Raises DaemonStartError (with the daemon's exit code and last lines), SchemaMismatchError if the model is
    not the swarm's, SwarmStopped if the daemon is asked to stop meanwhile.
    """
    ours, theirs = socket.socketpair()
    with ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            arguments = _daemon_arguments(ticket, Path(data_dir), theirs.fileno(), options)
            child = DaemonProcess(atoll_command(*arguments), [theirs.fileno()], output)
        undo.callback(child.stop)
        endpoint = Endpoint(ours)
        try:
            session = _enter(endpoint, child, model, optimizer, validate, timeout_s)
        except ChannelClosedError as error:
            raise child.failure() from error
        undo.pop_all()
    return session


def _enter(
    endpoint: Endpoint,
    child: DaemonProcess,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    validate: Validate | None,
    timeout_s: float,
) -> Session:
    """From Welcome to the first phase."""
    welcome = receive_welcome(endpoint, timeout_s)
    if welcome is None:
        raise DaemonStartError(f"The daemon was not ready for training after {timeout_s:.0f} s.")

    def on_close(asked_us: bool) -> None:
        atexit.unregister(session.close)
        child.stop(asked_us)

    try:
        session = Session(endpoint, welcome, model, optimizer, validate=validate, on_close=on_close)
    except ChannelClosedError:
        raise
    except TrainingError as error:
        endpoint.send(Failed(error.code, str(error)[:MAX_TEXT]))
        raise
    session.begin()
    atexit.register(session.close)
    return session


def create(
    name: str,
    model: nn.Module,
    *,
    data_dir: str | os.PathLike[str],
    inner_steps: int | None = None,
    options: Sequence[str] = (),
) -> None:
    """Makes a new swarm in `data_dir` whose version 0 is `model` as it is; then `join(None, ...)`.

    `inner_steps`: inner steps per round (None: the daemon's default). `options`: more arguments of
    `atoll init`. Raises DaemonStartError with the command's last lines, SchemaMismatchError.
    """
    with tempfile.TemporaryDirectory(prefix="atoll-") as folder:
        genesis = Path(folder) / "genesis.safetensors"
        write_genesis(model, genesis)
        arguments = ["init", name, "--data-dir", os.fspath(data_dir), "--genesis", str(genesis)]
        if inner_steps is not None:
            arguments += ["--inner-steps", str(inner_steps)]
        run_command(atoll_command(*arguments, *options), CREATE_TIMEOUT_S)


def write_genesis(model: nn.Module, path: Path) -> None:
    """The model's parameters as safetensors, fp32; metadata "order" is the JSON list of names in flat order.

    Raises SchemaMismatchError.
    """
    schema, flat = flatten(model)
    tensors = {t.name: flat[t.offset : t.end].reshape(t.shape) for t in schema.tensors}
    save_file(tensors, path, metadata={"order": json.dumps([t.name for t in schema.tensors])})


def _daemon_arguments(ticket: str | None, data_dir: Path, fd: int, options: Sequence[str]) -> list[str]:
    start = ["run"] if ticket is None else ["join", ticket, "--yes"]
    return [*start, "--data-dir", str(data_dir), "--trainer-fd", str(fd), *options]
