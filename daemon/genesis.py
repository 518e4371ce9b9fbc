"""Making a swarm: the organiser's key, version 0 of the parameters, and the signed manifest.

The manifest names the SHA-256 of the genesis parameters, so a newcomer can check them whoever sends them;
the parameters themselves are the checkpoint of version 0. Defaults of a run are here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
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
from atoll.peers.fetching import Progress
from atoll.protocol import manifest as manifests
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import shards, wire
from atoll.protocol.manifest import DILOCO, MEAN, STREAMING, ManifestError, SwarmManifest
from atoll.protocol.membership import OPEN
from atoll.protocol.modes.asynchronous import ASYNC
from atoll.protocol.modes.doors import ALL, WINDOW
from atoll.protocol.modes.eager import DELAYED, EAGER
from atoll.protocol.modes.fragments import STRIDED, fragments
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema, SchemaError, default_chunk_values
from atoll.protocol.signing import Ed25519Keyring

OUTER_MOMENTUM = 0.9
FEEDBACK = {"2bit": 0.9, "topk": 0.95}
"""Decay of error feedback for codecs that can't do without (MuLoCo 2505.23725, SparseLoCo 2508.15706)."""
OUTER_LR = (0.4, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.8)
"""By contributors 1 to 8 and more (2503.09799: 0.4 to 0.6 for one, 0.6 for two and four, 0.8 for eight)."""


@dataclass(frozen=True)
class ModeDefaults:
    """What a mode has unless something else is asked for; None: what the model's size has."""

    codec: str = "int8"
    outer_lr: tuple[float, ...] = OUTER_LR
    momentum: float = OUTER_MOMENTUM
    fragments: int = 1
    overlap: int | None = 0
    """None: as long as it is from one exchange to the next."""
    mix: float = 0.0
    missed: str = "reset"
    optimizer: str = "adamw"
    feedback: float | None = None
    steps: int | None = None
    warmup_steps: int = 50
    total_steps: int | None = None
    batch_divisor: int = 1
    """Sequences per step are so many times fewer."""
    door: str = ALL
    door_s: float = 0.0
    by_speed: bool = False


MODES = {
    DILOCO: ModeDefaults(),
    # 2501.18512, section 3: outer rate 0.4, E3M0, one step of overlap, half of what is local stays.
    STREAMING: ModeDefaults("e3m0", (0.4,), fragments=3, overlap=1, mix=0.5),
    "fedavg": ModeDefaults(outer_lr=(1.0,), momentum=0.0),
    # 2411.02908: 128 local steps, a large batch's peak rate for an eighth of it, eight times the schedule.
    "photon": ModeDefaults(
        outer_lr=(1.0,), momentum=0.0, steps=128, warmup_steps=800, total_steps=40_960, batch_divisor=8
    ),
    # 2508.15706: error feedback is the outer momentum.
    "sparseloco": ModeDefaults("topk", (1.0,), momentum=0.0, feedback=0.95, steps=30),
    # 2505.23725: Muon inside, Nesterov 0.9 at 0.8 outside, two bits with error feedback.
    "muloco": ModeDefaults("2bit", (0.8,), optimizer="muon", feedback=0.9, steps=30),
    # With less delay than a phase the paper's rate holds; with one it is about half (docs/modes.md).
    EAGER: ModeDefaults(outer_lr=(0.4,), overlap=None, missed="keep"),
    DELAYED: ModeDefaults(outer_lr=(0.4,), momentum=0.5, overlap=None, missed="keep"),
    # 2401.09135: phases by speed, and a grace for those that come at about the same time.
    ASYNC: ModeDefaults(outer_lr=(0.6,), momentum=0.8, missed="keep", door=WINDOW, door_s=2.0, by_speed=True),
}


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
    mode: str = DILOCO
    fragments: int | None = None
    pattern: str = STRIDED
    overlap: int | None = None
    delay: int | None = None
    """In outer steps: a way to say `overlap` where a trainer's next phase begins before the commit."""
    mix: float | None = None
    outer_lr: float | None = None
    outer_momentum: float | None = None
    braking: float = 0.0
    optimizer: str | None = None
    codec: str | None = None
    result_codec: str = "int8"
    feedback: float | None = None
    random_rounding: bool = False
    two_level_above: int = 0
    door: str | None = None
    door_s: float | None = None
    by_speed: bool | None = None
    by_attendance: bool = False
    merge: str = MEAN
    bucket: int = 0
    audit: bool = False
    by_roughness: bool = False
    admission: str = OPEN
    missed: str | None = None
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


