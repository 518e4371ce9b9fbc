"""The token account on disk: read at the start, written whenever something became of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from atoll.daemon.alerts import Alerts
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.storage import files
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError, TokenAccount
from atoll.protocol.round.commit import contribution_of


class AccountBook:
    """Owns account.json of one node. An account that is damaged is told and begun anew."""

    def __init__(self, folder: DataDir, chunks: int, events: Events, alerts: Alerts) -> None:
        self._path = folder.account
        self._alerts = alerts
        kept = files.read_json(self._path)
        try:
            account = TokenAccount.from_json(kept) if kept is not None else TokenAccount(chunks)
            if account.chunks != chunks:
                raise AccountError("the token account is of another table of chunks")
        except AccountError as error:
            events.emit("disk", f"A new token account is begun: {error}.")
            account = TokenAccount(chunks)
        # What was carried when the last run ended was in a trainer that is gone.
        account.drop("lost")
        self.account = account
        self._changed = False

    def recover(self, me: bytes, commits: Iterable[pb.Commit]) -> None:
        """Books what commits accepted of this node's that a crash kept from being booked; oldest first."""
        for commit in commits:
            tokens, chunks = contribution_of(commit, me)
            if chunks and self.account.recover(tokens, chunks, int(commit.version)):
                self._changed = True

    def note(self) -> None:
        """The account has changed; `save` is due."""
        self._changed = True

    async def save(self) -> None:
        """Writes the account if it changed; a disk that refuses is an alert, and it is tried again."""
        if not self._changed:
            return
        self._changed = False
        try:
            # Off the event loop: an fsync can take as long as the disk likes.
            await asyncio.to_thread(files.write_json, self._path, self.account.to_json())
            self._alerts.clear("account_not_saved")
        except AtollError as error:
            self._changed = True
            self._alerts.raise_("account_not_saved", error.message, error.fix)
