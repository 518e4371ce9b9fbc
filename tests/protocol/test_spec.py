"""SPEC.md says what the code does: every worked example in it is computed anew."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.daemon import neighbours
from atoll.daemon.storage import round_log
from atoll.daemon.training import corpus
from atoll.dht import records
from atoll.peers import bulk, files, lane, lane_tls, lanes, link, links, roster, routing
from atoll.protocol import (
    PROTOCOL_HIGHEST,
    chain,
    forks,
    manifest,
    schema,
    shards,
    signing,
    stripes,
    ticket,
    wire,
)
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.codecs import CODECS, Int8Codec, aggregate
from atoll.protocol.codecs.base import MAX_SCALE
from atoll.protocol.modes.asynchronous import shared_nesterov_step
from atoll.protocol.outer import outer_step
from atoll.protocol.round import agreement, pace, plan, salvage
from atoll.protocol.round.plan import weights
from atoll.protocol.round.types import RoundConfig
from atoll.protocol.schema import ParameterSchema
from atoll.protocol.shards import Reading

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text()
KEY = signing.Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def test_identity_and_signature() -> None:
    assert KEY.public_key.hex() in SPEC
    assert signing.peer_text(KEY.peer_id) in SPEC
    assert KEY.sign("vote", b"body").signature.hex() in SPEC


def test_ticket() -> None:
    (text,) = re.findall(r"^    (atoll1\w+)$", SPEC, re.M)
    said = ticket.decode(text)
    assert (said.swarm_id, said.organiser, said.swarm_name) == (b"s" * 32, b"o" * 32, "lab")
    assert list(said.addresses) == [f"/ip4/192.0.2.1/tcp/31337/p2p/{signing.peer_text(KEY.peer_id)}"]
    assert ticket.encode(said) == text


def test_schema() -> None:
    layout = ParameterSchema.of([("weight", (2, 3)), ("bias", (3,))])
    assert (layout.total, layout.tensors[1].offset) == (512, 256)
    assert layout.digest.hex() in SPEC


def _blocks() -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.zeros(256)
    first[:8] = torch.tensor([1.0, -0.5, 0.25, 127.0, -127.0, 3.3, -1e-3, 63.4])
    return first, torch.arange(-128, 128, dtype=torch.float32) / 100


def _int8(values: torch.Tensor) -> torch.Tensor:
    out = torch.empty(Int8Codec.bound(256), dtype=torch.uint8)
    Int8Codec().encode(values, out)
    return out


def test_int8() -> None:
    for values in _blocks():
        payload = _int8(values).numpy().tobytes()
        assert f"`{payload[:10].hex()}` | `{hashlib.sha256(payload).hexdigest()}`" in SPEC


def test_mean() -> None:
    first, second = _blocks()
    payloads = [_int8(first), _int8(second)]
    mean = torch.empty(256)
    aggregate(Int8Codec(), payloads, [100, 50], mean)
    for raw, head in ((mean.numpy().tobytes(), 16), (_int8(mean).numpy().tobytes(), 10)):
        assert raw[:head].hex() in SPEC and hashlib.sha256(raw).hexdigest() in SPEC
    assert weights([100, 50, 1000]) == [100, 50, 766]


def test_shared_outer_step() -> None:
    theta, v = np.array([1, -2, 0.5, 3], np.float32), np.array([0, 0.1, -0.2, 1], np.float32)
    d = np.array([0.01, -0.02, 0.3, 0.7], np.float32)
    shared_nesterov_step(theta, v, d, 2 / 3, 0.6, 0.9, np.empty(4, np.float32))
    assert f"`{theta.tobytes().hex()}`" in SPEC and f"`{v.tobytes().hex()}`" in SPEC


def test_outer_step() -> None:
    theta, v, d = (
        np.array(x, np.float32) for x in ([1, -2, 0.5, 3], [0, 0.1, -0.2, 1], [0.01, -0.02, 0.3, 0.7])
    )
    outer_step(theta, v, d, 0.6, 0.9, np.empty(4, np.float32))
    assert theta.tobytes().hex() in SPEC and v.tobytes().hex() in SPEC


def test_swarm_id_and_frames() -> None:
    assert hashlib.sha256(b"atoll/1/swarm\0" + b"o" * 32 + b"manifest").hexdigest() in SPEC
    assert wire.encode_frame(pb.Frame(goodbye=pb.Goodbye(reason="bye"))).hex() in SPEC
    head = wire.encode_frame(pb.Frame(contribution=pb.Contribution(chunk=3)), 258)
    assert head.hex() in SPEC
    assert stripes.encode_head(3, 131_100, stripes.STRIPE_BYTES).hex() in SPEC


def test_limits() -> None:
    """Each number of the text is the code's; a changed limit is a changed text."""
    assert (wire.MAX_FRAME_BYTES, wire.MAX_PAYLOAD_BYTES) == (1 << 20, (4 << 20) + (64 << 10))
    assert (wire.MAX_FILE_REQUEST_BYTES, files.PIECE_BYTES) == (4 << 10, 1 << 20)
    assert (signing.MAX_BODY_BYTES, manifest.MAX_MANIFEST_BYTES) == (1 << 20, 256 << 10)
    assert (shards.MAX_SHARDS, shards.MAX_SHARD_BYTES) == (4096, 1 << 30)
    assert (manifest.MAX_URLS, manifest.MAX_URL_BYTES) == (8, 256)
    assert (corpus.VALIDATION_PERCENT, corpus.MAX_VALIDATION_BYTES) == (5, 8 << 20)
    assert (manifest.MAX_CHUNKS, schema.MAX_VALUES, manifest.MAX_BOOTSTRAP) == (16_384, 1 << 40, 64)
    assert (schema.MAX_NAME_BYTES, schema.MAX_TENSORS, schema.BLOCK) == (512, 100_000, 256)
    assert (ticket.MAX_TEXT, ticket.MAX_ADDRESSES, ticket.MAX_ADDRESS_BYTES) == (4096, 16, 256)
    assert (records.MAX_RECORD_BYTES, records.MAX_ADDRESSES, records.MAX_ADDRESS_BYTES) == (4096, 16, 256)
    assert (records.LIFETIME_S, records.MAX_LIFETIME_S, records.CLOCK_SKEW_S) == (90, 600, 60)
    assert (links.MAX_LINKS, link.MAX_CONTROL_QUEUE) == (96, 2048)
    assert (links.HELLO_TIMEOUT_S, link.WRITE_TIMEOUT_S) == (10, 60)
    assert (roster.HEARTBEAT_S, roster.EVICT_S) == (2, 10)
    assert (plan.MAX_TOKENS, plan.MAX_VIEW_JUMP, plan.MAX_MEMBERS, plan.MAX_PHASE_S) == (
        1 << 40,
        1024,
        1024,
        3600,
    )
    assert (agreement.WANT_AFTER, salvage.ANSWER_PART) == (0.1, 0.5)
    assert (pace.ENOUGH, forks.WINDOW) == (4, 16)
    assert (routing.PATIENCE_S, routing.MAX_LINKED, routing.REPLAY_WINDOW) == (5, 64, 1024)
    assert (neighbours.MAX_FORWARDING, neighbours.MAX_FORWARDING_OF_ONE) == (8, 4)
    assert (link.MAX_CONTROL_BYTES, link.MAX_PASSED, link.MAX_PASSED_BYTES) == (4 << 20, 64, 4 + (1 << 20))
    assert (stripes.STRIPE_BYTES, stripes.HEAD_BYTES, stripes.MAX_AHEAD) == (65_520, 16, 64)
    assert (stripes.MAX_OPEN_FRAMES, stripes.MAX_OPEN_BYTES) == (
        16,
        2 * (4 + (1 << 20) + wire.MAX_PAYLOAD_BYTES),
    )
    assert (lane.MAX_CONNECTIONS, lane.MAX_UNACKED_BYTES, lane.MAX_UNACKED_FRAMES) == (8, 4 << 20, 12)
    assert (lane_tls.MAX_CERTIFICATE_BYTES, lanes.TOKEN_BYTES, lanes.GREETING) == (1024, 16, b"atoll/1\n")
    assert (lanes.HANDSHAKE_S, lanes.PATIENCE_S, bulk.MAX_ACKED_AT_ONCE) == (10, 5, 64)
    fields = {f.name: f.default for f in dataclasses.fields(RoundConfig)}
    assert (fields["repeat_s"], fields["stash_events"], fields["stash_bytes"]) == (5, 4096, 64 << 20)
    assert MAX_SCALE == 2.0**120 and round_log.KEEP == 8


