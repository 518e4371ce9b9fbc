"""A newcomer's side of enrolling in a private swarm: what its ticket holds, and asking members with it.

Anybody may answer, so no single answer is believed: a manifest or membership is checked before it is taken,
and a refusal ends nothing as long as somebody else may say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.members import take
from atoll.daemon.saying import SOFTWARE
from atoll.peers import enrolment
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import GONE, Host
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.manifest import ManifestError, SwarmManifest, load
from atoll.protocol.membership import MembershipError, Swarm
from atoll.protocol.roll import Roll
from atoll.protocol.text import plain

FINAL = ("expired", "used_up", "revoked", "banned", "other_swarm", "forged", "no_certificate")
"""Refusals that another try will not change."""


@dataclass(frozen=True)
class Invitation:
    """What a ticket of a private swarm holds: the grant, and the key that it is for."""

    swarm: Swarm
    grant: pb.Membership
    key: Ed25519PrivateKey


def invitation_of(ticket: pb.Ticket) -> Invitation | None:
    """None where the ticket is of an open swarm. Raises MembershipError."""
    if not ticket.delegation:
        return None
    swarm = Swarm(bytes(ticket.swarm_id), bytes(ticket.organiser))
    try:
        grant = pb.Membership.FromString(ticket.delegation)
        key = Ed25519PrivateKey.from_private_bytes(ticket.capability)
    except (DecodeError, ValueError) as error:
        raise MembershipError("forged", "the ticket's grant is not readable") from error
    terms, _ = m.check_grant(grant, swarm)
    if terms.key != key.public_key().public_bytes_raw():
        raise MembershipError("forged", "the ticket's key is not the one that its grant names")
    return Invitation(swarm, grant, key)


def _request(invitation: Invitation, me: bytes, peer: bytes, look: bool, label: str) -> pb.EnrolRequest:
    kind = m.LOOK if look else m.ENROLMENT
    return pb.EnrolRequest(
        swarm_id=invitation.swarm.swarm_id,
        protocol=wire.spoken(),
        software=SOFTWARE,
        enrolment=m.enrol(invitation.grant, invitation.key, invitation.swarm, me, peer, kind),
        look=look,
        label=label,
    )


class NotYet(Exception):
    """No peer has answered as hoped; the message says what they said."""


async def look(host: Host, peers: Sequence[bytes], invitation: Invitation) -> SwarmManifest:
    """The manifest, by a ticket; nothing of it is used up. Raises NotYet, AtollError."""

    def read(reply: pb.EnrolReply) -> SwarmManifest:
        return load(reply.manifest.SerializeToString(), expect_swarm=invitation.swarm.swarm_id)

    return await _ask_all(host, peers, lambda peer: _request(invitation, host.peer_id, peer, True, ""), read)


async def enrol(
    host: Host, peers: Sequence[bytes], invitation: Invitation, roll: Roll, label: str, now_s: float
) -> None:
    """Has this node admitted; `roll` then holds its membership. Raises NotYet, AtollError."""

    def read(reply: pb.EnrolReply) -> None:
        take(roll, pb.Roll(members=reply.membership, revocations=reply.revocations))
        standing = roll.standing(host.peer_id, now_s)
        if not standing.is_in:
            raise MembershipError(standing.code, f"what it gave makes no member: {standing.reason}")

    await _ask_all(host, peers, lambda peer: _request(invitation, host.peer_id, peer, False, label), read)


_Found = TypeVar("_Found")


async def _ask_all(
    host: Host,
    peers: Sequence[bytes],
    request: Callable[[bytes], pb.EnrolRequest],
    read: Callable[[pb.EnrolReply], _Found],
) -> _Found:
    """What the first useful reply says; who answers nonsense is passed over.

    Anybody may be among `peers`, so a refusal is final only if all who are connected refuse for good.
    Raises AtollError then, else NotYet.
    """
    refused: dict[str, pb.EnrolReply] = {}
    failures: list[str] = []
    for peer in peers:
        try:
            reply = await enrolment.ask(host, peer, request(peer))
            if not reply.code:
                return read(reply)
            refused[readable_name(peer)] = reply
        except (*GONE, wire.WireError, ManifestError, MembershipError) as error:
            failures.append(f"{readable_name(peer)}: {plain(str(error)) or type(error).__name__}")
    codes = {reply.code for reply in refused.values()}
    if refused and not failures and codes <= {"incompatible", *FINAL}:
        reason = plain(next(iter(refused.values())).reason)
        if codes == {"incompatible"}:
            fix = "Install the version that the organiser names."
            raise AtollError(
                Exit.INCOMPATIBLE, "incompatible", f"No node speaks this version: {reason}.", fix
            )
        raise AtollError(
            Exit.NOT_A_MEMBER,
            "not_a_member",
            f"The swarm does not admit this node: {reason}.",
            "Ask the organiser for another ticket.",
        )
    said = [f"{name}: {plain(reply.reason)}" for name, reply in refused.items()]
    raise NotYet("; ".join([*said, *failures][:4]) or "nobody has answered")
