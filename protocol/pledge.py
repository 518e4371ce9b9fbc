"""Commit, then reveal: who contributes says first, signed, what it is going to send. Pure.

Where the manifest wants rounds audited, each contributor of a plan sends everyone a Pledge, the digests of
all its payloads, and no payload before the others' pledges came or were waited for (SPEC.md, section 13; the
scheme is that of BTARD, 2106.11257). So nobody can copy what another one sends, or shape its own after it;
and whoever holds the pledges can check what an owner claims to have been sent (audit.py).

A pledge is for an offer, not for a session: a plan that continues another one needs no new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import CODEC_NAMES
from atoll.protocol.round.codec_choice import codec_of
from atoll.protocol.round.plan import due_chunks
from atoll.protocol.signing import Keyring

KIND = "pledge"
MAX_OF_ONE = 4
"""Pledges that are kept of one node: of its last offers, or for its last heads."""
MAX_NODES = 1024
DIGEST_BYTES = hashlib.sha256().digest_size

Key = tuple[bytes, int, int, str]
"""Parent digest, fragment, offer and codec."""


class PledgeError(ValueError):
    """A pledge that is not taken; the message is the reason that is counted."""


class Equivocation(PledgeError):
    """Two different pledges of one node, `peer`, for one offer: one of them is a lie."""

    def __init__(self, peer: bytes) -> None:
        super().__init__("two different pledges of one offer")
        self.peer = peer


def key_of(pledge: pb.Pledge) -> Key:
    return bytes(pledge.parent), pledge.fragment, pledge.offer, pledge.codec


def key_in(plan: pb.Plan, peer: bytes) -> Key | None:
    """The key of what a contributor of a plan has to pledge; None where it is no contributor."""
    offer = next((int(c.offer) for c in plan.contributors if c.peer == peer), None)
    if offer is None:
        return None
    return bytes(plan.session.parent), plan.session.fragment, offer, codec_of(plan, peer)


def make(keyring: Keyring, plan: pb.Plan, digests: Mapping[int, bytes]) -> pb.Signed:
    """This node's pledge for a plan; `digests`: SHA-256 of the payload of each due chunk."""
    key = key_in(plan, keyring.peer_id)
    assert key is not None, "only contributors pledge"
    parent, fragment, offer, codec = key
    pledge = pb.Pledge(
        swarm_id=plan.swarm_id,
        parent=parent,
        fragment=fragment,
        offer=offer,
        codec=codec,
        digests=[digests[chunk] for chunk in due_chunks(plan)],
    )
    return keyring.sign(KIND, pledge.SerializeToString(deterministic=True))


class Pledges:
    """Pledges of this swarm's nodes, the newest of each. `fragments`: the due chunks of each."""

    def __init__(self, keyring: Keyring, swarm_id: bytes, fragments: Sequence[Sequence[int]]) -> None:
        self._keyring = keyring
        self._swarm_id = swarm_id
        self._fragments = [{chunk: place for place, chunk in enumerate(due)} for due in fragments]
        self._held: dict[bytes, dict[Key, tuple[pb.Pledge, pb.Signed]]] = {}

    def read(self, signed: pb.Signed) -> pb.Pledge:
        """A pledge of this swarm by its signer. Raises PledgeError, or DecodeError."""
        if not self._keyring.verify(KIND, signed):
            raise PledgeError("pledge with a wrong signature")
        pledge = pb.Pledge.FromString(signed.body)
        if pledge.swarm_id != self._swarm_id or pledge.fragment >= len(self._fragments):
            raise PledgeError("pledge of another swarm or fragment")
        if len(pledge.digests) != len(self._fragments[pledge.fragment]):
            raise PledgeError("pledge of other chunks than are due")
        if pledge.codec not in CODEC_NAMES or any(len(d) != DIGEST_BYTES for d in pledge.digests):
            raise PledgeError("pledge with impossible digests")
        return pledge

    def holds(self, signer: bytes, pledge: pb.Pledge) -> bool:
        """Whether this pledge of `signer` is known. Raises Equivocation where another is in its place."""
        known = self._held.get(signer, {}).get(key_of(pledge))
        if known is not None and known[0] != pledge:
            raise Equivocation(signer)
        return known is not None

    def take(self, signed: pb.Signed, pledge: pb.Pledge) -> None:
        """Keeps a pledge that was read; the oldest of the same node goes. Raises PledgeError."""
        signer = bytes(signed.signer)
        if self.holds(signer, pledge):
            return
        if signer not in self._held and len(self._held) >= MAX_NODES:
            raise PledgeError("pledges of too many nodes")
        held = self._held.setdefault(signer, {})
        held[key_of(pledge)] = (pledge, signed)
        while len(held) > MAX_OF_ONE:
            del held[next(iter(held))]

    def signed(self, peer: bytes, key: Key | None) -> pb.Signed | None:
        """What a node pledged."""
        known = self._held.get(peer, {}).get(key) if key else None
        return known[1] if known else None

    def fits(self, peer: bytes, session: pb.SessionId, chunk: int, digest: bytes) -> bool | None:
        """Whether a payload is one that `peer` pledged for this head; None: it pledged nothing for it."""
        there = [
            pledge
            for (parent, fragment, _, _), (pledge, _) in self._held.get(peer, {}).items()
            if (parent, fragment) == (session.parent, session.fragment)
        ]
        if not there:
            return None
        return any(self.digest(pledge, chunk) == digest for pledge in there)

    def digest(self, pledge: pb.Pledge, chunk: int) -> bytes | None:
        """What a pledge says of a chunk; None where that was not due."""
        place = self._fragments[pledge.fragment].get(chunk)
        return None if place is None else bytes(pledge.digests[place])
