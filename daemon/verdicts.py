"""What is known of the way to others, in verdicts: how this node is reached, and whom it reaches.

Pure: facts in, verdicts out. `unknown` is said where nobody has tried yet; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll.peers import reach

CHECKS = (
    "device",
    "memory",
    "disk",
    "clock",
    "port",
    "reachable by others",
    "upload speed",
    "libp2p",
    "known addresses",
    "peers",
    "direct links",
    "direct lanes",
)
"""What there is a verdict on: of the machine (preflight.py), and of the way to others."""
NAMED = 2
"""Addresses that one sentence names."""


@dataclass(frozen=True)
class Reachable:
    """What others found when they dialled this node: `verdict` as in peers/reach.py, `tried` of them, of whom
    `reached` could; `failures`: where it was not found, and why. `port`: of this node, 0: not known.
    """

    verdict: str = reach.UNKNOWN
    addresses: tuple[str, ...] = ()
    tried: int = 0
    reached: int = 0
    failures: tuple[str, ...] = ()
    port: int = 0

    def as_verdict(self) -> dict[str, Any]:
        """In words, with what to do."""
        check, counted = "reachable by others", f"{self.reached}/{self.tried} that tried"
        where = _some(self.addresses)
        match self.verdict:
            case reach.PUBLIC:
                return verdict(check, "ok", f"{counted} can dial it at {where}")
            case reach.MACHINE:
                return verdict(check, "ok", f"by nodes of this machine: {counted} can dial it at {where}")
            case reach.LAN if self.reached == self.tried:
                return verdict(check, "ok", f"in this network: {counted} can dial it at {where}")
            case reach.LAN:
                text = (
                    f"in this network only: {counted} can dial it at {where}, not at {_some(self.failures)}"
                )
                return verdict(check, "degraded", text, self._fix())
            case reach.HIDDEN:
                text = f"none of {self.tried} that tried can dial it: {_some(self.failures)}"
                return verdict(check, "degraded", text, self._fix())
        return verdict(check, "unknown", "nobody has tried yet")

    def _fix(self) -> str:
        port = self.port or "of this node"
        return (
            f"Forward TCP port {port} on your router to port {port} of this machine, and open it in the "
            f"firewall; where it is another one outside, name it: --announce /ip4/ADDRESS/tcp/PORT."
        )


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


@dataclass(frozen=True)
class Connection:
    """Facts of the moment. `failed`: causes of the addresses that do not answer."""

    addresses: int
    reached: int
    failed: tuple[str, ...]
    links: int
    relayed: int
    lanes: int
    refused: int
    port: int
    process_up: bool
    reachable: Reachable = Reachable()


def verdicts(c: Connection) -> list[dict[str, Any]]:
    """One verdict for each part of the way, in the order in which a person would look."""
    return [_process(c), _addresses(c), _peers(c), c.reachable.as_verdict(), _direct(c), _lanes(c)]


def verdict(check: str, verdict: str, text: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "verdict": verdict, "text": text, "fix": fix}


def _process(c: Connection) -> dict[str, Any]:
    if c.process_up:
        return verdict("libp2p", "ok", f"listens on port {c.port}")
    return verdict(
        "libp2p", "blocked", "its process does not run", "It starts again by itself; see the events."
    )


def _addresses(c: Connection) -> dict[str, Any]:
    check = "known addresses"
    if c.addresses == 0:
        return verdict(check, "ok", "none is needed: this node began the swarm, or was found by others")
    text = f"{c.reached}/{c.addresses} answer"
    if c.reached:
        return verdict(check, "ok", text)
    causes = ", ".join(sorted(set(c.failed))[:3])
    fix = "Check this machine's network, or ask for a fresh ticket; it goes on trying."
    state = "degraded" if c.links else "blocked" if c.failed else "unknown"
    return verdict(check, state, f"{text}: {causes}" if causes else text, fix if c.failed else "")


def _peers(c: Connection) -> dict[str, Any]:
    if c.links:
        return verdict("peers", "ok", f"links to {c.links}")
    if c.refused:
        return verdict("peers", "blocked", f"{c.refused} refused this node", "See the alert for why.")
    return verdict("peers", "unknown", "no other node is there yet")


def _direct(c: Connection) -> dict[str, Any]:
    if not c.links:
        return verdict("direct links", "unknown", "no link yet")
    text = f"{c.links - c.relayed}/{c.links} without a relay"
    if c.relayed == 0:
        return verdict("direct links", "ok", text)
    fix = f"Forward TCP port {c.port} on your router, or open it in the firewall."
    return verdict("direct links", "degraded", text, fix)


def _lanes(c: Connection) -> dict[str, Any]:
    if not c.links:
        return verdict("direct lanes", "unknown", "no link yet")
    text = f"{c.lanes}/{c.links} carry rounds beside libp2p"
    return verdict("direct lanes", "ok", text if c.lanes else f"{text}; libp2p carries them, more slowly")
