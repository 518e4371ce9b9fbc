"""A node's identity: an Ed25519 key in libp2p's file format, readable by p2pd and by nobody else.

Created once in the data dir, mode 0600, never logged. The readable name (two words) follows from the peer
id, so everyone calls a node the same without any registry.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.protocol.signing import Ed25519Keyring

# libp2p's PrivateKey protobuf {1: Ed25519 = 1, 2: 64 bytes}: private key, then public key.
_HEADER = bytes.fromhex("08011240")
_FILE_BYTES = len(_HEADER) + 64

_FIRST = (
    "amber azure brave brisk calm clear coral crisp dawn deep eager early fair fleet fresh gentle glad "
    "golden grand green happy hazel indigo ivory jade keen kind late light lively lucky mellow merry "
    "mild misty noble north opal pale pearl plain proud quick quiet ready rosy royal sandy sharp silent "
    "silver sleek smooth snowy solar south steady still sunny swift tidal vivid warm wild"
).split()
_SECOND = (
    "albatross anemone barracuda bass bonito booby clam cod coot cormorant crab crane curlew dolphin dory "
    "dove duck dunlin eel egret finch frigate gannet garnet goby grebe gull hawk heron ibis kelp kite "
    "lagoon lark limpet lobster manta marlin moray mullet mussel nautilus noddy otter oyster pelican "
    "petrel pike plover prawn puffin ray reef sailfish seal shark shrimp skua snipe sole squid stork "
    "swan tern tuna turtle urchin wader whale wrasse wren"
).split()


class IdentityError(RuntimeError):
    """The key file is unreadable or damaged. It is never overwritten: it may be the only copy."""


def readable_name(peer_id: bytes) -> str:
    """Two words for a peer id: the same everywhere, not unique."""
    digest = hashlib.sha256(b"atoll/name\0" + peer_id).digest()
    first = _FIRST[int.from_bytes(digest[:4], "big") % len(_FIRST)]
    second = _SECOND[int.from_bytes(digest[4:8], "big") % len(_SECOND)]
    return f"{first}-{second}"


def create(path: Path) -> Ed25519Keyring:
    """Writes a new key to `path`, which must not exist, and returns it."""
    key = Ed25519PrivateKey.generate()
    body = _HEADER + key.private_bytes_raw() + key.public_key().public_bytes_raw()
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        # Whole or not at all; and never over a key that is there (the data dir is locked meanwhile).
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Ed25519Keyring(key)


def load(path: Path) -> Ed25519Keyring:
    """The key in `path`. Raises IdentityError."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise IdentityError(f"the identity in {path} can't be read: {error.strerror}") from error
    if len(body) != _FILE_BYTES or not body.startswith(_HEADER):
        raise IdentityError(f"the identity in {path} is damaged: restore it from a copy, or remove it")
    private, public = body[len(_HEADER) :][:32], body[len(_HEADER) + 32 :]
    keyring = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(private))
    if keyring.public_key != public:
        raise IdentityError(f"the identity in {path} is damaged: restore it from a copy, or remove it")
    return keyring


def load_or_create(path: Path) -> Ed25519Keyring:
    """The key in `path`, made at the first start."""
    return load(path) if path.exists() else create(path)
