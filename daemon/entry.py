"""How a node comes into its swarm: its description first, then, where that is needed, membership.

Both wait for peers as long as it takes, and say for what. A swarm that refuses for good ends the node.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from atoll.daemon.config import where
from atoll.daemon.enrolling import Invitation, NotYet, enrol, look
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.members import Members
from atoll.daemon.network import Network
from atoll.daemon.rounds import sync
from atoll.daemon.status import State
from atoll.protocol.manifest import SwarmManifest

if TYPE_CHECKING:
    from atoll.daemon.node import Node

MANIFEST_RETRY_S = 0.5
ENROL_RETRY_S = 2.0


class Entry:
    """The way in of one node. `invitation`: of the ticket, where the swarm is private."""

    def __init__(self, node: Node, network: Network, invitation: Invitation | None) -> None:
        self._node = node
        self._network = network
        self._invitation = invitation

    async def manifest(self) -> SwarmManifest:
        """The swarm's description, of whoever has it. Raises AtollError."""
        node, host, finder = self._node, self._network.host, self._network.finder
        assert node.swarm_id is not None
        node.enter(State.CONNECTING, "no node of the swarm has answered yet")
        async with self._network.telling_whom_it_tries():
            while True:
                peers = list(finder.connected)
                try:
                    if self._invitation is not None:
                        return await look(host, peers, self._invitation)
                    target = node.folder.run / "manifest.pb"
                    return await sync.fetch_manifest(host, peers, node.swarm_id, target)
                except (sync.SyncFailed, NotYet) as error:
                    node.enter(State.CONNECTING, f"the swarm's description can't be had yet ({error})")
                    await asyncio.sleep(MANIFEST_RETRY_S)

    async def member(self, manifest: SwarmManifest) -> Members:
        """Has the node admitted where that is needed and not done yet. Raises AtollError."""
        node, host, finder = self._node, self._network.host, self._network.finder
        members = Members(node.folder, manifest, node.keyring, node.events)
        me, roll = node.keyring.peer_id, members.admission.roll
        while roll is not None and not members.admission.lets_in(me):
            if self._invitation is None:
                reason = members.admission.standing(me).reason
                fix = f"Join with a ticket of the organiser: `atoll join TICKET{where(node.folder.root)}`."
                raise AtollError(Exit.NOT_A_MEMBER, "not_a_member", f"This node is no member: {reason}.", fix)
            try:
                peers, label = list(finder.connected), node.settings.label
                await enrol(host, peers, self._invitation, roll, label, time.time())
            except NotYet as error:
                node.enter(State.CONNECTING, f"this node is not admitted yet ({error})")
                await asyncio.sleep(ENROL_RETRY_S)
                continue
            text = "This node was admitted: its certificate is kept, the ticket is used."
            node.events.emit("members", text)
            await members.keep_now()
        return members
