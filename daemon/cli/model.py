"""`atoll export` and `generate`: taking the model out of a data dir, whether its daemon runs or not."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atoll.daemon.amending import load
from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.storage import checkpoint, files
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLog
from atoll.daemon.storage.tensors import write_tensors
from atoll.protocol.codecs import result_codec

if TYPE_CHECKING:
    from atoll.daemon.training.model import GPTConfig

_TRIES = 5
MOST_BYTES = 100_000_000
MOST_PROMPT_BYTES = 1 << 20
HOTTEST = 100
NARROW = 512
"""Width of a model up to which one thread writes fastest."""


def outer_state_of(folder: DataDir) -> OuterState:
    """The last committed version in a data dir: checkpoint and the commits after it. Raises AtollError."""
    manifest = folder.load_manifest()
    body = manifest.body
    failure: Exception | None = None
    for _ in range(_TRIES):
        # A running daemon may remove an old file under our eyes: look again, at what there is then.
        try:
            path = checkpoint.path_of(folder.checkpoints, checkpoint.versions(folder.checkpoints)[0])
            schema = checkpoint.schema_of(path, manifest.swarm_id, body.schema_digest)
        except (IndexError, CheckpointError) as error:
            failure = error
            continue
        parameters = np.zeros(schema.total, dtype=np.float32)
        with tempfile.TemporaryDirectory(prefix="atoll-") as scratch:
            copy = _copy_of(folder.rounds, Path(scratch))
            codec = result_codec(body.rounds.codec, body.rounds.result_codec, body.rounds.merge)
            rounds = RoundLog(copy, manifest.chunks, codec)
            amendments = load(folder, manifest)
            state = OuterState(
                manifest, schema, parameters, folder.checkpoints, rounds, amendments=amendments
            )
            state.restore()
            rounds.release()
            return state
    raise AtollError(
        Exit.TEMPORARY, "no_checkpoint", f"There is no usable checkpoint in {folder.root} ({failure}).", ""
    )


def _copy_of(rounds: Path, scratch: Path) -> Path:
    """A private copy of the replay log, so that reading it never disturbs a running daemon."""
    for path in rounds.glob("*"):
        if path.suffix in (".commit", ".payload"):
            try:
                shutil.copyfile(path, scratch / path.name)
            except FileNotFoundError:
                continue
    return scratch


def built_in(state: OuterState) -> GPTConfig:
    """The built-in model of a swarm; sets the threads that suit it. Raises AtollError for another one."""
    import torch

    from atoll.daemon.training.model import GPTConfig
    from atoll.daemon.welcome import shape_of

    if state.manifest.body.model.kind != "gpt":
        raise AtollError(
            Exit.USAGE, "own_model", "This swarm trains a model of its own, which Atoll can't run."
        )
    config = GPTConfig(**shape_of(state.manifest))
    if config.width <= NARROW:
        # Threads would wait for each other longer than they compute, and beside a trainer many times longer.
        torch.set_num_threads(1)
    return config


def export(arguments: argparse.Namespace) -> int:
    """`atoll export --out F.safetensors`"""
    state = outer_state_of(DataDir(data_dir_of(arguments.data_dir)))
    tensors = [(t.name, state.parameters[t.offset : t.end].reshape(t.shape)) for t in state.schema.tensors]
    about = {
        "swarm": state.manifest.swarm_id.hex(),
        "version": str(state.head.version),
        "digest": state.head.digest.hex(),
    }
    target = Path(arguments.out)
    try:
        files.write_atomic(target, lambda file: write_tensors(file, about, tensors))
    except AtollError as error:
        if error.code != "disk_not_writable":
            raise
        raise AtollError(Exit.USAGE, "bad_out", error.message, "Choose another --out.") from error
    count = state.schema.parameters
    print(f"Version {state.head.version} ({count:,} parameters) is in {target}, in the safetensors format.")
    return int(Exit.OK)


def generate(arguments: argparse.Namespace) -> int:
    """`atoll generate --prompt …`"""
    from atoll.daemon.training.generate import generate as write

    check_range("--bytes", arguments.bytes, 0, MOST_BYTES)
    check_range("--temperature", arguments.temperature, 0, HOTTEST)
    check_range("--seed", arguments.seed, 0, 2**63 - 1)
    state = outer_state_of(DataDir(data_dir_of(arguments.data_dir)))
    config = built_in(state)
    prompt = (
        sys.stdin.buffer.read(MOST_PROMPT_BYTES) if arguments.prompt == "-" else arguments.prompt.encode()
    )
    if state.head.version == 0:
        print("This is version 0: nothing was learned yet, so what it writes is noise.", file=sys.stderr)
    pieces = write(
        config,
        state.schema,
        state.parameters,
        prompt,
        arguments.bytes,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    if arguments.json:
        print(json.dumps({"version": state.head.version}), flush=True)
        for piece in pieces:
            print(json.dumps({"hex": piece.hex()}), flush=True)
        return int(Exit.OK)
    sys.stdout.buffer.write(prompt)
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    print()
    return int(Exit.OK)
