"""Catching up: from a peer's head to this node's, by replay of missed commits or by a whole state.

Missed commits are exact and small (encoded results); they are tried first while the gap is within what
peers keep. Else one state is chosen, the one that most peers name in the same bits, and fetched from all of
them at once; what came is believed only if it is that state. A transfer that breaks goes on from where it
was, at other holders, and never turns to a newer state on its way: replay brings the rest (ahead.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from atoll.daemon.rounds.ahead import Ahead
from atoll.daemon.rounds.outer_state import OuterState, check_file
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.files import disk_error, refusals_told
from atoll.daemon.storage.round_log import KEEP, MAX_RECORD_BYTES, RoundLogError, parse_record
from atoll.peers import fetching, files
from atoll.peers.disk import this_disk
from atoll.peers.fetching import Offer, Options, TransferFailed, Wanted
from atoll.peers.following import Choice
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import Host
from atoll.peers.roster import RosterEntry
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import MAX_MANIFEST_BYTES, ManifestError, SwarmManifest, load

log = logging.getLogger(__name__)

_HEADER_ROOM = 16 << 20
TRANSFER_ERRORS = fetching.ERRORS
PROOF_S = 10.0
_INCOMING = re.compile(r"^incoming-([0-9a-f]{64})\.safetensors\.part$")


class SyncFailed(RuntimeError):
    """Nobody could give what was asked for; the message says who failed how. `liars` gave something else."""

    def __init__(self, message: str, liars: Sequence[bytes] = ()) -> None:
        super().__init__(message)
        self.liars = tuple(liars)


def _said(failures: Iterable[str], liars: Sequence[bytes] = ()) -> SyncFailed:
    return SyncFailed("; ".join(dict.fromkeys(failures)) or "no peer is connected", liars)


async def fetch_manifest(host: Host, peers: Sequence[bytes], swarm_id: bytes, target: Path) -> SwarmManifest:
    """The swarm's manifest from the first peer that has it. Raises SyncFailed, AtollError."""
    failures = []
    for peer in peers:
        try:
            with refusals_told():
                await files.fetch(host, peer, swarm_id, "manifest", target, max_bytes=MAX_MANIFEST_BYTES)
            return load(target.read_bytes(), expect_swarm=swarm_id)
        except (*TRANSFER_ERRORS, ManifestError) as error:
            failures.append(str(error) or type(error).__name__)
            target.unlink(missing_ok=True)
    raise _said(failures)


# ---------------------------------------------------------------------------------------------------
# Large files from several holders


async def _fetch_large(
    host: Host,
    peers: Sequence[bytes],
    wanted: Wanted,
    target: Path,
    options: Options,
    check: Callable[[Path], None],
) -> None:
    """A file from all of `peers` that have it. What most of them name is tried first.

    `check` (blocking) raises ValueError unless it is the right one. Raises SyncFailed, AtollError.
    """
    found, errors = await fetching.offers(host.p2p, peers, wanted)
    failures = [f"{readable_name(peer)}: {error or type(error).__name__}" for peer, error in errors.items()]
    liars: list[bytes] = []
    for offer in found:
        try:
            with refusals_told():
                await fetching.fetch_content(host, wanted, offer, target, options)
            await asyncio.to_thread(check, target)
            return
        except TransferFailed as error:
            failures.append(str(error))
        except OSError as error:
            raise disk_error(target, error) from error
        except ValueError as error:
            target.unlink(missing_ok=True)
            failures.append(f"{_names(offer)} gave another file than was asked for: {error}")
            liars += offer.holders
    raise _said(failures, liars)


def _names(offer: Offer) -> str:
    return " and ".join(readable_name(peer) for peer in offer.holders)


async def fetch_data(
    host: Host, peers: Sequence[bytes], manifest: SwarmManifest, shard: int, target: Path, options: Options
) -> None:
    """A shard of the text that the manifest names. Raises SyncFailed, AtollError."""
    wants = manifest.body.data.shards[shard]

    def check(path: Path) -> None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != wants.digest:
                raise ValueError("it does not have the digest that the manifest names")

    wanted = Wanted(manifest.swarm_id, "data", shard, int(wants.size_bytes))
    await _fetch_large(host, peers, wanted, target, options, check)


def incoming(folder: Path, state: bytes) -> Path:
    """Where a state is fetched to: by its name, so that what is there of it is found again."""
    return folder / f"incoming-{state.hex()}.safetensors"


def begun(folder: Path) -> set[bytes]:
    """States of which a part is here."""
    names = (_INCOMING.match(path.name) for path in folder.glob("incoming-*.part"))
    return {bytes.fromhex(match.group(1)) for match in names if match}


