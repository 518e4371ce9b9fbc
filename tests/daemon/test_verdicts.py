"""Verdicts on the way to others: nothing is guessed, and what is not good comes with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.daemon.verdicts import Connection, verdicts

GOOD = Connection(
    addresses=2,
    reached=1,
    failed=("connection refused",),
    links=4,
    relayed=0,
    dialled_by_others=1,
    lanes=4,
    refused=0,
    port=31337,
    process_up=True,
)
NEW = Connection(2, 0, (), 0, 0, 0, 0, 0, 31337, True)


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
        ({"dialled_by_others": 0}, "reachable by others", "unknown", "opened from here"),
        ({"relayed": 3}, "direct links", "degraded", "1/4 without a relay"),
        ({"lanes": 0}, "direct lanes", "ok", "more slowly"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], check: str, verdict: str, word: str) -> None:
    found = next(each for each in verdicts(replace(GOOD, **change)) if each["check"] == check)  # type: ignore[arg-type]
    assert found["verdict"] == verdict and word in found["text"]
    assert found["fix"] or verdict in ("ok", "unknown")


def test_a_port_to_forward_is_named() -> None:
    fixes = [each["fix"] for each in verdicts(replace(GOOD, relayed=4, dialled_by_others=0))]
    assert sum("31337" in fix for fix in fixes) == 2
