"""Two real daemons in each mode whose fragment is the whole model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Daemon, must, totals

pytestmark = pytest.mark.process
ROUNDS = 3
SWARMS = {
    **{mode: ("--mode", mode) for mode in ("photon", "sparseloco", "muloco", "eager", "delayed", "async")},
    "two-late": ("--mode", "eager", "--delay", "2"),
    "dbw": ("--door", "dbw", "--missed", "keep", "--by-speed"),
    "period": ("--door", "period", "--door-seconds", "2", "--missed", "keep", "--by-attendance"),
    "rda": ("--merge", "rda"),
    "rough": ("--codec", "auto", "--by-roughness"),
    "untrusted": ("--untrusted",),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("swarm", SWARMS.values(), ids=SWARMS.keys())
def test_a_mode_trains_and_certifies(
    start: Callable[..., Daemon], tmp_path: Path, swarm: tuple[str, ...]
) -> None:
    small = ("--inner-steps", "6", "--batch", "2", "--min-peers", "2")
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), *small, *swarm)
    first = start("n0", "run", "--rounds", str(ROUNDS))
    nodes = [first, start("n1", "join", first.ticket(), "--yes", "--rounds", str(ROUNDS))]
    for node in nodes:
        node.wait_for_version(ROUNDS)
    statuses = [node.wait_for(lambda s: s["state"] == "paused", "the end") for node in nodes]
    assert len({(s["version"], s["digest"]) for s in statuses}) == 1
    for status in statuses:
        account = status["token_account"]
        assert account["accepted"] > 0 and not account["orphaned"]
    for node, status in zip(nodes, statuses, strict=True):
        told = must("receipts", "--json", "--data-dir", str(node.folder)).splitlines()
        receipts = [json.loads(line) for line in told]
        assert {r["node"] for r in receipts} == {status["node_id"]}
        # Rounded down for each commit here, and once in the account.
        total = sum(r["tokens"] for r in receipts)
        assert 0 <= status["token_account"]["accepted"] - total <= len(receipts)
    if swarm == SWARMS["untrusted"]:
        for node in nodes:
            wrongs = totals(node, "atoll_wrongs")
            assert wrongs and all(count == 0.0 for count in wrongs.values())
            assert totals(node, "atoll_audits")[""] >= 1


@pytest.mark.timeout(300)
def test_what_an_owner_bounds_and_blurs_is_counted(start: Callable[..., Daemon], tmp_path: Path) -> None:
    small = ("--inner-steps", "6", "--batch", "2", "--min-peers", "2")
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), *small)
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "config.toml").write_text("privacy_clip = 0.5\nprivacy_noise = 0.01\n")
    first = start("n0", "run", "--rounds", str(ROUNDS))
    blurred = start("n1", "join", first.ticket(), "--yes", "--rounds", str(ROUNDS))
    told = blurred.wait_for_version(ROUNDS)["privacy"]
    assert (told["clip"], told["noise"]) == (0.5, 0.01) and told["contributions"] >= 1 and told["epsilon"] > 0
    assert first.wait_for_version(ROUNDS)["privacy"] is None
    assert blurred.stop() == 0
    kept = json.loads((blurred.folder / "privacy.json").read_text())
    assert kept["contributions"][0][0] == 0.01 and kept["contributions"][0][1] >= told["contributions"]
