"""The gate of a node: who is let in, and what is told on."""

from __future__ import annotations

import pytest

from atoll.peers.admission import MAX_PENDING, PAGE, TELL_ALL_S, Admission
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.roll import Roll

from ..protocol.test_membership import NODE, NOW, ORGANISER, SWARM, key, ring
from ..protocol.test_roll import FOUNDER, certified, joined


class Clock:
    now = NOW + 10

    def __call__(self) -> float:
        return self.now


def gate(who: str = "founder", admission: str = m.TICKET) -> Admission:
    made = Admission(Roll(SWARM, admission, FOUNDER.peer_id), ring(who), Clock())
    return made


def asked(
    node: str = "node",
    *,
    look: bool = False,
    uses: int = 1,
    ticket: str = "ticket",
    label: str = "",
    to: str = "founder",
) -> pb.EnrolRequest:
    grant = m.new_grant(ORGANISER, SWARM, key(ticket), role=pb.MEMBER, uses=uses, issued_s=NOW, expires_s=0)
    kind = m.LOOK if look else m.ENROLMENT
    enrolment = m.enrol(grant, key(ticket), SWARM, ring(node).peer_id, ring(to).peer_id, kind)
    return pb.EnrolRequest(enrolment=enrolment, look=look, label=label)


def told(frame: pb.Frame | None) -> pb.Roll:
    assert frame is not None and frame.WhichOneof("message") == "roll"
    return frame.roll


def test_an_open_swarm_asks_nothing_and_tells_nothing() -> None:
    everybody = Admission(None, FOUNDER, Clock())
    hello = pb.Hello()
    everybody.introduce(hello)
    assert hello == pb.Hello() and everybody.greeting() is None
    assert everybody.refuse(NODE.peer_id, hello) is None and everybody.lets_in(NODE.peer_id)
    assert everybody.heard(NODE.peer_id, pb.Roll(digest=bytes(32))) == ([], None)
    assert everybody.enrol(NODE.peer_id, asked()) == (pb.EnrolReply(), None)
    assert everybody.renewed([NODE.peer_id]) is None


def test_a_ticket_is_completed_by_a_member_and_shown_to_others() -> None:
    first, other = gate(), gate("other")
    reply, news = first.enrol(NODE.peer_id, asked(look=True))
    assert (reply.code, list(reply.membership), news) == ("", [], None), "a look uses nothing up"
    assert not first.lets_in(NODE.peer_id)
    reply, news = first.enrol(NODE.peer_id, asked())
    assert reply.code == "" and first.lets_in(NODE.peer_id)
    assert list(told(news).members) == list(reply.membership)
    again, news = first.enrol(NODE.peer_id, asked())
    assert again.membership == reply.membership and news is None, "asking again changes nothing"
    refused, _ = first.enrol(ring("late").peer_id, asked("late"))
    assert refused.code == "used_up" and first.refused["used_up"] == 1

    node = gate("node")
    node.roll.add_all(reply.membership)  # type: ignore[union-attr]
    hello = pb.Hello()
    node.introduce(hello)
    assert other.refuse(NODE.peer_id, hello) is None, "which has never heard of it"
    assert "no certificate" in (other.refuse(ring("thief").peer_id, hello) or "")
    assert other.refused["no_certificate"] == 1


def test_a_look_admits_nobody() -> None:
    request = asked(look=True)
    request.look = False
    reply, _ = gate().enrol(NODE.peer_id, request)
    assert reply.code == "forged"


def test_rolls_that_differ_are_told_and_what_was_new_is_told_on() -> None:
    first, second = gate(), gate("second")
    many = [joined(ring(f"n{k}"), ticket=f"t{k}") for k in range(PAGE + 1)]
    assert first.roll is not None and second.roll is not None
    first.roll.add_all(many)
    first.roll.revoke(
        m.new_revocations(ORGANISER, SWARM, 1, [pb.Revocation(node=ring("n0").peer_id, at_unix_s=int(NOW))])
    )
    greeting = told(second.greeting())
    answers, news = first.heard(ring("second").peer_id, greeting)
    assert news is None and len(answers) == 3 and all(len(told(a).members) <= PAGE for a in answers)
    assert first.heard(ring("second").peer_id, greeting) == ([], None), "not again so soon"
    for answer in answers:
        _, news = second.heard(FOUNDER.peer_id, told(answer))
        assert told(news) == told(answer), "all of it was new"
        assert second.heard(FOUNDER.peer_id, told(answer)) == ([], None)
    assert second.roll.digest == first.roll.digest
    assert second.standing(ring("n0").peer_id).code == "revoked"
    Clock.now += TELL_ALL_S
    try:
        assert len(first.heard(ring("second").peer_id, greeting)[0]) == 3
        assert first.heard(ring("second").peer_id, told(first.greeting())) == ([], None), "nothing differs"
    finally:
        Clock.now = NOW + 10


