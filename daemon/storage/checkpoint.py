"""Checkpoints: the whole outer state of one version in one safetensors file.

Tensors `parameters` and `momentum` (flat fp32, schema order with padding) and string metadata: swarm,
version, chain digest, electorate, certified, cumulative tokens, the parameter schema, and `state`, the
SHA-256 of digest and both tensors. A file is believed only if all of that fits; else the one before it is
taken. The same file is what a newcomer downloads.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from atoll.daemon.storage import files
from atoll.daemon.storage.tensors import write_tensors
from atoll.protocol.chain import DIGEST_BYTES, Head
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema, SchemaError

KEEP = 2
_MAX_HEADER = 16 << 20
_PIECE = 1 << 20
_NAME = re.compile(r"^checkpoint-(\d{10})\.safetensors$")


class CheckpointError(ValueError):
    """A file that is not a whole, consistent checkpoint of this swarm."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, apart from the tensors; `state` confirms chain and bits at once."""

    head: Head
    schema: ParameterSchema
    state: bytes


def path_of(folder: Path, version: int) -> Path:
    return folder / f"checkpoint-{version:010d}.safetensors"


def versions(folder: Path) -> list[int]:
    """Versions with a checkpoint file, newest first."""
    found = (_NAME.match(path.name) for path in folder.glob("checkpoint-*.safetensors"))
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def state_hash(digest: bytes, parameters: Float32, momentum: Float32) -> bytes:
    """SHA-256 of chain digest, parameters and momentum (little-endian fp32 bytes)."""
    total = hashlib.sha256(digest)
    total.update(parameters.data.cast("B"))
    total.update(momentum.data.cast("B"))
    return total.digest()


def save(
    folder: Path, swarm_id: bytes, head: Head, schema: ParameterSchema, parameters: Float32, momentum: Float32
) -> Checkpoint:
    """Writes the checkpoint of `head` and forgets those older than the last KEEP. Raises AtollError."""
    state = state_hash(head.digest, parameters, momentum)
    metadata = {
        "format": "atoll-checkpoint-1",
        "swarm": swarm_id.hex(),
        "version": str(head.version),
        "digest": head.digest.hex(),
        "electorate": json.dumps([peer.hex() for peer in head.electorate]),
        "certified": str(int(head.certified)),
        "cumulative_tokens": str(head.cumulative_tokens),
        "schema": json.dumps([[t.name, list(t.shape)] for t in schema.tensors]),
        "state": state.hex(),
    }

    def put(file: BinaryIO) -> None:
        write_tensors(file, metadata, [("parameters", parameters), ("momentum", momentum)])

    files.write_atomic(path_of(folder, head.version), put)
    for version in versions(folder)[KEEP:]:
        path_of(folder, version).unlink(missing_ok=True)
    return Checkpoint(head, schema, state)


def read_header(path: Path, swarm_id: bytes) -> tuple[Checkpoint, int]:
    """The checkpoint's facts, and where its tensors start in the file. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8 or struct.unpack("<Q", prefix)[0] > _MAX_HEADER:
                raise CheckpointError(f"{path.name} is not a checkpoint")
            (length,) = struct.unpack("<Q", prefix)
            header = json.loads(file.read(length))
        meta = header["__metadata__"]
        if meta["format"] != "atoll-checkpoint-1" or meta["swarm"] != swarm_id.hex():
            raise CheckpointError(f"{path.name} is of another swarm or format")
        schema = ParameterSchema.of((name, shape) for name, shape in json.loads(meta["schema"]))
        head = Head(
            version=int(meta["version"]),
            digest=bytes.fromhex(meta["digest"]),
            electorate=tuple(bytes.fromhex(peer) for peer in json.loads(meta["electorate"])),
            certified=meta["certified"] == "1",
            cumulative_tokens=int(meta["cumulative_tokens"]),
        )
        state = bytes.fromhex(meta["state"])
        shapes = [header[name]["shape"] for name in ("parameters", "momentum")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name} is damaged: {str(error)[:100]}") from error
    if shapes != [[schema.total]] * 2 or path.stat().st_size != 8 + length + 8 * schema.total:
        raise CheckpointError(f"{path.name} is incomplete")
    if len(head.digest) != DIGEST_BYTES or head.version < 0:
        raise CheckpointError(f"{path.name} has an impossible head")
    return Checkpoint(head, schema, state), 8 + length


def verify(path: Path, swarm_id: bytes) -> Checkpoint:
    """Checks all bits of a file without loading it. Raises CheckpointError. Blocking."""
    checkpoint, start = read_header(path, swarm_id)
    total = hashlib.sha256(checkpoint.head.digest)
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE):
            total.update(piece)
    if total.digest() != checkpoint.state:
        raise CheckpointError(f"{path.name} does not have the bits it was saved with")
    return checkpoint


def load(path: Path, swarm_id: bytes, parameters: Float32, momentum: Float32) -> Checkpoint:
    """Reads the tensors into the given vectors and checks all bits. Raises CheckpointError."""
    checkpoint, start = read_header(path, swarm_id)
    if parameters.size != checkpoint.schema.total or momentum.size != parameters.size:
        raise CheckpointError(f"{path.name} has {checkpoint.schema.total} values, not {parameters.size}")
    with path.open("rb") as file:
        file.seek(start)
        for vector in (parameters, momentum):
            view = vector.data.cast("B")
            if file.readinto(view) != len(view):
                raise CheckpointError(f"{path.name} is incomplete")
    if state_hash(checkpoint.head.digest, parameters, momentum) != checkpoint.state:
        raise CheckpointError(f"{path.name} does not have the bits it was saved with")
    return checkpoint


def schema_of(path: Path, swarm_id: bytes, digest: bytes) -> ParameterSchema:
    """The parameter schema in a checkpoint, if it is the one with `digest`. Raises CheckpointError."""
    try:
        checkpoint, _ = read_header(path, swarm_id)
    except SchemaError as error:
        raise CheckpointError(str(error)) from error
    if checkpoint.schema.digest != digest:
        raise CheckpointError(
            f"{path.name} has schema {checkpoint.schema.digest.hex()[:16]}, the swarm has {digest.hex()[:16]}"
        )
    return checkpoint.schema
