"""The signed manifest: what is trained, how, and by whom; and the swarm id that follows from it.

The swarm id is the SHA-256 of the organiser's key and the genesis manifest's bytes, so nobody can offer
another manifest under the same id: a newcomer that holds a ticket checks whatever manifest a stranger
sends it. The bytes are kept and passed on as they were signed, never re-serialised.

`load` raises ManifestError, with the field at fault, for anything that could not be trained on.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

from google.protobuf.message import DecodeError

from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST, messages_pb2, signing
from atoll.protocol.membership import ADMISSIONS, OPEN, Swarm
from atoll.protocol.modes.asynchronous import ASYNC
from atoll.protocol.modes.doors import ALL, DBW, PERIOD, WINDOW
from atoll.protocol.modes.eager import DELAYED, EAGER
from atoll.protocol.schema import BLOCK, MAX_VALUES, ChunkTable, SchemaError
from atoll.protocol.shards import MAX_SHARD_BYTES, MAX_SHARDS, table_digest
from atoll.protocol.text import plain

KIND = "manifest"
MAX_MANIFEST_BYTES = 256 * 1024
MAX_CHUNKS = 16_384
MAX_BOOTSTRAP = 64
MAX_ADDRESS_BYTES = 256
MAX_URLS = 8
MAX_URL_BYTES = 256
CODEC_NAMES = ("fp32", "bf16", "int8", "int4", "e3m0", "2bit", "topk")
"""Names of the codecs; kept here so that reading a manifest needs no torch (a test compares the two)."""
RANDOM_CODECS = ("int8", "int4")
"""Those that can round at random; among them are all that a plan may choose."""
AUTO_CODEC = "auto"
"""Of contributions: each plan says which (round/codec_choice.py)."""
CODEC_BLOCKS = {"topk": 4096}
"""Values that a codec looks at together, where they are more than the usual block."""
MEAN, RDA = "mean", "rda"
FILTER = "filter"
HOLDING_MERGES = ("trimmed", "median", "clip", FILTER)
HOLDING = ", ".join(HOLDING_MERGES[:-1]) + f" or {HOLDING_MERGES[-1]}"
MERGES = (MEAN, RDA, *HOLDING_MERGES)
"""What the owner of a chunk makes of its contributions (codecs/merging.py, robust.py, which need torch); some
hold against liars."""
MAX_BUCKET = 4
SCHEDULES = ("cosine", "constant", "wsd")
MISSED = ("keep", "rebase", "reset")
"""What becomes of local progress that a commit does not hold."""


def block_of(codec: str) -> int:
    """Values that a codec looks at together; tensors lie at multiples of it."""
    return CODEC_BLOCKS.get(codec, BLOCK)


MAX_RUNS = 4096
DILOCO = "diloco"
STREAMING = "streaming"
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class ModeRules:
    """What a mode of synchronisation can be combined with. Ranges have both ends; empty: anything."""

    fragments: tuple[int, int] = (1, 1)
    missed: tuple[str, ...] = MISSED
    overlaps: bool = False
    ahead: bool = False
    """Whether a phase is measured from a start of its own, not from the last commit."""
    delay: int = 1
    """The most phases that an exchange may take while training goes on."""
    mixes: bool = False
    momentum: tuple[float, float] = (0.0, 0.9999)
    codecs: tuple[str, ...] = ()
    feedback: bool = False
    """Whether it is nothing without error feedback."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    doors: tuple[str, ...] = (ALL, DBW, PERIOD)
    stale: bool = False
    """Whether contributions may be stale, and braked for it."""
    by_speed: bool = True
    """Whether nodes may have phases of different length."""


MODES = {
    DILOCO: ModeRules(),
    STREAMING: ModeRules((2, 64), ("keep", "reset"), overlaps=True, mixes=True, by_speed=False),
    "fedavg": ModeRules(momentum=(0.0, 0.0)),
    "photon": ModeRules(momentum=(0.0, 0.0)),
    "sparseloco": ModeRules(momentum=(0.0, 0.0), codecs=("topk",), feedback=True),
    "muloco": ModeRules(codecs=("2bit", "int4"), feedback=True, optimizers=("muon",)),
    EAGER: ModeRules(missed=("keep",), overlaps=True, ahead=True, delay=2, by_speed=False),
    DELAYED: ModeRules(missed=("keep",), overlaps=True, ahead=True, delay=2, by_speed=False),
    ASYNC: ModeRules(missed=("keep",), ahead=True, doors=(WINDOW,), stale=True),
}
"""All there are; docs/modes.md names their sources."""


