"""Who may take part where admission is not open: grants, enrolments, certificates, revocations (SPEC.md, 12).

    organiser ── certificate ─> admin                       on other machines than the organiser's
    organiser or admin ── grant ─> a ticket's key ── enrolment ─> node <─ witness ── a member
    organiser or admin ── certificate ─> node               approved, or renewed

A ticket is a delegated key: the organiser signs its public half with the terms, and the private half, which
is in the ticket, signs the peer id of whoever joins. So any member can complete an enrolment while the
organiser is offline; it witnesses the time, by which expiry and number of uses go, and any member renews it
while the node takes part. What a node shows is bound to its peer id, which libp2p has authenticated: nobody
else can show it.

Everything here is a pure check of bytes: signatures, swarm, roles, lengths. Time, number of uses, who
witnessed, and what is revoked are the roll's affair (roll.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError, Message

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import (
    PEER_ID_BYTES,
    PUBLIC_KEY_BYTES,
    Ed25519Keyring,
    Keyring,
    peer_id_of,
    public_key_of,
    verify,
)

OPEN, TICKET, APPROVE = "open", "ticket", "approve"
ADMISSIONS = (OPEN, TICKET, APPROVE)
ROLES: dict[str, int] = {"observer": pb.OBSERVER, "member": pb.MEMBER, "admin": pb.ADMIN, "owner": pb.OWNER}
ROLE_NAMES = {number: name for name, number in ROLES.items()}
LIFETIME_S = 90 * 86_400
"""What a witness signed holds so long; a member met later renews it."""
MAX_LABEL_BYTES = 64
MAX_REASON_BYTES = 100
MAX_MEMBERSHIP_BYTES = 2048
MAX_REVOCATIONS = 512
MAX_REVOCATIONS_BYTES = 128 << 10
GRANT, ENROLMENT, WITNESS, RENEWAL = "grant", "enrolment", "witness", "renewal"
LOOK = "look"
"""Kind of an enrolment that only asks for the manifest: nobody can enrol the node with it."""
CERTIFICATE, REVOCATIONS = "certificate", "revocations"


class MembershipError(ValueError):
    """What was shown makes nobody a member. `code` is counted, the message says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Swarm:
    """What everything is checked against: from the manifest, or from a ticket."""

    swarm_id: bytes
    organiser: bytes
    """Ed25519 public key, 32 bytes."""

    @property
    def authority(self) -> bytes:
        """The organiser's peer id, which signs."""
        return peer_id_of(self.organiser)


@dataclass(frozen=True)
class Credential:
    """A membership that was checked as far as it goes by itself. Times in Unix seconds; `until` 0: no end."""

    node: bytes
    role: int
    label: str
    authority: bytes
    """Peer id of the organiser or admin who signed grant or certificate."""
    issued_s: int
    """When that signed it."""
    since_s: int
    until_s: int
    grant: bytes = b""
    uses: int = 0
    witness: bytes = b""
    renewer: bytes = b""
    renewed_s: int = 0
    """When a member last signed that it takes part; that counts if the renewer is one."""


def check(message: pb.Membership, swarm: Swarm) -> Credential:
    """What a node shows. Raises MembershipError."""
    if message.ByteSize() > MAX_MEMBERSHIP_BYTES:
        raise MembershipError("forged", "the membership is too long")
    if canonical(message) != message:
        raise MembershipError("forged", "the membership has parts that none has")
    if message.HasField("certificate"):
        return _certified(message, swarm)
    grant, authority = check_grant(message, swarm)
    enrolment = _body(message.enrolment, ENROLMENT, pb.Enrolment, swarm)
    if message.enrolment.signer != peer_id_of(grant.key):
        raise MembershipError("forged", "the enrolment is not signed with the ticket's key")
    witness = _body(message.witness, WITNESS, pb.Witness, swarm)
    _check_witness(message.witness, witness, grant, enrolment)
    if message.witness.signer != enrolment.witness:
        raise MembershipError("forged", "the enrolment was another member's to witness")
    if grant.expires_unix_s and witness.at_unix_s > grant.expires_unix_s:
        raise MembershipError("expired", "the ticket had expired when it was used")
    renewer, renewed_s = b"", 0
    if message.HasField("renewal"):
        renewal = _body(message.renewal, RENEWAL, pb.Witness, swarm)
        _check_witness(message.renewal, renewal, grant, enrolment)
        renewer, renewed_s = bytes(message.renewal.signer), int(renewal.at_unix_s)
    return Credential(
        _node(enrolment.node),
        int(grant.role),
        grant.label,
        authority,
        int(grant.issued_unix_s),
        int(witness.at_unix_s),
        int(witness.at_unix_s) + LIFETIME_S,
        bytes(grant.key),
        int(grant.uses),
        bytes(message.witness.signer),
        renewer,
        renewed_s,
    )


