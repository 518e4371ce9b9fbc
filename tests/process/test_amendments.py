"""The organiser amends the manifest of a running swarm: every node goes by it from the same round on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import Daemon, must

pytestmark = pytest.mark.process
Start = Callable[..., Daemon]
SMALL = ("--inner-steps", "4", "--batch", "2")


def rates(node: Daemon) -> dict[int, float]:
    """Outer learning rate by round, of those that the node remembers."""
    told = json.loads(must("rounds", "--json", "--data-dir", str(node.folder)))
    return {entry["version"]: entry["outer_lr"] for entry in told if entry["outcome"] != "aborted"}


def amended(state: dict[str, Any]) -> list[tuple[int, bool]]:
    return [(one["version"], one["in_force"]) for one in state["swarm"]["amendments"]]


@pytest.mark.timeout(400)
def test_every_node_goes_by_it_from_the_same_round_on(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), *SMALL)
    first = start("n0", "run")
    ticket = first.ticket()
    second = start("n1", "join", ticket, "--yes")
    second.wait_for(lambda s: s["token_account"]["accepted"] > 0, "a contribution that was accepted")
    version = first.wait_for_version(1)["version"]
    round_ = version + 8
    named = "--from-round", str(round_), "--note", "the loss was jumping", "--yes"
    values = "outer.lr_by_contributors=0.125", "inner.lr=0.0005"
    told = must("manifest", "update", *values, *named, "--data-dir", str(first.folder))
    assert f"from round {round_} on" in told and "tells the others" in told
    second.wait_for(lambda s: amended(s) == [(2, False)], "the other node has heard of it")
    for node in (first, second):
        seen = node.wait_for_version(round_ + 1)
        assert amended(seen) == [(2, True)] and seen["swarm"]["inner_lr"] == 0.0005, seen["swarm"]
        by_round = rates(node)
        after = {rate for version, rate in by_round.items() if version >= round_}
        before = {rate for version, rate in by_round.items() if version < round_}
        assert after == {0.125} and 0.125 not in before, by_round

    # Whoever was away, and whoever comes now, goes by it as well.
    assert second.stop() == 0
    second = start("n1", "run")
    third = start("n2", "join", ticket, "--yes")
    for node in (second, third):
        node.wait_for(
            lambda s: s["token_account"]["accepted"] > 0 and s["version"] > round_ + 1, "it contributes"
        )
        seen = node.wait_for(lambda s: amended(s) == [(2, True)], "it goes by the amended manifest")
        assert seen["swarm"]["manifest_version"] == 2
    heads = [node.wait_for_version(round_ + 3) for node in (first, second, third)]
    chains = [{link["version"]: link["digest"] for link in head["chain"]} for head in heads]
    common = set.intersection(*(set(chain) for chain in chains))
    assert common and all(len({chain[v] for chain in chains}) == 1 for v in common)