def make_swarm(
    folder: DataDir, wanted: NewSwarm, now_unix_s: int, told: Progress = lambda here, total: None
) -> SwarmManifest:
    """Writes keys, text, version 0 and manifest into a data dir without one. Raises AtollError.

    `told`: of the text's bytes, how many are written and how many there are.
    Nothing is written, and no folder made, before all that was asked for has been checked.
    """
    _check(wanted)
    wanted = of_mode(wanted)
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
        return _write(folder, wanted, text, body, schema, parameters, told)
    finally:
        folder.unlock()


def _write(
    folder: DataDir,
    wanted: NewSwarm,
    text: _Text | None,
    body: pb.Manifest,
    schema: ParameterSchema,
    parameters: Float32,
    told: Progress,
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
        body.data.CopyFrom(_data(wanted, text, _shards(folder, text, told)))
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


def of_mode(wanted: NewSwarm) -> NewSwarm:
    """The same with what its mode has where nothing was asked for. Raises AtollError."""
    mode = MODES.get(wanted.mode)
    if mode is None:
        text = f"There is no mode {wanted.mode!r}."
        raise AtollError(Exit.USAGE, "unknown_mode", text, f"Choose of {', '.join(MODES)}.")
    if wanted.delay is not None and mode.overlap is not None:
        text = f"{wanted.mode} has no outer steps of delay."
        raise AtollError(Exit.USAGE, "delay_invalid", text, "Leave --delay out.")
    if wanted.delay is not None and wanted.overlap is not None:
        text = "--delay and --overlap both say how long trainers go on."
        raise AtollError(Exit.USAGE, "delay_invalid", text, "Leave one of them out.")
    codec, door = wanted.codec or mode.codec, wanted.door or mode.door
    steps = wanted.inner_steps or mode.steps
    if mode.overlap is None and wanted.overlap is None:
        steps = steps or DEFAULTS.get(wanted.model, DEFAULTS["0.8m"]).steps
        wanted = replace(wanted, overlap=steps * (1 if wanted.delay is None else wanted.delay))
    return replace(
        wanted,
        codec=codec,
        missed=wanted.missed or mode.missed,
        fragments=mode.fragments if wanted.fragments is None else wanted.fragments,
        overlap=mode.overlap if wanted.overlap is None else wanted.overlap,
        mix=mode.mix if wanted.mix is None else wanted.mix,
        outer_momentum=mode.momentum if wanted.outer_momentum is None else wanted.outer_momentum,
        optimizer=wanted.optimizer or mode.optimizer,
        feedback=_feedback(mode, codec) if wanted.feedback is None else wanted.feedback,
        door=door,
        door_s=(mode.door_s if door == mode.door else 0.0) if wanted.door_s is None else wanted.door_s,
        by_speed=mode.by_speed if wanted.by_speed is None else wanted.by_speed,
        inner_steps=steps,
        total_steps=wanted.total_steps or mode.total_steps,
    )


def _feedback(mode: ModeDefaults, codec: str) -> float:
    return FEEDBACK.get(codec, 0.0) if mode.feedback is None else mode.feedback


def _sync(wanted: NewSwarm, schema: ParameterSchema) -> pb.Sync | None:
    """How the swarm synchronises. Raises AtollError."""
    if wanted.mode == DILOCO and wanted.fragments == 1 and not wanted.overlap and not wanted.mix:
        return None
    try:
        runs = () if wanted.fragments == 1 else fragments(schema, wanted.fragments or 0, wanted.pattern)
    except SchemaError as error:
        raise AtollError(Exit.USAGE, "manifest_invalid", f"No such swarm can be made: {error}.") from error
    return pb.Sync(
        mode=wanted.mode,
        runs=[pb.Run(start=start, fragment=number) for start, number in runs],
        overlap_steps=wanted.overlap,
        mix=wanted.mix,
    )


def _sign(body: pb.Manifest, organiser: Ed25519Keyring) -> SwarmManifest:
    try:
        return manifests.sign(body, organiser)
    except ManifestError as error:
        message = re.sub(r"\b[a-z]+\.\w+", lambda found: _OPTIONS.get(found[0], found[0]), str(error))
        raise AtollError(Exit.USAGE, "manifest_invalid", f"No such swarm can be made: {message}.") from error


_OPTIONS = {
    "inner.batch": "--batch",
    "inner.by_speed": "--by-speed",
    "inner.lr": "--lr",
    "inner.optimizer": "--optimizer",
    "inner.steps": "--inner-steps",
    "inner.total_steps": "--total-steps",
    "outer.braking": "--braking",
    "outer.lr_by_contributors": "--outer-lr",
    "outer.missed": "--missed",
    "outer.momentum": "--outer-momentum",
    "rounds.audit": "--audit",
    "rounds.bucket": "--bucket",
    "rounds.by_attendance": "--by-attendance",
    "rounds.by_roughness": "--by-roughness",
    "rounds.door": "--door",
    "rounds.door_s": "--door-seconds",
    "rounds.feedback": "--feedback",
    "rounds.merge": "--merge",
    "rounds.min_peers_to_start": "--min-peers",
    "rounds.two_level_above": "--two-level-above",
    "sync.mix": "--mix",
    "sync.mode": "--mode",
    "sync.overlap_steps": "--overlap",
}
"""Fields of the manifest, as whoever makes a swarm gives them."""


def _body(
    wanted: NewSwarm, model: pb.Model, schema: ParameterSchema, parameters: Float32, now_unix_s: int
) -> pb.Manifest:
    """The manifest without data and keys."""
    return pb.Manifest(
        format=1,
        name=wanted.name,
        sequence=1,
        created_unix_s=now_unix_s,
        protocol=wire.spoken(),
        seed=wanted.seed,
        model=model,
        inner=_inner(wanted),
        outer=pb.Outer(
            momentum=wanted.outer_momentum,
            lr_by_contributors=MODES[wanted.mode].outer_lr if wanted.outer_lr is None else [wanted.outer_lr],
            missed=wanted.missed,
            braking=wanted.braking,
        ),
        rounds=pb.Rounds(
            chunk_values=default_chunk_values(schema.total, schema.block),
            codec=wanted.codec,
            result_codec=wanted.result_codec,
            feedback=wanted.feedback,
            random_rounding=wanted.random_rounding,
            two_level_above=wanted.two_level_above,
            min_peers_to_start=wanted.min_peers,
            grace_floor_s=2.0,
            grace_cap_s=60.0,
            validate_every=1,
            door="" if wanted.door == ALL else wanted.door,
            door_s=wanted.door_s,
            merge="" if wanted.merge == MEAN else wanted.merge,
            bucket=wanted.bucket,
            audit=wanted.audit,
            by_attendance=wanted.by_attendance,
            by_roughness=wanted.by_roughness,
        ),
        admission=wanted.admission,
        schema_digest=schema.digest,
        total_values=schema.total,
        parameters=schema.parameters,
        genesis_parameters=hashlib.sha256(parameters.data.cast("B")).digest(),
        bootstrap=wanted.bootstrap,
        sync=_sync(wanted, schema),
    )


def _inner(wanted: NewSwarm) -> pb.Inner:
    defaults = DEFAULTS.get(wanted.model, DEFAULTS["0.8m"])
    mode, shared = MODES[wanted.mode], wanted.fragments or 1
    return pb.Inner(
        # As many more as it takes for the fragments to share them evenly.
        steps=-(-defaults.steps // shared) * shared if wanted.inner_steps is None else wanted.inner_steps,
        lr=defaults.lr if wanted.lr is None else wanted.lr,
        warmup_steps=mode.warmup_steps,
        total_steps=1 if wanted.total_steps is None else wanted.total_steps,
        schedule="constant" if wanted.total_steps is None else "cosine",
        batch=max(1, defaults.batch // mode.batch_divisor) if wanted.batch is None else wanted.batch,
        weight_decay=0.1,
        clip=1.0,
        beta1=0.9,
        beta2=0.99,
        optimizer=wanted.optimizer,
        by_speed=bool(wanted.by_speed),
    )


def parameters_of(wanted: NewSwarm) -> int:
    """How many parameters it trains. Raises AtollError."""
    return (_own_model(wanted) if wanted.genesis else _built_in(wanted))[1].parameters


def _built_in(wanted: NewSwarm) -> tuple[pb.Model, ParameterSchema, Float32]:
    config = SIZES.get(wanted.model)
    if config is None:
        raise AtollError(
            Exit.USAGE,
            "unknown_model",
            f"There is no model {wanted.model!r}.",
            f"Choose of {', '.join(SIZES)}.",
        )
    schema, parameters = builtin_genesis(config, wanted.seed, manifests.block_of(wanted.codec or ""))
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
        schema = ParameterSchema.of(shapes, manifests.block_of(wanted.codec or ""))
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


def _shards(folder: DataDir, text: _Text, told: Progress) -> list[pb.DataShard]:
    """Cuts the text into shards in the data dir, from where peers fetch them. Raises AtollError."""
    start, made = 0, []
    folder.shards.mkdir(exist_ok=True)
    try:
        for size in text.sizes:
            made.append(shard_files.add(folder.shards, text.text.read(start, size)))
            start += size
            told(start, text.text.size_bytes)
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
