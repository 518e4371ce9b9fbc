"""This node's standings of the others, as they last: in the data dir, and told in events."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from atoll.daemon.errors import AtollError
from atoll.daemon.storage import files
from atoll.peers.identity import readable_name
from atoll.protocol.standing import WORDS, Standings

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20


class StandingFile:
    """Standings that a restart does not forget. `say` tells people; `changed`: who may contribute has."""

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None] = lambda text: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._say = say
        self._changed = changed
        self.standings = Standings()
        self._load()

    def _load(self) -> None:
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            self.standings.load(self._path.read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            # What is lost is only memory of wrongs: whoever goes on with them is soon known again.
            log.warning("%s can't be used: %s; everybody begins with a clean slate", self._path, error)

    def strike(self, peer: bytes, reason: str) -> None:
        """Notes a wrong of `peer` (a key of WORDS)."""
        begins = self.standings.strike(peer, reason)
        self._save()
        if begins:
            self._say(f"{readable_name(peer)} is in quarantine here, its weight is 0: {WORDS[reason]}.")
            self._changed()

    def commit(self) -> None:
        """A commit was applied."""
        released = self.standings.commit()
        for peer in released:
            self._say(f"{readable_name(peer)} is out of quarantine here.")
        if released:
            self._save()
            self._changed()

    def quarantined(self, peer: bytes) -> str | None:
        return self.standings.quarantined(peer)

    def proven(self, peer: bytes) -> bool:
        return self.standings.proven(peer)

    def _save(self) -> None:
        try:
            files.write_bytes(self._path, self.standings.saved().encode())
        except AtollError as error:
            log.warning("standings are not saved: %s", error.sentence())
