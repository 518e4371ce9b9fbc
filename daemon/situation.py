"""Where a node stands: the facts of which its sentence is made. All is read, and nothing changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from atoll.daemon.alerts import Circumstances
from atoll.daemon.config import where
from atoll.daemon.rules import joined
from atoll.daemon.status import Facts, State
from atoll.daemon.trust import quarantined_by

if TYPE_CHECKING:
    from atoll.daemon.node import Node

_PHASE_STATES = {
    "waiting": State.WAITING,
    "exchange": State.AVERAGING,
    "commit": State.AVERAGING,
    "applying": State.AVERAGING,
    "inner": State.TRAINING,
}


LEAST_FREE_BYTES = 256 << 20
"""Beside room for one more checkpoint: a disk with less is worth an alert."""


def circumstances(node: Node) -> Circumstances:
    """What may be worth an alert, of a node whose rounds have started."""
    assert node.island and node.outer and node.neighbours
    roster = node.neighbours.roster
    return Circumstances(
        chain=node.outer.chain,
        training=node.island.training,
        peers=roster.entries.values(),
        refused=node.finder.refused if node.finder else {},
        incompatible=node.finder.incompatible if node.finder else {},
        relayed=node.neighbours.links.relayed and bool(roster.entries),
        fruitless=node.history.fruitless,
        loss_is_bad=node.island.loss_is_bad,
        free_bytes=node.machine.free_bytes.look(),
        needed_bytes=LEAST_FREE_BYTES + 8 * node.outer.schema.total,
        skew_s=roster.skew_s,
        tickets=node.tickets.ending(),
        now_s=time.time(),
        quarantined_by=quarantined_by(roster.entries.values(), node.keyring.peer_id),
    )


def facts_of(node: Node) -> Facts:
    """What the sentence is made of, from the present moment."""
    now = time.monotonic()
    driver, island = node.driver, node.island
    recovery = node.recovery
    fetched = recovery.fetched if recovery else None
    retry = recovery.retry_at if recovery and recovery.retry_at else None
    if retry is None and node.finder is not None:
        retry = node.finder.next_try
    early = node.state not in (State.PREPARING, State.TRAINING)
    if early or driver is None or island is None:
        waits = node.controls.network.waiting and node.state is not State.STOPPING
        if waits and node.controls.pausing:
            return _ruled(node)
        until = max(0.0, retry - now) if retry else None
        fetched = fetched or (node.reader.fetched if node.reader else None)
        return Facts(node.state, node.reason, until_s=until, fetched=fetched)
    peers = len(node.neighbours.roster.entries) if node.neighbours else 0
    version = driver.state.head.version
    if island.paused is not None:
        left = island.paused_until - now if island.paused_until else None
        return Facts(State.PAUSED, island.paused, until_s=left, where=where(node.folder.root))
    if node.controls.pausing:
        return _ruled(node)
    if island.trouble is not None:
        left = island.restart_at - now if island.restart_at else None
        return Facts(State.BLOCKED, island.trouble, until_s=left)
    if fetched is not None:
        return Facts(State.FETCHING, "the swarm is ahead; its state is on its way", fetched=fetched)
    if not island.begun:
        return Facts(State.PREPARING, node.reason)
    situation = driver.machine.situation(now)
    return Facts(
        state=_PHASE_STATES[situation.phase],
        reason="" if situation.phase == "inner" else situation.because,
        step=island.phase.step,
        steps=island.phase.steps,
        step_s=island.phase.step_s,
        version=version,
        peers=peers,
        ready=situation.ready,
        expected=situation.expected,
        until_s=max(0.0, situation.until - now) if situation.until is not None else None,
        finishing=island.finishing,
    )


def _ruled(node: Node) -> Facts:
    """One or more rules of the owner pause this node."""
    reasons = node.controls.pausing
    because, following = joined(reasons)
    cause = " ".join(reason.code for reason in reasons)
    finishing = node.island is not None and node.island.finishing
    return Facts(State.PAUSED, because, following=following, cause=cause, finishing=finishing)
