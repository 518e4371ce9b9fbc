"""The Compose files on a real engine: three nodes commit and can be watched, and one from outside joins."""

import json
from collections.abc import Iterator

import pytest

from atoll.protocol import ticket as tickets

from .conftest import ROOT
from .containers import Container, until
from .engine import Engine

pytestmark = pytest.mark.container

PROJECT, GUEST_PROJECT = "atoll-compose", "atoll-compose-guest"
FILE = ("--project-name", PROJECT, "--file", str(ROOT / "docker" / "compose.yaml"))
GUEST_FILE = ("--project-name", GUEST_PROJECT, "--file", str(ROOT / "docker" / "compose.node.yaml"))
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


def up(engine: Engine, image: str, file: tuple[str, ...], **variables: str) -> None:
    """Everything in a file, on any free ports of this machine."""
    given = {"ATOLL_IMAGE": image, "ATOLL_PORT": "0", "ATOLL_API_PORT": "0", **variables}
    engine.compose(*file, "up", "--detach", "--no-build", **given)


def outside_ticket(engine: Engine, organiser: Container) -> str:
    """A ticket with nothing but the organiser's published port, at an address of this machine."""
    gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    host = engine.docker("network", "inspect", "--format", gateway, f"{PROJECT}_front").strip()
    port = engine.docker("port", organiser.name, "31337/tcp").splitlines()[0].rpartition(":")[2]
    ticket = tickets.decode(organiser.ticket("--label", "guest"))
    peer = ticket.addresses[0].rpartition("/p2p/")[2]
    del ticket.addresses[:]
    ticket.addresses.append(f"/ip4/{host}/tcp/{port}/p2p/{peer}")
    return tickets.encode(ticket)


@pytest.fixture
def swarm(engine: Engine, image: str) -> Iterator[dict[str, Container]]:
    """The three nodes, up."""
    up(engine, image, FILE, SWARM_OPTIONS="--inner-steps=10 --batch=2")
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

    engine.compose(*FILE, "stop", "node-1", "node-2")  # the guest and the organiser are enough
    up(engine, image, GUEST_FILE, ATOLL_TICKET=outside_ticket(engine, swarm["organiser"]))
    guest = Container(engine, f"{GUEST_PROJECT}-node-1")
    guest.wait_for(lambda state: state.get("accepted_tokens", 0) > 0, "an accepted contribution")
    engine.compose(*GUEST_FILE, "stop")
    assert guest.inspect("{{.State.ExitCode}}") == "0"
    engine.compose(*GUEST_FILE, "down", "--volumes")

    engine.compose(*FILE, "stop")
    assert [node.inspect("{{.State.ExitCode}}") for node in swarm.values()] == ["0"] * 3
    assert Container(engine, f"{PROJECT}-invite-1").inspect("{{.State.ExitCode}}") == "0"
    engine.compose(*FILE, "down", "--volumes")
    assert engine.docker("volume", "ls", "--quiet").split() == []