def canonical(message: pb.Membership) -> pb.Membership:
    """The same without what a membership has no use for: two of one meaning are the same bytes."""
    kept = pb.Membership()
    certified = message.HasField("certificate")
    for part in (
        ("certificate", "appointment")
        if certified
        else ("grant", "enrolment", "witness", "renewal", "appointment")
    ):
        if message.HasField(part):
            getattr(kept, part).CopyFrom(getattr(message, part))
    kept.DiscardUnknownFields()
    return kept


def _check_witness(signed: pb.Signed, body: pb.Witness, grant: pb.Grant, enrolment: pb.Enrolment) -> None:
    if body.grant != grant.key or body.node != enrolment.node or signed.signer == body.node:
        raise MembershipError("forged", "the enrolment's witness saw another one")


def _certified(message: pb.Membership, swarm: Swarm) -> Credential:
    body = _body(message.certificate, CERTIFICATE, pb.Certificate, swarm)
    authority = _authority(message.certificate.signer, message, swarm)
    _check_terms(body.role, body.label, authority, swarm)
    return Credential(
        _node(body.node),
        int(body.role),
        body.label,
        authority,
        int(body.issued_unix_s),
        int(body.issued_unix_s),
        int(body.expires_unix_s),
    )


def check_grant(message: pb.Membership, swarm: Swarm) -> tuple[pb.Grant, bytes]:
    """The grant in it, and the peer id of who signed it. Raises MembershipError."""
    grant = _body(message.grant, GRANT, pb.Grant, swarm)
    authority = _authority(message.grant.signer, message, swarm)
    if len(grant.key) != PUBLIC_KEY_BYTES:
        raise MembershipError("forged", "the grant names no key")
    _check_terms(grant.role, grant.label, authority, swarm)
    return grant, authority


def check_enrolment(message: pb.Membership, node: bytes, swarm: Swarm, kind: str = ENROLMENT) -> pb.Grant:
    """What a newcomer shows, not yet witnessed; `kind` LOOK: only to look. Raises MembershipError."""
    if message.ByteSize() > MAX_MEMBERSHIP_BYTES:
        raise MembershipError("forged", "the enrolment is too long")
    grant, _ = check_grant(message, swarm)
    enrolment = _body(message.enrolment, kind, pb.Enrolment, swarm)
    if message.enrolment.signer != peer_id_of(grant.key) or enrolment.node != node:
        raise MembershipError("forged", "the enrolment is not this node's")
    return grant


def check_revocations(signed: pb.Signed, swarm: Swarm) -> pb.Revocations:
    """All that its signer has revoked. Raises MembershipError."""
    if signed.ByteSize() > MAX_REVOCATIONS_BYTES:
        raise MembershipError("forged", "the list of revocations is too long")
    body = _body(signed, REVOCATIONS, pb.Revocations, swarm)
    authority = _authority(signed.signer, body, swarm)
    if len(body.entries) > MAX_REVOCATIONS:
        raise MembershipError("forged", "the list of revocations is too long")
    for entry in body.entries:
        if (len(entry.node) == PEER_ID_BYTES) == (len(entry.grant) == PUBLIC_KEY_BYTES):
            raise MembershipError("forged", "a revocation names neither a node nor a ticket")
        if not _printable(entry.reason, MAX_REASON_BYTES):
            raise MembershipError("forged", "a revocation's reason can't be shown")
        if authority != swarm.authority and entry.node == swarm.authority:
            raise MembershipError("forged", "an admin can't revoke the organiser")
    return body


_Body = TypeVar("_Body", bound=Message)


def _body(signed: pb.Signed, kind: str, make: type[_Body], swarm: Swarm) -> _Body:
    if not signed.signer:
        raise MembershipError("no_certificate", f"there is no {kind}")
    if not verify(kind, signed):
        raise MembershipError("forged", f"the signature of the {kind} is wrong")
    try:
        body = make.FromString(signed.body)
    except DecodeError as error:
        raise MembershipError("forged", f"the {kind} is not readable") from error
    if getattr(body, "swarm_id") != swarm.swarm_id:  # noqa: B009  each kind has one
        raise MembershipError("other_swarm", f"the {kind} is of another swarm")
    return body


def _authority(signer: bytes, message: pb.Membership | pb.Revocations, swarm: Swarm) -> bytes:
    """Who signed, if that is the organiser or an admin that it appointed. Raises MembershipError."""
    if signer == swarm.authority:
        return bytes(signer)
    if not message.appointment.signer:
        raise MembershipError("forged", "who signed it is no authority of the swarm")
    appointed = _body(message.appointment, CERTIFICATE, pb.Certificate, swarm)
    if (
        message.appointment.signer != swarm.authority
        or appointed.node != signer
        or appointed.role != pb.ADMIN
    ):
        raise MembershipError("forged", "who signed it is no admin of the swarm")
    return bytes(signer)


