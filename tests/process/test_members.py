"""A private swarm of real daemons: who has a ticket gets in, once; strangers and the revoked stay out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage.data_dir import DataDir

from .harness import Daemon, atoll, must, wait_until

pytestmark = pytest.mark.process
Start = Callable[..., Daemon]
SMALL = ("--inner-steps", "4", "--batch", "2")


def ticket_of(node: Daemon, *options: str) -> str:
    """A new ticket, as the organiser makes it while its node runs."""
    return must("ticket", "--data-dir", str(node.folder), *options).strip().splitlines()[-1]


def members_of(node: Daemon) -> dict[str, dict[str, Any]]:
    told = json.loads(must("members", "--json", "--data-dir", str(node.folder)))
    return {one["node"]: one for one in told}


def node_id(node: Daemon) -> str:
    return str(json.loads((node.folder / "node.json").read_text())["node_id"])


@pytest.mark.timeout(400)
def test_a_ticket_admits_one_node_and_outlives_its_use(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--private", "--data-dir", str(tmp_path / "n0"), *SMALL)
    first = start("n0", "run")
    first.ticket()
    anna = ticket_of(first, "--label", "anna")
    seen = must("join", anna, "--dry-run", "--data-dir", str(tmp_path / "look"), "--host", "127.0.0.1")
    assert "Organiser" in seen, "a look uses nothing up"
    second = start("n1", "join", anna, "--yes")
    second.wait_for(lambda s: s["token_account"]["accepted"] > 0, "a contribution that was accepted")
    assert members_of(first)[node_id(second)]["label"] == "anna"

    watcher = start("w", "join", ticket_of(first, "--role", "observer"), "--yes")
    seen_by = watcher.wait_for(lambda s: s["version"] >= 3, "it follows the rounds")
    assert (seen_by["state"], seen_by["token_account"]["produced"]) == ("serving", 0), seen_by["sentence"]
    assert "observes" in seen_by["sentence"] and watcher.stop() == 0

    again = atoll("join", anna, "--yes", "--data-dir", str(tmp_path / "n2"), "--host", "127.0.0.1")
    assert again.returncode == 11 and "as often as it may be" in again.stderr, again.stderr

    # The organiser is gone; whoever is in comes back without a ticket, and admits others.
    late = ticket_of(first, "--uses", "2")
    assert first.stop() == 0 and second.stop() == 0
    second = start("n1", "run")
    second.wait_for(lambda s: s["state"] in ("training", "waiting", "averaging"), "the node is back")
    third = start("n2", "join", late, "--yes", "--bootstrap", _address(second))
    third.wait_for(lambda s: s["token_account"]["accepted"] > 0, "it contributes")
    assert members_of(second)[node_id(third)]["role"] == "member"


def _address(node: Daemon) -> str:
    return str(json.loads((node.folder / "node.json").read_text())["addresses"][0])


@pytest.mark.timeout(400)
def test_strangers_and_the_revoked_stay_out(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--private", "--data-dir", str(tmp_path / "n0"), *SMALL)
    first = start("n0", "run")
    first.ticket()
    ticket = ticket_of(first)
    second = start("n1", "join", ticket, "--yes")
    second.wait_for_version(1)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    # One that has the manifest, addresses and a key of its own, and no certificate.
    (stranger / "manifest.pb").write_bytes((second.folder / "manifest.pb").read_bytes())
    done = atoll("run", "--data-dir", str(stranger), "--host", "127.0.0.1", "--bootstrap", _address(first))
    assert done.returncode == 11 and "no certificate" in done.stderr, done.stderr

    who = node_id(second)
    refused = atoll("members", "revoke", who, "--data-dir", str(second.folder))
    assert refused.returncode == 2 and "organiser's key" in refused.stderr
    must("members", "revoke", who, "--reason", "lost laptop", "--data-dir", str(first.folder))
    first.wait_for(lambda s: not s["peers"], "the link is cut")
    assert members_of(first)[who]["code"] == "revoked"
    assert second.stop() == 0
    for how in (["run"], ["join", ticket, "--yes"]):
        back = atoll(*how, "--data-dir", str(second.folder), "--host", "127.0.0.1", timeout_s=240)
        assert back.returncode == 11 and "lost laptop" in back.stderr, back.stderr
    founder = atoll("members", "ban", node_id(first), "--data-dir", str(first.folder))
    assert founder.returncode == 2 and "founder's" in founder.stderr
    alone = first.status()
    assert alone is not None
    first.wait_for_version(alone["version"] + 1)


@pytest.mark.timeout(400)
def test_where_the_organiser_approves_a_node_waits_for_it(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--admission", "approve", "--data-dir", str(tmp_path / "n0"), *SMALL)
    first = start("n0", "run")
    first.ticket()
    second = start("n1", "join", ticket_of(first), "--yes", "--label", "bob")
    second.wait_for(lambda s: "not approved" in s["because"], "it says what it waits for")

    def asks() -> Any:
        return json.loads(must("pending", "--json", "--data-dir", str(first.folder)))

    (waiting,) = wait_until(asks, "the organiser sees who asks")
    assert (waiting["label"], waiting["node"]) == ("bob", node_id(second))
    client = client_of(DataDir(first.folder))
    assert client is not None
    shown = client.state()["organisation"]
    assert [one["node"] for one in shown["pending"]] == [node_id(second)] and shown["may_admit"]
    said = client.command("approve", node=waiting["name"], label="bob")
    assert "is a member of lab" in said["sentence"]
    second.wait_for(lambda s: s["version"] >= 1, "it takes part")
    wait_until(lambda: not asks(), "nobody waits any more")
    assert members_of(first)[node_id(second)]["role"] == "member"
    shown = wait_until(lambda: (s := client.state()["organisation"])["count"] == 2 and s, "the page shows it")
    assert {one["label"] for one in shown["members"]} == {"", "bob"} and not shown["pending"]
    told = second.wait_for(lambda s: s["organisation"] and s["organisation"]["count"] == 2, "it sees both")
    assert not told["organisation"]["may_admit"]
