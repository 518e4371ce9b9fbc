"""The books of this node on disk: read at the start, written before an offer and after what was booked."""

from __future__ import annotations

import asyncio

from atoll.daemon.alerts import Alerts
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.rounds.outer_state import OuterState
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.accounts import AccountError
from atoll.protocol.ledger import Ledger


class AccountBook:
    """Owns account.json of one node. Books that are damaged are told and begun anew."""

    def __init__(self, folder: DataDir, chunks: int, events: Events, alerts: Alerts) -> None:
        self._path = folder.account
        self._alerts = alerts
        self._events = events
        kept = files.read_json(self._path)
        try:
            ledger = Ledger.from_json(kept) if kept is not None else Ledger(chunks)
            if ledger.account.chunks != chunks:
                raise AccountError("the token account is of another table of chunks")
        except AccountError as error:
            events.emit("disk", f"A new token account is begun: {error}.")
            ledger = Ledger(chunks)
        # What was carried when the last run ended was in a trainer that is gone.
        ledger.begin_life()
        self.ledger = ledger
        self._changed = False

    def catch_up(self, outer: OuterState, me: bytes) -> None:
        """Books what commits on this disk accepted and the last run did not; drops what is in no chain."""
        self.ledger.reconcile({link.version: link.digest for link in outer.chain})
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
