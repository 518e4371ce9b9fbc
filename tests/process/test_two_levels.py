"""Sixteen real daemons that average in four groups of four."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage.data_dir import DataDir

from .harness import Daemon, must

pytestmark = pytest.mark.process
NODES, GROUPS, ROUNDS, AT_ONCE = 16, 4, 2, 5


@pytest.mark.timeout(1200)
def test_sixteen_nodes_average_in_groups(start: Callable[..., Daemon], tmp_path: Path) -> None:
    swarm = ("--inner-steps", "2", "--batch", "1", "--min-peers", str(NODES), "--two-level-above", "8")
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), *swarm)
    first = start("n0", "run", "--rounds", str(ROUNDS))
    ticket = first.ticket()
    # A few at a time: each imports a training framework.
    nodes = [first]
    while len(nodes) < NODES:
        names = [f"n{k}" for k in range(len(nodes), min(NODES, len(nodes) + AT_ONCE))]
        more = [start(name, "join", ticket, "--yes", "--rounds", str(ROUNDS)) for name in names]
        for node in more:
            node.wait_for(lambda s: s["peers"] >= len(nodes), "links to those before it")  # noqa: B023
        nodes += more
    for node in nodes:
        node.wait_for_version(ROUNDS)
    statuses = [node.wait_for(lambda s: s["state"] == "paused", "the end") for node in nodes]
    assert len({(s["version"], s["digest"]) for s in statuses}) == 1
    for node in nodes:
        client = client_of(DataDir(node.folder))
        assert client is not None
        ended = [r for r in client.picture()["rounds"] if r["outcome"] == "certified"]
        assert [r["groups"] for r in ended] == [GROUPS] * ROUNDS
        assert all(len(r["contributed"]) == NODES for r in ended)
