"""Checkpoints: the whole outer state of one version in one safetensors file.

Tensors `parameters` and `momentum` (flat fp32, schema order with padding), and the facts as string metadata:
swarm, version, chain digest and those before it, electorate, cumulative tokens, fragment clocks, inner step,
data cursor, the parameter schema; and `state`, the SHA-256 of facts and tensors. All of it follows from the
chain, so the file of a version is the same on every node, byte for byte, and is what a newcomer downloads,
from several of them.
Whether a node knows the version to be certified differs, and stands beside the file, in a small one that
names the chain digest; without it a version (but the genesis) counts as provisional.

A file is believed only if it fits its `state`; else the one before it is taken. Both are written atomically:
a power cut or a full disk leaves the older files as they are and nothing half-written that looks whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from atoll.daemon.storage import files
from atoll.daemon.storage.tensors import write_tensors
from atoll.protocol.chain import DIGEST_BYTES, Head
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema, SchemaError

KEEP = 3
FORMAT = "atoll-checkpoint-5"
MAX_ANCESTORS = 1023
MAX_PROGRESS = 1 << 62
"""So many digests before its own a state names, 33 kB of them: a fork may be far deeper than what nodes tell
each other, and books have to say which commits were left."""
_MAX_HEADER = 16 << 20
_PIECE = 1 << 20
_NAME = re.compile(r"^checkpoint-(\d{10})\.safetensors$")


class CheckpointError(ValueError):
    """A file that is not a whole, consistent checkpoint of this swarm."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, apart from the tensors; `state` confirms chain, facts and bits at once.

    `fragments`: the clock of each fragment; `inner_step`: where the inner schedules are, in steps since the
    genesis; `read`: the data cursor, tokens read from each training shard; `ancestors`: the chain digests of
    the versions before, newest first. `head.certified` is what this node knows of it.
    """

    head: Head
    schema: ParameterSchema
    state: bytes
    fragments: tuple[int, ...] = (0,)
    inner_step: int = 0
    read: tuple[int, ...] = ()
    ancestors: tuple[bytes, ...] = ()


def path_of(folder: Path, version: int) -> Path:
    return folder / f"checkpoint-{version:010d}.safetensors"


def versions(folder: Path) -> list[int]:
    """Versions with a checkpoint file, newest first."""
    found = (_NAME.match(path.name) for path in folder.glob("checkpoint-*.safetensors"))
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def state_hash(facts: Mapping[str, str], parameters: Float32, momentum: Float32) -> bytes:
    """SHA-256 of the facts (JSON, keys sorted, no spaces), parameters and momentum (little-endian fp32)."""
    total = hashlib.sha256(_canonical(facts))
    total.update(parameters.data.cast("B"))
    total.update(momentum.data.cast("B"))
    return total.digest()


def _canonical(facts: Mapping[str, str]) -> bytes:
    return json.dumps(dict(facts), sort_keys=True, separators=(",", ":")).encode()


def save(
    folder: Path,
    swarm_id: bytes,
    head: Head,
    schema: ParameterSchema,
    parameters: Float32,
    momentum: Float32,
    inner_step: int = 0,
    read: Sequence[int] = (),
    ancestors: Sequence[bytes] = (),
) -> Checkpoint:
    """Writes the checkpoint of `head` and forgets those older than the last KEEP. Raises AtollError."""
    facts = {
        "format": FORMAT,
        "swarm": swarm_id.hex(),
        "version": str(head.version),
        "digest": head.digest.hex(),
        "ancestors": b"".join(ancestors).hex(),
        "electorate": json.dumps([peer.hex() for peer in head.electorate]),
        "cumulative_tokens": str(head.cumulative_tokens),
        "fragments": json.dumps([head.version]),
        "inner_step": str(inner_step),
        "cursor": json.dumps({"shards": list(read), "tokens": head.cumulative_tokens}),
        "block": str(schema.block),
        "schema": json.dumps([[t.name, list(t.shape)] for t in schema.tensors]),
    }
    if head.progress:
        facts["progress"] = str(head.progress)
    if head.amendment:
        facts["amendment"] = head.amendment.hex()
    state = state_hash(facts, parameters, momentum)

    def put(file: BinaryIO) -> None:
        tensors = [("parameters", parameters), ("momentum", momentum)]
        write_tensors(file, {**facts, "state": state.hex()}, tensors)

    files.write_atomic(path_of(folder, head.version), put)
    note_certified(folder, head)
    for version in versions(folder)[KEEP:]:
        forget(folder, version)
    return Checkpoint(head, schema, state, (head.version,), inner_step, tuple(read), tuple(ancestors))


def note_certified(folder: Path, head: Head) -> None:
    """Notes beside the checkpoint of a head that it is certified, if it is. Raises AtollError."""
    if head.certified:
        files.write_bytes(_note_of(path_of(folder, head.version)), head.digest.hex().encode())


def _note_of(path: Path) -> Path:
    return path.with_suffix(".certified")


def forget(folder: Path, version: int) -> None:
    """Removes a checkpoint. Raises AtollError."""
    path = path_of(folder, version)
    try:
        path.unlink(missing_ok=True)
        _note_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise files.disk_error(path, error) from error


def read_header(path: Path, swarm_id: bytes) -> tuple[Checkpoint, int]:
    """The checkpoint's facts, and where its tensors start in the file. Raises CheckpointError."""
    checkpoint, _, start = _read(path, swarm_id)
    return checkpoint, start


