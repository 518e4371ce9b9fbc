"""What rounds use of a node so that members who lie do no harm."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.daemon.rounds.audit_log import AuditLog
from atoll.daemon.rounds.surroundings import Surroundings
from atoll.daemon.standing_file import StandingFile
from atoll.peers.files import fetch
from atoll.peers.roster import RosterEntry
from atoll.protocol import messages_pb2 as pb

if TYPE_CHECKING:
    from atoll.daemon.node import Node

MAX_TOLD = 16
"""Nodes in quarantine that a status names."""


def standing_file_of(node: Node) -> StandingFile:
    """Standings of this node's data dir, told in its events; a change makes a roster of its own."""
    return StandingFile(
        node.folder.standings,
        lambda text: node.events.emit("trust", text),
        node.roster_changed,
    )


def surroundings_of(node: Node) -> Surroundings:
    """For the rounds of a node with links."""
    assert node.neighbours is not None and node.manifest is not None and node.network is not None
    neighbours, network, swarm_id = node.neighbours, node.network, node.manifest.swarm_id

    async def fetch_record(peer: bytes, kind: str, version: int, chunk: int, target: Path, most: int) -> None:
        await fetch(network.host, peer, swarm_id, kind, target, version=version, chunk=chunk, max_bytes=most)

    return Surroundings(
        node.standings,
        AuditLog(node.folder.audits),
        fetch_record,
        lambda: neighbours.links.peers,
        neighbours.send,
        lambda text: node.events.emit("trust", text),
        secrets.randbelow,
        node.noise,
    )


def quarantined_by(entries: Iterable[RosterEntry], me: bytes) -> list[str]:
    """The coded reasons of those who leave this node's contributions out, as their statuses say."""
    named = (next((q.reason for q in entry.status.quarantined if q.peer == me), None) for entry in entries)
    return [reason for reason in named if reason is not None]


def told_of(standings: StandingFile) -> list[pb.Quarantined]:
    """Whom this node leaves out, for its status."""
    everyone = sorted(standings.standings.all_quarantined.items())
    return [pb.Quarantined(peer=peer, reason=reason) for peer, reason in everyone[:MAX_TOLD]]
