"""Amendments: only the organiser's, in one order, of what can be amended; and what rounds go by them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import (
    AMENDABLE,
    KIND,
    MAX_AMENDMENT_BYTES,
    MAX_AMENDMENTS,
    MAX_NOTE_BYTES,
    MAX_ROUND,
    Amended,
    AmendmentError,
    Amendments,
    OtherAmendment,
    UnknownAmendment,
    digest_of,
)
from atoll.protocol.chain import Head
from atoll.protocol.manifest import SwarmManifest, sign
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import CommitError, check_commit, make_commit
from atoll.protocol.round.plan import PlanError, check_continuation, continue_plan

from .bench import CONFIG, FIRST, SECOND, THIRD, Bench, frames, reasons
from .swarm import Node, Swarm
from .test_manifest import ORGANISER, STRANGER, body

NEW = hashlib.sha256(b"an amendment").digest()


def genesis(**change: Any) -> SwarmManifest:
    made = body()
    for name, value in change.items():
        setattr(made.sync, name, value)
    return sign(made, ORGANISER)


def amended(amendments: Amendments, values: dict[str, Any], from_round: int = 10, note: str = "") -> Amended:
    made = amendments.amend(ORGANISER, values, from_round, 1_700_000_000, note)
    assert amendments.add(made.signed)
    return made


def at(version: int, amendment: bytes = b"") -> Head:
    return Head(version, hashlib.sha256(bytes([version])).digest(), (FIRST,), amendment=amendment)


def test_what_is_amended_and_what_stays():
    amendments = Amendments(genesis())
    made = amended(amendments, {"inner.lr": 5e-4, "data.urls": ["https://a.example/x"]}, note="calmer")
    new, old = amendments.newest, amendments.genesis
    assert (new.body.inner.lr, list(new.body.data.urls)) == (5e-4, ["https://a.example/x"])
    assert new.swarm_id == old.swarm_id and new.signed == old.signed and new.body.sequence == 2
    assert made.changes == (("inner.lr", 1e-3, 5e-4), ("data.urls", [], ["https://a.example/x"]))
    assert (made.sequence, made.from_round, made.note, made.digest) == (2, 10, "calmer", new.amendment)
    new.body.inner.lr, new.body.sequence = 1e-3, 1
    del new.body.data.urls[:]
    assert new.body == old.body, "all else is as it was"
    assert not amendments.add(made.signed), "it is here already"


def test_each_value_can_be_amended():
    values = {
        "inner.lr": 1e-4,
        "inner.warmup_steps": 7,
        "inner.total_steps": 1000,
        "outer.lr_by_contributors": [0.3],
        "outer.momentum": 0.5,
        "rounds.min_peers_to_start": 3,
        "rounds.grace_floor_s": 2.0,
        "rounds.grace_cap_s": 90.0,
        "rounds.two_level_above": 16,
        "rounds.validate_every": 5,
        "bootstrap": ["/dns4/a.example/tcp/1/p2p/12D3KooWx"],
        "data.urls": ["https://a.example/x"],
    }
    assert values.keys() == AMENDABLE.keys()
    amendments = Amendments(genesis())
    amended(amendments, values)
    assert {name: field.read(amendments.newest.body) for name, field in AMENDABLE.items()} == values


def test_rounds_go_by_all_whose_time_has_come():
    amendments = Amendments(genesis())
    assert amendments.due(at(99)) is amendments.genesis
    first = amended(amendments, {"inner.lr": 1e-4}, 10)
    second = amended(amendments, {"inner.lr": 1e-5}, 20)
    assert [amendments.due(at(v)).amendment for v in (8, 9, 18, 19)] == [
        b"",
        first.digest,
        first.digest,
        second.digest,
    ]
    assert amendments.due(at(5, second.digest)).amendment == second.digest, "once in force it stays so"
    assert [len(Amendments(amendments.genesis, [one.signed for one in amendments])), len(amendments)] == [
        2,
        2,
    ]
    with pytest.raises(UnknownAmendment):
        amendments.due(at(5, NEW))


def test_a_commit_goes_by_that_of_its_parent_or_a_later_one_in_its_time():
    amendments = Amendments(genesis())
    first, second = amended(amendments, {"inner.lr": 1e-4}, 10), amended(amendments, {"inner.lr": 1e-5}, 20)
    assert amendments.under(at(30), b"") is amendments.genesis, "too few had heard of it: valid all the same"
    assert amendments.under(at(9), first.digest).amendment == first.digest
    assert amendments.under(at(19), second.digest).amendment == second.digest, "one was skipped"
    assert amendments.under(at(19, first.digest), second.digest).amendment == second.digest
    with pytest.raises(AmendmentError, match="from round 10 on"):
        amendments.under(at(8), first.digest)
    with pytest.raises(AmendmentError, match="older"):
        amendments.under(at(30, second.digest), first.digest)
    with pytest.raises(AmendmentError, match="older"):
        amendments.under(at(30, first.digest), b"")
    with pytest.raises(UnknownAmendment):
        amendments.under(at(30), NEW)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model.layers": 3}, "can't be amended"),
        ({"inner.lr": "fast"}, "can't be 'fast'"),
        ({"inner.total_steps": 2**40}, "can't be"),
        ({"inner.lr": 0.0}, "above 0"),
        ({"inner.lr": 11.0}, "outside 0 to 10"),
        ({"inner.lr": float("nan")}, "outside 0 to 10"),
        ({"rounds.grace_cap_s": 0.5}, "grace_cap_s is 0.5"),
        ({"outer.lr_by_contributors": []}, "1 to 64"),
        ({"data.urls": ["http://a.example"]}, "no https address"),
        ({"bootstrap": ["x" * 1000]}, "too long"),
        ({"inner.lr": 1e-3}, "changes nothing"),
    ],
)
def test_what_is_not_possible_is_refused(values: dict[str, Any], why: str):
    amendments = Amendments(genesis())
    with pytest.raises(AmendmentError, match=why):
        amended(amendments, values)
    assert not len(amendments)


def test_momentum_by_which_phases_are_measured_stays():
    made = body()
    made.sync.mode, made.sync.overlap_steps = "eager", 10
    amendments = Amendments(sign(made, ORGANISER))
    with pytest.raises(AmendmentError, match="eager goes by it"):
        amended(amendments, {"outer.momentum": 0.5})
    amended(amendments, {"outer.lr_by_contributors": [0.3]})


def test_the_order_is_kept():
    amendments = Amendments(genesis())
    later = amendments.amend(ORGANISER, {"inner.lr": 1e-5}, 20, 0)
    amended(amendments, {"inner.lr": 1e-4}, 10)
    with pytest.raises(OtherAmendment, match="two different versions 2"):
        amendments.add(later.signed)
    for round_ in (0, 10, MAX_ROUND + 1):
        with pytest.raises(AmendmentError, match=r"after 10|1 to"):
            amended(amendments, {"inner.lr": 1e-5}, round_)
    with pytest.raises(AmendmentError, match="1 to"):
        amended(Amendments(genesis()), {"inner.lr": 1e-5}, 0)
    with pytest.raises(AmendmentError, match="note"):
        amended(amendments, {"inner.lr": 1e-5}, 20, "x" * (MAX_NOTE_BYTES + 1))
    with pytest.raises(AmendmentError, match="note"):
        amended(amendments, {"inner.lr": 1e-5}, 20, "\x1b[2J")


def test_there_is_an_end_of_them():
    amendments = Amendments(genesis())
    for number in range(MAX_AMENDMENTS):
        amended(amendments, {"inner.total_steps": 200 + number}, 10 + number)
    with pytest.raises(AmendmentError, match=f"{MAX_AMENDMENTS} times"):
        amended(amendments, {"inner.total_steps": 1}, 1000)


def changed(change: Callable[[pb.Amendment], None], keyring: Any = ORGANISER) -> pb.Signed:
    """A good amendment after `change`, signed again."""
    said = pb.Amendment.FromString(
        Amendments(genesis()).amend(ORGANISER, {"inner.lr": 1e-4}, 10, 0).signed.body
    )
    change(said)
    signed: pb.Signed = keyring.sign(KIND, said.SerializeToString(deterministic=True))
    return signed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: setattr(a, "swarm_id", bytes(32)), "another swarm"),
        (lambda a: setattr(a, "sequence", 3), "version 3 does not follow 1"),
        (lambda a: setattr(a, "previous", bytes(32)), "another one than the newest"),
        (lambda a: setattr(a.inner, "steps", 20), "amends what can't be"),
        (lambda a: setattr(a.rounds, "codec", "bf16"), "amends what can't be"),
        (lambda a: setattr(a.rounds, "merge", "median"), "amends what can't be"),
        (lambda a: setattr(a.outer, "missed", "reset"), "amends what can't be"),
        (lambda a: a.ClearField("inner"), "amends what can't be"),
        (lambda a: a.bootstrap.extend(["x" * 200] * 200), "is over"),
    ],
)
def test_what_is_signed_but_wrong_is_refused(change: Callable[[pb.Amendment], None], why: str):
    amendments = Amendments(genesis())
    with pytest.raises(AmendmentError, match=why):
        amendments.add(changed(change))
    assert not len(amendments)


def test_only_the_organiser_amends():
    amendments, good = Amendments(genesis()), changed(lambda a: None)
    forged = pb.Signed(body=good.body, signer=good.signer, signature=bytes(64))
    other = ORGANISER.sign("manifest", good.body)
    for bad in (changed(lambda a: None, STRANGER), forged, other, pb.Signed()):
        with pytest.raises(AmendmentError, match="not the organiser's"):
            amendments.add(bad)
    with pytest.raises(AmendmentError, match="not readable"):
        amendments.add(ORGANISER.sign(KIND, b"\xff"))
    with pytest.raises(AmendmentError, match=f"over {MAX_AMENDMENT_BYTES}"):
        amendments.add(ORGANISER.sign(KIND, bytes(MAX_AMENDMENT_BYTES)))
    assert amendments.add(good) and amendments.newest.amendment == digest_of(good)


# ---- in rounds

AMENDED = replace(CONFIG, amendment=NEW, outer_lr=lambda n: 0.25, grace_floor_s=2.0, grace_cap_s=7.0)


def test_a_plan_names_its_manifest_and_a_commit_that_of_its_plan():
    bench = Bench(SECOND, config=AMENDED)
    bench.local()
    bench.planned()
    bench.results()
    session = bench.session
    assert session.plan.amendment == NEW
    commit = make_commit(bench.head, session.exchange)
    assert commit.amendment == NEW
    check_commit(bench.head, session.exchange, commit)
    commit.amendment = b""
    with pytest.raises(CommitError, match="another manifest than its plan"):
        check_commit(bench.head, session.exchange, commit)


def test_a_plan_by_another_manifest_is_declined():
    for mine, theirs in ((CONFIG, AMENDED), (AMENDED, CONFIG)):
        bench = Bench(SECOND, config=theirs)
        plan = bench.plan()
        member = Bench(SECOND, config=mine)
        member.local()
        effects = member.planned(plan)
        assert reasons(effects) == ["plan by another version of the manifest"]
        assert {peer for send in frames(effects, "abort") for peer in send.peers} == {FIRST, THIRD}


def test_a_plan_that_continues_one_has_its_manifest():
    plan = Bench(SECOND, config=AMENDED).plan()
    later = continue_plan(plan, SECOND, 1, {SECOND, THIRD}, [], (1.0, 1.0, 1.0))
    check_continuation(plan, later)
    later.amendment = b""
    with pytest.raises(PlanError, match="by another manifest"):
        check_continuation(plan, later)


def test_a_machine_goes_by_another_manifest_once_its_session_is_over():
    member = Bench(SECOND)
    member.local()
    member.planned()
    assert member.feed(t.ConfigChanged(AMENDED)) == []
    member.abort(FIRST)
    amended = Bench(SECOND, config=AMENDED)
    member.config = AMENDED
    assert reasons(member.planned(amended.plan(view=1))) == []
    assert member.session.plan.outer_lr == 0.25


def test_a_leader_plans_by_the_newer_manifest_with_its_grace():
    leader = Bench(FIRST)
    leader.local()
    leader.feed(t.ConfigChanged(AMENDED))
    leader.ready(SECOND)
    assert leader.machine.deadline() == leader.now + 7.0, "nothing is known of arrivals: the cap holds"
    leader.tick()
    assert leader.session.plan.amendment == NEW


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(2, 6),
    hears=st.lists(st.floats(0.0, 40.0), min_size=6, max_size=6),
    dies=st.none() | st.floats(0.0, 40.0),
)
def test_a_swarm_of_which_each_hears_in_its_own_time_goes_on(
    seed: int, size: int, hears: list[float], dies: float | None
) -> None:
    """Whenever who hears of an amendment, and whoever leaves: once all have, rounds go by it."""
    swarm = Swarm(size, seed)
    other = replace(swarm.config, amendment=NEW, grace_cap_s=10.0)

    def amend(node: Node) -> None:
        swarm.feed(node, t.ConfigChanged(other))

    for node, at_s in zip(swarm.nodes, hears, strict=False):
        swarm.at(at_s, partial(amend, node))
    if dies is not None and size > 2:
        swarm.at(dies, partial(swarm.kill, swarm.nodes[-1]))
    swarm.run(lambda: swarm.now >= 41.0)
    live = [node for node in swarm.nodes if node.alive]
    goal = max(node.head.version for node in live) + 3
    swarm.run(lambda: all(node.head.version >= goal for node in live))
    for node in live:
        assert swarm.commits[node.head.digest].amendment == NEW