class ManifestError(ValueError):
    """The manifest is unreadable, unsigned, of another swarm, or asks for something impossible."""


class IncompatibleManifest(ManifestError):
    """The swarm and this software have no wire version in common; both ranges are named."""


@dataclass(frozen=True)
class SwarmManifest:
    """A checked manifest with the bytes it came in.

    Where the organiser has amended it (amendments.py), `body` is as it is in force, and `amendment` the
    digest of what amended it; `signed` is always the genesis manifest.
    """

    signed: messages_pb2.Signed
    body: messages_pb2.Manifest
    swarm_id: bytes
    amendment: bytes = b""

    @property
    def segment_steps(self) -> int:
        """Inner steps from one commit to the next: a fragment is due each `inner.steps`, so one is at the end
        of each of these."""
        return int(self.body.inner.steps) // len(self.chunks.fragments)

    @cached_property
    def chunks(self) -> ChunkTable:
        """How the vector is cut, and which chunk is in which fragment."""
        return _chunks(self.body, self.block)

    @property
    def ahead(self) -> str | None:
        """The mode, if its trainers measure a phase from a start of their own."""
        mode = str(self.body.sync.mode)
        return mode if MODES[mode or DILOCO].ahead else None

    @property
    def holds(self) -> bool:
        """Whether its merge holds against liars: then members don't trust each other."""
        return str(self.body.rounds.merge) in HOLDING_MERGES

    @property
    def small_commits(self) -> bool:
        """Whether a commit is of those who arrive together, and the others go on meanwhile."""
        return str(self.body.sync.mode) == ASYNC

    @property
    def block(self) -> int:
        """Values of which each tensor's place in the flat vector is a multiple."""
        return block_of(self.body.rounds.codec)

    @property
    def is_open(self) -> bool:
        """Whether anybody may take part."""
        return str(self.body.admission) == OPEN

    @property
    def swarm(self) -> Swarm:
        """What memberships are checked against."""
        return Swarm(self.swarm_id, bytes(self.body.organiser))

    @property
    def organiser_fingerprint(self) -> str:
        """What people compare: the first 16 hex digits of the SHA-256 of the organiser's key."""
        return fingerprint(self.body.organiser)

    def outer_lr(self, contributors: int) -> float:
        """Outer learning rate for so many contributors (ALGORITHMS: scaling laws, 2503.09799)."""
        table = self.body.outer.lr_by_contributors
        return float(table[min(max(contributors, 1), len(table)) - 1])


def fingerprint(organiser: bytes) -> str:
    """Of a public key, as people compare it."""
    digest = hashlib.sha256(organiser).hexdigest()[:16]
    return "-".join(digest[i : i + 4] for i in range(0, 16, 4))


def sign(body: messages_pb2.Manifest, organiser: signing.Ed25519Keyring) -> SwarmManifest:
    """Signs and checks `body`; its `organiser` field is set to the key's."""
    body.organiser = organiser.public_key
    return load(organiser.sign(KIND, body.SerializeToString(deterministic=True)).SerializeToString())


