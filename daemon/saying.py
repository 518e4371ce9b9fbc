"""What a node says of itself to its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll import __version__
from atoll.daemon.status import State
from atoll.daemon.trust import told_of
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb

if TYPE_CHECKING:
    from atoll.daemon.node import Node

SOFTWARE = f"atoll {__version__}"
"""What it says that it runs."""


def status_message(node: Node) -> pb.NodeStatus:
    """The status in Hello and heartbeats."""
    island, outer = node.island, node.outer
    status = pb.NodeStatus(state=pb.JOINING, label=node.settings.label, reason=str(node.state))
    if node.neighbours is not None:
        line = node.neighbours.links.line
        status.upload_bps, status.download_bps = line.upload_bps, line.download_bps
    status.quarantined.extend(told_of(node.standings))
    if outer is None:
        return status
    here = outer.position
    head = here.head
    status.version, status.cumulative_tokens = head.version, head.cumulative_tokens
    if node.controls.network.is_open:
        status.state = pb.TRAINING if island is not None and island.training else pb.FOLLOWING
        status.digest, status.certified = head.digest, head.certified
        status.chain.extend(forks.write_chain(here.chain))
        for version, state in outer.held:
            status.held.add(version=version, state=state)
    # Else as one that has no state yet: nobody sends it results of rounds, or asks it for anything.
    if node.driver is not None:
        status.life = node.driver.machine.life
        if node.driver.cosine is not None:
            status.cosine = node.driver.cosine
    if island is not None:
        status.reason = State.PAUSED if island.resting else status.reason
        status.tokens_per_s = 0.0 if island.resting else island.phase.tokens_per_s
        status.step, status.steps = island.phase.step, island.phase.steps
        status.accepted_tokens = island.account.summary()["accepted"]
        if island.phase.phase_loss is not None:
            status.loss = island.phase.phase_loss
    return status
