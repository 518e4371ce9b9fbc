"""Peers that this node has no link to, through one that has: who forwards, and what is believed. Sans-IO.

Every heartbeat names the peers that its sender is linked to. A peer that is in somebody's list and in none of
ours for PATIENCE_S is sent its frames in an envelope that this node signs: the forwarder can delay or lose
them, but neither read as its own nor change, redirect or repeat them. One hop only: a forwarder needs a link
to the target, and takes envelopes from their origin alone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable

from google.protobuf.message import DecodeError

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.signing import PEER_ID_BYTES, Keyring

PATIENCE_S = 5.0
MAX_LINKED = 64
"""Links that a heartbeat names."""
MAX_INDIRECT = 64
"""Peers that are reached through others."""
REPLAY_WINDOW = 1024
"""Frames of one origin may overtake each other by so many."""
KINDS = {
    "heartbeat",
    "ready",
    "plan",
    "contribution",
    "result",
    "want",
    "commit",
    "vote",
    "abort",
    "inquiry",
    "holding",
    "punch",
}


class RoutingError(ValueError):
    """An envelope that is not passed on or not believed; the message is the reason that is counted."""


class _Seen:
    """Sequence numbers of one origin: each counts once, and only while it is recent."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._order: deque[int] = deque()
        self._floor = -1

    def first_time(self, sequence: int) -> bool:
        if sequence <= self._floor or sequence in self._recent:
            return False
        self._recent.add(sequence)
        self._order.append(sequence)
        if len(self._order) > REPLAY_WINDOW:
            gone = self._order.popleft()
            self._recent.discard(gone)
            self._floor = max(self._floor, gone)
        return True


class Router:
    """Routes of one node. `sequence` has to be larger than any that an earlier life of this node used."""

    def __init__(self, keyring: Keyring, sequence: int) -> None:
        self._keyring = keyring
        self._me = keyring.peer_id
        self._sequence = sequence
        self._linked: dict[bytes, frozenset[bytes]] = {}
        self._since: dict[bytes, float] = {}
        self._seen: dict[bytes, _Seen] = {}

    # ---- who can be reached through whom

    def heard(self, forwarder: bytes, linked: Iterable[bytes]) -> None:
        """A peer with a direct link says whom it is linked to."""
        known = (bytes(peer) for peer in list(linked)[:MAX_LINKED])
        self._linked[forwarder] = frozenset(peer for peer in known if len(peer) == PEER_ID_BYTES)

    def lost(self, forwarder: bytes) -> None:
        """The direct link to a peer has ended."""
        self._linked.pop(forwarder, None)

    def indirect(self, direct: Collection[bytes], now: float) -> list[bytes]:
        """Peers to be reached through others: they have had no link of ours for a while."""
        others = {peer for linked in self._linked.values() for peer in linked} - {self._me, *direct}
        self._since = {peer: self._since.get(peer, now) for peer in others}
        self._seen = {peer: seen for peer, seen in self._seen.items() if peer in others}
        due = sorted(peer for peer, since in self._since.items() if now - since >= PATIENCE_S)
        return due[:MAX_INDIRECT]

    def via(self, target: bytes) -> bytes | None:
        """Who forwards to a peer; None where nobody can."""
        return min((peer for peer, linked in self._linked.items() if target in linked), default=None)

    # ---- envelopes

    def wrap(self, target: bytes, frame: pb.Frame, payload: wire.Payload = b"") -> pb.Frame:
        """`frame` (to be followed by `payload`) in an envelope for `target`."""
        self._sequence += 1
        inner = pb.Frame()
        inner.CopyFrom(frame)
        inner.payload_size = len(payload)
        body = pb.Forwarded(
            target=target,
            frame=inner.SerializeToString(),
            payload_digest=hashlib.sha256(payload).digest(),
            sequence=self._sequence,
        )
        envelope = self._keyring.sign("forward", body.SerializeToString())
        return pb.Frame(forward=pb.Forward(origin=self._me, target=target, envelope=envelope))

    def pass_on(self, sender: bytes, message: pb.Forward, direct: Collection[bytes]) -> bytes:
        """Whom to give an envelope that is not for this node. Raises RoutingError."""
        if sender != message.origin:
            raise RoutingError("envelope that was forwarded before")
        if message.target not in direct:
            raise RoutingError("envelope for a peer without a link here")
        return bytes(message.target)

    def unwrap(self, message: pb.Forward, payload: wire.Payload) -> tuple[bytes, pb.Frame]:
        """Origin and frame of an envelope for this node. Raises RoutingError."""
        origin, envelope = bytes(message.origin), message.envelope
        if envelope.signer != origin or not self._keyring.verify("forward", envelope):
            raise RoutingError("envelope that its origin has not signed")
        try:
            body = pb.Forwarded.FromString(envelope.body)
            frame = wire.decode_frame(body.frame)
        except (DecodeError, wire.WireError) as error:
            raise RoutingError("envelope that is not readable") from error
        if body.target != self._me or message.target != self._me:
            raise RoutingError("envelope for another peer")
        if frame.WhichOneof("message") not in KINDS:
            raise RoutingError("envelope with a message that is not forwarded")
        if frame.payload_size != len(payload) or hashlib.sha256(payload).digest() != body.payload_digest:
            raise RoutingError("envelope with another payload")
        if origin not in self._since and origin not in self._linked:
            raise RoutingError("envelope of a peer that nobody is linked to")
        if not self._seen.setdefault(origin, _Seen()).first_time(body.sequence):
            raise RoutingError("envelope that came before")
        return origin, frame
