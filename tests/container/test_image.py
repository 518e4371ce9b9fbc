"""The image on a real engine: help, the demo without a network, and two nodes that join by ticket."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .conftest import IMAGE, until
from .engine import Engine, EngineError

pytestmark = pytest.mark.container

NETWORK = "atoll-test"
SUBNET = "172.29.250.0/24"  # a private range, and not one that engines take by themselves
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
VERSION = 3


@dataclass
class Container:
    """A running node."""

    engine: Engine
    name: str

    def atoll(self, *arguments: str) -> str:
        return self.engine.docker("exec", self.name, "atoll", *arguments)

    def status(self) -> dict[str, Any]:
        known: dict[str, Any] = json.loads(self.atoll("status", "--json"))
        return known

    def running(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"

    def inspect(self, template: str) -> str:
        return self.engine.docker("inspect", "--format", template, self.name).strip()

    def at(self, version: int) -> bool:
        if not self.running():
            pytest.fail(f"{self.name} ended:\n{self.engine.docker('logs', '--tail', '40', self.name)}")
        return self.status()["version"] == version


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    """A network with nothing behind it, and none of its containers left afterwards."""
    engine.docker("network", "create", "--internal", "--subnet", SUBNET, NETWORK)
    yield NETWORK
    for name in engine.docker("ps", "--all", "--quiet").split():
        engine.docker("rm", "--force", "--volumes", name)
    engine.docker("network", "rm", NETWORK)


def start(engine: Engine, network: str, name: str, *command: str) -> Container:
    options = ("--detach", "--name", name, "--network", network, "--volume", f"{name}:/data")
    engine.docker("run", *options, "--health-interval=2s", *HARDENED, IMAGE, *command)
    return Container(engine, name)


def test_says_how_to_use_it(engine: Engine, image: str) -> None:
    assert "usage: atoll" in engine.docker("run", "--rm", "--network=none", image)
    assert "--yes" in engine.docker("run", "--rm", "--network=none", image, "join", "--help")


def test_runs_as_nobody_special(engine: Engine, image: str) -> None:
    config = json.loads(engine.docker("inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] == "tini"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert set(config["ExposedPorts"]) == {"31337/tcp", "8787/tcp"}
    assert set(config["Volumes"]) == {"/data"}


def test_shows_the_demo_without_a_network(engine: Engine, image: str) -> None:
    demo = ("demo", "--peers=2", "--rounds=2", "--no-browser", "--json")
    said = engine.docker("run", "--rm", "--network=none", *HARDENED, image, *demo, timeout_s=240)
    summary = json.loads(said.splitlines()[-1])
    assert summary["versions"] == [2, 2]
    assert len(set(summary["digests"])) == 1
    assert summary["val_loss"][-1] < summary["val_loss_before"]


def test_joins_by_ticket_and_ends_in_order(engine: Engine, image: str, network: str) -> None:
    volume = ("--volume", "founder:/data")
    made = ("init", "lab", "--inner-steps=10", "--batch=2", "--min-peers=2")
    engine.docker("run", "--rm", "--network=none", *volume, *HARDENED, image, *made)
    pause_at = f"--rounds={VERSION}"
    founder = start(engine, network, "founder", "run", pause_at)
    until(lambda: ticket_of(founder) is not None, "the first node has an address")
    ticket = ticket_of(founder)
    assert ticket is not None
    guest = start(engine, network, "guest", "join", ticket, "--yes", pause_at)
    for node in (founder, guest):
        until(lambda node=node: node.at(VERSION), f"{node.name} reaches version {VERSION}")
    assert founder.status()["digest"] == guest.status()["digest"]
    assert founder.status()["swarm_id"] == guest.status()["swarm_id"]
    until(lambda: guest.inspect("{{.State.Health.Status}}") == "healthy", "the health check passes", 60)
    for node in (guest, founder):
        engine.docker("stop", "--time=20", node.name)
        # A node that needs longer is killed, which is 137.
        assert node.inspect("{{.State.ExitCode}}") == "0"


def ticket_of(node: Container) -> str | None:
    """The node's ticket, or None while it has no address."""
    try:
        return node.atoll("ticket").splitlines()[-1]
    except EngineError:
        return None
