"""What people are told of a node: since when, whose loss, and what a peer does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.daemon import view as views
from atoll.daemon.owner_pause import OwnerPause
from atoll.daemon.peers_view import state_word
from atoll.daemon.status import State
from atoll.daemon.view import View
from atoll.protocol import messages_pb2 as pb
from atoll.web_ui.interface import CommandError


def node_of(**changes: Any) -> Any:
    """A node that has not met anybody yet."""
    fields = {
        "state": State.CONNECTING,
        "reason": "no node of the swarm has answered yet",
        "driver": None,
        "island": None,
        "recovery": None,
        "finder": None,
        "reader": None,
        "neighbours": None,
        "folder": SimpleNamespace(root=Path("/d")),
        "controls": SimpleNamespace(pausing=(), network=SimpleNamespace(waiting=0), override=lambda: False),
    }
    node = SimpleNamespace(**(fields | changes))
    node.controls.owner = OwnerPause(node, lambda: 0.0)
    return node


def test_a_state_lasts_whatever_is_counted_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(views.time, "monotonic", lambda: now)
    node = node_of()
    view = View(node)
    view.sentence()
    now, node.reason = 124.0, "the swarm's description can't be had yet (no peer is connected)"
    assert view.sentence()[1] == 24.0, "another cause is no other state"
    node.state = State.FETCHING
    assert view.sentence()[1] == 0.0
    now = 130.0
    node.state = State.CONNECTING
    assert view.sentence()[1] == 0.0


async def test_a_state_begins_whether_anybody_asks_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(views.time, "monotonic", lambda: now)
    looks = 0

    async def a_second(_: float) -> None:
        nonlocal now, looks
        now, looks = now + 1.0, looks + 1
        if looks == 60:
            raise InterruptedError

    monkeypatch.setattr(views.asyncio, "sleep", a_second)
    view = View(node_of())
    with pytest.raises(InterruptedError):
        await view.keep()
    assert view.sentence()[1] == 60.0


def test_a_paused_node_names_its_data_dir_and_is_not_finished_again() -> None:
    island = SimpleNamespace(paused="you asked for it", paused_until=None, finishing=False)
    node = node_of(state=State.TRAINING, driver=object(), island=island)
    node.driver = SimpleNamespace(state=SimpleNamespace(head=SimpleNamespace(version=3)))
    view = View(node)
    assert "`atoll resume --data-dir /d` goes on" in view.sentence()[0].text
    assert not island.finishing


async def test_finish_says_so_or_that_the_node_is_paused() -> None:
    island = SimpleNamespace(paused="you asked for it", paused_until=None, finishing=False)
    with pytest.raises(CommandError, match="paused already"):
        await View(node_of(island=island)).command("finish", {})
    assert not island.finishing


def test_a_peer_that_paused_is_not_said_to_follow() -> None:
    assert state_word(pb.NodeStatus(state=pb.FOLLOWING, reason="paused")) == "paused"
    assert state_word(pb.NodeStatus(state=pb.FOLLOWING, reason="training")) == "following"
    assert state_word(pb.NodeStatus(state=pb.TRAINING, reason="paused")) == "training"
