"""Commits that are fetched ahead: those after a state, while the state is still on its way.

Peers forget a commit after KEEP more. A state that comes over a slow or capped line may take longer than
that, and would be out of date when it is here, for ever: so what follows it is kept from the start. The files
are not checked here; whoever applies them does (sync.catch_up), and asks peers where they can't be used.

Owns the folder `ahead` in the folder of the replay log: `v.commit` and `v.payload` for the version v that a
commit makes, at most MAX_AHEAD of them and MAX_BYTES (or some payloads, if those are larger).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.daemon.storage.files import disk_error, refusals_told
from atoll.daemon.storage.round_log import KEEP, MAX_RECORD_BYTES
from atoll.peers import fetching, files
from atoll.peers.disk import this_disk
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.peers.roster import RosterEntry

MAX_AHEAD = 64
MAX_BYTES = 2 << 30
MIN_PAYLOADS = 8
"""So many may come in any case: about a whole state, with results of one byte a value."""
LOOK_S = 0.5

Peers = Callable[[], Sequence[RosterEntry]]


class Ahead:
    """Fetches for one swarm into one folder."""

    def __init__(self, folder: Path, swarm_id: bytes, payload_bytes: int) -> None:
        self.folder = folder
        self._room_bytes = max(MAX_BYTES, MIN_PAYLOADS * payload_bytes)
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
    async def kept(
        self, host: Host, peers: Peers, version: int, cap: RateCap | None = None
    ) -> AsyncIterator[None]:
        """Within it, the commits after `version` are fetched as peers make them, within `cap`.

        Raises AtollError.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            self.forget(version)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        task = asyncio.create_task(self._keep(host, peers, version, cap or RateCap()))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def _keep(self, host: Host, peers: Peers, version: int, cap: RateCap) -> None:
        """Until nobody has the next commit any more, or as many are here as may be."""
        for wanted in range(version + 1, version + 1 + MAX_AHEAD):
            if self._size_bytes() + self._limits["payload"] > self._room_bytes:
                return
            while not self.has(wanted):
                able = [entry for entry in peers() if entry.status.version >= wanted]
                if able and all(entry.status.version - wanted >= KEEP for entry in able):
                    return
                if not (able and await self._paced(host, able, wanted, cap)):
                    await asyncio.sleep(LOOK_S)

    def _size_bytes(self) -> int:
        with refusals_told(), this_disk(self.folder):
            return sum(path.stat().st_size for path in self.folder.glob("*"))

    async def _paced(self, host: Host, able: Sequence[RosterEntry], version: int, cap: RateCap) -> bool:
        """Fetches in its turn: it is booked before it is waited for, or the state would always be first."""
        now, turn = time.monotonic(), cap.ready_at()
        booked = sum(self._limits.values())
        before = self._size_bytes()
        cap.spend(booked, now)
        try:
            await asyncio.sleep(max(0.0, turn - now))
            return await self._fetch(host, able, version)
        finally:
            cap.refund(booked - (self._size_bytes() - before))

    async def _fetch(self, host: Host, able: Sequence[RosterEntry], version: int) -> bool:
        """Whether one of the peers gave the commit: first its results, so that both are here if it is."""
        for entry in able:
            try:
                for kind, limit in self._limits.items():
                    path = self._path(version, kind)
                    with refusals_told():
                        await files.fetch(
                            host, entry.peer, self._swarm_id, kind, path, version=version, max_bytes=limit
                        )
                return True
            except fetching.ERRORS:
                continue  # the next one may have it, and it is tried again
        return False
