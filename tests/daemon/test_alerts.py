"""Alerts begin and end with what they say, and each is explained on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll import __version__
from atoll.daemon.alerts import (
    FRUITLESS,
    MAX_SKEW_S,
    SKEW_OFF_S,
    Alerts,
    Circumstances,
    clock_is_off,
    disk_is_low,
)
from atoll.daemon.events import Events
from atoll.daemon.history import History
from atoll.daemon.storage.files import TROUBLE_CODES
from atoll.daemon.trust import quarantined_by
from atoll.peers.links import Spoken
from atoll.peers.roster import Roster
from atoll.protocol import PROTOCOL_HIGHEST, PROTOCOL_LOWEST
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import SessionReport

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'(?:raise_|_trouble|_tell)\(\s*"([a-z_0-9]+)"')
SET = re.compile(r'_set\(\s*(?:[^"]*?),\s*"([a-z_0-9]+)"', re.S)


@pytest.fixture
def alerts(tmp_path: Path) -> Alerts:
    return Alerts(Events(tmp_path / "events.jsonl", lambda: 0.0))


def codes(alerts: Alerts) -> list[str]:
    return [alert["code"] for alert in alerts.all()]


def test_each_alert_is_explained() -> None:
    sources = [path.read_text() for path in (ROOT / "daemon").rglob("*.py") if "simulate" not in path.parts]
    raised = {code for text in sources for code in (*RAISED.findall(text), *SET.findall(text))}
    assert len(raised) > 12 and "fork_suspected" in raised
    explained = re.findall(r"^## ([a-z_0-9]+)$", (ROOT / "docs" / "alerts.md").read_text(), re.M)
    assert len(explained) == len(set(explained))
    assert raised | set(TROUBLE_CODES) <= set(explained)


def test_a_node_that_only_relays_reach_says_so(alerts: Alerts) -> None:
    alerts.check(Circumstances(relayed=True))
    assert codes(alerts) == ["relay_only"]
    alerts.check(Circumstances())
    assert codes(alerts) == []


def test_rounds_without_a_commit_are_said_until_one_comes(alerts: Alerts) -> None:
    history = History()
    seen = []
    for outcome in ["certified", *["aborted", "missed"] * 3, "provisional", "aborted"]:
        report = SessionReport(pb.SessionId(leader=b"l" * 38), 1, outcome, "its leader left")
        history.ended(report, 0.0, 0, 0, None)
        alerts.check(Circumstances(fruitless=history.fruitless))
        seen.append(codes(alerts) == ["no_round"])
    assert seen == [False] * FRUITLESS + [True, True, False, False]


@pytest.mark.parametrize(
    ("facts", "code", "said"),
    [
        (Circumstances(loss_is_bad=True), "loss_not_finite", "not finite"),
        (Circumstances(free_bytes=50_000_000, needed_bytes=300_000_000), "disk_low", "50.0 MB are free"),
        (Circumstances(skew_s=MAX_SKEW_S), "clock_skew", "30s behind"),
        (Circumstances(skew_s=-90.0), "clock_skew", "1m 30s ahead of"),
        (Circumstances(refused={b"p": "it trains on another text"}), "peers_refused", "another text"),
        (Circumstances(incompatible={b"p": Spoken(7, 9)}), "versions_incompatible", "1 with 7 to 9; here it"),
        (Circumstances(training=True), "training_alone", "trains alone"),
    ],
)
def test_each_begins_and_ends_with_its_cause(
    alerts: Alerts, facts: Circumstances, code: str, said: str
) -> None:
    alerts.check(facts)
    assert codes(alerts) == [code] and said in alerts.all()[0]["text"]
    alerts.check(Circumstances(free_bytes=10**12, needed_bytes=300_000_000, skew_s=SKEW_OFF_S - 1))
    assert codes(alerts) == []


def test_versions_that_differ_are_named_on_both_sides_and_the_older_is_to_be_updated(alerts: Alerts) -> None:
    newer, older = (
        Spoken(PROTOCOL_HIGHEST + 1, PROTOCOL_HIGHEST + 4, "atoll 9.9"),
        Spoken(0, PROTOCOL_LOWEST - 1),
    )
    refused = {b"a": "protocol", b"b": "protocol", b"c": "protocol", b"d": "another text"}
    alerts.check(Circumstances(refused=refused, incompatible={b"a": newer, b"b": newer, b"c": older}))
    versions, others = alerts.all()
    assert versions["code"] == "versions_incompatible" and versions["text"] == (
        "3 nodes have no protocol version in common with this one: 2 with "
        f"{newer.lowest} to {newer.highest} (atoll 9.9), 1 with {older.lowest} to {older.highest}; "
        f"here it is {PROTOCOL_LOWEST} to {PROTOCOL_HIGHEST} (atoll {__version__})."
    )
    assert "this node and those that are older" in versions["fix"]
    assert others["code"] == "peers_refused" and others["text"] == "1 nodes were refused: another text."
    since = versions["since"]
    alerts.check(Circumstances(incompatible={b"a": newer}))
    (versions,) = alerts.all()
    assert versions["since"] == since and "Update this node:" in versions["fix"]
    alerts.check(Circumstances(incompatible={b"c": older}))
    assert "Update those nodes:" in alerts.all()[0]["fix"]


def test_a_disk_that_does_not_tell_raises_nothing(alerts: Alerts) -> None:
    alerts.check(Circumstances(free_bytes=None, needed_bytes=1))
    assert codes(alerts) == []


def test_measures_that_waver_are_told_once(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl", lambda: 0.0)
    alerts = Alerts(events)
    for waver in [0, -1, 1] * 20:
        alerts.check(Circumstances(skew_s=MAX_SKEW_S + waver, free_bytes=999 + waver, needed_bytes=1000))
    assert codes(alerts) == ["disk_low", "clock_skew"] and len(events.since(0)[0]) == 2


@pytest.mark.parametrize(
    ("free", "was", "low"),
    [(999, False, True), (1000, False, False), (1199, True, True), (1200, True, False), (None, True, False)],
)
def test_a_disk_is_low_until_there_is_more_than_enough(free: int | None, was: bool, low: bool) -> None:
    assert disk_is_low(free, 1000, was) is low


@pytest.mark.parametrize(
    ("skew", "was", "off"),
    [
        (30.0, False, True),
        (-29.9, False, False),
        (-20.0, True, True),
        (19.9, True, False),
        (None, True, False),
    ],
)
def test_a_clock_is_off_until_it_is_well_set(skew: float | None, was: bool, off: bool) -> None:
    assert clock_is_off(skew, was) is off


def test_a_node_that_others_leave_out_says_who_says_what(alerts: Alerts) -> None:
    me, other = b"me", b"other"
    ups = [
        ("a", [(me, "disagrees"), (me, "lied")]),
        ("b", [(other, "lied"), (me, "disagrees")]),
        ("c", [(me, "of another release")]),
        ("d", [(other, "lied")]),
    ]
    roster = Roster()
    for name, told in ups:
        status = pb.NodeStatus(quarantined=[pb.Quarantined(peer=peer, reason=why) for peer, why in told])
        roster.up(name.encode(), pb.Hello(status=status), 0.0)
    reasons = quarantined_by(roster.entries.values(), me)
    assert reasons == ["disagrees", "disagrees", "of another release"]
    alerts.check(Circumstances(peers=roster.entries.values(), quarantined_by=reasons))
    (alert,) = alerts.all()
    assert alert["code"] == "quarantined"
    assert alert["text"].startswith("3 of 4 other nodes leave out what this one contributes: 2 say its contr")
    assert "another release" not in alert["text"], "what others send is not shown"
    alerts.check(Circumstances(peers=roster.entries.values()))
    assert codes(alerts) == []
