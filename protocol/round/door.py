"""The door of a round: who is ready, who is expected, and when to begin without the rest.

The leader closes the door when every training node is ready, or earlier by the swarm's rule
(modes/doors.py). At the cap it closes with whoever is ready. Pure bookkeeping: no messages, no effects.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.modes.doors import ALL, DBW, PERIOD, WINDOW, WINDOW_PART, best_quorum
from atoll.protocol.round.pace import Pace

MAX_READY = 4096
"""Peers whose Ready is kept; a node holds far fewer connections."""
MAX_PHASE_MS = 7 * 86_400_000
"""A phase that is said to be longer counts as this long."""


@dataclass(frozen=True)
class Verdict:
    """`close`: begin now. Else why not, and when to look again (None: when something changes)."""

    close: bool
    because: str
    until: float | None = None


class Door:
    """Collects Ready messages by peer; each peer's newest counts, if it names the parent asked for."""

    def __init__(
        self, grace_floor_s: float, grace_cap_s: float, rule: str = ALL, rule_s: float = 0.0
    ) -> None:
        """`rule`: of DOORS; `rule_s`: its seconds, of a period or a window."""
        self._floor = grace_floor_s
        self._cap = grace_cap_s
        self._rule = rule
        self._rule_s = rule_s
        self._ready: dict[bytes, tuple[pb.Ready, float]] = {}
        self._grace = Pace(grace_floor_s, grace_cap_s)
        self.opened_at = 0.0
        """When the commit before was applied."""
        self.exchange_s = 0.0
        """How long the last session took."""

    def limit(self, grace_floor_s: float, grace_cap_s: float) -> None:
        """Other bounds of the grace, which learns anew then."""
        if (grace_floor_s, grace_cap_s) != (self._floor, self._cap):
            self._floor, self._cap = grace_floor_s, grace_cap_s
            self._grace = Pace(grace_floor_s, grace_cap_s)

    def put(self, peer: bytes, ready: pb.Ready, now: float) -> bool:
        """Notes a Ready; a repeated one keeps its first arrival. False where there is no room for it."""
        known = self._ready.get(peer)
        if known is None and len(self._ready) >= MAX_READY:
            return False
        first = known[1] if known and known[0].parent == ready.parent else now
        self._ready[peer] = (ready, first)
        return True

    def remove(self, peer: bytes) -> None:
        self._ready.pop(peer, None)

    def keep(self, live: Collection[bytes]) -> None:
        """Forgets peers that are gone, so that there is always room for those who come."""
        self._ready = {peer: known for peer, known in self._ready.items() if peer in live}

    def ready(self, parent: bytes, live: Collection[bytes]) -> dict[bytes, pb.Ready]:
        """Ready messages of live peers for this parent."""
        return {p: r for p, (r, _) in self._ready.items() if p in live and r.parent == parent}

    def restart(self, parent: bytes, now: float) -> None:
        """A new attempt at the same parent: those who are ready are so from now."""
        for peer, (ready, _) in list(self._ready.items()):
            if ready.parent == parent:
                self._ready[peer] = (ready, now)

    def decide(self, parent: bytes, expected: Collection[bytes], minimum: int, now: float) -> Verdict:
        """Whether to close. `expected`: live training nodes at this head; `minimum`: fewest to begin with."""
        ready = self.ready(parent, expected)
        if len(expected) < minimum:
            return Verdict(False, f"{minimum} nodes have to take part, {len(expected)} so far")
        if not ready:
            return Verdict(False, "nobody is ready yet")
        missing = len(expected) - len(ready)
        if not missing:
            return Verdict(True, "all are ready")
        waiting = f"{missing} of {len(expected)} peers are still training"
        if len(ready) < minimum:
            return Verdict(False, waiting)
        until = self._until(min(self._ready[peer][1] for peer in ready), len(ready), expected)
        if now >= until:
            return Verdict(True, f"{missing} of {len(expected)} did not come in time")
        return Verdict(False, waiting, until)

    def _until(self, first: float, ready: int, expected: Collection[bytes]) -> float:
        """When the door closes without the rest. `first`: when the first was ready."""
        said = [self._ready[peer][0].phase_ms for peer in expected if peer in self._ready]
        phases_s = [min(ms, MAX_PHASE_MS) / 1000 for ms in said if ms]
        if self._rule == WINDOW:
            # The middle one: a single node's word moves it little.
            phase_s = statistics.median(phases_s) if phases_s else 0.0
            return first + min(self._cap, max(self._rule_s, WINDOW_PART * phase_s))
        if self._rule == PERIOD:
            return min(max(first, self.opened_at + self._rule_s), first + self._cap)
        if self._rule == DBW:
            enough = 0 < best_quorum(phases_s, self.exchange_s) <= ready
            return first if enough else first + self._cap
        return first + (self.grace_s() if 2 * ready > len(expected) else self._cap)

    def closed(self, parent: bytes, contributors: Collection[bytes]) -> None:
        """Learns from the arrivals of a round that begins with these contributors."""
        arrivals = [self._ready[p][1] for p in contributors if p in self._ready]
        first = min(arrivals, default=0.0)
        self._grace.saw(at - first for at in arrivals)

    def grace_s(self) -> float:
        """Seconds after the first arrival that the rest is given once a quorum is there."""
        return self._grace.patience_s()
