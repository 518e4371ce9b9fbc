"""docker/compose.yaml on a real engine: one command, and three nodes commit together and can be watched."""

import json
from collections.abc import Iterator

import pytest

from .conftest import ROOT
from .containers import Container, until
from .engine import Engine

pytestmark = pytest.mark.container

PROJECT = "atoll-compose"
FILE = ("--project-name", PROJECT, "--file", str(ROOT / "docker" / "compose.yaml"))
NODES = ("organiser", "node-1", "node-2")
SCRAPE = """
import urllib.request
for node in ("organiser", "node-1", "node-2"):
    token = open(f"/shared/{node}.token").read().strip()
    shown = {"Authorization": f"Bearer {token}"}
    asked = urllib.request.Request(f"http://{node}:8787/metrics", headers=shown)
    text = urllib.request.urlopen(asked, timeout=10).read().decode()
    print(*[line for line in text.splitlines() if line.startswith("atoll_version ")])
"""


@pytest.fixture
def swarm(engine: Engine, image: str) -> Iterator[dict[str, Container]]:
    """The three nodes, up."""
    # Any free ports of this machine; a swarm whose rounds take seconds.
    given = {"ATOLL_IMAGE": image, "ATOLL_PORT": "0", "ATOLL_API_PORT": "0"}
    short = {"SWARM_OPTIONS": "--inner-steps=10 --batch=2"}
    engine.compose(*FILE, "up", "--detach", "--no-build", **given, **short)
    yield {name: Container(engine, f"{PROJECT}-{name}-1") for name in NODES}
    engine.clear()


def test_up_and_down(engine: Engine, image: str, swarm: dict[str, Container]) -> None:
    for node in swarm.values():
        node.reaches(1)
    states = [node.status() for node in swarm.values()]
    assert len({state["swarm_id"] for state in states}) == 1
    members = json.loads(swarm["organiser"].atoll("members", "--json"))
    assert sorted(member["label"] for member in members) == ["", "compose", "compose"]
    until(swarm["organiser"].healthy, "the health check passes", 60)

    # What Prometheus sees: as another user with the nodes' group, on its network, with the tokens only.
    options = ("--rm", "--user=65534:65534", "--group-add=10001", f"--network={PROJECT}_watch")
    only = ("--volume", f"{PROJECT}_shared:/shared:ro", "--entrypoint=python")
    seen = engine.docker("run", *options, *only, image, "-c", SCRAPE).splitlines()
    assert [float(line.split()[1]) >= 1 for line in seen] == [True] * 3

    engine.compose(*FILE, "stop")
    assert [node.inspect("{{.State.ExitCode}}") for node in swarm.values()] == ["0"] * 3
    assert Container(engine, f"{PROJECT}-invite-1").inspect("{{.State.ExitCode}}") == "0"
    engine.compose(*FILE, "down", "--volumes")
    assert engine.docker("volume", "ls", "--quiet").split() == []
