"""Signatures and peer ids: libp2p's own p2pd agrees, and nothing that was changed verifies."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import (
    MAX_BODY_BYTES,
    PEER_ID_BYTES,
    Ed25519Keyring,
    peer_bytes,
    peer_id_of,
    peer_text,
    public_key_of,
    verify,
)

KEYRING = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def test_a_peer_id_holds_its_public_key():
    assert len(KEYRING.peer_id) == PEER_ID_BYTES
    assert public_key_of(KEYRING.peer_id) == KEYRING.public_key
    assert peer_text(KEYRING.peer_id).startswith("12D3KooW")
    assert peer_bytes(peer_text(KEYRING.peer_id)) == KEYRING.peer_id
    with pytest.raises(ValueError, match="32 bytes"):
        peer_id_of(b"short")
    with pytest.raises(ValueError):
        peer_bytes("0OIl")


@given(st.binary(max_size=60))
def test_what_is_no_ed25519_peer_id_has_no_key(data: bytes):
    assert public_key_of(data) is None


def test_a_signature_is_for_its_body_kind_and_signer():
    signed = KEYRING.sign("vote", b"body")
    assert KEYRING.verify("vote", signed) and verify("vote", signed)
    assert not verify("plan", signed)
    other = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    for field, value in (
        ("body", b"Body"),
        ("signer", other.peer_id),
        ("signer", b""),
        ("signature", signed.signature[:-1]),
        ("signature", bytes(64)),
    ):
        changed = pb.Signed()
        changed.CopyFrom(signed)
        setattr(changed, field, value)
        assert not verify("vote", changed), field


def test_kind_and_body_cannot_run_into_each_other():
    signed = KEYRING.sign("vote", b"x\0y")
    moved = pb.Signed(body=b"y", signer=signed.signer, signature=signed.signature)
    assert not verify("vote\0x", pb.Signed(body=b"", signer=signed.signer, signature=signed.signature))
    assert not verify("vote", moved)


def test_a_body_that_is_too_long_is_not_even_looked_at():
    signed = KEYRING.sign("vote", bytes(MAX_BODY_BYTES + 1))
    assert not verify("vote", signed)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_hostile_bytes_are_only_false(body: bytes, signer: bytes, signature: bytes):
    assert not verify("vote", pb.Signed(body=body, signer=signer, signature=signature))
    assert not verify("vote", pb.Signed(body=body, signer=KEYRING.peer_id, signature=signature))
