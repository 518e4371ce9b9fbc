"""Memberships by themselves: what each signature proves, and every way in which a forged one fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.membership import MembershipError, Swarm
from atoll.protocol.signing import Ed25519Keyring, peer_id_of

NOW = 1_800_000_000.0


def key(name: str) -> Ed25519PrivateKey:
    """The same key for the same name."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def ring(name: str) -> Ed25519Keyring:
    return Ed25519Keyring(key(name))


ORGANISER = ring("organiser")
SWARM = Swarm(bytes(range(32)), ORGANISER.public_key)
OTHER = Swarm(bytes(32), ORGANISER.public_key)
NODE, WITNESS, ADMIN = ring("node"), ring("witness"), ring("admin")
TICKET = key("ticket")


def a_grant(signer: Ed25519Keyring = ORGANISER, swarm: Swarm = SWARM, **terms: object) -> pb.Membership:
    given = {"role": pb.MEMBER, "uses": 1, "issued_s": NOW, "expires_s": NOW + 3600, **terms}
    return m.new_grant(signer, swarm, TICKET, **given)  # type: ignore[arg-type]


def enrolled(grant: pb.Membership | None = None, witness: Ed25519Keyring = WITNESS) -> pb.Membership:
    enrolment = m.enrol(grant or a_grant(), TICKET, SWARM, NODE.peer_id, witness.peer_id)
    return m.witnessed(enrolment, witness, SWARM, NOW + 10)


def appointment() -> pb.Signed:
    made = m.new_certificate(ORGANISER, SWARM, ADMIN.peer_id, role=pb.ADMIN, issued_s=NOW)
    return made.certificate


def test_an_enrolment_makes_a_member_of_one_node() -> None:
    credential = m.check(enrolled(a_grant(label="anna")), SWARM)
    assert (credential.node, credential.role, credential.label) == (NODE.peer_id, pb.MEMBER, "anna")
    assert credential.witness == WITNESS.peer_id and credential.authority == SWARM.authority
    assert credential.until_s == int(NOW) + 10 + m.LIFETIME_S and credential.uses == 1


def test_an_admin_grants_and_certifies_with_its_appointment() -> None:
    grant = a_grant(ADMIN, appointment=appointment())
    assert m.check(enrolled(grant), SWARM).authority == ADMIN.peer_id
    made = m.new_certificate(
        ADMIN,
        SWARM,
        NODE.peer_id,
        role=pb.OBSERVER,
        issued_s=NOW,
        expires_s=NOW + 9,
        appointment=appointment(),
    )
    credential = m.check(made, SWARM)
    assert (credential.role, credential.until_s, credential.witness) == (pb.OBSERVER, int(NOW) + 9, b"")


def test_only_authorities_admit_and_only_the_organiser_appoints() -> None:
    with pytest.raises(MembershipError, match="no authority of the swarm"):
        a_grant(NODE)
    with pytest.raises(MembershipError, match="no admin"):
        a_grant(NODE, appointment=appointment())
    by_admin = m.new_certificate(
        ADMIN, SWARM, NODE.peer_id, role=pb.MEMBER, issued_s=NOW, appointment=appointment()
    )
    with pytest.raises(MembershipError, match="no admin"):
        a_grant(NODE, appointment=by_admin.certificate)
    for make in (
        a_grant,
        lambda signer, **k: m.new_certificate(signer, SWARM, NODE.peer_id, issued_s=NOW, **k),
    ):
        with pytest.raises(MembershipError, match="only the organiser"):
            make(ADMIN, role=pb.ADMIN, appointment=appointment())


def _resign(kind: str, signed: pb.Signed, signer: Ed25519Keyring, change: Callable[[object], None]) -> None:
    body = {"grant": pb.Grant, "enrolment": pb.Enrolment, "witness": pb.Witness}[kind].FromString(signed.body)
    change(body)
    signed.CopyFrom(signer.sign(kind, body.SerializeToString()))


