"""Peer records: only a live one by the peer itself is stored or believed."""

from __future__ import annotations

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hypothesis import given
from hypothesis import strategies as st

from atoll.dht.records import (
    CLOCK_SKEW_S,
    KIND,
    LIFETIME_S,
    MAX_ADDRESSES,
    MAX_LIFETIME_S,
    MAX_RECORD_BYTES,
    RecordError,
    SwarmRecordValidator,
    check_record,
    make_record,
    swarm_key,
)
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Ed25519Keyring

SWARM, OTHER = b"s" * 32, b"o" * 32
NODE = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(bytes(32)))
LIAR = Ed25519Keyring(Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
NOW = 1_700_000_000.0
ADDRESSES = ["/ip4/127.0.0.1/tcp/1"]


def record(keyring: Ed25519Keyring = NODE, kind: str = KIND, **change: object) -> bytes:
    fields: dict[str, object] = {
        "swarm_id": SWARM,
        "peer": NODE.peer_id,
        "addresses": ADDRESSES,
        "expires_unix_s": int(NOW + LIFETIME_S),
    }
    body = pb.PeerRecord(**(fields | change)).SerializeToString()
    return keyring.sign(kind, body).SerializeToString()


def test_a_record_is_believed_while_it_lives():
    data = make_record(NODE, SWARM, ADDRESSES * 40, NOW)
    assert len(data) < MAX_RECORD_BYTES
    checked = check_record(data, SWARM, NODE.peer_id, NOW)
    assert list(checked.addresses) == ADDRESSES * MAX_ADDRESSES
    check_record(data, SWARM, NODE.peer_id, NOW + LIFETIME_S + CLOCK_SKEW_S - 1)
    with pytest.raises(RecordError, match="expired"):
        check_record(data, SWARM, NODE.peer_id, NOW + LIFETIME_S + CLOCK_SKEW_S + 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("text", "not bytes"),
        (None, "not bytes"),
        (bytes(MAX_RECORD_BYTES + 1), "too long"),
        (b"\xff", "not readable"),
        (b"", "not signed by its peer"),
        (record(LIAR), "not signed by its peer"),
        (record(peer=LIAR.peer_id), "not signed by its peer"),
        (record(kind="vote"), "not signed by its peer"),
        (record(swarm_id=OTHER), "another swarm"),
        (record(addresses=ADDRESSES * (MAX_ADDRESSES + 1)), "too many"),
        (record(addresses=["/" * 257]), "too long"),
        (record(expires_unix_s=0), "expired or never"),
        (record(expires_unix_s=int(NOW + MAX_LIFETIME_S + CLOCK_SKEW_S + 2)), "expired or never"),
    ],
)
def test_what_is_no_good_record_is_refused(data: object, reason: str):
    with pytest.raises(RecordError, match=reason):
        check_record(data, SWARM, NODE.peer_id, NOW)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_damaged_record_is_refused(position: int, flip: int):
    data = bytearray(record())
    data[position % len(data)] ^= flip
    with pytest.raises(RecordError):
        check_record(bytes(data), SWARM, NODE.peer_id, NOW)


# ---- the validator


def offered(value: object, key: str | None = None, subkey: object = None) -> DHTRecord:
    """As hivemind hands it over: key hashed, subkey and value packed."""
    return DHTRecord(
        key=DHTID.generate(source=key or swarm_key(SWARM)).to_bytes(),
        subkey=msgpack.packb(NODE.peer_id if subkey is None else subkey),
        value=value if isinstance(value, bytes) else msgpack.packb(value),
        expiration_time=NOW + 60,
    )


def validator() -> SwarmRecordValidator:
    return SwarmRecordValidator(SWARM, lambda: NOW)


def test_good_records_are_stored_and_others_keys_are_left_alone():
    check = validator()
    assert check.validate(offered(msgpack.packb(record())))
    assert check.validate(offered(b"anything", key="somebody's own"))
    assert check.refused == 0


@pytest.mark.parametrize(
    "bad",
    [
        offered(b""),
        offered(b"\xc1"),
        offered({"a": 1}),
        offered([record()]),
        offered("text"),
        offered(msgpack.packb(record(swarm_id=OTHER))),
        offered(msgpack.packb(record()), subkey=LIAR.peer_id),
        offered(msgpack.packb(record()), subkey=7),
        offered(msgpack.packb(record()) + b"more"),
        offered(msgpack.ExtType(0x40, msgpack.packb([record()]))),
        offered(msgpack.packb(bytes(MAX_RECORD_BYTES + 1))),
    ],
)
def test_whatever_else_is_under_the_swarms_key_is_refused(bad: DHTRecord):
    check = validator()
    assert not check.validate(bad)
    assert check.refused == 1


def nested(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = msgpack.packb(msgpack.ExtType(0x40, data))
    return data


def test_deeply_nested_values_are_not_even_decoded():
    assert not validator().validate(offered(nested(600)))


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_bytes_are_only_refused(value: bytes, subkey: bytes):
    key = DHTID.generate(source=swarm_key(SWARM)).to_bytes()
    assert not validator().validate(DHTRecord(key, subkey, value, NOW))
