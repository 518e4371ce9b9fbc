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

from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.rounds.drops import Drops
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import MAX_AMENDMENT_BYTES, Amended, AmendmentError, Amendments
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest
from atoll.web_ui.state_types import Amendment

LOOK_S = 1.0
log = logging.getLogger(__name__)


def load(folder: DataDir, manifest: SwarmManifest) -> Amendments:
    """What is in a data dir; what can't be used is told in the log, and peers have it. Blocking."""
    amendments = Amendments(manifest)
    for path in sorted(folder.amendments.glob("*.pb")):
        try:
            amendments.add(_read(path))
        except (AmendmentError, OSError) as error:
            log.warning("%s is not used: %s", path, error)
    return amendments


def keep(folder: DataDir, amended: Amended) -> None:
    """Writes one down. Raises AtollError. Blocking."""
    try:
        folder.amendments.mkdir(exist_ok=True)
    except OSError as error:
        raise files.disk_error(folder.amendments, error) from error
    files.write_bytes(_path(folder, amended.sequence), amended.signed.SerializeToString())


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
        changed: Callable[[], None],
    ) -> None:
        self.amendments = amendments
        self.refused = Drops()
        """What peers told that was not taken."""
        self.tell: Callable[[pb.Frame, bytes], None] = lambda frame, but: None
        self._folder = folder
        self._events = events
        self._changed = changed
        self._unsaved: dict[int, Amended] = {}
        self._unused: set[Path] = set()

    def greeting(self) -> list[pb.Frame]:
        """What a new neighbour is told, in order."""
        return [pb.Frame(amendment=one.signed) for one in self.amendments]

    def heard(self, peer: bytes, signed: pb.Signed) -> None:
        """A peer told of one."""
        try:
            if self._take(signed, peer):
                self._unsaved[self._newest.sequence] = self._newest
        except AmendmentError as error:
            self.refused.note(peer, "amendment that is not possible", str(error))

    @property
    def _newest(self) -> Amended:
        return list(self.amendments)[-1]

    def _take(self, signed: pb.Signed, teller: bytes) -> bool:
        """Whether it is new. Raises AmendmentError."""
        if not self.amendments.add(signed):
            return False
        new = self._newest
        text = f"The organiser has amended the manifest: {said(new)}."
        self._events.emit("manifest", text, sequence=new.sequence, from_round=new.from_round)
        self._changed()
        self.tell(pb.Frame(amendment=signed), teller)
        return True

    async def keep(self) -> None:
        """Takes in what a command left, and writes down what peers told. Runs until cancelled."""
        while True:
            here = {one.sequence for one in self.amendments}
            for path in await asyncio.to_thread(lambda: sorted(self._folder.amendments.glob("*.pb"))):
                if path not in self._unused and path not in {_path(self._folder, n) for n in here}:
                    await self._left(path)
            for sequence, one in list(self._unsaved.items()):
                try:
                    await asyncio.to_thread(keep, self._folder, one)
                except AtollError as error:
                    log.warning("%s", error)
                    break
                del self._unsaved[sequence]
            await asyncio.sleep(LOOK_S)

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
    """A value as people read it, and as `atoll manifest update --set` takes it."""
    if isinstance(value, list):
        return ",".join(shown(one) for one in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def described(amendments: Amendments, head: Head | None) -> list[Amendment]:
    """For the page: all of them, oldest first. `head`: of this node; None: it has none yet."""
    found = list(amendments)
    digests = [one.digest for one in found]
    by = digests.index(head.amendment) if head is not None and head.amendment in digests else -1
    return [
        {
            "version": one.sequence,
            "from_round": one.from_round,
            "in_force": place <= by,
            "note": one.note,
            "signed_unix_s": one.created_unix_s,
            "changes": [
                {"field": name, "before": shown(before), "after": shown(after)}
                for name, before, after in one.changes
            ],
        }
        for place, one in enumerate(found)
    ]
