"""Peer records: who is in a swarm and where to dial it; and the validator that lets only good ones in.

A record lives under the swarm's key, with the peer id as subkey, and is signed by that peer: the peer id
holds the public key, so anyone can check it and nobody can write another's. Everything under the swarm's
key that is not such a record is refused, whoever stores it; other keys are none of our business (a stock
hivemind node may keep its own records here). A record says when it expires; none lives longer than
MAX_LIFETIME_S. There is nothing in it about what a node does: the DHT finds addresses, links tell the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.utils import MSGPackSerializer

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.signing import Keyring, verify

KIND = "peer-record"
MAX_RECORD_BYTES = 4096
MAX_ADDRESSES = 16
MAX_ADDRESS_BYTES = 256
LIFETIME_S = 90.0
MAX_LIFETIME_S = 600.0
CLOCK_SKEW_S = 60.0
_MSGPACK_BIN = (b"\xc4", b"\xc5", b"\xc6")


class RecordError(ValueError):
    """A record that must not be stored or believed; the message is the reason that is counted."""


def swarm_key(swarm_id: bytes) -> str:
    """The DHT key under which the peers of a swarm are found."""
    return f"atoll/1/{swarm_id.hex()}/peers"


def make_record(
    keyring: Keyring,
    swarm_id: bytes,
    addresses: Iterable[str],
    now: float,
    membership: pb.Membership | None = None,
) -> bytes:
    """This node's signed record, valid for LIFETIME_S; `membership`: what it is a member by."""
    record = pb.PeerRecord(
        swarm_id=swarm_id,
        peer=keyring.peer_id,
        addresses=list(addresses)[:MAX_ADDRESSES],
        protocol=wire.spoken(),
        expires_unix_s=int(now + LIFETIME_S),
        membership=membership,
    )
    return keyring.sign(KIND, record.SerializeToString(deterministic=True)).SerializeToString()


def check_record(data: object, swarm_id: bytes, peer: bytes, now: float) -> pb.PeerRecord:
    """The record in `data` if it is `peer`'s own, of this swarm and alive. Raises RecordError."""
    if not isinstance(data, bytes) or len(data) > MAX_RECORD_BYTES:
        raise RecordError("peer record that is not bytes, or too long")
    try:
        signed = pb.Signed.FromString(data)
        record = pb.PeerRecord.FromString(signed.body)
    except DecodeError as error:
        raise RecordError("peer record that is not readable") from error
    if signed.signer != peer or record.peer != peer or not verify(KIND, signed):
        raise RecordError("peer record that is not signed by its peer")
    if record.swarm_id != swarm_id:
        raise RecordError("peer record of another swarm")
    if len(record.addresses) > MAX_ADDRESSES or any(len(a) > MAX_ADDRESS_BYTES for a in record.addresses):
        raise RecordError("peer record with too many or too long addresses")
    if not now - CLOCK_SKEW_S < record.expires_unix_s <= now + MAX_LIFETIME_S + CLOCK_SKEW_S:
        raise RecordError("peer record that has expired or never does")
    return record


def _packed_bytes(data: object) -> bytes:
    """The bytes in a msgpack `bin`; nothing else is even decoded, it may nest. Raises ValueError."""
    if not isinstance(data, bytes) or len(data) > MAX_RECORD_BYTES + 8 or data[:1] not in _MSGPACK_BIN:
        raise RecordError("peer record that is not packed bytes")
    return bytes(MSGPackSerializer.loads(data))


Admits = Callable[[pb.PeerRecord], bool]
"""Whether the node of a record may take part in the swarm."""


class SwarmRecordValidator(RecordValidatorBase):  # type: ignore[misc]
    """hivemind calls `validate` before a node stores a record or believes one from another node.

    `admits` is set as soon as the swarm's manifest is known, where not everybody may take part.
    """

    def __init__(self, swarm_id: bytes, clock: Callable[[], float] = time.time) -> None:
        self.admits: Admits = lambda record: True
        self._swarm_id = swarm_id
        self._clock = clock
        self.key = DHTID.generate(source=swarm_key(swarm_id))
        self._key = self.key.to_bytes()
        self.refused = 0

    def validate(self, record: DHTRecord) -> bool:
        if record.key != self._key:
            return True
        try:
            peer, value = _packed_bytes(record.subkey), _packed_bytes(record.value)
            if not self.admits(check_record(value, self._swarm_id, peer, self._clock())):
                raise RecordError("peer record of a node that is no member")
        except ValueError:
            # RecordError and msgpack's own errors; whatever a stranger sent is refused and counted.
            self.refused += 1
            return False
        return True
