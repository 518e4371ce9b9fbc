"""The amendments of the manifest at a node: kept on disk, taken from command and peers, told on.

Each is a file in the folder amendments/, by its place in their order. `atoll manifest update` writes the
next one there, where a running node finds it, or the next start does; peers tell each other all of them when
a link is up, then what is new. Whoever tells them, only what the organiser signed is taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from atoll.daemon.alerts import Alerts
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.rounds.drops import Drops
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import MAX_AMENDMENT_BYTES, Amended, AmendmentError, Amendments, OtherAmendment
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest
from atoll.web_ui.state_types import Amendment

LOOK_S = 1.0
log = logging.getLogger(__name__)


def load(folder: DataDir, manifest: SwarmManifest) -> Amendments:
    """What is in a data dir; what can't be used is told in the log, and peers have it. Blocking."""
    amendments = Amendments(manifest)
    for path in _files(folder):
        try:
            amendments.add(_read(path))
        except (AmendmentError, OSError) as error:
            log.warning("%s is not used: %s", path, error)
    return amendments


def keep(folder: DataDir, amended: Amended) -> None:
    """Writes one down; never over another one. Raises AtollError. Blocking."""
    try:
        folder.amendments.mkdir(exist_ok=True)
    except OSError as error:
        raise files.disk_error(folder.amendments, error) from error
    path, data = _path(folder, amended.sequence), amended.signed.SerializeToString()
    if path.exists() and path.read_bytes() != data:
        text = f"There is another version {amended.sequence} of the manifest in {path}."
        raise AtollError(Exit.USAGE, "amendment_exists", text, "Look at it with `atoll manifest show`.")
    files.write_bytes(path, data)


def _files(folder: DataDir) -> list[Path]:
    """In order; none where the disk does not tell."""
    try:
        return sorted(folder.amendments.glob("*.pb"))
    except OSError as error:
        log.warning("%s can't be looked at: %s", folder.amendments, error)
        return []


def _path(folder: DataDir, sequence: int) -> Path:
    return folder.amendments / f"{sequence:06d}.pb"


def _read(path: Path) -> pb.Signed:
    """Raises AmendmentError, OSError."""
    if path.stat().st_size > MAX_AMENDMENT_BYTES:
        raise AmendmentError(f"it is over {MAX_AMENDMENT_BYTES} bytes long")
    try:
        return pb.Signed.FromString(path.read_bytes())
    except DecodeError as error:
        raise AmendmentError("it is damaged") from error


class Amending:
    """Of a running node. `changed` is called when there is a new one, `tell` with what others are to hear."""

    def __init__(
        self,
        folder: DataDir,
        amendments: Amendments,
        events: Events,
        alerts: Alerts,
        changed: Callable[[], None],
    ) -> None:
        self.amendments = amendments
        self.refused = Drops()
        """What peers told that was not taken."""
        self.tell: Callable[[pb.Frame, bytes], None] = lambda frame, but: None
        self._folder = folder
        self._events = events
        self._alerts = alerts
        self._changed = changed
        self._unsaved: dict[int, Amended] = {}
        self._unused: set[Path] = set()

    def greeting(self) -> list[pb.Frame]:
        """What a new neighbour is told, in order."""
        return [pb.Frame(amendment=one.signed) for one in self.amendments]

    def heard(self, peer: bytes, signed: pb.Signed) -> None:
        """A peer told of one."""
        try:
            new = self._take(signed, peer)
        except OtherAmendment as error:
            fix = "Ask the organiser which one holds: whoever has the other one goes another way."
            self._alerts.raise_("amendments_differ", f"A peer tells that {error}.", fix)
        except AmendmentError as error:
            self.refused.note(peer, "amendment that is not possible", str(error))
        else:
            if new is not None:
                self._unsaved[new.sequence] = new

    def _take(self, signed: pb.Signed, teller: bytes) -> Amended | None:
        """The amendment, where it is new. Raises AmendmentError."""
        if not self.amendments.add(signed):
            return None
        new = self.amendments.last
        assert new is not None
        text = f"The organiser has amended the manifest: {said(new)}."
        self._events.emit("manifest", text, sequence=new.sequence, from_round=new.from_round)
        # First: a plan that goes by it must not come before it.
        self.tell(pb.Frame(amendment=signed), teller)
        self._changed()
        return new

    async def keep(self) -> None:
        """Takes in what a command left, and writes down what peers told. Runs until cancelled."""
        while True:
            here = {_path(self._folder, one.sequence) for one in self.amendments}
            for path in await asyncio.to_thread(_files, self._folder):
                if path not in self._unused | here:
                    await self._left(path)
            await self._save()
            await asyncio.sleep(LOOK_S)

    async def _save(self) -> None:
        """Writes down what peers told; a disk that refuses is an alert, and tried again."""
        for sequence, one in list(self._unsaved.items()):
            try:
                await asyncio.to_thread(keep, self._folder, one)
            except AtollError as error:
                self._alerts.raise_(error.code, error.message, error.fix)
                return
            del self._unsaved[sequence]

    async def _left(self, path: Path) -> None:
        try:
            self._take(await asyncio.to_thread(_read, path), b"")
        except (AmendmentError, OSError) as error:
            self._unused.add(path)
            self._events.emit("manifest", f"{path} is not used: {error}.")


def said(amended: Amended) -> str:
    """What an amendment changes and when, in words."""
    changes = ", ".join(f"{name} {shown(before)} → {shown(after)}" for name, before, after in amended.changes)
    return f"{changes}, from round {amended.from_round} on"


def shown(value: Any) -> str:
    """A value as people read it, and as `atoll manifest update` takes it."""
    if isinstance(value, list):
        return ",".join(shown(one) for one in value) or "none"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def described(amendments: Amendments, head: Head | None) -> list[Amendment]:
    """For the page: all of them, oldest first. `head`: of this node; None: it has none yet."""
    in_force = amendments.place(head.amendment) if head is not None else 0
    return [
        {
            "version": one.sequence,
            "from_round": one.from_round,
            "in_force": place <= in_force,
            "note": one.note,
            "signed_unix_s": one.created_unix_s,
            "changes": [
                {"field": name, "before": shown(before), "after": shown(after)}
                for name, before, after in one.changes
            ],
        }
        for place, one in enumerate(amendments, 1)
    ]
