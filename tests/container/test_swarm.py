"""A private swarm of containers: from a ticket to commits, a kill, an upgrade and an orderly end."""

import json
import re

import pytest

from atoll.protocol import ticket as tickets

from .conftest import build
from .containers import HARDENED, Container, start, stop, until
from .engine import Engine

pytestmark = pytest.mark.container

NEXT = "atoll:next"
SHORT = ("--inner-steps=10", "--batch=2")
VERSION_LABEL = "org.opencontainers.image.version"


def make_swarm(engine: Engine, image: str, volume: str, *options: str) -> None:
    """`atoll init` in a volume."""
    where = ("--rm", "--network=none", "--volume", f"{volume}:/data")
    engine.docker("run", *where, *HARDENED, image, "init", "lab", *SHORT, *options)


def identity(node: Container) -> tuple[str, str]:
    """Ids of the node and of its swarm."""
    facts = json.loads(node.engine.docker("exec", node.name, "cat", "/data/node.json"))
    return facts["node_id"], facts["swarm_id"]


def test_from_a_ticket_through_a_kill_and_an_upgrade(engine: Engine, image: str, network: str) -> None:
    make_swarm(engine, image, "organiser", "--private", "--min-peers=2")
    organiser = start(engine, image, network, "organiser", "run")
    orders = {"organiser": ("run",)}
    nodes = [organiser]
    for name in ("anna", "ben"):
        orders[name] = ("join", organiser.ticket("--label", name), "--yes")
        nodes.append(start(engine, image, network, name, *orders[name]))
    for node in nodes:
        node.reaches(2)
    who = {node.name: identity(node) for node in nodes}
    assert len({peer for peer, _ in who.values()}) == 3 and len({swarm for _, swarm in who.values()}) == 1
    until(lambda: all(node.healthy() for node in nodes), "the health checks pass", 60)

    # Killed with no chance to say anything, and made anew with its volume and its used-up ticket.
    anna = nodes[1]
    engine.docker("kill", "--signal=KILL", anna.name)
    assert anna.inspect("{{.State.ExitCode}}") == "137"
    anna.remove()
    seen = int(organiser.status()["version"])
    for node in (organiser, nodes[2]):
        node.reaches(seen + 1)
    start(engine, image, network, anna.name, *orders[anna.name])
    anna.reaches(seen + 2)
    assert identity(anna) == who[anna.name]

    # The next release: containers are replaced one by one, the swarm goes on.
    build(engine, "Dockerfile", NEXT, "--build-arg", "VERSION=9.9.9")
    for node in nodes:
        stop(node)
        node.remove()
        start(engine, NEXT, network, node.name, *orders[node.name])
        assert node.inspect(f'{{{{index .Config.Labels "{VERSION_LABEL}"}}}}') == "9.9.9"
    seen = max(int(node.status().get("version") or 0) for node in nodes)
    for node in nodes:
        node.reaches(seen + 2)
        assert identity(node) == who[node.name]
    stop(*nodes)
    assert "data_not_kept" not in engine.docker("cp", "organiser:/data/events.jsonl", "-")


def test_two_nodes_find_each_other_by_the_helper(
    engine: Engine, image: str, bootstrap_image: str, network: str
) -> None:
    options = ("--detach", "--name=helper", "--network", network, "--health-interval=2s")
    engine.docker("run", *options, *HARDENED, bootstrap_image)
    helper = Container(engine, "helper")
    until(helper.healthy, "the helper is healthy", 60)
    found = re.search(r"^/ip4/(?!127\.)\S+/p2p/\S+$", helper.log(), re.M)
    assert found is not None, helper.log()
    assert "is on a volume without a name" in helper.log()

    make_swarm(engine, image, "one", "--bootstrap", found[0])
    one = start(engine, image, network, "one", "run")
    ticket = tickets.decode(one.ticket())
    del ticket.addresses[:]
    ticket.addresses.append(found[0])
    two = start(engine, image, network, "two", "join", tickets.encode(ticket), "--yes")
    for node in (one, two):
        node.wait_for(lambda status: status.get("peers") == 1, "a peer")
    stop(one, two, helper)
