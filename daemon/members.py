"""Membership of this node and of the others: kept on disk, told on, renewed.

members.pb holds the roll (a protobuf Roll) and is written within seconds of a change. Commands of an
organiser or admin (`atoll members …`, `approve`) leave what they signed in the folder inbox/, where a running
node finds it, or the next start does; whoever can write there has the key, or is refused like a stranger.
pending.json names who asks to be approved.

Where admission is open there is no roll, and all of this does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.neighbours import Neighbours
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers.admission import Admission
from atoll.peers.identity import readable_name
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.membership import MembershipError
from atoll.protocol.roll import Roll
from atoll.protocol.signing import Keyring, peer_text
from atoll.web_ui.state_types import Applicant

LOOK_S = 1.0
RENEW_S = 60.0
MAX_FILE_BYTES = 64 << 20
MAX_TOLD = 16
"""Refused newcomers that are told of in RENEW_S."""
log = logging.getLogger(__name__)


def read_roll(folder: DataDir, manifest: SwarmManifest) -> Roll | None:
    """The roll as it is kept, with what waits in the inbox; None where admission is open."""
    if manifest.is_open:
        return None
    roll = Roll(manifest.swarm, manifest.body.admission, bytes(manifest.body.genesis_node))
    for path in (folder.members, *sorted(folder.inbox.glob("*.pb"))):
        kept = _read(path)
        if kept is not None:
            take(roll, kept)
    return roll


def take(roll: Roll, kept: pb.Roll) -> None:
    """Adds what is in `kept`; what is refused is told in the log."""
    for signed in kept.revocations:
        try:
            roll.revoke(signed)
        except MembershipError as error:
            log.warning("a list of revocations is refused: %s", error)
    _, refused = roll.add_all(kept.members)
    if refused is not None:
        log.warning("a membership is refused: %s", refused)


def _read(path: Path) -> pb.Roll | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DecodeError("it is too large")
        return pb.Roll.FromString(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        log.warning("%s can't be read: %s", path, error)
        return None


def leave_for_node(folder: DataDir, said: pb.Roll) -> None:
    """Hands something signed to the node of this data dir, running or not. Raises AtollError."""
    try:
        folder.inbox.mkdir(exist_ok=True)
    except OSError as error:
        raise files.disk_error(folder.inbox, error) from error
    files.write_bytes(folder.inbox / f"{time.time_ns():020}.pb", said.SerializeToString())


class Members:
    """The roll of a running node."""

    def __init__(
        self,
        folder: DataDir,
        manifest: SwarmManifest,
        keyring: Keyring,
        events: Events,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._me = keyring.peer_id
        self._events = events
        # What commands left while no node ran is in the roll from the start, and in no other file yet.
        self._dirty = any(folder.inbox.glob("*.pb"))
        self._waiting: set[bytes] = set()
        self._unremoved: set[Path] = set()
        self._told_of: set[tuple[bytes, str]] = set()
        """Refusals of late: each is told once in RENEW_S, whatever strangers do."""
        self.neighbours: Neighbours | None = None
        self.admission = Admission(read_roll(folder, manifest), keyring, clock, self._changed)

    @property
    def own(self) -> pb.Membership | None:
        """What this node shows."""
        return None if self.admission.roll is None else self.admission.roll.membership(self._me)

    def admits(self, record: pb.PeerRecord) -> bool:
        """Whether the node of a DHT record may take part, as far as it shows."""
        roll = self.admission.roll
        if roll is None:
            return True
        standing = self.admission.standing(bytes(record.peer))
        if standing.is_in or standing.code not in ("no_certificate", "unknown_witness"):
            return standing.is_in
        try:
            # Whether its witness is a member is seen when it is met.
            return m.check(record.membership, roll.swarm).node == record.peer
        except MembershipError as error:
            self.admission.refused[error.code] += 1
            return False

    def _changed(self) -> None:
        self._dirty = True
        if self.neighbours is not None:
            self.neighbours.look_at_members()

    def answer(self, peer: bytes, request: pb.EnrolRequest) -> pb.EnrolReply:
        """To a newcomer that asks this node."""
        mine = wire.spoken()
        if request.swarm_id != self._manifest.swarm_id:
            return pb.EnrolReply(code="other_swarm", reason="this node is of another swarm", protocol=mine)
        try:
            wire.common_version(request.protocol)
        except wire.IncompatibleProtocol as error:
            return pb.EnrolReply(code="incompatible", reason=str(error), protocol=mine)
        reply, news = self.admission.enrol(peer, request)
        if not reply.code:
            reply.manifest.CopyFrom(self._manifest.signed)
        if news is not None:
            self._spread(news)
        if news is not None and not reply.code:
            self._events.emit("members", f"{readable_name(peer)} was admitted by its ticket.")
        elif reply.code and not request.look and self._tell_of(peer, reply.code):
            self._events.emit("members", f"{readable_name(peer)} asks to take part: {reply.reason}.")
        return reply

    def _tell_of(self, peer: bytes, code: str) -> bool:
        new = (peer, code) not in self._told_of and len(self._told_of) < MAX_TOLD
        if new:
            self._told_of.add((peer, code))
        return new

    def _spread(self, news: pb.Frame) -> None:
        if self.neighbours is not None:
            self.neighbours.spread(news)

    async def keep(self) -> None:
        """Takes in what commands left, saves, renews neighbours' certificates. Runs until cancelled."""
        if self.admission.roll is None:
            return
        renew_at = 0.0
        while True:
            taken = await asyncio.to_thread(lambda: sorted(self._folder.inbox.glob("*.pb")))
            for path in taken:
                said = await asyncio.to_thread(_read, path)
                if said is not None and path not in self._unremoved:
                    self.take(said)
            if self.neighbours is not None and time.monotonic() >= renew_at:
                renew_at = time.monotonic() + RENEW_S
                self._told_of.clear()
                self.neighbours.look_at_members()  # certificates end by time, too
                news = self.admission.renewed(self.neighbours.links.peers)
                if news is not None:
                    self._spread(news)
            await self.save()
            if not self._dirty:
                # Only now: what is in no file would be lost with this process.
                await asyncio.to_thread(self._remove, taken)
            await asyncio.sleep(LOOK_S)

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if path not in self._unremoved:
                    self._events.emit("members", f"{path} can't be removed: {error.strerror}.")
                self._unremoved.add(path)

    def take(self, said: pb.Roll) -> None:
        """What was signed on this machine: taken in, told to everybody."""
        for signed in said.revocations:
            self._taken(partial(self.admission.revoke, signed), "A revocation")
        for member in said.members:
            self._taken(partial(self.admission.admit, member), "A certificate")

    def _taken(self, act: Callable[[], pb.Frame | None], what: str) -> None:
        try:
            news = act()
        except MembershipError as error:
            self._events.emit("members", f"{what} is refused: {error}.")
            return
        if news is not None:
            self._events.emit("members", f"{what} is in force.")
            self._spread(news)

    async def keep_now(self) -> None:
        """Writes the roll down whatever was written before: what a ticket was used for must not be lost."""
        self._dirty = True
        await self.save()

    async def save(self) -> None:
        """Writes the roll down if it has changed. A disk that refuses is tried again."""
        roll = self.admission.roll
        if self.admission.pending.keys() != self._waiting:
            self._waiting = set(self.admission.pending)
            await asyncio.to_thread(self._save_pending)
        if roll is None or not self._dirty:
            return
        self._dirty = False
        kept = pb.Roll(members=roll.memberships, revocations=roll.revocations)
        try:
            await asyncio.to_thread(files.write_bytes, self._folder.members, kept.SerializeToString())
        except AtollError as error:
            self._dirty = True
            log.warning("%s", error)

    def pending(self) -> list[Applicant]:
        """Who asks to be approved."""
        waiting: list[Applicant] = []
        for node, (shown, label, at) in list(self.admission.pending.items()):
            grant = pb.Grant.FromString(shown.grant.body)
            waiting.append(
                {
                    "node": peer_text(node),
                    "name": readable_name(node),
                    "label": label or grant.label,
                    "role": m.ROLE_NAMES[grant.role],
                    "asked_unix_s": at,
                }
            )
        return waiting

    def _save_pending(self) -> None:
        with contextlib.suppress(AtollError):
            files.write_json(self._folder.pending, self.pending())
