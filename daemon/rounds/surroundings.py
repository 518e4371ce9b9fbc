"""What a guard of rounds uses of the node around it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from atoll.daemon.rounds.audit_log import AuditLog
from atoll.daemon.rounds.noise import Noise
from atoll.daemon.standing_file import StandingFile
from atoll.protocol import messages_pb2 as pb

Fetch = Callable[[bytes, str, int, int, Path, int], Awaitable[None]]
"""Peer, kind, version, chunk, target, most bytes; raises as `peers.files.fetch`."""


@dataclass(frozen=True)
class Surroundings:
    """Of one node."""

    standings: StandingFile
    records: AuditLog
    fetch: Fetch
    neighbours: Callable[[], Collection[bytes]]
    """To whom accusations go, and of whom a record may be expected."""
    send: Callable[[bytes, pb.Frame], None]
    say: Callable[[str], None]
    draw: Callable[[int], int]
    """A number from 0 to below the one given, which nobody can foresee."""
    noise: Noise | None = None
    """On what this node contributes, where its owner wants it."""


def alone(folder: Path, send: Callable[[bytes, pb.Frame], None] = lambda peer, frame: None) -> Surroundings:
    """For rounds that no node is around."""

    async def fetch(peer: bytes, kind: str, version: int, chunk: int, target: Path, most: int) -> None:
        raise ConnectionError("nobody is asked for files here")

    standings = StandingFile(folder / "standings.json")
    return Surroundings(
        standings,
        AuditLog(folder / "audits"),
        fetch,
        tuple,
        send,
        lambda text: None,
        random.Random(0).randrange,
    )
