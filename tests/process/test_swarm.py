"""Swarms of real daemons: joining, dying, coming back, leaving, and holding the same bits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import ticket as tickets
from tests.web.schema import problems

from .harness import Daemon, atoll, descendants, is_alive, must, wait_until

pytestmark = pytest.mark.process
Start = Callable[..., Daemon]
ROUNDS = 10
BOOTSTRAP_BYTES = 150_000_000


def export(folder: Path) -> dict[str, bytes]:
    """The exported tensors of a data dir as bytes."""
    out = folder / "export.safetensors"
    must("export", "--data-dir", str(folder), "--out", str(out))
    tensors = load_file(out)
    assert all(np.isfinite(t).all() for t in tensors.values())
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_three_nodes_one_killed_and_restarted_hold_the_same_bits(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "15", "--min-peers", "3")
    a = start("a", "run", "--rounds", str(ROUNDS))
    ticket = a.ticket()
    b = start("b", "join", ticket, "--yes", "--rounds", str(ROUNDS))
    c = start("c", "join", ticket, "--yes", "--rounds", str(ROUNDS))
    a.wait_for(lambda s: s["peers"] == 2, "two peers")
    b.wait_for(lambda s: s["accepted_tokens"] > 0, "an accepted update of b")

    below = b.kill()
    assert len(below) >= 2, "p2pd and the trainer were below the daemon"
    wait_until(lambda: not any(is_alive(p) for p in below), "children die with their daemon", 10.0)
    at = a.wait_for(lambda s: s["peers"] == 1, "the loss of b")["version"]
    a.wait_for_version(min(ROUNDS, at + 1))

    again = start("b", "run", "--rounds", str(ROUNDS))
    for daemon in (a, again, c):
        daemon.wait_for_version(ROUNDS)
    statuses = [daemon.wait_for(lambda s: s["state"] == "paused", "the end") for daemon in (a, again, c)]
    assert len({s["digest"] for s in statuses}) == 1
    assert {s["version"] for s in statuses} == {ROUNDS}
    assert statuses[0]["val_loss"] < 4.0
    for status in statuses:
        account = status["token_account"]
        parts = sum(account[name] for name in ("accepted", "carried", "orphaned", "expired", "lost"))
        assert abs(account["produced"] - parts) <= 5  # shown in whole tokens, rounded down one by one

    assert [daemon.stop() for daemon in (a, again, c)] == [0, 0, 0]
    exports = [export(tmp_path / name) for name in "abc"]
    assert exports[0] == exports[1] == exports[2]


def test_nodes_with_and_without_a_direct_lane_hold_the_same_bits(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "5", "--min-peers", "3")
    for name, lane in (("a", "true"), ("b", "true"), ("c", "false")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.toml").write_text(f"lane = {lane}\n")
    a = start("a", "run", "--rounds", "4")
    ticket = a.ticket()
    b, c = (start(name, "join", ticket, "--yes", "--rounds", "4") for name in "bc")
    statuses = [daemon.wait_for(lambda s: s["state"] == "paused", "the end") for daemon in (a, b, c)]
    assert {s["version"] for s in statuses} == {4} and len({s["digest"] for s in statuses}) == 1
    client = client_of(DataDir(a.folder))
    assert client is not None
    state = client.state()
    assert problems(state, "State") == []
    lanes = {peer["id"]: peer["lane"] for peer in state["peers"]}
    assert lanes[statuses[0]["node_id"]] is None
    # Which way bulk data prefers is measured; that the connections are there is not.
    assert lanes[statuses[1]["node_id"]].endswith("direct connections")
    assert lanes[statuses[2]["node_id"]] == "libp2p: one of the two offers no lane"


def test_a_node_goes_on_from_its_checkpoint_after_a_stop(start: Start, tmp_path: Path) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "5")
    first = start("a", "run", "--rounds", "2")
    before = first.wait_for(lambda s: s["state"] == "paused", "two rounds")
    ticket = first.ticket()
    assert "login?key=" in must("status", "--data-dir", str(tmp_path / "a"))
    assert first.stop() == 0
    assert (tmp_path / "a" / "trainer" / "optimizer.safetensors").exists()
    # Its old ticket, long expired, does not lock a member out.
    old = tickets.decode(ticket)
    old.expires_unix_s = 1_000_000_000
    second = start("a", "join", tickets.encode(old), "--yes", "--rounds", "2")
    after = second.wait_for(lambda s: s["state"] == "paused", "the same version")
    assert (after["version"], after["digest"]) == (before["version"], before["digest"])
    assert after["node_id"] == before["node_id"]
    assert after["accepted_tokens"] == before["accepted_tokens"]
    assert second.stop() == 0


def test_pause_resume_finish_and_leave(start: Start, tmp_path: Path) -> None:
    folder = str(tmp_path / "a")
    must("init", "lab", "--data-dir", folder, "--inner-steps", "5")
    a = start("a", "run")
    a.wait_for_version(1)
    known = json.loads(must("status", "--json", "--data-dir", folder))
    contract = (
        "state because next node_id swarm_id version digest peers loss tokens_per_s accepted_tokens api"
    )
    assert all(known[name] is not None for name in contract.split())
    assert "Paused" in must("pause", "--data-dir", folder)
    paused = a.wait_for(lambda s: s["state"] == "paused", "pause")
    assert paused["because"] and paused["next"]
    refused = atoll("finish", "extra", "--data-dir", folder)
    assert refused.returncode == 2
    must("resume", "--data-dir", folder)
    a.wait_for_version(paused["version"] + 1)
    assert "Nothing has to be done" in must("resume", "--data-dir", folder)
    must("finish", "--data-dir", folder)
    a.wait_for(lambda s: s["state"] == "paused" and "finished" in s["because"], "finish")
    for command in (["peers"], ["rounds"], ["events"], ["status"], ["config", "show"], ["manifest", "show"]):
        assert must(*command, "--json", "--data-dir", folder).strip()
        assert must(*command, "--data-dir", folder).strip()
    must("leave", "--data-dir", folder)
    a.process.wait(25)
    assert a.process.returncode == 0
    assert "stopped" in must("status", "--json", "--data-dir", folder)


def test_a_text_of_ones_own_travels_to_those_who_join(start: Start, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("one.txt", "two.txt"):
        (texts / name).write_text(f"The quick brown fox of {name} jumps over the lazy dog. " * 400)
    must("init", "own", "--data-dir", str(tmp_path / "a"), "--data", str(texts), "--inner-steps", "5")
    a = start("a", "run")
    b = start("b", "join", a.ticket(), "--yes")
    b.wait_for(lambda s: s["accepted_tokens"] > 0, "an accepted update")
    for path in (tmp_path / "a" / "data" / "shards").iterdir():
        assert (tmp_path / "b" / "data" / "shards" / path.name).read_bytes() == path.read_bytes()
    assert a.stop() == 0
    at = b.wait_for(lambda s: s["peers"] == 0, "the others' leaving")["version"]
    b.wait_for_version(at + 2)
    assert b.stop() == 0


def test_two_nodes_find_each_other_through_a_stock_hivemind_dht(
    start: Start, tmp_path: Path, stock_dht: str
) -> None:
    must("init", "far", "--data-dir", str(tmp_path / "a"), "--bootstrap", stock_dht, "--inner-steps", "5")
    a = start("a", "run")
    ticket = tickets.decode(a.ticket())
    del ticket.addresses[:]
    ticket.addresses.append(stock_dht)
    b = start("b", "join", tickets.encode(ticket), "--yes")
    b.wait_for(lambda s: s["peers"] == 1 and s["accepted_tokens"] > 0, "an accepted update")
    assert b.stop() == 0
    assert a.stop() == 0


def test_atoll_bootstrap_introduces_two_nodes(start: Start, tmp_path: Path) -> None:
    helper = start("helper", "bootstrap")
    address = wait_until(
        lambda: next((line for line in helper.log.read_text().splitlines() if "/p2p/" in line), None),
        "an address of the bootstrap node",
    )
    must("init", "far", "--data-dir", str(tmp_path / "a"), "--bootstrap", address, "--inner-steps", "5")
    a = start("a", "run")
    ticket = tickets.decode(a.ticket())
    del ticket.addresses[:]
    ticket.addresses.append(address)
    b = start("b", "join", tickets.encode(ticket), "--yes")
    b.wait_for(lambda s: s["peers"] == 1, "a peer")
    helpers = [helper.process.pid, *descendants(helper.process.pid)]
    assert len(helpers) == 2, "the node and its p2pd"
    assert not {"torch", "numpy"} & loaded_packages(helpers[0])
    assert sum(map(resident_bytes, helpers)) < BOOTSTRAP_BYTES
    assert [daemon.stop() for daemon in (b, a, helper)] == [0, 0, 0]


def loaded_packages(pid: int) -> set[str]:
    """Packages of which a process has mapped a library."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return set(re.findall(r"/site-packages/([a-z]+)", maps))


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1])


