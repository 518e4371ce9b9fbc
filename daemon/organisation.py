"""A private swarm's members as the page of a node shows them, and the commands of those who see to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atoll.daemon.errors import AtollError
from atoll.daemon.organising import Organiser, may_organise, member_of
from atoll.protocol import membership as m
from atoll.web_ui.interface import CommandError
from atoll.web_ui.state_types import Organisation

if TYPE_CHECKING:
    from atoll.daemon.node import Node

MAX_SHOWN = 256
LOOK_S = 30.0
"""What nothing else changes (how long certificates hold, uses of tickets) is looked at this often."""
COMMANDS = ("approve", "revoke", "ban")


class OrganisationView:
    """Of one node; looked at whenever its page is."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.time) -> None:
        self._node = node
        self._clock = clock
        self._seen: tuple[Any, ...] = ()
        self._until = 0.0
        self._shown: Organisation | None = None

    def look(self) -> Organisation | None:
        """None where the swarm is open, or not known yet."""
        members = self._node.members
        roll = members.admission.roll if members is not None else None
        if members is None or roll is None:
            return None
        seen, now = (roll.digest, tuple(members.admission.pending)), self._clock()
        if self._shown is None or seen != self._seen or now >= self._until:
            self._seen, self._until = seen, now + LOOK_S
            everyone = [member_of(standing, now) for standing in roll.standings(now)]
            everyone.sort(key=lambda member: (not member["role"], member["name"]))
            me = members.admission.standing(self._node.keyring.peer_id)
            self._shown = {
                "admission": roll.admission,
                "may_admit": may_organise(self._node.folder, me),
                "count": sum(bool(member["role"]) for member in everyone),
                "members": everyone[:MAX_SHOWN],
                "pending": members.pending(),
                "tickets": self._node.tickets.all(),
            }
        return self._shown

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """approve (`node`, `label`), revoke, ban (`node`, `reason`). Raises CommandError."""
        node = arguments.get("node")
        word = arguments.get("label" if name == "approve" else "reason")
        if not isinstance(node, str) or not isinstance(word, str | None):
            raise CommandError("bad-argument", "Which node? `node` is its peer id.", "Name one of `members`.")
        if len(node) > m.MAX_MEMBERSHIP_BYTES or len(word or "") > m.MAX_REASON_BYTES:
            raise CommandError("bad-argument", "That is too long.", "A label or reason has 64 bytes.")
        try:
            said = await asyncio.to_thread(self._carry_out, name, node, word)
        except AtollError as error:
            raise CommandError(error.code.replace("_", "-"), error.message, error.fix) from error
        return {"done": name, "sentence": said}

    def _carry_out(self, name: str, node: str, word: str | None) -> str:
        """What the command of the same name does, and says. Raises AtollError."""
        organiser = Organiser(self._node.folder)
        if name == "approve":
            return organiser.approve(node, None, word)
        return " ".join(organiser.revoke(node, name == "ban", word or ""))
