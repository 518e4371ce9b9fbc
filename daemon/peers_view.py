"""The members of a swarm as a node shows them. What others say of themselves is hostile input."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from atoll.daemon.saying import SOFTWARE, status_message
from atoll.daemon.status import State
from atoll.peers.identity import readable_name
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import peer_text
from atoll.protocol.standing import WORDS

if TYPE_CHECKING:
    from atoll.daemon.node import Node

SEEN_STEP_S = 10.0
_STATE_WORDS = {pb.TRAINING: "training", pb.FOLLOWING: "following", pb.JOINING: "joining"}


def peers_of(node: Node, doing: str) -> list[dict[str, Any]]:
    """This node first, of which it is known what it is `doing`, then the others by id."""
    now = time.monotonic()
    status = status_message(node)
    if node.outer is not None:  # which others may not be told
        status.digest = node.outer.head.digest
    entries = node.neighbours.roster.entries.values() if node.neighbours else ()
    return [
        {
            **_said(node.keyring.peer_id, status, SOFTWARE, 0.0),
            "state": doing,
            "quarantine": None,
            "direct": None,
            "way": None,
            "lane": None,
            "rtt_ms": None,
            "self": True,
        },
        *(
            {
                **_said(e.peer, e.status, e.software, now - e.last_seen),
                **_way(node, e.peer),
                "state": state_word(e.status),
                "quarantine": WORDS.get(node.standings.quarantined(e.peer) or ""),
                # Two digits are all that a person reads, and what keeps it from being news all the time.
                "rtt_ms": float(f"{1000 * e.rtt_s:.2g}") if e.rtt_s is not None else None,
                "self": False,
            }
            for e in sorted(entries, key=lambda e: e.peer)
        ),
    ]


def _said(peer: bytes, status: pb.NodeStatus, software: str, last_seen_s: float) -> dict[str, Any]:
    """What it says of itself, or this node of itself; `last_seen_s` ago."""
    return {
        "id": peer_text(peer),
        "name": readable_name(peer),
        "label": status.label[:64] or None,
        "version": int(status.version),
        "digest": bytes(status.digest).hex(),
        "software": software,
        "tokens_per_s": round(status.tokens_per_s, 1),
        "accepted_tokens": int(status.accepted_tokens),
        "last_seen": (time.time() - last_seen_s) // SEEN_STEP_S * SEEN_STEP_S,
    }


def _way(node: Node, peer: bytes) -> dict[str, Any]:
    """How this node reaches it."""
    link = node.neighbours.links.get(peer) if node.neighbours else None
    if link is None:  # frames go through somebody who has a link to it
        return {"direct": None, "way": "relay", "lane": None}
    way = "relay" if link.relayed else "hole-punched" if link.punched else "direct"
    return {"direct": not link.relayed, "way": way, "lane": link.lane}


def state_word(status: pb.NodeStatus) -> str:
    """What a peer does, as it says; a paused one follows, or seems to join, and says why in its reason."""
    if status.state != pb.TRAINING and status.reason == State.PAUSED:
        return State.PAUSED.value
    return _STATE_WORDS.get(status.state, "unknown")
