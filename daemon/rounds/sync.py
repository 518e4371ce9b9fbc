"""Catching up: from a peer's head to this node's, by replay of missed commits or by a whole checkpoint.

Missed commits are exact and small (encoded results); they are tried first while the gap is within what
peers keep. Else the newest checkpoint of the furthest peer is fetched, checked against what other peers say
of the same version, and taken over. A broken transfer goes on from where it was, at another holder.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from atoll.daemon.rounds.outer_state import OuterState, check_record
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.round_log import KEEP, MAX_RECORD_BYTES, RoundLogError, parse_record
from atoll.peers import files
from atoll.peers.p2pd import Host
from atoll.peers.roster import RosterEntry
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import MAX_MANIFEST_BYTES, ManifestError, SwarmManifest, load

log = logging.getLogger(__name__)

_HEADER_ROOM = 16 << 20
TRANSFER_ERRORS = (files.FileRefused, files.FileDamaged, OSError, EOFError, TimeoutError)


class SyncFailed(RuntimeError):
    """Nobody could give what was asked for; the message says who failed how."""


async def fetch_manifest(host: Host, peers: Sequence[bytes], swarm_id: bytes, target: Path) -> SwarmManifest:
    """The swarm's manifest from the first peer that has it. Raises SyncFailed."""
    failures = []
    for peer in peers:
        try:
            await files.fetch(host.p2p, peer, swarm_id, "manifest", target, max_bytes=MAX_MANIFEST_BYTES)
            return load(target.read_bytes(), expect_swarm=swarm_id)
        except (*TRANSFER_ERRORS, ManifestError) as error:
            failures.append(str(error) or type(error).__name__)
            target.unlink(missing_ok=True)
    raise SyncFailed("; ".join(dict.fromkeys(failures)) or "no peer is connected")


async def fetch_data(
    host: Host, peers: Sequence[bytes], manifest: SwarmManifest, target: Path, progress: files.Progress
) -> None:
    """The text that the manifest names; its digest is checked by whoever reads it. Raises SyncFailed."""
    failures = []
    for peer in peers:
        try:
            await files.fetch(
                host.p2p,
                peer,
                manifest.swarm_id,
                "data",
                target,
                max_bytes=manifest.body.data.size_bytes,
                progress=progress,
            )
            return
        except TRANSFER_ERRORS as error:
            failures.append(str(error) or type(error).__name__)
    raise SyncFailed("; ".join(dict.fromkeys(failures)) or "no peer is connected")


async def fetch_checkpoint(
    host: Host,
    holders: Sequence[RosterEntry],
    manifest: SwarmManifest,
    folder: Path,
    progress: files.Progress,
) -> Path:
    """The newest checkpoint of one of the holders, confirmed by whoever else has it. Raises SyncFailed."""
    failures = []
    target = folder / "incoming.safetensors"
    for holder in holders:
        try:
            await files.fetch(
                host.p2p,
                holder.peer,
                manifest.swarm_id,
                "checkpoint",
                target,
                max_bytes=8 * manifest.body.total_values + _HEADER_ROOM,
                progress=progress,
            )
            found = await asyncio.to_thread(checkpoints.verify, target, manifest.swarm_id)
            confirm(found, holders)
            checkpoints.schema_of(target, manifest.swarm_id, manifest.body.schema_digest)
            return target
        except (*TRANSFER_ERRORS, CheckpointError) as error:
            failures.append(str(error) or type(error).__name__)
            if isinstance(error, CheckpointError):
                target.unlink(missing_ok=True)
    raise SyncFailed("; ".join(dict.fromkeys(failures)) or "no peer has a checkpoint")


def confirm(found: checkpoints.Checkpoint, holders: Sequence[RosterEntry]) -> None:
    """Raises CheckpointError if more holders of this version name another state than name this one."""
    said = Counter(
        bytes(h.status.checkpoint_state) for h in holders if h.status.checkpoint_version == found.head.version
    )
    agreeing = said.pop(found.state, 0)
    if said and max(said.values()) > agreeing:
        raise CheckpointError(f"most peers hold another state of version {found.head.version}")


OnDisk = Callable[..., Awaitable[Any]]


async def catch_up(
    host: Host, holder: RosterEntry, state: OuterState, on_disk: OnDisk, applied: list[pb.Commit]
) -> None:
    """Fetches and applies the commits between this head and the holder's; each applied one joins `applied`.

    Raises SyncFailed where the holder's log does not reach back, or its commits do not follow this head.
    """
    if holder.status.version - state.head.version > KEEP:
        raise SyncFailed("the gap is longer than the log that peers keep")
    while state.head.version < holder.status.version:
        version = state.head.version + 1
        try:
            record = await _fetch_commit(host, holder.peer, state, version, on_disk)
            commit, certified = check_record(state.manifest, state.head, record)
            await on_disk(state.rounds.check_payload, version, commit)
        except (*TRANSFER_ERRORS, RoundLogError) as error:
            raise SyncFailed(f"commit {version}: {error}") from error
        await on_disk(state.replay, record, certified)
        applied.append(commit)


async def _fetch_commit(
    host: Host, peer: bytes, state: OuterState, version: int, on_disk: OnDisk
) -> pb.RoundRecord:
    await on_disk(state.rounds.release)
    record = state.rounds.folder / "incoming.record"
    wanted = (
        ("commit", record, MAX_RECORD_BYTES),
        ("payload", state.rounds.path(version, "payload"), state.rounds.payload_bytes),
    )
    for kind, path, limit in wanted:
        # What an aborted session or a broken transfer left is not worth resuming: it is one round.
        path.with_name(path.name + ".part").unlink(missing_ok=True)
        await files.fetch(
            host.p2p, peer, state.manifest.swarm_id, kind, path, version=version, max_bytes=limit
        )
    return parse_record(record.read_bytes())
