"""Tickets that were made in this data dir, so that one which ends unused is told of in time.

tickets.json holds what a person would ask of a ticket, and nothing that admits: of a private swarm's the
public half of its key, by which the roll counts uses. Whoever is away when a ticket ends would only learn of
it from a friend who could not join.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from atoll.daemon.storage import files
from atoll.web_ui.state_types import TicketView

MAX_TICKETS = 256
LOOK_S = 10.0
WARN_PART, WARN_MOST_S = 0.1, 86_400.0
"""A ticket is told of in the last tenth of its time, at most a day before it ends."""


@dataclass(frozen=True)
class MadeTicket:
    """Times in Unix seconds; `uses` 0: any number; `grant`: its key in hex, empty in an open swarm."""

    label: str
    made_s: int
    expires_s: int
    uses: int
    grant: str

    @property
    def warn_at_s(self) -> float:
        return self.expires_s - min(WARN_MOST_S, WARN_PART * (self.expires_s - self.made_s))


class TicketBook:
    """The book in one data dir. `used`: how often a grant was used, as far as it is known here."""

    def __init__(
        self,
        path: Path,
        used: Callable[[bytes], int] = lambda grant: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self.used = used
        self._clock = clock
        self._looked_at = float("-inf")
        self._ending: list[MadeTicket] = []

    def note(self, ticket: MadeTicket) -> None:
        """One more ticket; those that have ended are left out from now on. Raises AtollError."""
        if not ticket.expires_s:
            return
        kept = [each for each in self._read() if each.expires_s > self._clock()]
        files.write_json(self._path, [asdict(each) for each in [*kept, ticket][-MAX_TICKETS:]])

    def _read(self) -> list[MadeTicket]:
        """What the file has of the right shape; a person may have written in it."""
        found = files.read_json(self._path)
        kinds = {"label": str, "made_s": int, "expires_s": int, "uses": int, "grant": str}
        tickets = []
        for each in found if isinstance(found, list) else []:
            if isinstance(each, dict) and all(type(each.get(name)) is kind for name, kind in kinds.items()):
                tickets.append(MadeTicket(**{name: each[name] for name in kinds}))
        return tickets

    def all(self) -> list[TicketView]:
        """All that have not ended, the next to end first."""
        now = self._clock()
        return [
            {
                "label": ticket.label,
                "made_s": ticket.made_s,
                "expires_s": ticket.expires_s,
                "uses": ticket.uses,
                "used": self._used(ticket),
            }
            for ticket in sorted(self._read(), key=lambda ticket: ticket.expires_s)
            if now < ticket.expires_s
        ]

    def ending(self) -> list[MadeTicket]:
        """Those that end soon and are not used up; looked up every LOOK_S."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._ending = [t for t in self._read() if t.warn_at_s <= now < t.expires_s and self._has_uses(t)]
        return [ticket for ticket in self._ending if now < ticket.expires_s]

    def _has_uses(self, ticket: MadeTicket) -> bool:
        return not ticket.uses or self._used(ticket) < ticket.uses

    def _used(self, ticket: MadeTicket) -> int:
        try:
            grant = bytes.fromhex(ticket.grant)
        except ValueError:
            return ticket.uses  # nobody can use what was spoilt by hand
        return self.used(grant) if grant else 0
