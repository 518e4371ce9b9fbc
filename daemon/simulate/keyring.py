"""A keyring without cryptography: the sizes of Ed25519, none of its cost.

Anyone could forge its signatures; nobody in a simulation does. A liar signs its lies with its own name.
"""

from __future__ import annotations

import hashlib

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import SIGNATURE_BYTES, peer_id_of


class FakeKeyring:
    """Signs with a hash; the identity follows from the name."""

    def __init__(self, name: str) -> None:
        self._peer = peer_id_of(hashlib.sha256(name.encode()).digest())

    @property
    def peer_id(self) -> bytes:
        return self._peer

    def sign(self, kind: str, body: bytes) -> pb.Signed:
        return pb.Signed(body=body, signer=self._peer, signature=_seal(kind, self._peer, body))

    def verify(self, kind: str, signed: pb.Signed) -> bool:
        return bool(signed.signature == _seal(kind, signed.signer, signed.body))


def _seal(kind: str, signer: bytes, body: bytes) -> bytes:
    return hashlib.sha512(kind.encode() + b"\0" + signer + body).digest()[:SIGNATURE_BYTES]
