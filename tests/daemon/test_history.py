"""Reports of rounds: revisions, ids as numbers, what comes back after a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atoll.daemon import history as module
from atoll.daemon.history import KEEP, History, Said
from atoll.protocol.chain import Head
from atoll.protocol.round.types import SessionReport
from atoll.web_ui.rounds import with_ids


def peer(number: int) -> bytes:
    return b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")


def report(version: int, members: int = 3, outcome: str = "certified", **changes: Any) -> SessionReport:
    from atoll.protocol import messages_pb2 as pb

    peers = tuple(peer(n) for n in range(members))
    fields: dict[str, Any] = {
        "session": pb.SessionId(parent=bytes(32), view=1, leader=peers[0]),
        "version": version,
        "outcome": outcome,
        "reason": "all were there",
        "planned": peers,
        "contributed": peers,
        "tokens": 100,
        "phases": {"reduce_s": 1.0, "propose_s": 1.5, "persist_s": 2.0, "end_s": 2.5},
    }
    return SessionReport(**(fields | changes))


def named(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [with_ids(entry, page["peers"]) for entry in page["rounds"]]


def head(version: int) -> Head:
    return Head(version=version, digest=version.to_bytes(32, "big"), electorate=(peer(0),), certified=True)


def test_a_reader_gets_what_changed_since_it_asked() -> None:
    history = History(5.0)
    history.ended(report(1), 10.0, 1, 2, 3.0)
    history.ended(report(2), 20.0, 1, 2, 2.5)
    first = history.page(0, 100)
    assert (first["run"], [r["version"] for r in first["rounds"]]) == (5.0, [1, 2])
    assert history.page(first["revision"], 100)["rounds"] == []
    history.applied(head(1))
    history.measured(1, 2.25)
    history.measured(1, 2.25)  # said again: no news
    history.measured(2, float("nan"))  # as good as not measured
    news = history.page(first["revision"], 100)
    assert [(r["version"], r["val_loss"], r["digest"][-2:]) for r in news["rounds"]] == [(1, 2.25, "01")]
    assert history.revision == news["revision"] == first["revision"] + 2


def test_pages_hold_at_most_so_many_and_name_only_their_own_peers() -> None:
    history = History()
    for version in range(1, 11):
        history.ended(report(version, members=version), float(version), 0, 0, None)
    page = history.page(0, 3)
    assert [r["version"] for r in page["rounds"]] == [1, 2, 3] and len(page["peers"]) == 3
    assert [len(entry["planned"]) for entry in named(page)] == [1, 2, 3]
    rest = history.page(page["revision"], 100)
    assert [r["version"] for r in rest["rounds"]] == list(range(4, 11))


def test_what_members_said_is_summed_up() -> None:
    said = [Said(2.0, 0.5), Said(4.0, 0.7), Said(float("nan"), 7.0), Said()]
    entry = History().ended(report(1), 1.0, 0, 0, 3.0, said)
    assert (entry["loss_min"], entry["loss_max"]) == (2.0, 4.0)
    assert entry["cosine"] == pytest.approx(0.6)
    liar = History().ended(report(1), 1.0, 0, 0, 3.0, [Said(1e30), Said(-1.0), Said(float("inf"))])
    assert (liar["loss_min"], liar["loss_max"]) == (3.0, 3.0), "no loss, so it is in no chart"
    alone = History().ended(report(1), 1.0, 0, 0, None)
    assert (alone["loss_min"], alone["cosine"]) == (None, None)


def test_a_log_brings_the_reports_back() -> None:
    history, log = History(), []
    for version in range(1, 4):
        entry = history.ended(
            report(version, rejected=((peer(1), "its norm"),)), float(version), 0, 0, 2.0, [Said(1.0, 0.5)]
        )
        log.append({"kind": "round", "round": entry})
    log.append({"kind": "validation", "version": 2, "val_loss": 1.5})
    log += [
        {"kind": "round"},
        {"kind": "round", "round": {"version": 9}},
        {"kind": "round", "round": {**log[0]["round"], "planned": [7]}},
        {"kind": "round", "round": {**log[0]["round"], "rejected": [{"peer": 3}]}},
        {"kind": "round", "round": {**log[0]["round"], "phases": {"scatter_s": "x"}}},
        {"kind": "validation", "version": "x", "val_loss": 1.0},
        {"kind": "validation", "version": 3, "val_loss": "x"},
        {"kind": "validation", "version": 3, "val_loss": 10**400},
    ]
    again = History()
    again.restore(json.loads(json.dumps(log)))
    before, after = history.named(), again.named()
    history.measured(2, 1.5)
    before = history.named()
    for one in [*before, *after]:
        one.pop("revision")
    assert after == before


def test_rounds_and_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDS", 2000)
    history = History()
    for version in range(KEEP + 1000):
        # Every round has one member that no other round has.
        passing = report(version, planned=(peer(1_000_000 + version),))
        history.ended(passing, float(version), 0, 0, None)
    assert len(history.rounds) == KEEP and len(history._ids) <= 2001
    assert history.named()[-1]["planned"] != history.named()[0]["planned"]


def test_a_few_reports_that_name_very_many_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDS", 100)
    history = History()
    for version in range(4):
        others = tuple(peer(1000 * version + n) for n in range(60))
        history.ended(report(version, planned=others, contributed=()), float(version), 0, 0, None)
    assert [entry["version"] for entry in history.rounds] == [3] and len(history.named()[0]["planned"]) == 60
    history.ended(
        report(9, planned=tuple(map(peer, range(300))), contributed=()), 9.0, 0, 0, None
    )  # one that is larger than the bound stays alone
    assert [entry["version"] for entry in history.rounds] == [9] and len(history._ids) == 300


def test_rounds_without_a_commit_are_counted() -> None:
    history = History()
    for outcome in ("certified", "aborted", "aborted"):
        history.ended(report(1, outcome=outcome), 1.0, 0, 0, None)
    assert history.fruitless == 2 and history.outcomes["aborted"] == 2
