"""Making a swarm: the organiser's key, version 0 of the parameters, and the signed manifest.

The manifest names the SHA-256 of the genesis parameters, so a newcomer can check them whoever sends them;
the parameters themselves are the checkpoint of version 0. Defaults of a run are here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import SafetensorError, safe_open

from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.rounds.outer_state import genesis_head
from atoll.daemon.storage import checkpoint, files, shard_files
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training import corpus
from atoll.daemon.training.errors import CorpusError
from atoll.daemon.training.genesis import builtin_genesis
from atoll.daemon.training.model import SIZES
from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST, shards
from atoll.protocol import manifest as manifests
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import ManifestError, SwarmManifest
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema, SchemaError, default_chunk_values
from atoll.protocol.signing import Ed25519Keyring

OUTER_MOMENTUM = 0.9
FEEDBACK = {"2bit": 0.9, "topk": 0.95}
"""Decay of error feedback for codecs that can't do without (MuLoCo 2505.23725, SparseLoCo 2508.15706)."""
OUTER_LR = (0.4, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.8)
"""By contributors 1 to 8 and more (2503.09799: 0.4 to 0.6 for one, 0.6 for two and four, 0.8 for eight)."""


@dataclass(frozen=True)
class NewSwarm:
    """What `atoll init` was asked for; None takes the default."""

    name: str
    model: str = "0.8m"
    data: Path | None = None
    data_urls: tuple[str, ...] = ()
    shard_bytes: int = 64 << 20
    bootstrap: tuple[str, ...] = ()
    inner_steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    total_steps: int | None = None
    min_peers: int = 1
    codec: str = "int8"
    result_codec: str = "int8"
    feedback: float | None = None
    random_rounding: bool = False
    two_level_above: int = 0
    missed: str = "reset"
    seed: int = 1
    genesis: Path | None = None


@dataclass(frozen=True)
class InnerDefaults:
    """Inner phase of a built-in size: steps, sequences per step, peak learning rate."""

    steps: int
    batch: int
    lr: float


DEFAULTS = {
    "0.8m": InnerDefaults(100, 4, 2e-3),
    "4m": InnerDefaults(100, 8, 1.5e-3),
    "11m": InnerDefaults(200, 16, 1e-3),
    "30m": InnerDefaults(200, 32, 6e-4),
    "124m": InnerDefaults(500, 64, 4e-4),
}


def make_swarm(folder: DataDir, wanted: NewSwarm, now_unix_s: int) -> SwarmManifest:
    """Writes keys, text, version 0 and manifest into a data dir without one. Raises AtollError.

    Nothing is written, and no folder made, before all that was asked for has been checked.
    """
    _check(wanted)
    model, schema, parameters = _own_model(wanted) if wanted.genesis else _built_in(wanted)
    text = None if wanted.genesis else _text(wanted, model.context)
    body = _body(wanted, model, schema, parameters, now_unix_s)
    if text is not None:
        blank = (pb.DataShard(digest=bytes(32), size_bytes=size) for size in text.sizes)
        body.data.CopyFrom(_data(wanted, text, list(blank)))
    nobody = Ed25519Keyring(Ed25519PrivateKey.generate())
    body.genesis_node = nobody.peer_id
    _sign(body, nobody)
    folder.create()
    folder.lock()
    try:
        return _write(folder, wanted, text, body, schema, parameters)
    finally:
        folder.unlock()


def _write(
    folder: DataDir,
    wanted: NewSwarm,
    text: _Text | None,
    body: pb.Manifest,
    schema: ParameterSchema,
    parameters: Float32,
) -> SwarmManifest:
    """Everything into the data dir, the manifest last: with it there is a swarm."""
    if folder.manifest.exists():
        raise AtollError(
            Exit.USAGE,
            "swarm_exists",
            f"There is a swarm in {folder.root} already.",
            "Use another --data-dir.",
        )
    if text is not None:
        body.data.CopyFrom(_data(wanted, text, _shards(folder, text)))
    body.genesis_node = folder.keyring(folder.identity).peer_id
    manifest = _sign(body, folder.keyring(folder.organiser))
    checkpoint.save(
        folder.checkpoints,
        manifest.swarm_id,
        genesis_head(manifest),
        schema,
        parameters,
        np.zeros_like(parameters),
        read=(0,) * len(shards.training_sizes(manifest.body.data)),
    )
    files.write_bytes(folder.manifest, manifest.signed.SerializeToString())
    return manifest


def _check(wanted: NewSwarm) -> None:
    """Numbers that no manifest can hold, or that mean nothing; the manifest's own ranges do the rest."""
    check_range("seed", wanted.seed, 0, 2**64 - 1)
    for name, count in (
        ("inner-steps", wanted.inner_steps),
        ("batch", wanted.batch),
        ("total-steps", wanted.total_steps),
        ("min-peers", wanted.min_peers),
    ):
        if count is not None:
            check_range(name, count, 1, 2**31)
    if wanted.lr is not None and not wanted.lr > 0:
        raise AtollError(
            Exit.USAGE, "out_of_range", f"lr is {wanted.lr}; it must be more than 0, or nothing is learned."
        )


def _sign(body: pb.Manifest, organiser: Ed25519Keyring) -> SwarmManifest:
    try:
        return manifests.sign(body, organiser)
    except ManifestError as error:
        raise AtollError(Exit.USAGE, "manifest_invalid", f"No such swarm can be made: {error}.") from error