def test_chain() -> None:
    assert chain.genesis_digest(b"s" * 32, b"p" * 32).hex() in SPEC
    assert chain.next_digest(b"d" * 32, b"commit").hex() in SPEC
    assert chain.leader_rank(b"d" * 32, 0, KEY.peer_id).hex() in SPEC


def test_the_digest_of_the_data() -> None:
    table = [pb.DataShard(digest=d * 32, size_bytes=n) for d, n in ((b"a", 1000), (b"b", 50))]
    assert shards.table_digest(table).hex() in SPEC


def test_who_reads_what() -> None:
    nodes = [letter * 38 for letter in (b"x", b"y", b"z")]
    plan = shards.assign((600, 2500, 100), (1000, 1000, 1000), nodes, 7)
    assert [plan[n] for n in nodes] == [Reading(0, 0, 2), Reading(0, 1, 2), Reading(2, 0, 1)]
    assert "cursor 600, 2500, 100" in SPEC and shards.SLACK_LAPS == 1


def test_names_and_versions() -> None:
    assert f"version {PROTOCOL_HIGHEST}" in SPEC.splitlines()[0]
    assert wire.LINK_PROTOCOL in SPEC and wire.FILES_PROTOCOL in SPEC
    assert all(f"**{name}**" in SPEC for name in CODECS) and set(CODECS) == set(manifest.CODEC_NAMES)
    for message in (
        "Hello",
        "Heartbeat",
        "Ready",
        "Plan",
        "Contribution",
        "ChunkResult",
        "Commit",
        "Vote",
        "Want",
        "Inquiry",
        "Holding",
        "Forward",
    ):
        assert message in pb.DESCRIPTOR.message_types_by_name and f"`{message}`" in SPEC
