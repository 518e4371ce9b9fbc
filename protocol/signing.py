"""Signed bytes, and the libp2p peer ids that sign them.

A node's identity is an Ed25519 key in libp2p's encoding. Its peer id is the identity multihash of its
public key (libp2p specs, peer-ids.md), so a peer id is all that is needed to check a signature: there is
no key server and no lookup. Every signature covers a domain tag and a kind, so that a vote can never be
replayed as a plan, nor anything as a message of another protocol.

Nothing here raises on hostile bytes: `verify` answers False.
"""

from __future__ import annotations

from typing import Protocol

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from atoll.protocol.messages_pb2 import Signed

# Multihash code 0x00 (identity), length 36, then the protobuf {1: Ed25519 = 1, 2: 32 key bytes}.
_PEER_ID_PREFIX = bytes.fromhex("0024080112 20".replace(" ", ""))
PEER_ID_BYTES = 38
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_BODY_BYTES = 1 << 20


def peer_id_of(public_key: bytes) -> bytes:
    """Peer id (38 bytes) of a 32-byte Ed25519 public key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return _PEER_ID_PREFIX + public_key


def public_key_of(peer_id: bytes) -> bytes | None:
    """The public key inside a peer id, or None where it is not an Ed25519 one."""
    if len(peer_id) != PEER_ID_BYTES or not peer_id.startswith(_PEER_ID_PREFIX):
        return None
    return peer_id[len(_PEER_ID_PREFIX) :]


def peer_text(peer_id: bytes) -> str:
    """The base58 form that people and multiaddrs use: 12D3KooW…"""
    return str(base58.b58encode(peer_id), "ascii")


def peer_bytes(text: str) -> bytes:
    """Inverse of `peer_text`. Raises ValueError."""
    return bytes(base58.b58decode(text))


class Keyring(Protocol):
    """Signs as this node and checks what others signed; the simulator fakes it, sizes kept."""

    @property
    def peer_id(self) -> bytes: ...
    def sign(self, kind: str, body: bytes) -> Signed: ...
    def verify(self, kind: str, signed: Signed) -> bool: ...


def _covered(kind: str, body: bytes) -> bytes:
    return b"atoll/1/" + kind.encode() + b"\0" + body


class Ed25519Keyring:
    """The real keyring around one private key."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._key = private_key
        self.public_key = private_key.public_key().public_bytes_raw()
        self._peer_id = peer_id_of(self.public_key)

    @property
    def peer_id(self) -> bytes:
        return self._peer_id

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """For the TLS of direct lanes, and nothing else."""
        return self._key

    def sign(self, kind: str, body: bytes) -> Signed:
        return Signed(body=body, signer=self._peer_id, signature=self._key.sign(_covered(kind, body)))

    def verify(self, kind: str, signed: Signed) -> bool:
        return verify(kind, signed)


def verify(kind: str, signed: Signed) -> bool:
    """Whether `signed` is by its signer and of this kind."""
    key = public_key_of(signed.signer)
    if key is None or len(signed.signature) != SIGNATURE_BYTES or len(signed.body) > MAX_BODY_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, _covered(kind, signed.body))
    except (InvalidSignature, ValueError):
        return False
    return True