def _read(path: Path, swarm_id: bytes) -> tuple[Checkpoint, dict[str, str], int]:
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            size = os.fstat(file.fileno()).st_size
            if len(prefix) < 8 or struct.unpack("<Q", prefix)[0] > min(_MAX_HEADER, size):
                raise CheckpointError(f"{path.name} is not a checkpoint")
            (length,) = struct.unpack("<Q", prefix)
            header = json.loads(file.read(length))
        facts = {str(name): str(value) for name, value in header["__metadata__"].items()}
        if facts["format"] != FORMAT or facts["swarm"] != swarm_id.hex():
            raise CheckpointError(f"{path.name} is of another swarm or format")
        state = bytes.fromhex(facts.pop("state"))
        checkpoint = _parsed(facts, state, path)
        shapes = [header[name]["shape"] for name in ("parameters", "momentum")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name} is damaged: {str(error)[:100]}") from error
    total, head = checkpoint.schema.total, checkpoint.head
    if shapes != [[total]] * 2 or size != 8 + length + 8 * total:
        raise CheckpointError(f"{path.name} is incomplete")
    if len(head.digest) != DIGEST_BYTES or len(state) != DIGEST_BYTES or head.version < 0:
        raise CheckpointError(f"{path.name} has an impossible head")
    if checkpoint.fragments != (head.version,):
        raise CheckpointError(f"{path.name} has clocks that do not fit its version")
    return checkpoint, facts, 8 + length


def _parsed(facts: Mapping[str, str], state: bytes, path: Path) -> Checkpoint:
    shapes = ((name, shape) for name, shape in json.loads(facts["schema"]))
    schema = ParameterSchema.of(shapes, int(facts["block"]))
    head = Head(
        version=int(facts["version"]),
        digest=bytes.fromhex(facts["digest"]),
        electorate=tuple(bytes.fromhex(peer) for peer in json.loads(facts["electorate"])),
        certified=int(facts["version"]) == 0 or _is_noted(path, facts["digest"]),
        cumulative_tokens=int(facts["cumulative_tokens"]),
        progress=int(facts.get("progress", "0")),
        amendment=bytes.fromhex(facts.get("amendment", "")),
    )
    if not 0 <= head.progress < MAX_PROGRESS:
        raise CheckpointError(f"{path.name} has an impossible progress")
    if len(head.amendment) not in (0, DIGEST_BYTES):
        raise CheckpointError(f"{path.name} names an impossible amendment")
    fragments = tuple(int(clock) for clock in json.loads(facts["fragments"]))
    read = _cursor(json.loads(facts["cursor"]), head, path)
    past = bytes.fromhex(facts["ancestors"])
    ancestors = tuple(past[at : at + DIGEST_BYTES] for at in range(0, len(past), DIGEST_BYTES))
    if len(past) % DIGEST_BYTES or len(ancestors) > min(MAX_ANCESTORS, head.version):
        raise CheckpointError(f"{path.name} names ancestors that it can't have")
    return Checkpoint(head, schema, state, fragments, int(facts["inner_step"]), read, ancestors)


def _cursor(cursor: Mapping[str, object], head: Head, path: Path) -> tuple[int, ...]:
    read = cursor["shards"]
    if cursor.keys() != {"shards", "tokens"} or cursor["tokens"] != head.cumulative_tokens:
        raise CheckpointError(f"{path.name} has a data cursor that does not fit its version")
    if not isinstance(read, list) or not all(type(count) is int and count >= 0 for count in read):
        raise CheckpointError(f"{path.name} has a data cursor that is no list of numbers")
    return tuple(read)


def tidy(folder: Path) -> None:
    """Removes what a kill in mid-write left. Not while another process may write here. Raises AtollError."""
    kept = {path_of(folder, version) for version in versions(folder)}
    try:
        for path in folder.iterdir():
            note = path.suffix == ".certified" and path.with_suffix(".safetensors") not in kept
            if note or (path.name.startswith(".checkpoint-") and path.suffix == ".tmp"):
                path.unlink()
    except OSError as error:
        raise files.disk_error(folder, error) from error


def _is_noted(path: Path, digest: str) -> bool:
    try:
        return _note_of(path).read_bytes() == digest.encode()
    except FileNotFoundError:
        return False


def verify(path: Path, swarm_id: bytes) -> Checkpoint:
    """Checks all bits of a file without loading it. Raises CheckpointError. Blocking."""
    checkpoint, facts, start = _read(path, swarm_id)
    total = hashlib.sha256(_canonical(facts))
    try:
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE):
                total.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from error
    if total.digest() != checkpoint.state:
        raise CheckpointError(f"{path.name} does not have the bits it was saved with")
    return checkpoint


def mapped(path: Path, swarm_id: bytes) -> tuple[Float32, Float32]:
    """Parameters and momentum as they lie in a file, not yet read. Raises CheckpointError."""
    checkpoint, _, start = _read(path, swarm_id)
    try:
        both = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(2, checkpoint.schema.total))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} can't be read: {error}") from error
    return both[0], both[1]


def load(path: Path, swarm_id: bytes, parameters: Float32, momentum: Float32) -> Checkpoint:
    """Reads the tensors into the given vectors and checks all bits. Raises CheckpointError."""
    checkpoint, facts, start = _read(path, swarm_id)
    if parameters.size != checkpoint.schema.total or momentum.size != parameters.size:
        raise CheckpointError(f"{path.name} has {checkpoint.schema.total} values, not {parameters.size}")
    try:
        with path.open("rb") as file:
            file.seek(start)
            for vector in (parameters, momentum):
                view = vector.data.cast("B")
                if file.readinto(view) != len(view):
                    raise CheckpointError(f"{path.name} is incomplete")
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from error
    if state_hash(facts, parameters, momentum) != checkpoint.state:
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
