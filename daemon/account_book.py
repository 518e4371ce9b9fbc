"""The books of this node on disk: read at the start, written before an offer and after what was booked.

One write is under way at a time, whoever asks, and it is awaited by all who asked for it. Books that are
damaged stay beside the new ones; a disk that can't be read is no reason to begin new ones.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from atoll.daemon.alerts import Alerts
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.accounts import AccountError
from atoll.protocol.ledger import Ledger


class AccountBook:
    """Owns account.json of one node. Books that are damaged are told, set aside and begun anew."""

    def __init__(self, folder: DataDir, chunks: int, events: Events, alerts: Alerts) -> None:
        self._path = folder.account
        self._alerts = alerts
        self._events = events
        try:
            ledger = _read(self._path, chunks)
        except AccountError as error:
            aside = _set_aside(self._path)
            events.emit("disk", f"A new token account is begun: {error}. What was there is now {aside}.")
            ledger = Ledger(chunks)
        # What was carried when the last run ended was in a trainer that is gone.
        ledger.begin_life()
        self.ledger = ledger
        self._changed = False
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[bool]] = set()

    def catch_up(self, outer: OuterState, me: bytes) -> None:
        """Books what commits on this disk accepted and the last run did not; drops what is in no chain."""
        # Entries beyond the head as well: a chain that was left may have been longer than this one.
        self.ledger.reconcile(outer.digests, newest=outer.head.version)
        for commit, digest in outer.kept_commits():
            # All of them: the chain may be another one than that whose versions are booked.
            try:
                self.ledger.book(commit, digest, me)
            except AccountError as error:
                self._events.emit("account", f"Version {commit.version} can't be booked: {error}.")
        self._changed = True

    def note(self) -> None:
        """The books have changed; `save` is due."""
        self._changed = True

    async def save(self) -> bool:
        """Writes the books if they changed; whether what they hold now is on disk.

        A disk that refuses is an alert, and it is tried again with the next call.
        """
        if not self._changed and not self._writing.locked():
            return True
        # A task of its own: a caller that is cancelled leaves a thread behind that still writes.
        write = asyncio.create_task(self._write())
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return await asyncio.shield(write)

    async def _write(self) -> bool:
        async with self._writing:
            if not self._changed:
                return True
            self._changed = False
            try:
                # Off the event loop: an fsync can take as long as the disk likes.
                await asyncio.to_thread(files.write_json, self._path, self.ledger.to_json())
            except AtollError as error:
                self._changed = True
                self._alerts.raise_("account_not_saved", error.message, error.fix)
                return False
            self._alerts.clear("account_not_saved")
            return True


def _read(path: Path, chunks: int) -> Ledger:
    """The books in a file, new ones where there is none. Raises AccountError, and AtollError for the disk."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Ledger(chunks)
    except OSError as error:
        raise files.disk_error(path, error, "read") from error
    try:
        ledger = Ledger.from_json(json.loads(data))
    except AccountError:
        raise
    except (ValueError, RecursionError) as error:
        raise AccountError(f"{path.name} is damaged") from error
    if ledger.account.chunks != chunks:
        raise AccountError("the token account is of another table of chunks")
    return ledger


def _set_aside(path: Path) -> Path:
    """Where the file is now; one that was there before is replaced. Raises AtollError."""
    aside = path.with_suffix(f".damaged{path.suffix}")
    try:
        path.replace(aside)
    except OSError as error:
        raise files.disk_error(aside, error) from error
    return aside