def _body(
    wanted: NewSwarm, model: pb.Model, schema: ParameterSchema, parameters: Float32, now_unix_s: int
) -> pb.Manifest:
    """The manifest without data and keys."""
    return pb.Manifest(
        format=1,
        name=wanted.name,
        sequence=1,
        created_unix_s=now_unix_s,
        protocol=pb.ProtocolRange(lowest=PROTOCOL_LOWEST, highest=PROTOCOL_HIGHEST),
        seed=wanted.seed,
        model=model,
        inner=_inner(wanted),
        outer=pb.Outer(momentum=OUTER_MOMENTUM, lr_by_contributors=OUTER_LR, missed=wanted.missed),
        rounds=pb.Rounds(
            chunk_values=default_chunk_values(schema.total, schema.block),
            codec=wanted.codec,
            result_codec=wanted.result_codec,
            feedback=FEEDBACK.get(wanted.codec, 0.0) if wanted.feedback is None else wanted.feedback,
            random_rounding=wanted.random_rounding,
            two_level_above=wanted.two_level_above,
            min_peers_to_start=wanted.min_peers,
            grace_floor_s=2.0,
            grace_cap_s=60.0,
            validate_every=1,
        ),
        admission="open",
        schema_digest=schema.digest,
        total_values=schema.total,
        parameters=schema.parameters,
        genesis_parameters=hashlib.sha256(parameters.data.cast("B")).digest(),
        bootstrap=wanted.bootstrap,
    )


def _inner(wanted: NewSwarm) -> pb.Inner:
    defaults = DEFAULTS.get(wanted.model, DEFAULTS["0.8m"])
    return pb.Inner(
        steps=defaults.steps if wanted.inner_steps is None else wanted.inner_steps,
        lr=defaults.lr if wanted.lr is None else wanted.lr,
        warmup_steps=50,
        total_steps=1 if wanted.total_steps is None else wanted.total_steps,
        schedule="constant" if wanted.total_steps is None else "cosine",
        batch=defaults.batch if wanted.batch is None else wanted.batch,
        weight_decay=0.1,
        clip=1.0,
        beta1=0.9,
        beta2=0.99,
    )


def _built_in(wanted: NewSwarm) -> tuple[pb.Model, ParameterSchema, Float32]:
    config = SIZES.get(wanted.model)
    if config is None:
        raise AtollError(
            Exit.USAGE,
            "unknown_model",
            f"There is no model {wanted.model!r}.",
            f"Choose of {', '.join(SIZES)}.",
        )
    schema, parameters = builtin_genesis(config, wanted.seed, manifests.block_of(wanted.codec))
    model = pb.Model(
        kind="gpt",
        size=wanted.model,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        context=config.context,
    )
    return model, schema, parameters


def _own_model(wanted: NewSwarm) -> tuple[pb.Model, ParameterSchema, Float32]:
    """Version 0 from a safetensors file whose metadata `order` lists the tensors in flat order."""
    assert wanted.genesis is not None
    try:
        with safe_open(wanted.genesis, "numpy") as file:
            order = json.loads((file.metadata() or {})["order"])
            tensors = [(name, file.get_tensor(name)) for name in order]
        shapes = ((name, tensor.shape) for name, tensor in tensors)
        schema = ParameterSchema.of(shapes, manifests.block_of(wanted.codec))
        flat = np.zeros(schema.total, dtype=np.float32)
        for spec, (_, tensor) in zip(schema.tensors, tensors, strict=True):
            flat[spec.offset : spec.end] = tensor.astype(np.float32).ravel()
    except (OSError, SafetensorError, SchemaError, KeyError, ValueError, TypeError) as error:
        raise AtollError(
            Exit.USAGE, "bad_genesis", f"{wanted.genesis} is no usable version 0: {error}."
        ) from error
    if not np.isfinite(flat).all():
        raise AtollError(Exit.USAGE, "bad_genesis", f"{wanted.genesis} has values that are not finite.")
    return pb.Model(kind="own", size=f"{schema.parameters}"), schema, flat


@dataclass(frozen=True)
class _Text:
    """The text and the sizes of its shards."""

    name: str
    text: corpus.Text
    sizes: list[int]


def _text(wanted: NewSwarm, context: int) -> _Text:
    """Finds the text and says how it is cut. Raises AtollError."""
    source = corpus.BUILTIN if wanted.data is None else str(wanted.data)
    try:
        text = corpus.text_of(source)
        sizes = corpus.cut(text.size_bytes, wanted.shard_bytes, context)
    except CorpusError as error:
        raise AtollError(Exit.USAGE, "bad_data", str(error)) from error
    return _Text(wanted.data.name if wanted.data else source, text, sizes)


def _shards(folder: DataDir, text: _Text) -> list[pb.DataShard]:
    """Cuts the text into shards in the data dir, from where peers fetch them. Raises AtollError."""
    start, made = 0, []
    folder.shards.mkdir(exist_ok=True)
    try:
        for size in text.sizes:
            made.append(shard_files.add(folder.shards, text.text.read(start, size)))
            start += size
    except CorpusError as error:
        raise AtollError(Exit.USAGE, "bad_data", str(error)) from error
    return made


def _data(wanted: NewSwarm, text: _Text, made: list[pb.DataShard]) -> pb.Data:
    return pb.Data(
        name=text.name,
        digest=shards.table_digest(made),
        size_bytes=text.text.size_bytes,
        shards=made,
        urls=wanted.data_urls,
    )
