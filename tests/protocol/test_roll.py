"""The roll: who is in, by what it was shown; the same whatever order that came in."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.membership import MembershipError
from atoll.protocol.roll import MAX_CHAIN, SPARE_USES, Roll
from atoll.protocol.signing import Ed25519Keyring

from .test_membership import ADMIN, NODE, NOW, ORGANISER, SWARM, appointment, key, ring

FOUNDER = ring("founder")
DAY = 86_400.0


def a_roll(admission: str = m.TICKET) -> Roll:
    return Roll(SWARM, admission, FOUNDER.peer_id)


def joined(
    node: Ed25519Keyring,
    witness: Ed25519Keyring = FOUNDER,
    *,
    ticket: str = "ticket",
    at: float = NOW,
    uses: int = 1,
    role: int = pb.MEMBER,
    expires: float = 0.0,
    issued: float = NOW,
) -> pb.Membership:
    grant = m.new_grant(
        ORGANISER, SWARM, key(ticket), role=role, uses=uses, issued_s=issued, expires_s=expires
    )
    return m.witnessed(m.enrol(grant, key(ticket), SWARM, node.peer_id, witness.peer_id), witness, SWARM, at)


def certified(node: Ed25519Keyring, at: float = NOW, role: int = pb.MEMBER, **more: float) -> pb.Membership:
    return m.new_certificate(ORGANISER, SWARM, node.peer_id, role=role, issued_s=at, **more)


def revoke(roll: Roll, *entries: pb.Revocation, version: int = 1, by: Ed25519Keyring = ORGANISER) -> None:
    said = m.new_revocations(by, SWARM, version, entries, None if by is ORGANISER else appointment())
    assert roll.revoke(said)


def test_who_is_in_and_why_others_are_not() -> None:
    roll = a_roll()
    assert roll.standing(FOUNDER.peer_id, NOW).role == pb.OWNER
    stranger = roll.standing(NODE.peer_id, NOW)
    assert not stranger.is_in and stranger.code == "no_certificate" and stranger.reason
    assert roll.add(joined(NODE)) is not None
    assert roll.add(joined(NODE)) is None, "nothing new"
    assert roll.standing(NODE.peer_id, NOW).contributes
    assert roll.standing(NODE.peer_id, NOW - DAY).code == "clock"
    assert roll.standing(NODE.peer_id, NOW + m.LIFETIME_S + DAY).code == "expired"


def test_an_observer_is_in_and_contributes_nothing_and_admits_nobody() -> None:
    roll = a_roll()
    roll.add(joined(NODE, role=pb.OBSERVER))
    standing = roll.standing(NODE.peer_id, NOW)
    assert standing.is_in and not standing.contributes
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(ADMIN, NODE, ticket="another"))
    assert not roll.may_witness(NODE.peer_id, ADMIN.peer_id)


def test_what_an_observer_witnessed_as_a_member_holds() -> None:
    by_witness = joined(NODE, ticket="1")
    before = joined(ring("before"), NODE, ticket="2", at=NOW + 1)
    renewed = m.renewed(joined(ring("renewed"), ticket="3"), NODE, SWARM, NOW + DAY)
    demoted = certified(NODE, NOW + 2 * DAY, role=pb.OBSERVER)
    after = joined(ring("after"), NODE, ticket="4", at=NOW + 2 * DAY + 1)
    shown = [by_witness, before, renewed, demoted]
    now = NOW + m.LIFETIME_S + 2000
    for told in (shown, shown[::-1]):
        roll = a_roll()
        assert roll.add_all(told)[1] is None
        assert roll.standing(NODE.peer_id, NOW + 3 * DAY).role == pb.OBSERVER
        assert roll.standing(ring("before").peer_id, NOW + 3 * DAY).is_in
        assert roll.standing(ring("renewed").peer_id, now).is_in
        assert not roll.may_witness(NODE.peer_id, ring("after").peer_id)
        with pytest.raises(MembershipError, match="no member"):
            roll.add(after)
        for heard in (roll.memberships, roll.chain(ring("before").peer_id)):
            other = a_roll()
            other.add_all(reversed(heard))  # as after a restart, told by a neighbour, or shown with a Hello
            assert other.standing(ring("before").peer_id, NOW + 3 * DAY).is_in
            assert other.standing(NODE.peer_id, NOW + 3 * DAY).role == pb.OBSERVER
        roll.add(certified(NODE, NOW + 4 * DAY))
        assert roll.add(after) is not None, "it is a member again"


def test_who_was_never_a_member_has_witnessed_nothing() -> None:
    roll = a_roll()
    roll.add(certified(NODE, NOW + 5, role=pb.OBSERVER))
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(ring("backdated"), NODE, ticket="2", at=NOW + 1))
    revoke(roll, pb.Revocation(grant=TICKET_KEY, at_unix_s=int(NOW) + 5))
    roll.add(joined(NODE))  # by the ticket that was revoked
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(ring("backdated"), NODE, ticket="2", at=NOW + 1))


def test_members_admit_others_as_far_as_a_chain_goes() -> None:
    roll, above = a_roll(), FOUNDER
    for k in range(MAX_CHAIN - 1):
        node = ring(f"n{k}")
        assert roll.may_witness(above.peer_id, node.peer_id)
        roll.add(joined(node, above, ticket=f"t{k}"))
        assert roll.standing(node.peer_id, NOW).is_in
        above = node
    assert not roll.may_witness(above.peer_id, NODE.peer_id)
    chain = roll.chain(above.peer_id)
    assert len(chain) == MAX_CHAIN - 1
    other = a_roll()
    new, error = other.add_all(chain)
    assert error is None and len(new) == len(chain) and other.standing(above.peer_id, NOW).is_in
    roll.add(certified(above, NOW + 1))
    assert roll.may_witness(above.peer_id, NODE.peer_id), "an authority's certificate stands on nobody"


def test_two_strangers_do_not_vouch_for_each_other() -> None:
    roll = a_roll()
    new, error = roll.add_all([joined(NODE, ADMIN, ticket="a"), joined(ADMIN, NODE, ticket="b")])
    assert not new and error is not None and error.code == "unknown_witness"
    roll.add(joined(NODE))
    roll.add(joined(ADMIN, NODE, ticket="b"))
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(NODE, ADMIN, ticket="c", at=NOW + 9))
    assert roll.standing(ADMIN.peer_id, NOW).is_in
    assert not roll.may_witness(ADMIN.peer_id, NODE.peer_id), "which it stands on"


def test_a_ticket_admits_as_many_as_it_says_the_earliest_of_them() -> None:
    late = [joined(ring(f"n{k}"), uses=2, at=NOW + k) for k in range(2 + SPARE_USES + 3)]
    roll, other = a_roll(), a_roll()
    for shown in late:
        roll.add_all([shown])
    for shown in reversed(late):
        other.add_all([shown])
    assert roll.digest == other.digest
    now = NOW + 100
    assert [s.code for s in roll.standings(now)[1:4]] == ["", "", "used_up"]
    enrolment = m.enrol(late[0], key("ticket"), SWARM, NODE.peer_id, FOUNDER.peer_id)
    with pytest.raises(MembershipError, match="as often as it may be"):
        roll.may_enrol(enrolment, NODE.peer_id, now)
    mine = m.enrol(late[0], key("ticket"), SWARM, ring("n0").peer_id, FOUNDER.peer_id)
    assert a_roll().may_enrol(mine, ring("n0").peer_id, now).uses == 2


def test_a_ticket_that_has_expired_admits_nobody_new_and_locks_nobody_out() -> None:
    roll = a_roll()
    shown = joined(NODE, expires=NOW + 60)
    roll.add(shown)
    assert roll.standing(NODE.peer_id, NOW + 30 * DAY).is_in
    enrolment = m.enrol(shown, key("ticket"), SWARM, ADMIN.peer_id, FOUNDER.peer_id)
    with pytest.raises(MembershipError, match="has expired"):
        roll.may_enrol(enrolment, ADMIN.peer_id, NOW + 61)


def test_where_the_organiser_approves_a_ticket_only_applies() -> None:
    roll = a_roll(m.APPROVE)
    roll.add(joined(NODE))
    assert roll.standing(NODE.peer_id, NOW).code == "pending"
    roll.add(certified(NODE))
    assert roll.standing(NODE.peer_id, NOW).is_in
    roll.add_all([joined(NODE)])
    assert roll.standing(NODE.peer_id, NOW).is_in
    roll.add_all([joined(NODE, at=NOW + 9)])
    assert roll.standing(NODE.peer_id, NOW).is_in, "that it asked takes nothing back, whenever that was"


def test_who_only_applied_admits_nobody_and_one_too_many_is_told_so() -> None:
    roll = a_roll(m.APPROVE)
    roll.add_all([joined(NODE), joined(ring("late"), at=NOW + 1)])
    assert [roll.standing(ring(name).peer_id, NOW).code for name in ("node", "late")] == [
        "pending",
        "used_up",
    ]
    assert not roll.may_witness(NODE.peer_id, ring("another").peer_id)
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(ring("another"), NODE, ticket="2"))
    roll.add(certified(NODE, NOW + 5, role=pb.OBSERVER))
    with pytest.raises(MembershipError, match="no member"):
        roll.add(joined(ring("another"), NODE, ticket="2"))


def test_what_is_renewed_goes_on_and_only_a_member_renews() -> None:
    roll = a_roll()
    shown = joined(NODE)
    roll.add(shown)
    later = NOW + m.LIFETIME_S / 2
    assert not roll.needs_renewal(NODE.peer_id, NOW + DAY) and roll.needs_renewal(NODE.peer_id, later)
    roll.add(m.renewed(shown, ADMIN, SWARM, later))
    assert roll.needs_renewal(NODE.peer_id, later), "of who is no member it counts nothing"
    roll.add(m.renewed(shown, FOUNDER, SWARM, later + 1))
    assert not roll.needs_renewal(NODE.peer_id, later)
    assert roll.standing(NODE.peer_id, NOW + m.LIFETIME_S + DAY).is_in
    assert roll.add_all([shown]) == ([], None), "an older one takes nothing back"
    assert not roll.needs_renewal(FOUNDER.peer_id, later)


def test_who_is_revoked_is_out_until_something_later_admits_it() -> None:
    roll = a_roll()
    roll.add(joined(NODE))
    revoke(roll, pb.Revocation(node=NODE.peer_id, at_unix_s=int(NOW) + 5, reason="lost laptop"))
    standing = roll.standing(NODE.peer_id, NOW + 6)
    assert standing.code == "revoked" and "lost laptop" in standing.reason
    again = m.enrol(joined(NODE, uses=0), key("ticket"), SWARM, NODE.peer_id, FOUNDER.peer_id)
    with pytest.raises(MembershipError, match="was revoked"):
        roll.may_enrol(again, NODE.peer_id, NOW + 7)  # the ticket that it had before
    roll.add(joined(NODE, at=NOW + 7))
    assert roll.standing(NODE.peer_id, NOW + 8).code == "revoked"
    roll.add(joined(NODE, ticket="second", at=NOW + 8, issued=NOW + 7))
    assert roll.standing(NODE.peer_id, NOW + 8).is_in
    revoke(roll, pb.Revocation(node=NODE.peer_id, at_unix_s=int(NOW) + 5, ban=True), version=2)
    assert roll.standing(NODE.peer_id, NOW + 8).code == "banned"
    third = m.enrol(joined(NODE, ticket="third"), key("third"), SWARM, NODE.peer_id, FOUNDER.peer_id)
    with pytest.raises(MembershipError, match="banned"):
        roll.may_enrol(third, NODE.peer_id, NOW + 9)
    revoke(roll, version=3)
    assert roll.standing(NODE.peer_id, NOW + 8).is_in, "a later list takes it back"
    assert not roll.revoke(m.new_revocations(ORGANISER, SWARM, 2, ())), "an older one says nothing"


TICKET_KEY = key("ticket").public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "entry",
    [
        pb.Revocation(grant=TICKET_KEY, at_unix_s=int(NOW) + 5),
        pb.Revocation(node=ADMIN.peer_id, at_unix_s=int(NOW) + 5),
        pb.Revocation(node=ADMIN.peer_id, at_unix_s=int(NOW) + 5, ban=True),
    ],
)
def test_a_revoked_ticket_or_witness_admits_nobody_whatever_time_it_writes(entry: pb.Revocation) -> None:
    roll = a_roll()
    roll.add(certified(ADMIN, NOW - 1))
    roll.add(joined(NODE, ADMIN, uses=0))
    roll.add(joined(ring("stays"), ADMIN, uses=0))
    roll.add(certified(ring("stays"), NOW + 5))
    revoke(roll, entry)
    with contextlib.suppress(MembershipError):
        roll.add(joined(ring("backdated"), ADMIN, uses=0, at=NOW - 5))
    now = NOW + 9
    assert (
        not roll.standing(NODE.peer_id, now).is_in and not roll.standing(ring("backdated").peer_id, now).is_in
    )
    assert roll.standing(ring("stays").peer_id, now).is_in, "whoever revoked gave it a certificate"
    enrolment = m.enrol(joined(NODE, uses=0), key("ticket"), SWARM, ring("new").peer_id, FOUNDER.peer_id)
    if entry.grant:
        with pytest.raises(MembershipError, match="ticket was revoked"):
            roll.may_enrol(enrolment, ring("new").peer_id, now)
    else:
        assert not roll.may_witness(ADMIN.peer_id, ring("new").peer_id)


def test_what_an_admin_signed_ends_with_its_office() -> None:
    roll = a_roll()
    roll.add(certified(ADMIN, NOW - 1, role=pb.ADMIN))
    by_admin = m.new_certificate(
        ADMIN, SWARM, NODE.peer_id, role=pb.MEMBER, issued_s=NOW - 1, appointment=appointment()
    )
    roll.add(by_admin)
    revoke(roll, pb.Revocation(node=ring("victim").peer_id, at_unix_s=int(NOW)), by=ADMIN)
    roll.add(joined(ring("victim")))
    now = NOW + 9
    assert roll.standing(NODE.peer_id, now).is_in and not roll.standing(ring("victim").peer_id, now).is_in
    roll.add(certified(ADMIN, NOW + 1))
    assert roll.standing(ADMIN.peer_id, now).role == pb.MEMBER
    assert not roll.standing(NODE.peer_id, now).is_in and roll.standing(ring("victim").peer_id, now).is_in


def test_a_use_of_a_ticket_stays_one_when_its_node_is_given_more() -> None:
    roll = a_roll()
    roll.add(joined(NODE))
    roll.add(certified(NODE, NOW + 1, role=pb.ADMIN))
    other = m.enrol(joined(NODE), key("ticket"), SWARM, ring("thief").peer_id, FOUNDER.peer_id)
    again = a_roll()
    again.add_all(reversed(roll.memberships))  # as after a restart, or told by a neighbour
    assert again.digest == roll.digest and again.standing(NODE.peer_id, NOW + 2).role == pb.ADMIN
    for each in (roll, again):
        with pytest.raises(MembershipError, match="as often as it may be"):
            each.may_enrol(other, ring("thief").peer_id, NOW + 2)


def test_a_full_roll_takes_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.protocol.roll.MAX_MEMBERS", 3)
    roll = a_roll()
    for k in range(3):
        roll.add(joined(ring(f"n{k}"), ticket="many", uses=0, at=NOW + k))
    with pytest.raises(MembershipError, match="has 3 members"):
        roll.add(joined(NODE, ticket="more"))
    roll.add(certified(NODE))
    assert roll.standing(NODE.peer_id, NOW + 9).is_in
    assert roll.standing(ring("n2").peer_id, NOW + 9).code == "no_certificate", "the latest went"


def test_admins_revoke_members_and_neither_each_other_nor_the_founder() -> None:
    roll = a_roll()
    for who, role in ((ADMIN, pb.ADMIN), (ring("second"), pb.ADMIN), (NODE, pb.MEMBER)):
        roll.add(certified(who, role=role))
    them = [
        pb.Revocation(node=ring(n).peer_id, at_unix_s=int(NOW) + 5) for n in ("second", "founder", "node")
    ]
    revoke(roll, *them, by=ADMIN)
    now = NOW + 6
    assert [roll.standing(ring(n).peer_id, now).is_in for n in ("second", "founder", "node")] == [
        True,
        True,
        False,
    ]
    revoke(roll, pb.Revocation(node=ADMIN.peer_id, at_unix_s=int(NOW) + 6))
    assert roll.standing(NODE.peer_id, now).is_in, "what a revoked admin says counts no more"
    assert roll.standing(ADMIN.peer_id, now).code == "revoked"
    revoke(roll, pb.Revocation(node=FOUNDER.peer_id, at_unix_s=int(NOW)), version=2)
    assert roll.standing(FOUNDER.peer_id, now).code == "revoked"


SHOWN = [
    joined(ring("a"), ticket="1", uses=2),
    joined(ring("b"), ring("a"), ticket="1", uses=2, at=NOW + 1),
    joined(ring("c"), ring("b"), ticket="1", uses=2, at=NOW + 2),
    joined(ring("c"), ring("a"), ticket="2", at=NOW + 3),
    certified(ring("b"), NOW + 4, role=pb.OBSERVER),
    m.renewed(joined(ring("a"), ticket="1", uses=2), FOUNDER, SWARM, NOW + DAY),
    joined(ring("d"), ring("c"), ticket="3", at=NOW + 5),
    joined(ring("e"), ticket="4"),
    joined(ring("f"), ring("e"), ticket="5", at=NOW + 1),
    m.renewed(joined(ring("e"), ticket="4"), ring("a"), SWARM, NOW + 2),
    certified(ring("e"), NOW + 4, role=pb.OBSERVER),
    joined(ring("g"), ring("f"), ticket="6", at=NOW + 9),
]
SAID = [
    m.new_revocations(
        ORGANISER, SWARM, version, [pb.Revocation(node=ring(who).peer_id, at_unix_s=int(NOW) + 2)]
    )
    for version, who in ((1, "d"), (2, "b"))
]


@given(st.permutations(range(len(SHOWN) + len(SAID))))
def test_rolls_that_were_told_the_same_judge_alike(order: list[int]) -> None:
    roll, first = a_roll(), a_roll()
    for _ in range(len(SHOWN)):
        for k in order:
            # What had to wait for its witness comes again with the next full exchange.
            roll.add_all([SHOWN[k]]) if k < len(SHOWN) else roll.revoke(SAID[k - len(SHOWN)])
    first.add_all(SHOWN)
    for said in SAID:
        first.revoke(said)
    first.add_all(SHOWN)
    assert roll.digest == first.digest
    for name in "abcdefg":
        who = ring(name).peer_id
        assert roll.standing(who, NOW + DAY) == first.standing(who, NOW + DAY)
    assert all(roll.standing(ring(name).peer_id, NOW + DAY).is_in for name in "efg")