def test_what_strangers_send_is_refused_and_counted() -> None:
    changes: list[int] = []
    first = Admission(Roll(SWARM, m.TICKET, FOUNDER.peer_id), FOUNDER, Clock(), lambda: changes.append(1))
    assert first.refuse(NODE.peer_id, pb.Hello()) is not None and not changes, "nothing has changed"
    future = joined(NODE, at=NOW + 1e6)
    assert first.heard(NODE.peer_id, pb.Roll(members=[future])) == ([], None)
    padded = joined(NODE)
    padded.MergeFromString(b"\xf8\x7f\x01")  # a field that nobody knows
    assert first.heard(NODE.peer_id, pb.Roll(members=[padded])) == ([], None)
    stranger = joined(NODE, ring("nobody"))
    forged = pb.Roll(members=[stranger, pb.Membership()], revocations=[NODE.sign("revocations", b"x")])
    assert first.heard(NODE.peer_id, forged) == ([], None)
    assert first.refused.total() >= 3 and not first.lets_in(NODE.peer_id) and not changes


def test_where_an_admin_approves_those_who_ask_are_kept_a_bounded_number() -> None:
    first = gate(admission=m.APPROVE)
    for k in range(MAX_PENDING + 5):
        reply, news = first.enrol(ring(f"n{k}").peer_id, asked(f"n{k}", uses=0, label="n\n"))
        assert reply.code == "pending" and news is None
    assert len(first.pending) == MAX_PENDING
    node = ring(f"n{MAX_PENDING}")
    assert first.pending[node.peer_id][1] == "", "a label that can't be shown is none"
    assert told(first.admit(certified(node))).members
    assert first.lets_in(node.peer_id) and node.peer_id not in first.pending
    assert first.admit(certified(node)) is None
    reply, _ = first.enrol(node.peer_id, asked(f"n{MAX_PENDING}"))
    assert reply.code == "" and reply.membership


def test_where_an_admin_approves_each_who_asks_is_a_use_of_its_ticket() -> None:
    first, other = gate(admission=m.APPROVE), gate("other", admission=m.APPROVE)
    reply, news = first.enrol(NODE.peer_id, asked())
    assert reply.code == "pending" and not first.lets_in(NODE.peer_id)
    assert other.heard(FOUNDER.peer_id, told(news))[1] is not None, "all members count it"
    assert first.enrol(NODE.peer_id, asked())[1] is None, "who asks again uses nothing more"
    assert other.roll is not None
    other.roll.add(certified(ring("other")))
    for each, to in ((first, "founder"), (other, "other")):
        refused, _ = each.enrol(ring("late").peer_id, asked("late", to=to))
        assert refused.code == "used_up" and ring("late").peer_id not in each.pending
        assert each.enrol(NODE.peer_id, asked(to=to))[0].code == "pending"
        assert each.roll is not None and each.roll.uses_of(key("ticket").public_key().public_bytes_raw()) == 1
        assert NODE.peer_id not in [s.node for s in each.roll.standings(NOW)], "which never was in"
    first.admit(certified(NODE))
    assert first.lets_in(NODE.peer_id)
    assert first.enrol(ring("late").peer_id, asked("late"))[0].code == "used_up", "and it stays used"


def test_members_renew_each_other_and_observers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    first = gate()
    assert first.roll is not None
    first.roll.add(joined(NODE))
    assert first.renewed([NODE.peer_id]) is None, "not due"
    monkeypatch.setattr(Clock, "now", NOW + m.LIFETIME_S / 2)
    assert len(told(first.renewed([NODE.peer_id, FOUNDER.peer_id])).members) == 1
    assert first.renewed([NODE.peer_id]) is None
    watcher = gate("watcher")
    assert watcher.roll is not None
    watcher.roll.add_all([joined(ring("watcher"), ticket="w", role=pb.OBSERVER), joined(NODE)])
    assert watcher.renewed([NODE.peer_id]) is None
    reply, _ = watcher.enrol(ring("late").peer_id, asked("late", ticket="late"))
    assert reply.code == "no_witness"


def test_a_revocation_of_this_machine_is_told_once() -> None:
    first = gate()
    said = m.new_revocations(ORGANISER, SWARM, 1, [pb.Revocation(node=NODE.peer_id, at_unix_s=int(NOW))])
    assert told(first.revoke(said)).revocations and first.revoke(said) is None
