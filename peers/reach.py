"""What is known of how others reach this node: their answers to dial-backs, and what follows. Pure.

Each peer's newest answer counts, for VALID_S. An address is proven once somebody has dialled it; nothing is
proven by what a node believes of itself. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.peers import addresses as a
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.text import plain

VALID_S = 3600.0
MAX_PEERS = 64
MAX_PROVEN = 16
KEPT_S = 7 * 86_400.0
"""An address that was proven is worth trying for so long, and is told with the age of its proof."""
MAX_RESULTS = 16
MAX_CAUSE = 80

PUBLIC, LAN, MACHINE, HIDDEN, UNKNOWN = "public", "lan", "machine", "hidden", "unknown"
"""Who can dial this node: anybody; nodes of its network; of its machine; nobody of those who tried; it is not
known, because nobody has tried yet."""


@dataclass(frozen=True)
class Answer:
    """What one peer found when it dialled: the addresses where this node answered, and why it did not."""

    at_s: float
    seen: str
    reached: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


class Reach:
    """Of one node. `kept`: what `facts` gave in an earlier life."""

    def __init__(self, kept: Any = None) -> None:
        self._answers: dict[bytes, Answer] = {}
        self.proven: dict[str, float] = {}
        """Addresses that somebody has dialled, without peer id, and when that was last."""
        found = kept.get("proven") if isinstance(kept, Mapping) else None
        for address, at in found.items() if isinstance(found, Mapping) else ():
            if isinstance(address, str) and a.parts(address) and isinstance(at, int | float):
                self.proven[address] = float(at)

    def facts(self) -> dict[str, Any]:
        """What is worth keeping."""
        tried = (address for answer in self._answers.values() for address, _ in answer.failed)
        failed = sorted({address for address in tried if address not in self.proven})
        return {"proven": dict(self.proven), "failed": failed, "verdict": self.verdict}

    def heard(self, peer: bytes, reply: pb.DialBackReply, now_s: float) -> None:
        """A peer has dialled."""
        seen = plain(reply.seen, MAX_CAUSE)
        told = {
            result.address: plain(result.cause, MAX_CAUSE)
            for result in list(reply.results)[:MAX_RESULTS]
            if a.parts(result.address) and str(a.ip_of(result.address)) == seen
        }
        if not told:
            return
        reached = tuple(address for address, cause in told.items() if not cause)
        failed = tuple((address, cause) for address, cause in told.items() if cause)
        self._answers.pop(peer, None)
        self._answers[peer] = Answer(now_s, seen, reached, failed)
        for address in reached:
            self.proven[address] = now_s
        if not reached:
            # It answers there no more, whatever was so before.
            for address, _ in failed:
                self.proven.pop(address, None)
        self.forget(now_s)

    def forget(self, now_s: float) -> None:
        """What is too old to be believed, or too much."""
        kept = [(p, each) for p, each in self._answers.items() if now_s - each.at_s < VALID_S]
        self._answers = dict(kept[-MAX_PEERS:])
        fresh = sorted(((at, x) for x, at in self.proven.items() if now_s - at < KEPT_S), reverse=True)
        self.proven = {address: at for at, address in fresh[:MAX_PROVEN]}

    def asked_at(self, peer: bytes) -> float:
        """When a peer's answer came; 0.0 where there is none."""
        answer = self._answers.get(peer)
        return answer.at_s if answer else 0.0

    @property
    def answers(self) -> Mapping[bytes, Answer]:
        return self._answers

    @property
    def seen(self) -> list[str]:
        """IP addresses from which others see this node connected, the newest last."""
        return list(dict.fromkeys(each.seen for each in self._answers.values()))

    @property
    def outside(self) -> list[str]:
        """IP addresses from which those see this node who could not dial it: of its router, mostly."""
        return list(dict.fromkeys(self._answers[peer].seen for peer in self.hidden_from))

    @property
    def hidden_from(self) -> list[bytes]:
        """Peers that tried and found this node nowhere."""
        return [peer for peer, each in self._answers.items() if not each.reached]

    @property
    def verdict(self) -> str:
        """Who can dial this node, by the answers of this life."""
        scopes = {a.scope(address) for each in self._answers.values() for address in each.reached}
        for found, verdict in ((a.PUBLIC, PUBLIC), (a.LAN, LAN), (a.MACHINE, MACHINE)):
            if found in scopes:
                return verdict
        return HIDDEN if self._answers else UNKNOWN

    def failures(self) -> list[str]:
        """Where it was not found, and why: for people."""
        return list(
            dict.fromkeys(
                f"{address} ({cause})"
                for peer in self.hidden_from
                for address, cause in self._answers[peer].failed
            )
        )