FORGED: dict[str, tuple[Callable[[pb.Membership], None], str, str]] = {
    "nothing": (lambda d: d.Clear(), "no_certificate", "no grant"),
    "no witness": (lambda d: d.ClearField("witness"), "no_certificate", "no witness"),
    "no enrolment": (lambda d: d.ClearField("enrolment"), "no_certificate", "no enrolment"),
    "cut": (lambda d: setattr(d.grant, "body", d.grant.body[:-1]), "forged", "signature of the grant"),
    "another node": (
        lambda d: _resign("enrolment", d.enrolment, WITNESS, lambda b: setattr(b, "node", WITNESS.peer_id)),
        "forged",
        "ticket's key",
    ),
    "its own witness": (
        lambda d: _resign("witness", d.witness, NODE, lambda b: None),
        "forged",
        "another one",
    ),
    "witness of another": (
        lambda d: _resign("witness", d.witness, WITNESS, lambda b: setattr(b, "node", ADMIN.peer_id)),
        "forged",
        "another one",
    ),
    "too late": (
        lambda d: _resign("witness", d.witness, WITNESS, lambda b: setattr(b, "at_unix_s", int(NOW) + 3601)),
        "expired",
        "had expired",
    ),
    "another swarm": (
        lambda d: _resign("grant", d.grant, ORGANISER, lambda b: setattr(b, "swarm_id", bytes(32))),
        "other_swarm",
        "another swarm",
    ),
    "a role that is none": (
        lambda d: _resign("grant", d.grant, ORGANISER, lambda b: setattr(b, "role", 9)),
        "forged",
        "no role",
    ),
    "the owner's role": (
        lambda d: _resign("grant", d.grant, ORGANISER, lambda b: setattr(b, "role", pb.OWNER)),
        "forged",
        "no role",
    ),
    "a label to fool a terminal": (
        lambda d: _resign("grant", d.grant, ORGANISER, lambda b: setattr(b, "label", "\x1b[2J")),
        "forged",
        "label",
    ),
    "no key": (
        lambda d: _resign("grant", d.grant, ORGANISER, lambda b: setattr(b, "key", b"")),
        "forged",
        "no key",
    ),
    "long": (lambda d: setattr(d.renewal, "body", bytes(m.MAX_MEMBERSHIP_BYTES)), "forged", "too long"),
    "renewed by itself": (
        lambda d: d.renewal.CopyFrom(
            NODE.sign("renewal", pb.Witness.FromString(d.witness.body).SerializeToString())
        ),
        "forged",
        "another one",
    ),
    "another witness than was asked": (
        lambda d: _resign("witness", d.witness, ADMIN, lambda b: None),
        "forged",
        "another member's",
    ),
    "more than it needs": (
        lambda d: d.certificate.CopyFrom(d.grant),
        "forged",
        "parts that none has",
    ),
    "a witness for a renewal": (
        lambda d: d.renewal.CopyFrom(d.witness),
        "forged",
        "signature of the renewal",
    ),
}


@pytest.mark.parametrize(("forge", "code", "reason"), FORGED.values(), ids=FORGED.keys())
def test_what_is_forged_makes_nobody_a_member(
    forge: Callable[[pb.Membership], None], code: str, reason: str
) -> None:
    shown = enrolled()
    m.check(shown, SWARM)
    forge(shown)
    with pytest.raises(MembershipError, match=reason) as refused:
        m.check(shown, SWARM)
    assert refused.value.code == code


def test_a_certificate_of_another_swarm_or_signer_is_none() -> None:
    made = m.new_certificate(ORGANISER, OTHER, NODE.peer_id, role=pb.MEMBER, issued_s=NOW)
    with pytest.raises(MembershipError, match="another swarm"):
        m.check(made, SWARM)
    with pytest.raises(MembershipError, match="names no node"):
        m.new_certificate(ORGANISER, SWARM, b"nobody", role=pb.MEMBER, issued_s=NOW)
    with pytest.raises(MembershipError, match="no authority of the swarm"):
        m.new_certificate(NODE, SWARM, NODE.peer_id, role=pb.MEMBER, issued_s=NOW)


def test_an_enrolment_is_one_nodes_own() -> None:
    enrolment = m.enrol(a_grant(), TICKET, SWARM, NODE.peer_id, WITNESS.peer_id)
    assert m.check_enrolment(enrolment, NODE.peer_id, SWARM).uses == 1
    with pytest.raises(MembershipError, match="not this node's"):
        m.check_enrolment(enrolment, WITNESS.peer_id, SWARM)
    stolen = m.enrol(a_grant(), key("another ticket"), SWARM, NODE.peer_id, WITNESS.peer_id)
    with pytest.raises(MembershipError, match="not this node's"):
        m.check_enrolment(stolen, NODE.peer_id, SWARM)


def test_revocations_are_of_authorities_and_name_something() -> None:
    entry = pb.Revocation(node=NODE.peer_id, at_unix_s=5, reason="left the lab")
    assert m.check_revocations(m.new_revocations(ORGANISER, SWARM, 3, [entry]), SWARM).version == 3
    m.new_revocations(ADMIN, SWARM, 1, [entry], appointment())
    for signer, entries, reason in (
        (NODE, [entry], "no authority of the swarm"),
        (ORGANISER, [pb.Revocation(at_unix_s=5)], "neither a node nor a ticket"),
        (ORGANISER, [pb.Revocation(node=NODE.peer_id, grant=bytes(32))], "neither a node nor a ticket"),
        (ORGANISER, [pb.Revocation(node=NODE.peer_id, reason="a\nb")], "can't be shown"),
        (ORGANISER, [entry] * (m.MAX_REVOCATIONS + 1), "too long"),
    ):
        with pytest.raises(MembershipError, match=reason):
            m.new_revocations(signer, SWARM, 1, entries)
    with pytest.raises(MembershipError, match="can't revoke the organiser"):
        m.new_revocations(ADMIN, SWARM, 1, [pb.Revocation(node=SWARM.authority)], appointment())


@given(st.binary(max_size=400))
def test_bytes_from_anywhere_are_refused_in_words(data: bytes) -> None:
    signed = pb.Signed(body=data, signer=peer_id_of(bytes(32)), signature=bytes(64))
    for shown in (pb.Membership(certificate=signed), pb.Membership(grant=signed, enrolment=signed)):
        with pytest.raises(MembershipError):
            m.check(shown, SWARM)
    with pytest.raises(MembershipError):
        m.check_revocations(signed, SWARM)
    # Rightly signed nonsense, too.
    for kind in (m.CERTIFICATE, m.GRANT):
        with pytest.raises(MembershipError):
            m.check(pb.Membership(**{kind: ORGANISER.sign(kind, data)}), SWARM)
