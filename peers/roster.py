"""The roster: which peers are alive and what they say of themselves. Sans-IO; time comes in as numbers.

It lives by heartbeats over warm links. A peer is gone when its link ends, or when it has been silent for
EVICT_S: a stopped process keeps its connection, but says nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from atoll.protocol import messages_pb2 as pb

HEARTBEAT_S = 2.0
EVICT_S = 10.0


@dataclass(frozen=True)
class RosterEntry:
    """One live peer. Times on the roster's clock, `rtt_s` None until measured."""

    peer: bytes
    status: pb.NodeStatus
    since: float
    last_seen: float
    software: str = ""
    rtt_s: float | None = None


@dataclass
class Roster:
    """Live peers by id; this node is not in it."""

    entries: dict[bytes, RosterEntry] = field(default_factory=dict)

    def up(self, peer: bytes, hello: pb.Hello, now: float) -> None:
        """A link to `peer` is established."""
        self.entries[peer] = RosterEntry(peer, hello.status, now, now, hello.software[:64])

    def down(self, peer: bytes) -> bool:
        """The link to `peer` ended; whether it was in the roster."""
        return self.entries.pop(peer, None) is not None

    def heard(self, peer: bytes, status: pb.NodeStatus, now: float) -> bool:
        """A heartbeat came; whether it changes what the rounds depend on (head or readiness)."""
        entry = self.entries.get(peer)
        if entry is None:
            return False
        self.entries[peer] = replace(entry, status=status, last_seen=now)
        return (entry.status.digest, entry.status.state) != (status.digest, status.state)

    def seen(self, peer: bytes, now: float) -> None:
        """Any frame is a sign of life."""
        entry = self.entries.get(peer)
        if entry is not None:
            self.entries[peer] = replace(entry, last_seen=now)

    def measured(self, peer: bytes, rtt_s: float) -> None:
        """A heartbeat's echo came back after so long."""
        entry = self.entries.get(peer)
        if entry is not None:
            smooth = rtt_s if entry.rtt_s is None else 0.7 * entry.rtt_s + 0.3 * rtt_s
            self.entries[peer] = replace(entry, rtt_s=smooth)

    def silent(self, now: float) -> list[bytes]:
        """Peers that have said nothing for EVICT_S."""
        return [peer for peer, entry in self.entries.items() if now - entry.last_seen > EVICT_S]

    def best_head(self, without: Collection[bytes] = ()) -> RosterEntry | None:
        """The peer that is furthest along: by version, then certified, then tokens, then smaller digest."""
        holders = [e for e in self.entries.values() if e.status.state != pb.JOINING and e.peer not in without]
        if not holders:
            return None
        return max(
            holders,
            key=lambda e: (
                e.status.version,
                e.status.certified,
                e.status.cumulative_tokens,
                bytes(255 - b for b in e.status.digest),
            ),
        )
