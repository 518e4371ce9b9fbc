"""Real daemons behind real routers: nodes that nobody can dial meet, train together, and say how and why not.

The internet is a bridge between network namespaces, the routers are nftables (netns.py). Needs root.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import Daemon, must, wait_until
from .netns import Internet, an_internet

Start = Callable[..., Daemon]

PORT = 31337
LONG_S = 240.0


@pytest.fixture
def internet() -> Iterator[Internet]:
    """One public node and two hidden ones; gone when the test ends."""
    yield from an_internet("atoll-nat")


def command(namespace: str, *arguments: str, status: int = 0) -> str:
    """Output of a command in a namespace."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-m", "atoll", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def a_swarm(net: Internet, start: Start, folder: Path, *options: str) -> tuple[Daemon, list[Daemon]]:
    """The organiser's node, which is public, and the hidden ones, which joined with its ticket."""
    must("init", "lab", "--data-dir", str(folder / "organiser"), "--inner-steps", "10", *options)
    organiser = start("organiser", "run", host="0.0.0.0", namespace=net.public[0])
    ticket = wait_until(lambda: ticket_of(organiser, "--uses", "2"), "a ticket")
    others = [start(name, "join", ticket, "--yes", host="0.0.0.0", namespace=name) for name in net.hidden]
    return organiser, others


def ticket_of(node: Daemon, *options: str) -> str:
    """Empty while the node knows no address."""
    assert node.namespace is not None
    done = subprocess.run(
        [
            *("ip", "netns", "exec", node.namespace, sys.executable, "-m", "atoll"),
            *("ticket", "--data-dir", str(node.folder), *options),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def together(organiser: Daemon) -> list[int]:
    """Versions with all three nodes in them."""
    assert organiser.namespace is not None
    told = command(organiser.namespace, "rounds", "--json", "--data-dir", str(organiser.folder))
    return [r["version"] for r in json.loads(told) if len(r["contributed"]) == 3]


def way_to(node: Daemon, other: Daemon) -> str | None:
    """How one node reaches another; None while it does not know it."""
    mine, theirs = node.state(), other.status()
    peers = mine["peers"] if mine and theirs else []
    return next((p["way"] for p in peers if theirs and p["id"] == theirs["node_id"]), None)


def verdicts(node: Daemon, status: int = 0) -> dict[str, dict[str, Any]]:
    """What `atoll doctor` says, by check."""
    assert node.namespace is not None
    told = json.loads(
        command(node.namespace, "doctor", "--json", "--data-dir", str(node.folder), status=status)
    )
    return {each["check"]: each for each in told["verdicts"]}


@pytest.mark.timeout(600)
def test_two_nodes_behind_routers_punch_a_hole_and_train_with_a_third(
    internet: Internet, start: Start, tmp_path: Path
) -> None:
    organiser, (one, other) = a_swarm(internet, start, tmp_path)
    wait_until(lambda: way_to(one, other) == "hole-punched", "a hole", LONG_S)
    wait_until(lambda: way_to(other, one) == "hole-punched", "the same on the other side", LONG_S)
    assert way_to(one, organiser) == "direct" == way_to(organiser, other)
    wait_until(lambda: together(organiser), "a round of all three", LONG_S)

    # Nobody can dial the hidden ones: their doctors say so, and what to do; the organiser's says who can.
    found = verdicts(one)["reachable by others"]
    outside = internet.outside(internet.hidden[0])
    assert found["verdict"] == "degraded" and f"/ip4/{outside}/tcp/{PORT} (no answer in 5 s)" in found["text"]
    assert f"Forward TCP port {PORT} on your router" in found["fix"]
    assert verdicts(organiser)["reachable by others"]["verdict"] == "ok"
    state = one.state()
    assert state is not None and state["reachability"]["verdict"] == "hidden"
    public = internet.address(internet.public[0])
    assert [r.split("/p2p/")[0] for r in state["reachability"]["relays"]] == [f"/ip4/{public}/tcp/{PORT}"]

    # A ticket from a hidden node has an address where others get in: the relay's.
    made = json.loads(command(internet.hidden[0], "ticket", "--json", "--data-dir", str(one.folder)))
    labels = dict(zip(made["addresses"], made["labels"], strict=True))
    assert labels[state["reachability"]["relays"][0]] == "public"
    assert not any(outside in address for address in labels)

    # As soon as the router forwards the port, others dial the node, and it is no longer hidden.
    internet.forward_port(internet.hidden[0], PORT)
    wait_until(
        lambda: verdicts(one)["reachable by others"]["verdict"] == "ok",
        "others dial the forwarded port",
        LONG_S,
    )
    made = json.loads(command(internet.hidden[0], "ticket", "--json", "--data-dir", str(one.folder)))
    assert any(address.startswith(f"/ip4/{outside}/tcp/{PORT}/") for address in made["addresses"])


@pytest.mark.timeout(600)
def test_where_no_hole_can_be_punched_a_third_node_passes_on(
    internet: Internet, start: Start, tmp_path: Path
) -> None:
    """One router gives every connection another port, so the other side never knows where to dial.

    In a private swarm: the hidden ones are members, and have their places at the organiser's relay.
    """
    internet.scramble_ports(internet.hidden[0])
    organiser, (one, other) = a_swarm(internet, start, tmp_path, "--private")
    wait_until(
        lambda: way_to(one, other) == "relay" == way_to(other, one), "the two met through others", LONG_S
    )
    wait_until(lambda: together(organiser), "a round of all three", LONG_S)
    assert way_to(one, other) == "relay"
    for node in (one, other):
        wait_until(lambda node=node: (s := node.state()) and s["reachability"]["relays"], "a place", LONG_S)


@pytest.mark.timeout(600)
def test_where_only_a_bootstrap_node_can_be_dialled_hidden_nodes_meet_through_it(
    internet: Internet, start: Start, tmp_path: Path
) -> None:
    """No member is public: the newcomer finds the organiser at its relay, then they punch a hole."""
    bootstrap = start("bootstrap", "bootstrap", host="0.0.0.0", namespace=internet.public[0])
    public = internet.address(internet.public[0])
    address = wait_until(
        lambda: next((x for x in bootstrap.log.read_text().split() if x.startswith(f"/ip4/{public}/")), None),
        "the address of the bootstrap node",
    )
    organiser_dir = tmp_path / "organiser"
    must("init", "lab", "--data-dir", str(organiser_dir), "--inner-steps", "10", "--bootstrap", address)
    organiser = start("organiser", "run", host="0.0.0.0", namespace=internet.hidden[0])
    organiser.wait_for(lambda s: s["reachability"]["relays"], "a place at the relay")
    newcomer = start(
        "newcomer", "join", ticket_of(organiser), "--yes", host="0.0.0.0", namespace=internet.hidden[1]
    )
    wait_until(lambda: way_to(newcomer, organiser) == "hole-punched", "a hole", LONG_S)
    newcomer.wait_for(lambda s: s["accepted_tokens"] > 0, "a round of both")
    assert way_to(newcomer, organiser) == "hole-punched" == way_to(organiser, newcomer)