def _check_terms(role: int, label: str, authority: bytes, swarm: Swarm) -> None:
    if role not in (pb.OBSERVER, pb.MEMBER, pb.ADMIN):
        raise MembershipError("forged", "it gives no role that there is")
    if role == pb.ADMIN and authority != swarm.authority:
        raise MembershipError("forged", "only the organiser appoints admins")
    if not _printable(label, MAX_LABEL_BYTES):
        raise MembershipError("forged", "its label can't be shown")


def _printable(text: str, most_bytes: int) -> bool:
    return len(text.encode()) <= most_bytes and text.isprintable()


def _node(peer: bytes) -> bytes:
    if public_key_of(peer) is None:
        raise MembershipError("forged", "it names no node")
    return bytes(peer)


# Making them. Whoever calls has the key; that it is an authority's is checked by everybody who reads.


def new_grant(
    signer: Keyring,
    swarm: Swarm,
    key: Ed25519PrivateKey,
    *,
    role: int,
    uses: int,
    issued_s: float,
    expires_s: float,
    label: str = "",
    appointment: pb.Signed | None = None,
) -> pb.Membership:
    """The terms of a ticket with this key. Times in Unix seconds, `expires_s` 0: never.

    Raises MembershipError.
    """
    body = pb.Grant(
        swarm_id=swarm.swarm_id,
        key=key.public_key().public_bytes_raw(),
        role=pb.Role.Name(role),
        uses=uses,
        issued_unix_s=int(issued_s),
        expires_unix_s=int(expires_s),
        label=label,
    )
    made = pb.Membership(grant=_sign(signer, GRANT, body), appointment=appointment)
    check_grant(made, swarm)
    return made


def enrol(
    grant: pb.Membership,
    key: Ed25519PrivateKey,
    swarm: Swarm,
    node: bytes,
    witness: bytes,
    kind: str = ENROLMENT,
) -> pb.Membership:
    """What a newcomer shows to a member, who may witness it: the grant, and that it holds the ticket."""
    body = pb.Enrolment(swarm_id=swarm.swarm_id, node=node, witness=witness)
    made = pb.Membership(enrolment=_sign(Ed25519Keyring(key), kind, body))
    made.grant.CopyFrom(grant.grant)
    if grant.HasField("appointment"):
        made.appointment.CopyFrom(grant.appointment)
    return made


def witnessed(enrolment: pb.Membership, member: Keyring, swarm: Swarm, now_s: float) -> pb.Membership:
    """The same with this member's signature that it saw it."""
    made = pb.Membership()
    made.CopyFrom(enrolment)
    made.witness.CopyFrom(_sign(member, WITNESS, _seen(enrolment, swarm, now_s)))
    return made


def renewed(membership: pb.Membership, member: Keyring, swarm: Swarm, now_s: float) -> pb.Membership:
    """The same with this member's signature that the node still takes part."""
    made = pb.Membership()
    made.CopyFrom(membership)
    made.renewal.CopyFrom(_sign(member, RENEWAL, _seen(membership, swarm, now_s)))
    return made


def _seen(message: pb.Membership, swarm: Swarm, now_s: float) -> pb.Witness:
    grant = pb.Grant.FromString(message.grant.body)
    node = pb.Enrolment.FromString(message.enrolment.body).node
    return pb.Witness(swarm_id=swarm.swarm_id, grant=grant.key, node=node, at_unix_s=int(now_s))


def new_certificate(
    signer: Keyring,
    swarm: Swarm,
    node: bytes,
    *,
    role: int,
    issued_s: float,
    expires_s: float = 0.0,
    label: str = "",
    appointment: pb.Signed | None = None,
) -> pb.Membership:
    """A node is a member. Raises MembershipError."""
    body = pb.Certificate(
        swarm_id=swarm.swarm_id,
        node=node,
        role=pb.Role.Name(role),
        issued_unix_s=int(issued_s),
        expires_unix_s=int(expires_s),
        label=label,
    )
    made = pb.Membership(certificate=_sign(signer, CERTIFICATE, body), appointment=appointment)
    check(made, swarm)
    return made


def new_revocations(
    signer: Keyring,
    swarm: Swarm,
    version: int,
    entries: Iterable[pb.Revocation],
    appointment: pb.Signed | None = None,
) -> pb.Signed:
    """All that this authority has revoked. Raises MembershipError."""
    body = pb.Revocations(swarm_id=swarm.swarm_id, version=version, entries=entries, appointment=appointment)
    made = _sign(signer, REVOCATIONS, body)
    check_revocations(made, swarm)
    return made


def _sign(signer: Keyring, kind: str, body: Message) -> pb.Signed:
    return signer.sign(kind, body.SerializeToString(deterministic=True))
