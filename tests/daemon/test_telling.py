"""The network of a node: what it says when its port has changed, and when nobody answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from atoll.daemon import network as networks
from atoll.daemon.alerts import Alerts
from atoll.daemon.config import Settings
from atoll.daemon.events import Events
from atoll.daemon.network import Network
from atoll.daemon.storage.data_dir import DataDir


@pytest.fixture
def network(tmp_path: Path) -> Network:
    folder = DataDir(tmp_path)
    events = Events(folder.events, lambda: 0.0)
    return Network(folder, events, Alerts(events), None)


@pytest.mark.parametrize(
    ("before", "now", "asked", "told"),
    [(31337, 4001, 0, True), (31337, 31337, 0, False), (None, 4001, 0, False), (31337, 4001, 4001, False)],
)
def test_another_port_than_last_time_is_told(
    network: Network, before: int | None, now: int, asked: int, told: bool
) -> None:
    network._folder.remember(port=now)
    network._tell_of_another_port(before, Settings(port=asked))
    alerts = network._alerts.all()
    assert [a["code"] for a in alerts] == (["port_changed"] if told else [])
    if told:
        assert "31337" in alerts[0]["text"] and "4001" in alerts[0]["text"] and "ticket" in alerts[0]["fix"]


async def test_whom_it_tries_is_told(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TELL_FIRST_S", 0.0)
    addresses = {
        n: SimpleNamespace(text=f"/ip4/{n}", cause="connection refused", state="failed") for n in range(6)
    }
    network.finder = SimpleNamespace(addresses=addresses)  # type: ignore[assignment]
    async with network.telling_whom_it_tries(), asyncio.timeout(10):
        await network._events.wait(0)
    events, _ = network._events.since(0)
    assert "/ip4/0 (connection refused)" in events[0]["text"] and "and 2 more" in events[0]["text"]
