"""Two machines in one network: the second finds the first without any address. Needs root (namespaces)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import Daemon, must
from .netns import Lines, available


@pytest.fixture
def lines() -> Iterator[Lines]:
    if not available():
        pytest.skip("network namespaces need root")
    made = Lines(2, f"atoll-lan-{os.getpid()}")
    # Multicast goes where the route says, and these machines have but one line.
    for k in range(2):
        made.route(k, "default")
    yield made
    made.close()


@pytest.mark.timeout(400)
def test_a_node_finds_its_swarm_in_the_network(
    lines: Lines, start: Callable[..., Daemon], tmp_path: Path
) -> None:
    where = ["--data-dir", str(tmp_path / "organiser")]
    must("init", "lab", *where, "--inner-steps", "10")
    ticket = must("ticket", "--lan", *where).strip()
    organiser = start("organiser", "run", "--mdns", host="0.0.0.0", namespace=lines.name(0))
    newcomer = start("newcomer", "join", ticket, "--yes", "--mdns", host="0.0.0.0", namespace=lines.name(1))
    newcomer.wait_for(lambda s: s["peers"] == 1 and s["version"] > 0, "a round with the one that it found")
    status = newcomer.wait_for(lambda s: s["accepted_tokens"] > 0, "an accepted update")
    assert [b["address"].split("/p2p/")[0] for b in status["bootstrap"]] == [
        f"/ip4/{lines.address(0)}/tcp/31337"
    ]
    assert organiser.stop() == newcomer.stop() == 0
