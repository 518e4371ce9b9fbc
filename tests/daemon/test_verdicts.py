"""Verdicts on the way to others: nothing is guessed, and what is not good comes with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.daemon.verdicts import Connection, Reachable, verdicts
from atoll.peers.reach import HIDDEN, LAN, MACHINE, PUBLIC

GOOD = Connection(
    addresses=2,
    reached=1,
    failed=("connection refused",),
    links=4,
    relayed=0,
    lanes=4,
    refused=0,
    port=31337,
    process_up=True,
    reachable=Reachable(PUBLIC, ("/ip4/44.0.0.1/tcp/31337",), tried=2, reached=2, port=31337),
)
NEW = Connection(2, 0, (), 0, 0, 0, 0, 31337, True)
SEEN = ("/ip4/44.0.0.1/tcp/31337 (no answer in 5 s)",)


def of(facts: Connection) -> dict[str, str]:
    return {each["check"]: each["verdict"] for each in verdicts(facts)}


def test_a_node_that_is_well_connected() -> None:
    assert set(of(GOOD).values()) == {"ok"}


def test_nothing_is_known_of_what_nobody_has_tried() -> None:
    found = of(NEW)
    assert found.pop("libp2p") == "ok" and set(found.values()) == {"unknown"}


@pytest.mark.parametrize(
    ("change", "check", "verdict", "word"),
    [
        ({"process_up": False}, "libp2p", "blocked", "does not run"),
        ({"reached": 0}, "known addresses", "degraded", "connection refused"),
        ({"reached": 0, "links": 0, "relayed": 0}, "known addresses", "blocked", "0/2 answer"),
        ({"links": 0, "refused": 3}, "peers", "blocked", "3 refused"),
        (
            {"reachable": Reachable(HIDDEN, (), 2, 0, SEEN, 31337)},
            "reachable by others",
            "degraded",
            "none of 2 that tried can dial it: /ip4/44.0.0.1/tcp/31337 (no answer in 5 s)",
        ),
        (
            {"reachable": Reachable(LAN, ("/ip4/10.0.0.1/tcp/31337",), 2, 1, SEEN, 31337)},
            "reachable by others",
            "degraded",
            "in this network only: 1/2 that tried",
        ),
        (
            {"reachable": Reachable(LAN, ("/ip4/10.0.0.1/tcp/31337",), 1, 1, (), 31337)},
            "reachable by others",
            "ok",
            "in this network: 1/1",
        ),
        (
            {"reachable": Reachable(MACHINE, ("/ip4/127.0.0.1/tcp/31337",), 1, 1, (), 31337)},
            "reachable by others",
            "ok",
            "by nodes of this machine",
        ),
        ({"relayed": 3}, "direct links", "degraded", "1/4 without a relay"),
        ({"lanes": 0}, "direct lanes", "ok", "more slowly"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], check: str, verdict: str, word: str) -> None:
    found = next(each for each in verdicts(replace(GOOD, **change)) if each["check"] == check)  # type: ignore[arg-type]
    assert found["verdict"] == verdict and word in found["text"]
    assert found["fix"] or verdict in ("ok", "unknown")


def test_a_port_to_forward_is_named() -> None:
    hidden = Reachable(HIDDEN, (), 2, 0, SEEN, 31337)
    fixes = [each["fix"] for each in verdicts(replace(GOOD, relayed=4, reachable=hidden))]
    assert sum("31337" in fix for fix in fixes) == 2
