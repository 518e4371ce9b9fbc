"""The roster: which peers are alive and what they say of themselves. Sans-IO; time comes in as numbers.

It lives by heartbeats over warm links. A peer is gone when its link ends, or when it has been silent for
EVICT_S: a stopped process keeps its connection, but says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median

from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb

HEARTBEAT_S = 2.0
EVICT_S = 10.0


@dataclass
class RosterEntry:
    """One live peer, as it last said of itself; only `last_seen` and `skew_s` move, with frames.

    Times on the roster's clock, `rtt_s` None until measured; `chain` empty where it has no state, or tells
    nonsense; `direct`: there is a link, else others forward; `skew_s`: how far ahead its wall clock is.
    """

    peer: bytes
    status: pb.NodeStatus
    since: float
    last_seen: float
    chain: forks.Chain = ()
    software: str = ""
    rtt_s: float | None = None
    direct: bool = True
    skew_s: float | None = None


@dataclass
class Roster:
    """Live peers by id; this node is not in it."""

    entries: dict[bytes, RosterEntry] = field(default_factory=dict)

    def up(self, peer: bytes, hello: pb.Hello, now: float) -> None:
        """A link to `peer` is established."""
        status = hello.status
        self.entries[peer] = RosterEntry(peer, status, now, now, _chain_of(status), hello.software[:64])

    def up_through_others(self, peer: bytes, status: pb.NodeStatus, now: float) -> bool:
        """Something came of a peer that there is no link to; whether it is new here."""
        if peer in self.entries:
            return False
        self.entries[peer] = RosterEntry(peer, status, now, now, _chain_of(status), direct=False)
        return True

    def down(self, peer: bytes) -> bool:
        """The link to `peer` ended; whether it was in the roster."""
        return self.entries.pop(peer, None) is not None

    def heard(self, peer: bytes, status: pb.NodeStatus, now: float) -> bool:
        """A heartbeat came; whether it changes what the rounds depend on (chain, readiness or process)."""
        entry = self.entries.get(peer)
        if entry is None:
            return False
        chain = entry.chain
        if list(entry.status.chain) != list(status.chain) or entry.status.state != status.state:
            chain = _chain_of(status)
        self.entries[peer] = replace(entry, status=status, last_seen=now, chain=chain)
        before = entry.chain, entry.status.digest, entry.status.state, entry.status.life
        return (chain, status.digest, status.state, status.life) != before

    def seen(self, peer: bytes, now: float) -> None:
        """Any frame is a sign of life."""
        entry = self.entries.get(peer)
        if entry is not None:
            entry.last_seen = now

    def measured(self, peer: bytes, rtt_s: float) -> None:
        """A heartbeat's echo came back after so long."""
        entry = self.entries.get(peer)
        if entry is not None:
            smooth = rtt_s if entry.rtt_s is None else 0.7 * entry.rtt_s + 0.3 * rtt_s
            self.entries[peer] = replace(entry, rtt_s=smooth)

    def told_time(self, peer: bytes, ahead_s: float) -> None:
        """A heartbeat said its sender's wall clock, which is so far ahead of this one (as it came)."""
        entry = self.entries.get(peer)
        if entry is not None:
            entry.skew_s = ahead_s

    @property
    def skew_s(self) -> float | None:
        """How far ahead the wall clocks of the others are, the median; None: nobody said."""
        said = [entry.skew_s for entry in self.entries.values() if entry.skew_s is not None]
        return median(said) if said else None

    def silent(self, now: float) -> list[bytes]:
        """Peers that have said nothing for EVICT_S."""
        return [peer for peer, entry in self.entries.items() if now - entry.last_seen > EVICT_S]


def _chain_of(status: pb.NodeStatus) -> forks.Chain:
    if status.state == pb.JOINING:
        return ()
    try:
        return forks.parse_chain(status.chain, status.version, status.digest)
    except ValueError:
        return ()
