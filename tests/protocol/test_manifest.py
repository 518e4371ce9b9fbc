"""The manifest: any change makes it refused or another swarm's; every rule has its refusal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST, manifest
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import MAX_BOOTSTRAP, MAX_MANIFEST_BYTES, ManifestError, load, sign
from atoll.protocol.schema import BLOCK
from atoll.protocol.shards import MAX_SHARD_BYTES, MAX_SHARDS, table_digest
from atoll.protocol.signing import Ed25519Keyring

ORGANISER = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STRANGER = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(32)))


SHARDS = [pb.DataShard(digest=bytes([n]) * 32, size_bytes=size) for n, size in enumerate((50, 51, 17))]


def body() -> pb.Manifest:
    """A manifest that is as good as any."""
    return pb.Manifest(
        format=1,
        name="lab",
        sequence=1,
        created_unix_s=1_700_000_000,
        protocol=pb.ProtocolRange(lowest=PROTOCOL_LOWEST, highest=PROTOCOL_HIGHEST),
        seed=1,
        model=pb.Model(kind="gpt", size="tiny", layers=1, width=32, heads=2, context=16),
        data=pb.Data(name="builtin:shakespeare", shards=SHARDS, digest=table_digest(SHARDS), size_bytes=118),
        inner=pb.Inner(
            steps=10, lr=1e-3, total_steps=100, schedule="cosine", batch=4, clip=1.0, beta1=0.9, beta2=0.95
        ),
        outer=pb.Outer(momentum=0.9, lr_by_contributors=[0.4, 0.6, 0.8], missed="keep"),
        rounds=pb.Rounds(
            chunk_values=BLOCK,
            codec="int8",
            result_codec="fp32",
            min_peers_to_start=1,
            grace_floor_s=1.0,
            grace_cap_s=60.0,
            validate_every=1,
        ),
        admission="open",
        schema_digest=bytes(32),
        total_values=4 * BLOCK,
        parameters=1000,
        genesis_parameters=bytes(32),
        genesis_node=ORGANISER.peer_id,
    )


def test_what_was_signed_is_what_is_loaded():
    made = sign(body(), ORGANISER)
    again = load(made.signed.SerializeToString(), expect_swarm=made.swarm_id)
    assert again == made
    assert made.body.organiser == ORGANISER.public_key
    assert (
        made.swarm_id == hashlib.sha256(b"atoll/1/swarm\0" + ORGANISER.public_key + made.signed.body).digest()
    )
    assert len(made.chunks) == 4
    digest = hashlib.sha256(ORGANISER.public_key).hexdigest()
    assert made.organiser_fingerprint.replace("-", "") == digest[:16]


def test_the_outer_rate_depends_on_the_number_of_contributors():
    made = sign(body(), ORGANISER)
    assert [made.outer_lr(n) for n in (0, 1, 2, 3, 4, 100)] == [0.4, 0.4, 0.6, 0.8, 0.8, 0.8]


def test_every_flipped_bit_is_refused():
    data = sign(body(), ORGANISER).signed.SerializeToString()
    for position in range(len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[position] ^= bit
            with pytest.raises(ManifestError):
                load(bytes(changed))


def test_every_cut_is_refused():
    data = sign(body(), ORGANISER).signed.SerializeToString()
    for size in range(len(data)):
        with pytest.raises(ManifestError):
            load(data[:size])


def test_a_manifest_of_another_key_is_another_swarm():
    swarm = sign(body(), ORGANISER).swarm_id
    forged = sign(body(), STRANGER).signed
    with pytest.raises(ManifestError, match="is of swarm"):
        load(forged.SerializeToString(), expect_swarm=swarm)
    claimed = body()
    claimed.organiser = ORGANISER.public_key
    signed = STRANGER.sign(manifest.KIND, claimed.SerializeToString())
    with pytest.raises(ManifestError, match="tampered"):
        load(signed.SerializeToString())
    signed.signer = ORGANISER.peer_id
    with pytest.raises(ManifestError, match="tampered"):
        load(signed.SerializeToString())
    other_kind = ORGANISER.sign("plan", claimed.SerializeToString())
    with pytest.raises(ManifestError, match="tampered"):
        load(other_kind.SerializeToString())


def test_what_is_no_manifest_is_refused():
    with pytest.raises(ManifestError, match="is over"):
        load(bytes(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestError, match="not readable"):
        load(b"\xff\xff")
    with pytest.raises(ManifestError, match="no organiser"):
        load(b"")


RULES: list[tuple[str, Callable[[pb.Manifest], object]]] = [
    ("format 2", lambda m: setattr(m, "format", 2)),
    ("speaks protocol 7 to 8", lambda m: m.protocol.MergeFrom(pb.ProtocolRange(lowest=7, highest=8))),
    ("speaks protocol 1 to 0", lambda m: setattr(m.protocol, "highest", 0)),
    ("name", lambda m: setattr(m, "name", "")),
    ("name", lambda m: setattr(m, "name", "x" * 65)),
    ("name", lambda m: setattr(m, "name", "lab\x1b[2J")),
    ("data.name", lambda m: setattr(m.data, "name", "a\nb")),
    ("data.name", lambda m: setattr(m.data, "name", "a" * 256)),
    ("model.size", lambda m: setattr(m.model, "size", "\u202e")),
    ("bootstrap", lambda m: m.bootstrap.extend(["/ip4/1.2.3.4/tcp/1"] * (MAX_BOOTSTRAP + 1))),
    ("bootstrap", lambda m: m.bootstrap.append("/" * 257)),
    ("model kind", lambda m: setattr(m.model, "kind", "rnn")),
    ("admission", lambda m: setattr(m, "admission", "friends")),
    ("inner.steps", lambda m: setattr(m.inner, "steps", 0)),
    ("inner.lr", lambda m: setattr(m.inner, "lr", math.nan)),
    ("inner.lr", lambda m: setattr(m.inner, "lr", -1.0)),
    ("inner.total_steps", lambda m: setattr(m.inner, "total_steps", 2**31 + 1)),
    ("inner.warmup_steps", lambda m: setattr(m.inner, "warmup_steps", 2**31 + 1)),
    ("inner.batch", lambda m: setattr(m.inner, "batch", 0)),
    ("inner.weight_decay", lambda m: setattr(m.inner, "weight_decay", math.inf)),
    ("inner.clip", lambda m: setattr(m.inner, "clip", -0.1)),
    ("inner.beta1", lambda m: setattr(m.inner, "beta1", 1.1)),
    ("inner.beta2", lambda m: setattr(m.inner, "beta2", -0.1)),
    ("inner.schedule", lambda m: setattr(m.inner, "schedule", "step")),
    ("outer.momentum", lambda m: setattr(m.outer, "momentum", 1.0)),
    ("lr_by_contributors\\[1\\]", lambda m: m.outer.lr_by_contributors.__setitem__(1, 11.0)),
    ("1 to 64 values", lambda m: m.outer.ClearField("lr_by_contributors")),
    ("1 to 64 values", lambda m: m.outer.lr_by_contributors.extend([0.5] * 62)),
    ("outer.missed 'halve'", lambda m: setattr(m.outer, "missed", "halve")),
    ("outer.missed ''", lambda m: setattr(m.outer, "missed", "")),
    ("min_peers_to_start", lambda m: setattr(m.rounds, "min_peers_to_start", 0)),
    ("grace_floor_s", lambda m: setattr(m.rounds, "grace_floor_s", -1.0)),
    ("grace_cap_s", lambda m: setattr(m.rounds, "grace_cap_s", 0.5)),
    ("validate_every", lambda m: setattr(m.rounds, "validate_every", 0)),
    (
        "bf16 does not round at random",
        lambda m: m.rounds.MergeFrom(pb.Rounds(codec="bf16", random_rounding=True)),
    ),
    ("codec 'zip'", lambda m: setattr(m.rounds, "codec", "zip")),
    ("codec 'zip'", lambda m: m.rounds.MergeFrom(pb.Rounds(codec="auto", result_codec="zip"))),
    ("codec 'auto'", lambda m: setattr(m.rounds, "result_codec", "auto")),
    ("codec ''", lambda m: setattr(m.rounds, "result_codec", "")),
    ("not for results", lambda m: setattr(m.rounds, "result_codec", "topk")),
    ("whole blocks of 4096", lambda m: setattr(m.rounds, "codec", "topk")),
    ("whole blocks", lambda m: setattr(m, "total_values", 0)),
    ("whole blocks", lambda m: setattr(m, "total_values", 4 * BLOCK + 1)),
    ("whole blocks", lambda m: setattr(m, "total_values", 2**63)),
    ("whole blocks", lambda m: setattr(m.rounds, "chunk_values", 0)),
    ("whole blocks", lambda m: setattr(m.rounds, "chunk_values", 100)),
    ("whole blocks", lambda m: setattr(m.rounds, "chunk_values", 2**21)),
    ("more than 16384 chunks", lambda m: setattr(m, "total_values", 16385 * BLOCK)),
    ("parameters do not fit", lambda m: setattr(m, "parameters", 0)),
    ("parameters do not fit", lambda m: setattr(m, "parameters", 4 * BLOCK + 1)),
    ("schema_digest", lambda m: setattr(m, "schema_digest", b"")),
    ("genesis_parameters", lambda m: setattr(m, "genesis_parameters", bytes(31))),
    ("genesis_node", lambda m: setattr(m, "genesis_node", bytes(32))),
    ("data.digest", lambda m: setattr(m.data, "digest", bytes(31))),
    ("data.digest", lambda m: setattr(m.data, "digest", b"")),
    ("data is described", lambda m: setattr(m.model, "kind", "own")),
    ("data.size_bytes", lambda m: setattr(m.data, "size_bytes", 119)),
    ("data.digest", lambda m: setattr(m.data.shards[0], "digest", bytes([9]) * 32)),
    ("data.shards.0..digest", lambda m: setattr(m.data.shards[0], "digest", bytes(31))),
    ("data.shards.2. has 16 bytes", lambda m: setattr(m.data.shards[2], "size_bytes", 16)),
    ("data.shards.1. has", lambda m: setattr(m.data.shards[1], "size_bytes", MAX_SHARD_BYTES + 1)),
    ("1 shards", lambda m: m.data.shards.__delitem__(slice(1, 3))),
    ("4097 shards", lambda m: m.data.shards.extend([SHARDS[0]] * 4094)),
    ("data.urls has 9", lambda m: m.data.urls.extend([f"https://example.org/{n}" for n in range(9)])),
    ("http://example.org", lambda m: m.data.urls.append("http://example.org/a")),
]


@pytest.mark.parametrize(("reason", "change"), RULES)
def test_a_manifest_that_breaks_a_rule_is_refused(reason: str, change: Callable[[pb.Manifest], object]):
    made = body()
    change(made)
    with pytest.raises(ManifestError, match=reason):
        sign(made, ORGANISER)


def test_a_model_of_ones_own_has_no_text():
    made = body()
    made.model.kind = "own"
    made.data.Clear()
    assert sign(made, ORGANISER).body.model.kind == "own"


def test_a_table_as_long_as_it_may_be():
    made = body()
    del made.data.shards[:]
    made.data.shards.extend(
        pb.DataShard(digest=b"d" * 32, size_bytes=MAX_SHARD_BYTES) for _ in range(MAX_SHARDS)
    )
    made.data.digest, made.data.size_bytes = table_digest(made.data.shards), MAX_SHARDS * MAX_SHARD_BYTES
    made.data.urls.extend("https://" + "a" * 248 for _ in range(8))
    made.bootstrap.extend("a" * 256 for _ in range(64))
    assert len(sign(made, ORGANISER).signed.SerializeToString()) < MAX_MANIFEST_BYTES


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://example.org", True),
        ("https://example.org:8443/texts/lab", True),
        ("https://[2001:db8::1]/", True),
        ("HTTPS://example.org", False),
        ("http://example.org", False),
        ("https://", False),
        ("https:///etc/passwd", False),
        ("https://me:secret@example.org", False),
        ("https://example.org/?a=b", False),
        ("https://example.org/#a", False),
        ("https://example.org/a b", False),
        ("https://example.org/a\n", False),
        ("https://exämple.org", False),
        ("https://" + "a" * 249, False),
    ],
)
def test_addresses_of_shards(url: str, good: bool):
    assert manifest.is_base_url(url) == good


def streaming(**changes: object) -> pb.Manifest:
    made = body()
    made.sync.mode, made.sync.overlap_steps, made.sync.mix = "streaming", 1, 0.5
    made.sync.runs.extend([pb.Run(start=0, fragment=0), pb.Run(start=2 * BLOCK, fragment=1)])
    for name, value in changes.items():
        setattr(made.sync, name, value)
    return made


def test_a_manifest_says_which_chunk_is_due_when():
    made = sign(streaming(), ORGANISER)
    assert made.chunks.fragments == ((0, 1), (2, 3)) and made.segment_steps == 5
    assert sign(body(), ORGANISER).segment_steps == 10


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: setattr(b.sync, "mode", "diloco"), "can't have 2 fragments"),
        (lambda b: setattr(b.sync, "mode", "gossip"), "not known here"),
        (lambda b: b.sync.ClearField("runs"), "can't have 1 fragments"),
        (lambda b: setattr(b.sync.runs[0], "start", 256), "sync.runs"),
        (lambda b: setattr(b.sync.runs[1], "fragment", 7), "sync.runs"),
        (lambda b: setattr(b.inner, "steps", 11), "share 11 inner steps"),
        (lambda b: setattr(b.sync, "overlap_steps", 6), "overlap_steps"),
        (lambda b: setattr(b.sync, "mix", 1.0), "sync.mix"),
        (lambda b: setattr(b.sync, "mix", float("nan")), "sync.mix"),
        (lambda b: setattr(b.outer, "missed", "rebase"), "outer.missed"),
    ],
)
def test_only_the_rows_of_the_table_exist(spoil, reason: str):
    made = streaming()
    spoil(made)
    with pytest.raises(ManifestError, match=reason):
        sign(made, ORGANISER)


@pytest.mark.parametrize("change", [{"overlap_steps": 1}, {"mix": 0.5}])
def test_what_streaming_has_diloco_has_not(change: dict[str, object]):
    made = body()
    for name, value in change.items():
        setattr(made.sync, name, value)
    with pytest.raises(ManifestError, match="diloco can't"):
        sign(made, ORGANISER)


def mode(name: str, **rounds: object) -> pb.Manifest:
    made = body()
    made.sync.mode, made.outer.momentum = name, 0.0
    for key, value in rounds.items():
        setattr(made.rounds, key, value)
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (mode("fedavg"), None),
        (mode("photon"), None),
        (mode("muloco", codec="2bit", feedback=0.9), "optimizer"),
        (mode("sparseloco", codec="int8", feedback=0.9), "codec"),
        (mode("muloco", codec="int4"), "feedback"),
    ],
)
def test_recipes_have_rules_of_their_own(made: pb.Manifest, reason: str | None):
    if reason is None:
        sign(made, ORGANISER)
        made.outer.momentum = 0.9
        reason = "outer.momentum"
    with pytest.raises(ManifestError, match=reason):
        sign(made, ORGANISER)


def asynchronous() -> pb.Manifest:
    made = body()
    made.sync.mode, made.outer.missed = "async", "keep"
    made.rounds.door, made.rounds.door_s, made.inner.by_speed = "window", 2.0, True
    return made


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: setattr(b.rounds, "door", "all"), "rounds.door 'all'"),
        (lambda b: setattr(b.rounds, "door", ""), "rounds.door 'all'"),
        (lambda b: setattr(b.rounds, "door_s", 0.0), "door_s"),
        (lambda b: setattr(b.rounds, "door_s", 1e6), "door_s"),
        (lambda b: setattr(b.rounds, "merge", "mode"), "rounds.merge"),
        (lambda b: (setattr(b.outer, "braking", 0.5), setattr(b.outer, "momentum", 0.0)), "which is 0"),
        (lambda b: setattr(b.outer, "missed", "reset"), "outer.missed"),
        (lambda b: setattr(b.sync, "overlap_steps", 1), "can't go on while it exchanges"),
    ],
)
def test_asynchronous_swarms_have_a_window_and_no_overlap(spoil, reason: str):
    made = sign(asynchronous(), ORGANISER)
    assert made.small_commits and made.ahead == "async"
    assert not sign(body(), ORGANISER).small_commits
    wrong = asynchronous()
    spoil(wrong)
    with pytest.raises(ManifestError, match=reason):
        sign(wrong, ORGANISER)


def resetting() -> pb.Manifest:
    made = mode("fedavg", by_attendance=True, door="period", door_s=1.0)
    made.outer.missed = "reset"
    return made


def with_door(door: str, door_s: float = 0.0) -> pb.Manifest:
    made = body()
    made.rounds.door, made.rounds.door_s = door, door_s
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (with_door("dbw"), None),
        (with_door("all"), None),
        (with_door("period", 5.0), None),
        (with_door("dbw", 1.0), "door_s"),
        (mode("fedavg", by_attendance=True), "by_attendance"),
        (mode("fedavg", by_attendance=True, door="period", door_s=1.0), None),
        (resetting(), "missed keep"),
        (with_door("period"), "door_s"),
        (with_door("window", 1.0), "diloco can't have rounds.door"),
        (with_door("open"), "rounds.door 'open'"),
    ],
)
def test_doors_have_the_seconds_that_they_need(made: pb.Manifest, reason: str | None):
    if reason is None:
        sign(made, ORGANISER)
        return
    with pytest.raises(ManifestError, match=reason):
        sign(made, ORGANISER)


def test_what_is_no_mean_can_have_no_other_length():
    made = mode("sparseloco", codec="topk", feedback=0.9, merge="rda", chunk_values=4096)
    made.total_values = 8192
    with pytest.raises(ManifestError, match="its results are no means"):
        sign(made, ORGANISER)
    sign(mode("fedavg", merge="rda"), ORGANISER)


def test_bits_are_dealt_out_only_where_plans_choose_the_codec():
    sign(mode("fedavg", codec="auto", by_roughness=True), ORGANISER)
    with pytest.raises(ManifestError, match="by_roughness is for the codec auto"):
        sign(mode("fedavg", codec="int4", by_roughness=True), ORGANISER)
    made = body()
    made.outer.braking = 0.5
    with pytest.raises(ManifestError, match="nothing is stale"):
        sign(made, ORGANISER)


def test_phases_that_overlap_are_equally_long():
    made = streaming()
    made.inner.by_speed = True
    with pytest.raises(ManifestError, match="by_speed"):
        sign(made, ORGANISER)
