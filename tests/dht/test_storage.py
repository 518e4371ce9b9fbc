"""What strangers may store, and how much of it."""

from __future__ import annotations

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID

from atoll.dht import storage
from atoll.dht.storage import MAX_FOREIGN, MAX_FOREIGN_BYTES, MAX_PEERS, BoundedStorage, BoundedTable

from ..protocol.test_membership import ring

OWN = DHTID(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of storage and of hivemind."""
    now = [1000.0]
    monkeypatch.setattr("hivemind.utils.timed_storage.get_dht_time", lambda: now[0])
    return now


@pytest.fixture
def kept(clock: list[float]) -> BoundedStorage:
    return BoundedStorage(OWN, lambda: clock[0])


def test_other_keys_have_room_for_so_many(kept: BoundedStorage, clock: list[float]) -> None:
    for k in range(MAX_FOREIGN):
        assert kept.store(DHTID(k + 2), b"v", 1100.0)
    assert not kept.store(DHTID(MAX_FOREIGN + 2), b"v", 1200.0) and kept.refused == 1
    assert kept.store(OWN, b"v", 1100.0, subkey=b"peer"), "the swarm's own key has a room of its own"
    clock[0] += 200.0
    assert kept.store(DHTID(MAX_FOREIGN + 2), b"v", 1300.0), "what has ended makes room"
    assert len(kept.data) == 1


def test_many_subkeys_and_many_renewals_take_room_too(kept: BoundedStorage) -> None:
    for k in range(MAX_FOREIGN // 2):
        assert kept.store(DHTID(2), b"v", 1100.0, subkey=k)
    for k in range(MAX_FOREIGN // 2):
        assert kept.store(DHTID(3), b"v", 1100.0 + 2 * k)
    assert not kept.store(DHTID(2), b"v", 1100.0, subkey="one more")
    assert not kept.store(DHTID(3), b"v", 90_000.0)
    entries = kept.data[DHTID(2)].value
    assert isinstance(entries, DictionaryDHTValue) and len(entries.data) == MAX_FOREIGN // 2


def test_what_is_too_long_or_too_lasting_is_refused(kept: BoundedStorage) -> None:
    assert not kept.store(DHTID(2), bytes(MAX_FOREIGN_BYTES + 1), 1100.0)
    assert not kept.store(DHTID(2), b"v", 1100.0, subkey="k" * MAX_FOREIGN_BYTES)
    assert not kept.store(DHTID(2), b"v", 1000.0 + storage.MAX_LIFETIME_S + 1)
    assert not kept.store(DHTID(2), b"v", 999.0)
    assert not kept.store(OWN, b"v", 1100.0), "without a subkey there is no peer"
    assert kept.refused == 5 and not kept.data and not kept.expiration_heap


def test_the_swarms_key_has_so_many_peers_and_they_stay(kept: BoundedStorage) -> None:
    for k in range(MAX_PEERS):
        assert kept.store(OWN, b"v", 1100.0, subkey=k)
    assert not kept.store(OWN, b"v", 1190.0, subkey="late")
    assert not kept.store(OWN, b"w", 1100.5, subkey=0), "hardly later"
    assert kept.store(OWN, b"w", 1150.0, subkey=0)
    assert kept.data[OWN].value.data[0].value == b"w"


def test_a_peer_has_one_place_in_the_table() -> None:
    table = BoundedTable(DHTID(0), 20, 5)
    peer, other = (PeerID(ring(name).peer_id) for name in ("a", "b"))
    for k in range(1, 500):
        table.add_or_update_node(DHTID(k), peer)
    assert list(table.uid_to_peer_id) == [DHTID(499)] and list(table.peer_id_to_uid.values()) == [DHTID(499)]
    assert table.add_or_update_node(DHTID(499), other) is None
    assert table.get(node_id=DHTID(499)) == peer, "nobody takes another's"


def test_few_wait_for_a_place_in_a_full_bucket() -> None:
    table = BoundedTable(DHTID(0), 2, 1)
    high = DHTID.MAX - 1000
    for k in range(200):
        table.add_or_update_node(DHTID(high + k), PeerID(ring(f"n{k}").peer_id))
    assert all(len(bucket.replacement_nodes) <= storage.MAX_WAITING for bucket in table.buckets)
    assert len(table.uid_to_peer_id) == len(table.peer_id_to_uid) <= 2 * 2 + storage.MAX_WAITING * 2