def load(data: bytes, expect_swarm: bytes | None = None) -> SwarmManifest:
    """Parses and checks a signed manifest. Raises ManifestError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"manifest of {len(data)} bytes is over {MAX_MANIFEST_BYTES}")
    try:
        signed = messages_pb2.Signed.FromString(data)
        body = messages_pb2.Manifest.FromString(signed.body)
    except DecodeError as error:
        raise ManifestError("the manifest is not readable: it is damaged or of another format") from error
    if len(body.organiser) != signing.PUBLIC_KEY_BYTES:
        raise ManifestError("the manifest names no organiser key")
    if signed.signer != signing.peer_id_of(body.organiser) or not signing.verify(KIND, signed):
        raise ManifestError("the manifest's signature is not its organiser's: it was tampered with")
    swarm_id = hashlib.sha256(b"atoll/1/swarm\0" + body.organiser + signed.body).digest()
    if expect_swarm is not None and swarm_id != expect_swarm:
        raise ManifestError(
            f"the manifest is of swarm {swarm_id.hex()[:16]}, not of {expect_swarm.hex()[:16]}"
        )
    check(body)
    return SwarmManifest(signed, body, swarm_id)


def _chunks(body: messages_pb2.Manifest, block: int) -> ChunkTable:
    runs = tuple((int(run.start), int(run.fragment)) for run in body.sync.runs)
    return ChunkTable(body.total_values, body.rounds.chunk_values, block, runs)


def check(body: messages_pb2.Manifest) -> None:
    """Raises ManifestError for anything that could not be trained on."""
    if body.format != 1:
        raise ManifestError(f"manifest format {body.format} is not known here (1 is)")
    if body.protocol.lowest > PROTOCOL_HIGHEST or body.protocol.highest < PROTOCOL_LOWEST:
        raise IncompatibleManifest(
            f"the swarm speaks protocol {body.protocol.lowest} to {body.protocol.highest}, "
            f"this software {PROTOCOL_LOWEST} to {PROTOCOL_HIGHEST}"
        )
    if not 1 <= len(body.name.encode()) <= 64 or not body.name.isprintable():
        raise ManifestError("the swarm's name must be 1 to 64 bytes of printable text")
    for name, text in (("data.name", body.data.name), ("model.size", body.model.size)):
        if len(text.encode()) > 255 or not text.isprintable():
            raise ManifestError(f"{name} must be at most 255 bytes of printable text")
    if len(body.bootstrap) > MAX_BOOTSTRAP or any(len(a) > MAX_ADDRESS_BYTES for a in body.bootstrap):
        raise ManifestError(f"bootstrap has more than {MAX_BOOTSTRAP} addresses, or too long ones")
    if body.model.kind not in ("gpt", "own"):
        raise ManifestError(f"model kind {body.model.kind!r} is not known here (gpt and own are)")
    if body.admission not in ADMISSIONS:
        known = ", ".join(ADMISSIONS)
        raise ManifestError(f"admission {body.admission!r} is not known here ({known} are)")
    _check_numbers(body)
    _check_sizes(body)
    _check_sync(body)


def _check_numbers(body: messages_pb2.Manifest) -> None:
    inner, outer, rounds = body.inner, body.outer, body.rounds
    ranges: list[tuple[str, float, float, float]] = [
        ("inner.steps", inner.steps, 1, 100_000),
        ("inner.lr", inner.lr, 0, 10),
        ("inner.total_steps", inner.total_steps, 0, 2**31),
        ("inner.warmup_steps", inner.warmup_steps, 0, 2**31),
        ("inner.batch", inner.batch, 1, 65_536),
        ("inner.weight_decay", inner.weight_decay, 0, 10),
        ("inner.clip", inner.clip, 0, 1e6),
        ("inner.beta1", inner.beta1, 0, 1),
        ("inner.beta2", inner.beta2, 0, 1),
        ("outer.momentum", outer.momentum, 0, 0.9999),
        ("outer.braking", outer.braking, 0, 0.9999),
        ("rounds.min_peers_to_start", rounds.min_peers_to_start, 1, 1_000),
        ("rounds.grace_floor_s", rounds.grace_floor_s, 0, 3_600),
        ("rounds.grace_cap_s", rounds.grace_cap_s, rounds.grace_floor_s, 86_400),
        ("rounds.two_level_above", rounds.two_level_above, 0, 1_024),
        ("rounds.validate_every", rounds.validate_every, 1, 10_000),
        ("rounds.feedback", rounds.feedback, 0, 0.9999),
        ("rounds.door_s", rounds.door_s, 0, rounds.grace_cap_s),
    ]
    ranges += [(f"outer.lr_by_contributors[{i}]", lr, 0, 10) for i, lr in enumerate(outer.lr_by_contributors)]
    for name, value, lowest, highest in ranges:
        if not (math.isfinite(value) and lowest <= value <= highest):
            raise ManifestError(f"{name} is {value}, outside {lowest} to {highest}")
    if not 1 <= len(outer.lr_by_contributors) <= 64:
        raise ManifestError("outer.lr_by_contributors needs 1 to 64 values")
    if inner.schedule not in SCHEDULES:
        raise ManifestError(f"inner.schedule {inner.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if body.model.kind == "gpt" and not (inner.lr > 0 and inner.total_steps > 0):
        raise ManifestError("inner.lr and inner.total_steps must be above 0")
    if outer.missed not in MISSED:
        raise ManifestError(f"outer.missed {outer.missed!r} is not one of {', '.join(MISSED)}")
    for name, names in ((rounds.codec, (*CODEC_NAMES, AUTO_CODEC)), (rounds.result_codec, CODEC_NAMES)):
        if name not in names:
            raise ManifestError(f"codec {name!r} is not known here ({', '.join(CODEC_NAMES)} are)")
    if rounds.random_rounding and rounds.codec not in (*RANDOM_CODECS, AUTO_CODEC):
        raise ManifestError(f"{rounds.codec} does not round at random ({' and '.join(RANDOM_CODECS)} do)")
    if (rounds.merge or MEAN) not in MERGES:
        raise ManifestError(f"rounds.merge {rounds.merge!r} is not one of {', '.join(MERGES)}")
    if rounds.bucket > MAX_BUCKET or (rounds.bucket > 1 and rounds.merge not in HOLDING_MERGES):
        raise ManifestError(
            f"rounds.bucket {rounds.bucket} is not 0 to {MAX_BUCKET}, with a merge of {HOLDING}"
        )
    if rounds.audit and rounds.merge == RDA:
        # Its bits depend on the machine: an honest owner would be taken for a liar.
        raise ManifestError(f"rounds.audit can't be had with the merge {RDA}")
    if rounds.by_roughness and rounds.codec != AUTO_CODEC:
        raise ManifestError(f"rounds.by_roughness is for the codec {AUTO_CODEC}, not for {rounds.codec}")
    if (rounds.merge or MEAN) != MEAN and block_of(rounds.codec) > BLOCK:
        raise ManifestError(
            f"rounds.merge {rounds.merge} can't be had with {rounds.codec}: its results are no means"
        )
    if block_of(rounds.result_codec) > BLOCK:
        raise ManifestError(f"{rounds.result_codec} drops most of what many have sent: not for results")


def _check_sizes(body: messages_pb2.Manifest) -> None:
    total, chunk = body.total_values, body.rounds.chunk_values
    block = block_of(body.rounds.codec)
    if not 0 < total <= MAX_VALUES or total % block or not 0 < chunk <= 1 << 20 or chunk % block:
        raise ManifestError(f"{total} values in chunks of {chunk} are not whole blocks of {block}")
    if len(body.sync.runs) > MAX_RUNS:
        raise ManifestError(f"sync.runs has {len(body.sync.runs)} runs, more than {MAX_RUNS}")
    try:
        chunks = len(_chunks(body, block))
    except SchemaError as error:
        raise ManifestError(f"sync.runs: {error}") from error
    if chunks > MAX_CHUNKS:
        raise ManifestError(f"{total} values in chunks of {chunk} make more than {MAX_CHUNKS} chunks")
    if not 0 < body.parameters <= total:
        raise ManifestError(f"{body.parameters} parameters do not fit into {total} values")
    for name, value, size in (
        ("schema_digest", body.schema_digest, 32),
        ("genesis_parameters", body.genesis_parameters, 32),
        ("genesis_node", body.genesis_node, signing.PEER_ID_BYTES),
    ):
        if len(value) != size:
            raise ManifestError(f"{name} has {len(value)} bytes, not {size}")
    _check_data(body)


def _check_sync(body: messages_pb2.Manifest) -> None:
    """One row of MODES, and numbers that go together."""
    sync, mode = body.sync, body.sync.mode or DILOCO
    fragments = len(_chunks(body, block_of(body.rounds.codec)).fragments)
    if mode not in MODES:
        raise ManifestError(f"sync.mode {mode!r} is not known here ({', '.join(MODES)} are)")
    rules = MODES[mode]
    if not rules.fragments[0] <= fragments <= rules.fragments[1]:
        raise ManifestError(f"{mode} can't have {fragments} fragments")
    if body.outer.missed not in rules.missed:
        raise ManifestError(f"{mode} can't have outer.missed {body.outer.missed!r}")
    if body.inner.steps % fragments:
        raise ManifestError(f"{fragments} fragments can't share {body.inner.steps} inner steps evenly")
    if rules.ahead and rules.overlaps and not sync.overlap_steps:
        raise ManifestError(f"{mode} needs sync.overlap_steps")
    if sync.overlap_steps and not rules.overlaps:
        raise ManifestError(f"{mode} can't go on while it exchanges")
    if sync.overlap_steps > rules.delay * (body.inner.steps // fragments):
        most = "the steps between two exchanges" if rules.delay == 1 else f"{rules.delay} phases"
        limit = rules.delay * (body.inner.steps // fragments)
        raise ManifestError(f"sync.overlap_steps is {sync.overlap_steps}, more than {most}: at most {limit}")
    if not rules.momentum[0] <= body.outer.momentum <= rules.momentum[1]:
        raise ManifestError(f"{mode} can't have outer.momentum {body.outer.momentum}")
    if rules.codecs and body.rounds.codec not in rules.codecs:
        raise ManifestError(f"{mode} can't have codec {body.rounds.codec!r}")
    if rules.feedback and not body.rounds.feedback:
        raise ManifestError(f"{mode} needs rounds.feedback")
    if (body.inner.optimizer or OPTIMIZERS[0]) not in rules.optimizers:
        raise ManifestError(f"{mode} can't have inner.optimizer {body.inner.optimizer!r}")
    door = body.rounds.door or ALL
    if door not in rules.doors:
        raise ManifestError(f"{mode} can't have rounds.door {door!r}")
    if (door in (PERIOD, WINDOW)) != (body.rounds.door_s > 0):
        raise ManifestError("rounds.door_s is for the doors period and window, and they need it")
    if body.rounds.by_attendance and door != PERIOD:
        raise ManifestError(f"rounds.by_attendance is for the door {PERIOD}")
    if body.rounds.by_attendance and body.outer.missed != "keep":
        raise ManifestError("rounds.by_attendance needs outer.missed keep: what is gone weighs nothing")
    if body.outer.braking and not rules.stale:
        raise ManifestError(f"{mode} can't have outer.braking: nothing is stale")
    if body.outer.braking and not body.outer.momentum:
        raise ManifestError("outer.braking goes by outer.momentum, which is 0")
    if body.inner.by_speed and not rules.by_speed:
        raise ManifestError(f"{mode} can't have inner.by_speed: all phases must be as long")
    if sync.mix and not rules.mixes:
        raise ManifestError(f"{mode} can't mix local and committed parameters")
    if not (math.isfinite(sync.mix) and 0 <= sync.mix < 1):
        raise ManifestError(f"sync.mix is {sync.mix}, outside 0 to 1")


def _check_data(body: messages_pb2.Manifest) -> None:
    data = body.data
    if body.model.kind == "own":
        if data.digest or data.size_bytes or data.shards or data.urls:
            raise ManifestError("data is described, but a model of kind own brings its own")
        return
    if not 2 <= len(data.shards) <= MAX_SHARDS:
        raise ManifestError(f"data.shards has {len(data.shards)} shards, outside 2 to {MAX_SHARDS}")
    least = body.model.context + 1
    for index, shard in enumerate(data.shards):
        if len(shard.digest) != 32:
            raise ManifestError(f"data.shards[{index}].digest has {len(shard.digest)} bytes, not 32")
        if not least <= shard.size_bytes <= MAX_SHARD_BYTES:
            raise ManifestError(
                f"data.shards[{index}] has {shard.size_bytes} bytes, outside {least} to {MAX_SHARD_BYTES}"
            )
    total = sum(shard.size_bytes for shard in data.shards)
    if data.size_bytes != total:
        raise ManifestError(f"data.size_bytes is {data.size_bytes}, the shards have {total}")
    if data.digest != table_digest(data.shards):
        raise ManifestError("data.digest is not that of data.shards")
    if len(data.urls) > MAX_URLS:
        raise ManifestError(f"data.urls has {len(data.urls)} addresses, more than {MAX_URLS}")
    for url in data.urls:
        if not is_base_url(url):
            raise ManifestError(f"data.urls names {plain(url)!r}, which is no https address of a folder")


def is_base_url(url: str) -> bool:
    """Whether shard files can be looked for at `url`/…: https, a host, neither user nor query."""
    rest = url.removeprefix("https://")
    simple = url.isascii() and url.isprintable() and len(url) <= MAX_URL_BYTES
    return simple and rest != url and rest[:1] not in ("", "/") and not any(c in rest for c in ' ?#@"<>\\')
