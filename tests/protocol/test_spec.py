"""SPEC.md says what the code does: every worked example in it is computed anew."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.protocol import PROTOCOL_HIGHEST, chain, manifest, signing, ticket, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.codecs import CODECS, Int8Codec
from atoll.protocol.outer import outer_step
from atoll.protocol.schema import ParameterSchema

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
    schema = ParameterSchema.of([("weight", (2, 3)), ("bias", (3,))])
    assert (schema.total, schema.tensors[1].offset) == (512, 256)
    assert schema.digest.hex() in SPEC


def test_int8() -> None:
    first = torch.zeros(256)
    first[:8] = torch.tensor([1.0, -0.5, 0.25, 127.0, -127.0, 3.3, -1e-3, 63.4])
    second = torch.arange(-128, 128, dtype=torch.float32) / 100
    for values in (first, second):
        out = torch.empty(Int8Codec.bound(256), dtype=torch.uint8)
        Int8Codec().encode(values, out)
        payload = out.numpy().tobytes()
        assert f"`{payload[:10].hex()}` | `{hashlib.sha256(payload).hexdigest()}`" in SPEC


def test_outer_step() -> None:
    theta, v, d = (
        np.array(x, np.float32) for x in ([1, -2, 0.5, 3], [0, 0.1, -0.2, 1], [0.01, -0.02, 0.3, 0.7])
    )
    outer_step(theta, v, d, 0.6, 0.9, np.empty(4, np.float32))
    assert theta.tobytes().hex() in SPEC and v.tobytes().hex() in SPEC


def test_chain() -> None:
    assert chain.genesis_digest(b"s" * 32, b"p" * 32).hex() in SPEC
    assert chain.next_digest(b"d" * 32, b"commit").hex() in SPEC
    assert chain.leader_rank(b"d" * 32, 0, KEY.peer_id).hex() in SPEC


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
    ):
        assert message in pb.DESCRIPTOR.message_types_by_name and f"`{message}`" in SPEC
