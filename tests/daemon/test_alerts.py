"""Alerts begin and end with what they say, and each is explained on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll.daemon.alerts import FRUITLESS, Alerts
from atoll.daemon.events import Events
from atoll.daemon.history import History
from atoll.daemon.storage.files import TROUBLE_CODES
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
    alerts.check((), False, [], {}, relayed=True)
    assert codes(alerts) == ["relay_only"]
    alerts.check((), False, [], {})
    assert codes(alerts) == []


def test_rounds_without_a_commit_are_said_until_one_comes(alerts: Alerts) -> None:
    history = History()
    seen = []
    for outcome in ["certified", *["aborted", "missed"] * 3, "provisional", "aborted"]:
        report = SessionReport(pb.SessionId(leader=b"l" * 38), 1, outcome, "its leader left")
        history.ended(report, 0.0, 0, 0, None)
        alerts.check((), False, [], {}, fruitless=history.fruitless)
        seen.append(codes(alerts) == ["no_round"])
    assert seen == [False] * FRUITLESS + [True, True, False, False]
