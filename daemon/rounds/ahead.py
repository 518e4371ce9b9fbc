"""Commits that are fetched ahead: those after a state, while the state is still on its way.

Peers forget a commit after KEEP more. A state that comes over a slow or capped line may take longer than
that, and would be out of date when it is here, for ever: so what follows it is kept from the start. The files
are not checked here; whoever applies them does (sync.catch_up), and asks peers where they can't be used.

Owns the folder `ahead` in the folder of the replay log: `v.commit` and `v.payload` for the version v that a
commit makes, at most MAX_AHEAD of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.daemon.storage.files import disk_error
from atoll.daemon.storage.round_log import KEEP, MAX_RECORD_BYTES
from atoll.peers import fetching, files
from atoll.peers.p2pd import Host
from atoll.peers.roster import RosterEntry

MAX_AHEAD = 64
LOOK_S = 0.5

Peers = Callable[[], Sequence[RosterEntry]]


class Ahead:
    """Fetches for one swarm into one folder."""

    def __init__(self, folder: Path, swarm_id: bytes, payload_bytes: int) -> None:
        self.folder = folder
        self._swarm_id = swarm_id
        self._limits = {"payload": payload_bytes, "commit": MAX_RECORD_BYTES}

    def _path(self, version: int, kind: str) -> Path:
        return self.folder / f"{version:010d}.{kind}"

    def has(self, version: int) -> bool:
        """Whether the commit that makes `version` is here."""
        return self._path(version, "commit").exists()

    def take(self, version: int, commit: Path, payload: Path) -> None:
        """Moves the files of a version to where they are wanted. Blocking. Raises OSError."""
        self._path(version, "payload").replace(payload)
        self._path(version, "commit").replace(commit)

    def forget(self, up_to: int) -> None:
        """Removes the versions up to one. Raises OSError."""
        for path in self.folder.glob("*"):
            number = path.name.split(".")[0]
            if not number.isdecimal() or int(number) <= up_to:
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def kept(self, host: Host, peers: Peers, version: int) -> AsyncIterator[None]:
        """Within it, the commits after `version` are fetched as peers make them. Raises AtollError."""
        try:
            self.folder.mkdir(exist_ok=True)
            self.forget(version)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        task = asyncio.create_task(self._keep(host, peers, version))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def _keep(self, host: Host, peers: Peers, version: int) -> None:
        """Until nobody has the next commit any more, or MAX_AHEAD are here."""
        for wanted in range(version + 1, version + 1 + MAX_AHEAD):
            while not self.has(wanted):
                able = [entry for entry in peers() if entry.status.version >= wanted]
                if able and all(entry.status.version - wanted >= KEEP for entry in able):
                    return
                if not await self._fetch(host, able, wanted):
                    await asyncio.sleep(LOOK_S)

    async def _fetch(self, host: Host, able: Sequence[RosterEntry], version: int) -> bool:
        """Whether one of the peers gave the commit: first its results, so that both are here if it is."""
        for entry in able:
            try:
                for kind, limit in self._limits.items():
                    path = self._path(version, kind)
                    await files.fetch(
                        host.p2p, entry.peer, self._swarm_id, kind, path, version=version, max_bytes=limit
                    )
                return True
            except fetching.ERRORS:
                continue  # the next one may have it, and it is tried again
        return False
