"""What a real node answers is what the API says of itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from atoll.daemon import machine
from atoll.daemon.config import LIVE, load
from atoll.daemon.events import Events
from atoll.daemon.node import Node
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.view import View
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.types import SessionReport
from atoll.web_ui.openapi import OPERATIONS
from tests.daemon.swarm import keyring
from tests.web.asked import NoNews, ask, make_app, schema_of
from tests.web.fake_node import FakeNode
from tests.web.schema import problems

PEER = keyring(2).peer_id


class LoopEvents(NoNews, Events):
    """The log of a node that is asked by schemathesis."""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node as it is when its page begins to answer."""
    node = Node(DataDir(tmp_path), load(tmp_path / "config.toml", {}, {"label": "anna's"}))
    node.keyring, node.name = keyring(1), "coral-heron"
    node.front = SimpleNamespace(page=SimpleNamespace(url="http://127.0.0.1:8787"), recorder=None)  # type: ignore[assignment]
    return node


def test_a_node_that_starts_answers_as_described(node: Node) -> None:
    assert problems(View(node).state(), "State") == []


def test_rounds_alerts_and_events_are_as_described(node: Node) -> None:
    report = SessionReport(
        pb.SessionId(leader=PEER, view=1),
        3,
        "certified",
        "",
        planned=(PEER,),
        contributed=(PEER,),
        rejected=((keyring(3).peer_id, "too late"),),
        phases={"reduce_s": 0.5, "end_s": 2.0},
    )
    node.history.ended(report, 1_760_000_000.0, 10, 20, 1.5)
    node.alerts.raise_("alone", "No other peer.", "Wait.")
    node.events.emit("round", "Round 3 ended certified.")
    state = View(node).state()
    assert problems(state, "State") == []
    assert problems(View(node).rounds(0, 10), "Rounds") == [] and state["rounds_revision"] == 1
    assert state["alerts"]
    for event in node.events.since(0)[0]:
        assert problems(event, "Event") == []


def test_a_snapshot_reads_no_disk_and_no_sensor(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(node)

    def walk(*_: object, **__: object) -> None:
        raise AssertionError("a disk may take seconds, and the event loop waits")

    for name in ("disk_use", "temperature_c", "free_bytes"):
        monkeypatch.setattr(machine, name, walk)
    monkeypatch.setattr(machine.os, "walk", walk)
    assert view.state()["disk"] == {"used_bytes": 0, "free_bytes": 0}


described = schema_of(make_app(FakeNode()))
"""Paths do not depend on the node."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@described.parametrize()
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_a_real_node_is_asked_is_answered_as_described(case: schemathesis.Case, node: Node) -> None:
    node.events = LoopEvents(node.folder.events, lambda: 1.0)
    node.events.emit("start", "It starts.")
    app = make_app(View(node))
    ask(case, app)
    if "name" in case.path_parameters:
        for command in ("pause", "resume", "finish", "leave", "sample", "set"):
            case.path_parameters["name"] = command
            ask(case, app)


def test_every_setting_that_can_be_set_is_described() -> None:
    body = OPERATIONS["/api/v1/commands/{name}"].body
    assert body is not None
    (settings_body,) = (each for each in body["anyOf"] if each["title"] == "set")
    assert set(settings_body["properties"]) == set(LIVE), "name it in web_ui/openapi.py"
