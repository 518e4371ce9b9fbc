"""Discovery: announcing this node in the DHT and finding the others, beside the daemon's other tasks.

Owns the DHTNode (it runs in the caller's event loop; no helper process is forked). Bootstrap is a state, not
an error: addresses that do not answer are kept with their cause and tried again by the caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P, PeerID
from hivemind.utils.timed_storage import get_dht_time

from atoll.dht.pacing import Pace
from atoll.dht.records import (
    LIFETIME_S,
    Admits,
    RecordError,
    SwarmRecordValidator,
    check_record,
    make_record,
    swarm_key,
)
from atoll.dht.serving import serve
from atoll.dht.storage import BoundedStorage, bound
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Keyring

MAX_FOUND = 1024
WAIT_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class Discovery:
    """One swarm's presence on the DHT. `swarm_id` None: a node that only helps others to find each other."""

    def __init__(
        self,
        node: DHTNode,
        swarm_id: bytes | None,
        validator: SwarmRecordValidator | None,
        storage: BoundedStorage,
        pacing: Pace,
    ) -> None:
        self._node = node
        self._storage = storage
        self._pacing = pacing
        self._swarm_id = swarm_id
        self._validator = validator

    @classmethod
    async def create(
        cls, p2p: P2P, swarm_id: bytes | None, clock: Callable[[], float] = time.time
    ) -> Discovery:
        """Starts the DHT on an existing libp2p host. No other node needs to be there yet."""
        validator = SwarmRecordValidator(swarm_id, clock) if swarm_id is not None else None
        node = await DHTNode.create(
            p2p=p2p,
            record_validator=validator,
            wait_timeout=WAIT_TIMEOUT_S,
            ensure_bootstrap_success=False,
            strict=False,
            # A record found once must be found anew when it has changed: addresses move.
            cache_locally=False,
            cache_nearest=0,
        )
        own = validator.key if validator is not None else None
        storage = bound(node, own, clock)
        pacing = Pace(lambda: validator.refused if validator is not None else 0)
        await serve(node, p2p, pacing)
        return cls(node, swarm_id, validator, storage, pacing)

    async def greet(self, peer_id: bytes) -> bool:
        """Adds a connected peer to the routing table, if it runs a DHT node. Whether it does."""
        return await self._node.protocol.call_ping(PeerID(peer_id), strict=False) is not None

    def admit(self, admits: Admits) -> None:
        """From now on records are kept, and believed, only of nodes that may take part."""
        if self._validator is not None:
            self._validator.admits = admits

    async def announce(
        self,
        keyring: Keyring,
        addresses: Sequence[str],
        now: float,
        membership: pb.Membership | None = None,
    ) -> bool:
        """Stores this node's record; False where no node took it (it is then kept here alone)."""
        assert self._swarm_id is not None, "a bootstrap node announces nothing"
        record = make_record(keyring, self._swarm_id, addresses, now, membership)
        expiration = get_dht_time() + LIFETIME_S
        key = swarm_key(self._swarm_id)
        return bool(await self._node.store(key, record, expiration, subkey=keyring.peer_id))

    async def find(self, now: float) -> list[pb.PeerRecord]:
        """Records of the swarm's nodes, this one's included, at most MAX_FOUND."""
        assert self._swarm_id is not None, "a bootstrap node looks for nobody"
        found = await self._node.get(swarm_key(self._swarm_id), latest=True)
        if found is None or not isinstance(found.value, dict):
            return []
        records = []
        for peer, value in list(found.value.items())[:MAX_FOUND]:
            try:
                records.append(check_record(value.value, self._swarm_id, peer, now))
            except RecordError as error:
                log.debug("ignored a DHT record: %s", error)
        return records

    @property
    def refused_records(self) -> int:
        """Records that other nodes offered and the validator refused, or for which there was no room."""
        return self._storage.refused + (self._validator.refused if self._validator else 0)

    @property
    def refused_requests(self) -> int:
        """Requests that were not answered, for whoever asked had asked too much."""
        return self._pacing.refused

    @property
    def known_nodes(self) -> int:
        """DHT nodes in the routing table."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def close(self) -> None:
        await self._node.shutdown()