def cursor(folder: Path) -> tuple[int, tuple[int, ...]]:
    """Version and tokens read from each shard, by the newest checkpoint."""
    data = DataDir(folder)
    while True:
        version = checkpoint.versions(data.checkpoints)[0]
        try:
            found, _ = checkpoint.read_header(
                checkpoint.path_of(data.checkpoints, version), data.load_manifest().swarm_id
            )
            assert found.head.cumulative_tokens - 10 * version <= sum(found.read)
            assert sum(found.read) <= found.head.cumulative_tokens, "but for what was rounded down"
            return version, found.read
        except checkpoint.CheckpointError:
            continue  # removed under our eyes


def test_shards_travel_and_are_read_in_turn_and_the_cursor_survives_a_kill(
    start: Start, tmp_path: Path
) -> None:
    """Laps are two to five phases long here: each shard of three is read, and none gets far ahead."""
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and never twice the same way. " * 330)
    a_folder, b_folder = tmp_path / "a", tmp_path / "b"
    what = ["--data", str(text), "--shard-mib", "0.008", "--inner-steps", "5", "--min-peers", "2"]
    must("init", "lab", "--data-dir", str(a_folder), *what)
    listed = json.loads(must("shards", "--json", "--data-dir", str(a_folder)))["shards"]
    assert [s["for"] for s in listed] == ["training"] * 3 + ["validation"] and all(s["here"] for s in listed)
    a = start("a", "run")
    b = start("b", "join", a.ticket(), "--yes")
    for daemon in (a, b):
        daemon.wait_for_version(12)
    names = {s["sha256"] for s in listed}
    got = {p.name for p in (b_folder / "data" / "shards").iterdir()} & names
    assert len(got) > 1 and listed[-1]["sha256"] in got, "what it read, and the validation shard"
    b.kill()
    version, read = cursor(b_folder)
    laps = [count / s["size_bytes"] for count, s in zip(read, listed, strict=False)]
    assert min(laps) > 0.5 and max(laps) - min(laps) < 2.5

    shutil.rmtree(b_folder / "data" / "shards")
    b = start("b", "run", "--data", str(text))
    b.wait_for_version(version + 6)
    assert "from " + str(text) in b.log.read_text()
    assert [daemon.stop() for daemon in (b, a)] == [0, 0]
    (at, of_b), (later, of_a) = cursor(b_folder), cursor(a_folder)
    assert at <= later and all(x <= y for x, y in zip(read, of_b, strict=True))
    assert all(x <= y for x, y in zip(of_b, of_a, strict=True)) and sum(of_b) > sum(read)
    must("shards", "--out", str(tmp_path / "web"), "--data-dir", str(a_folder))
    assert {p.name for p in (tmp_path / "web").iterdir()} == names
