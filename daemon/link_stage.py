"""The stage of links: a node's neighbours, what they may ask of it, and how it catches up with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.daemon.neighbours import Hooks, Neighbours
from atoll.daemon.recovery import Recovery
from atoll.daemon.rounds.outer_state import served_file
from atoll.daemon.saying import SOFTWARE, status_message
from atoll.peers.files import ServedFile
from atoll.peers.lanes import Lanes
from atoll.protocol import forks, wire
from atoll.protocol import messages_pb2 as pb

if TYPE_CHECKING:
    from atoll.daemon.node import Node


class LinkStage:
    """Of one node: whatever it has not got yet, it has nothing of to give."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def neighbours(self, lanes: Lanes | None) -> Neighbours:
        """Everyone it will have a link to; nobody yet."""
        node = self._node
        assert node.network and node.manifest and node.members and node.amending
        hooks = Hooks(
            status=lambda: status_message(node),
            chain=self._chain,
            addresses=lambda: node.addresses,
            provide=self._served,
            changed=node.roster_changed,
            lost=node.network.finder.look_now,
            learned=node.network.learned,
            frame=self._frame,
            between_rounds=self._between_rounds,
            carries=lambda: node.controls.network.is_open,
            weighs=lambda peer: node.standings.quarantined(peer) is None,
            past=lambda: node.outer.position.ancestors if node.outer is not None else (),
        )
        neighbours = Neighbours(
            node.network.host,
            node.keyring,
            node.manifest,
            SOFTWARE,
            node.events,
            hooks,
            lanes,
            node.settings.pack,
            node.members.admission,
            node.amending,
        )
        neighbours.links.limit(node.settings.connections)
        return neighbours

    def recovery(self, neighbours: Neighbours) -> Recovery:
        """How it gets what it lacks of them."""
        node = self._node
        assert node.network and node.manifest and node.amending
        recovery = Recovery(
            node.folder,
            node.manifest,
            node.network.host,
            neighbours,
            node.events,
            node.alerts,
            node.enter,
            node.controls.network.wait,
            node.amending.amendments,
            lambda: node.controls.network.is_open,
        )
        recovery.limit(node.settings.state_rate)
        return recovery

    # ---- what neighbours ask and send

    def _chain(self) -> forks.Chain:
        return self._node.outer.chain if self._node.outer is not None else ()

    def _served(self, kind: str, version: int, chunk: int) -> ServedFile | None:
        """A file for a peer; nothing large while the owner does not let this node use the network."""
        node = self._node
        if kind != "manifest" and not node.controls.network.is_open:
            return None
        if kind in ("audit", "proof"):
            return node.driver.guard.served(kind, version, chunk) if node.driver is not None else None
        return served_file(node.folder, node.outer, node.reader, kind, version)

    async def _between_rounds(self) -> None:
        if self._node.driver is not None:
            await self._node.driver.idle()

    async def _frame(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        if self._node.driver is not None:
            await self._node.driver.received(peer, frame, payload)