async def fetch_checkpoint(
    host: Host, choice: Choice, manifest: SwarmManifest, folder: Path, options: Options
) -> Path:
    """Fetches the chosen state from all who name it, and checks that it is that one.

    Raises SyncFailed, AtollError.
    """
    target = incoming(folder, choice.state)
    for path in folder.glob("incoming*"):
        if not path.name.startswith(target.name):
            path.unlink(missing_ok=True)

    def check(path: Path) -> None:
        found = check_file(manifest, path)
        if (found.head.version, found.state) != (choice.version, choice.state):
            raise CheckpointError("it is not the state that was agreed on")

    max_bytes = 8 * manifest.body.total_values + _HEADER_ROOM
    wanted = Wanted(manifest.swarm_id, "checkpoint", choice.version, max_bytes)
    await _fetch_large(host, choice.peers, wanted, target, options, check)
    return target


# ---------------------------------------------------------------------------------------------------
# Proof, and replay


async def fetch_record(host: Host, peer: bytes, state: OuterState, version: int) -> pb.RoundRecord:
    """A peer's record of a commit: what was signed and the votes. Raises SyncFailed."""
    path = state.rounds.folder / "proof.record"
    try:
        async with asyncio.timeout(PROOF_S):
            await files.fetch(
                host,
                peer,
                state.manifest.swarm_id,
                "commit",
                path,
                version=version,
                max_bytes=MAX_RECORD_BYTES,
            )
        return parse_record(path.read_bytes())
    except (*TRANSFER_ERRORS, RoundLogError) as error:
        raise _said([str(error) or type(error).__name__]) from error
    finally:
        path.unlink(missing_ok=True)


OnDisk = Callable[..., Awaitable[Any]]
Applied = list[tuple[pb.Commit, bytes]]
"""Commits in order, each with the digest of the head that it made."""


async def catch_up(
    host: Host,
    holders: Sequence[RosterEntry],
    state: OuterState,
    on_disk: OnDisk,
    applied: Applied,
    ahead: Ahead,
    leads: Callable[[RosterEntry], bool],
) -> None:
    """Fetches and applies the commits between this head and the first holder's.

    It ends before one without the votes of a majority, if what that holder has then does not `lead` on: it
    may have made it alone. Each applied one joins `applied`, with the digest of the head that it made. The
    other holders are at the same head, and step in where the first one fails. What was fetched `ahead` is
    used first.

    Raises SyncFailed where their logs do not reach back, or their commits do not follow this head, and
    AtollError where this disk refuses.
    """
    goal = int(holders[0].status.version)
    if goal - state.head.version > KEEP and not ahead.has(state.head.version + 1):
        raise SyncFailed("the gap is longer than the log that peers keep")
    while state.head.version < goal:
        failures: list[str] = []
        sources: list[bytes | Ahead] = [ahead] if ahead.has(state.head.version + 1) else []
        for source in (*sources, *(holder.peer for holder in holders)):
            try:
                commit = await _replay_one(host, source, state, on_disk, lambda: leads(holders[0]))
                if commit is None:
                    return
                applied.append((commit, state.head.digest))
                # A long way would fill the log otherwise: it keeps what no checkpoint covers.
                await on_disk(state.save_if_due)
                break
            except (*TRANSFER_ERRORS, RoundLogError) as error:
                failures.append(f"commit {state.head.version + 1}: {error or type(error).__name__}")
        else:
            raise _said(failures)
    await on_disk(ahead.forget, state.head.version)


async def _replay_one(
    host: Host, source: bytes | Ahead, state: OuterState, on_disk: OnDisk, leads: Callable[[], bool]
) -> pb.Commit | None:
    """Fetches, checks and applies the next commit; None if it does not count."""
    version = state.head.version + 1
    record = await _fetch_commit(host, source, state, version, on_disk)
    commit, certified = state.check(record)
    if not (certified or leads()):
        return None
    await on_disk(state.rounds.check_payload, version, commit)
    await on_disk(state.replay, record, certified)
    return commit


async def _fetch_commit(
    host: Host, source: bytes | Ahead, state: OuterState, version: int, on_disk: OnDisk
) -> pb.RoundRecord:
    record, payload = state.rounds.folder / "incoming.record", state.rounds.path(version, "payload")
    with refusals_told(), this_disk(state.rounds.folder):
        await on_disk(state.rounds.release)
    if isinstance(source, Ahead):
        await on_disk(source.take, version, record, payload)
    else:
        wanted = (
            ("commit", record, MAX_RECORD_BYTES),
            ("payload", payload, state.rounds.payload_bytes),
        )
        for kind, path, limit in wanted:
            with refusals_told():
                await files.fetch(
                    host, source, state.manifest.swarm_id, kind, path, version=version, max_bytes=limit
                )
    with refusals_told(), this_disk(record):
        return parse_record(record.read_bytes())
