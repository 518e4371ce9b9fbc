"""What is known of the way to others, in verdicts: how this node is reached, and whom it reaches.

Pure: facts in, verdicts out. `unknown` is said where nobody has tried yet; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Connection:
    """Facts of the moment. `failed`: causes of the addresses that do not answer."""

    addresses: int
    reached: int
    failed: tuple[str, ...]
    links: int
    relayed: int
    dialled_by_others: int
    lanes: int
    refused: int
    port: int
    process_up: bool


def verdicts(c: Connection) -> list[dict[str, Any]]:
    """One verdict for each part of the way, in the order in which a person would look."""
    return [_process(c), _addresses(c), _peers(c), _reachable(c), _direct(c), _lanes(c)]


def _verdict(check: str, verdict: str, text: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "verdict": verdict, "text": text, "fix": fix}


def _process(c: Connection) -> dict[str, Any]:
    if c.process_up:
        return _verdict("libp2p", "ok", f"listens on port {c.port}")
    return _verdict(
        "libp2p", "blocked", "its process does not run", "It starts again by itself; see the events."
    )


def _addresses(c: Connection) -> dict[str, Any]:
    check = "known addresses"
    if c.addresses == 0:
        return _verdict(check, "ok", "none is needed: this node began the swarm, or was found by others")
    text = f"{c.reached}/{c.addresses} answer"
    if c.reached:
        return _verdict(check, "ok", text)
    causes = ", ".join(sorted(set(c.failed))[:3])
    fix = "Check this machine's network, or ask for a fresh ticket; it goes on trying."
    state = "degraded" if c.links else "blocked" if c.failed else "unknown"
    return _verdict(check, state, f"{text}: {causes}" if causes else text, fix if c.failed else "")


def _peers(c: Connection) -> dict[str, Any]:
    if c.links:
        return _verdict("peers", "ok", f"links to {c.links}")
    if c.refused:
        return _verdict("peers", "blocked", f"{c.refused} refused this node", "See the alert for why.")
    return _verdict("peers", "unknown", "no other node is there yet")


def _reachable(c: Connection) -> dict[str, Any]:
    check = "reachable by others"
    if c.dialled_by_others:
        return _verdict(check, "ok", f"{c.dialled_by_others} of {c.links} came to this node")
    if not c.links:
        return _verdict(check, "unknown", "nobody has tried yet")
    return _verdict(
        check,
        "unknown",
        "all links were opened from here",
        f"Where two such nodes can't reach each other, others relay: forward TCP port {c.port} to be safe.",
    )


def _direct(c: Connection) -> dict[str, Any]:
    if not c.links:
        return _verdict("direct links", "unknown", "no link yet")
    text = f"{c.links - c.relayed}/{c.links} without a relay"
    if c.relayed == 0:
        return _verdict("direct links", "ok", text)
    fix = f"Forward TCP port {c.port} on your router, or open it in the firewall."
    return _verdict("direct links", "degraded", text, fix)


def _lanes(c: Connection) -> dict[str, Any]:
    if not c.links:
        return _verdict("direct lanes", "unknown", "no link yet")
    text = f"{c.lanes}/{c.links} carry rounds beside libp2p"
    return _verdict("direct lanes", "ok", text if c.lanes else f"{text}; libp2p carries them, more slowly")
