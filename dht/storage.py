"""What a node keeps for the DHT, bounded: whoever reaches it may ask it to store things, and to know them.

hivemind's storage keeps what it is given until it expires, and lets whoever stores it say when that is. Here
the swarm's own key has room for MAX_PEERS records (which the validator has checked before); all other keys
together, where a stock hivemind node that shares the DHT keeps its own, have MAX_FOREIGN entries of
MAX_FOREIGN_BYTES, for a day at most. What has no room is refused, which hivemind tells whoever asked, and
counted.

In hivemind's routing table a peer is in as many places as it names ids. Here it has one, the newest, and of
those who wait for a place in a full bucket there are MAX_WAITING.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer

MAX_PEERS = 4096
MAX_FOREIGN = 2048
MAX_FOREIGN_BYTES = 8192
MAX_LIFETIME_S = 86_400.0
RENEWS_S = 1.0
"""A record takes the place of one that ends this much earlier, or sooner: each leaves a trace until it would
have ended."""
COUNT_S = 10.0
"""Where there is no room, what has ended is looked for this often at most."""
MAX_WAITING = 32
"""Nodes of one bucket of the routing table that wait for a place."""


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
    """`own`: the swarm's key, None on a node of no swarm. `clock`: Unix seconds."""

    def __init__(self, own: DHTID | None, clock: Callable[[], float]) -> None:
        super().__init__()
        self.refused = 0
        self._own = own
        self._clock = clock
        self._foreign = 0
        self._counted_at = -math.inf

    def store(self, key: DHTID, value: bytes, expiration_time: float, subkey: object = None) -> bool:
        # hivemind's own calls store_subkey where there is a subkey.
        if subkey is None and not self._takes(key, value, expiration_time, None):
            return False
        return bool(super().store(key, value, expiration_time, subkey))

    def store_subkey(self, key: DHTID, subkey: object, value: bytes, expiration_time: float) -> bool:
        return self._takes(key, value, expiration_time, subkey) and bool(
            super().store_subkey(key, subkey, value, expiration_time)
        )

    def _takes(self, key: DHTID, value: object, expiration_time: float, subkey: object) -> bool:
        """Whether there is room; a dictionary that hivemind itself puts in place is no new entry."""
        if isinstance(value, DictionaryDHTValue):
            return True
        if self._fits(key, value, expiration_time, subkey):
            return True
        self.refused += 1
        return False

    def _fits(self, key: DHTID, value: object, expiration_time: float, subkey: object) -> bool:
        now = self._clock()
        if not isinstance(value, bytes) or not now <= expiration_time <= now + MAX_LIFETIME_S:
            return False
        known = self.data.get(key)
        entries = known.value if known is not None else None
        if subkey is not None:
            known = entries.data.get(subkey) if isinstance(entries, DictionaryDHTValue) else None
        if known is not None and expiration_time < known.expiration_time + RENEWS_S:
            return False
        if key == self._own:
            full = isinstance(entries, DictionaryDHTValue) and len(entries.data) >= MAX_PEERS
            return subkey is not None and not (full and known is None)
        if len(value) + len(MSGPackSerializer.dumps(subkey)) > MAX_FOREIGN_BYTES:
            return False
        if self._foreign >= MAX_FOREIGN and now >= self._counted_at + COUNT_S:
            self._counted_at, self._foreign = now, self._count()
        if self._foreign >= MAX_FOREIGN:
            return False
        self._foreign += 1
        return True

    def _count(self) -> int:
        """Entries of other keys, with what is left of those that others took the place of."""
        total = 0
        for key, (value, _) in self.items():
            if key != self._own:
                total += 1
                if isinstance(value, DictionaryDHTValue):
                    list(value.items())  # which drops what has ended
                    total += len(value.expiration_heap)
        return total + len(self.expiration_heap) - len(self.data)


class BoundedTable(RoutingTable):  # type: ignore[misc]
    """hivemind's, in which a peer has one id."""

    def add_or_update_node(self, node_id: DHTID, peer_id: PeerID) -> tuple[DHTID, PeerID] | None:
        """Another peer's id is not taken from it. What is returned: hivemind's, a node to ping."""
        if self.get(node_id=node_id, default=peer_id) != peer_id:
            return None
        known = self.get(peer_id=peer_id)
        if known is not None and known != node_id:
            del self[known]
        ping: tuple[DHTID, PeerID] | None = super().add_or_update_node(node_id, peer_id)
        waiting = self.buckets[self.get_bucket_index(node_id)].replacement_nodes
        while len(waiting) > MAX_WAITING:
            del self[next(iter(waiting))]
        return ping


def bound(node: DHTNode, own: DHTID | None, clock: Callable[[], float]) -> BoundedStorage:
    """Gives a node that has just been made, and knows nothing yet, storage and table of this module."""
    table = node.protocol.routing_table
    node.protocol.routing_table = BoundedTable(table.node_id, table.bucket_size, table.depth_modulo)
    node.protocol.cache = BoundedStorage(own, clock)
    node.protocol.storage = storage = BoundedStorage(own, clock)
    return storage
