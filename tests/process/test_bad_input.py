"""What a person gets wrong, or a disk does: one clear sentence, the right exit status, nothing lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import ticket as tickets

from .harness import Daemon, atoll, must

pytestmark = pytest.mark.process
Start = Callable[..., Daemon]


def refused(status: int, *arguments: str, **environment: str) -> str:
    """The one sentence of a command that is refused with `status`."""
    done = atoll(*arguments, **environment)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("atoll: ") and sentence.endswith((".", "?"))
    return sentence


@pytest.fixture
def swarm(tmp_path: Path) -> Path:
    """A data dir with a new swarm."""
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "5")
    return tmp_path / "a"


def a_ticket(**changes: object) -> str:
    fields: dict[str, object] = {
        "version": 1,
        "swarm_id": b"s" * 32,
        "organiser": b"o" * 32,
        "addresses": ["/ip4/127.0.0.1/tcp/9/p2p/12D3KooWPHcNvqvwryLFPph3TU5P4CKuFRxb24NzgrPH9mntovwZ"],
    }
    return tickets.encode(pb.Ticket(**(fields | changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["hello", "atoll1", "atoll1xyz", "atoll1" + "I" * 40, a_ticket()[:-3]])
def test_a_wrong_ticket(tmp_path: Path, text: str) -> None:
    assert "ticket" in refused(2, "join", text, "--yes", "--data-dir", str(tmp_path / "n"))
    assert not (tmp_path / "n").exists()


def test_an_expired_ticket(tmp_path: Path) -> None:
    text = a_ticket(expires_unix_s=1_000_000_000)
    assert "expired" in refused(11, "join", text, "--yes", "--data-dir", str(tmp_path / "n"))


def test_no_ticket_and_a_ticket_from_the_environment(tmp_path: Path) -> None:
    folder = str(tmp_path / "n")
    assert "ticket" in refused(2, "join", "--yes", "--data-dir", folder)
    assert "ticket" in refused(2, "join", "--yes", "--data-dir", folder, ATOLL_TICKET="nonsense")
    missing = str(tmp_path / "none")
    assert missing in refused(2, "join", "--yes", "--data-dir", folder, ATOLL_TICKET_FILE=missing)


def test_joining_without_consent_and_without_anyone_to_ask(tmp_path: Path) -> None:
    assert "--yes" in refused(2, "join", a_ticket(), "--data-dir", str(tmp_path / "n"))


def test_an_unreachable_bootstrap_peer_is_a_state(start: Start) -> None:
    node = start("n", "join", a_ticket(), "--yes")
    status = node.wait_for(
        lambda s: s["bootstrap"] and s["bootstrap"][0]["cause"], "the cause of a failed dial"
    )
    assert status["state"] == "connecting" and status["because"] and status["next"]
    assert "refused" in status["bootstrap"][0]["cause"]
    node.wait_for(lambda s: "No node of the swarm answers yet" in node.log.read_text(), "a line in the log")
    assert "/tcp/9/" in node.log.read_text()
    assert node.stop() == 0


def test_a_taken_port(swarm: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        where = ["--data-dir", str(swarm), "--host", "127.0.0.1"]
        assert port in refused(12, "run", *where, "--port", port)
        assert port in refused(12, "run", *where, "--api-port", port)


def test_a_data_dir_in_use(start: Start, swarm: Path) -> None:
    node = start("a", "run")
    node.wait_for(lambda s: True, "the first answer")
    assert "--data-dir" in refused(13, "run", "--data-dir", str(swarm))
    assert node.stop() == 0


def test_no_swarm_and_another_swarm(tmp_path: Path, swarm: Path) -> None:
    assert "atoll join" in refused(2, "run", "--data-dir", str(tmp_path / "empty"))
    said = refused(2, "join", a_ticket(), "--yes", "--data-dir", str(swarm))
    mine = DataDir(swarm).load_manifest().swarm_id.hex()[:16]
    assert "another swarm" in said and mine in said and (b"s" * 8).hex() in said
    assert "already" in refused(2, "init", "lab", "--data-dir", str(swarm))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", "900b"], "900b"),
        (["--data", "/nowhere/at/all"], "/nowhere"),
        (["--bootstrap", "example.org"], "multiaddr"),
        (["--inner-steps", "100001"], "--inner-steps"),
        (["--lr", "nan"], "lr is nan"),
        (["--data-url", "ftp://example.org"], "https"),
        (["--shard-mib", "0"], "--shard-mib"),
    ],
)
def test_a_swarm_that_makes_no_sense(tmp_path: Path, arguments: list[str], word: str) -> None:
    folder = tmp_path / "n"
    assert word in refused(2, "init", "lab", "--data-dir", str(folder), *arguments)
    assert not folder.exists()


def test_unknown_settings(swarm: Path) -> None:
    where = ["--data-dir", str(swarm)]
    (swarm / "config.toml").write_text('devise = "cpu"\n')
    assert "device" in refused(2, "run", *where)
    (swarm / "config.toml").write_text("port = [\n")
    assert "config.toml" in refused(2, "run", *where)
    (swarm / "config.toml").unlink()
    assert "PROT" in refused(2, "run", *where, ATOLL_PROT="1").upper()
    assert "threads" in refused(2, "run", *where, ATOLL_THREADS="many")
    assert "shard" in refused(2, "run", *where, "--shard", "3/3")


def test_a_manifest_that_was_tampered_with(swarm: Path) -> None:
    whole = (swarm / "manifest.pb").read_bytes()
    at = whole.index(b"lab")
    (swarm / "manifest.pb").write_bytes(whole[:at] + b"LAB" + whole[at + 3 :])
    assert "tampered" in refused(12, "run", "--data-dir", str(swarm))
    (swarm / "manifest.pb").write_bytes(whole[:50])
    assert "manifest" in refused(12, "run", "--data-dir", str(swarm))


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(start: Start, swarm: Path) -> None:
    node = start("a", "run", "--rounds", "3")
    before = node.wait_for(lambda s: s["state"] == "paused", "three rounds")
    assert node.stop() == 0
    newest, previous, _ = checkpoint.versions(swarm / "checkpoints")
    assert (newest, previous) == (3, 2)
    path = checkpoint.path_of(swarm / "checkpoints", newest)
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 64)
    again = start("a", "run", "--rounds", "3")
    after = again.wait_for(lambda s: s["state"] == "paused", "the same version")
    assert (after["version"], after["digest"]) == (3, before["digest"])
    assert "does not have the bits" in again.log.read_text()
    assert again.stop() == 0


def test_all_checkpoints_corrupt_are_fetched_from_peers(start: Start, swarm: Path, tmp_path: Path) -> None:
    a = start("a", "run")
    b = start("b", "join", a.ticket(), "--yes")
    b.wait_for(lambda s: s["accepted_tokens"] > 0, "an accepted update")
    assert b.stop() == 0
    for path in (tmp_path / "b" / "checkpoints").iterdir():
        path.write_bytes(b"\0" * 1000)
    again = start("b", "run")
    again.wait_for(lambda s: s["state"] in ("training", "averaging", "waiting"), "training again")
    assert again.stop() == 0
    assert a.stop() == 0


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for folder in (str(blocked / "below"), "/proc/atoll"):
        sentence = refused(12, "init", "lab", "--data-dir", folder)
        assert folder in sentence and "--data-dir" in sentence


def test_a_read_only_disk(swarm: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting read-only needs root")
    subprocess.run(["mount", "--bind", str(swarm), str(swarm)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(swarm)], check=True)
        assert str(swarm) in refused(12, "run", "--data-dir", str(swarm))
        must("export", "--data-dir", str(swarm), "--out", str(tmp_path / "out.safetensors"))
    finally:
        subprocess.run(["umount", "-l", str(swarm)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB: room for a start, not for many rounds."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(where)], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_is_told_and_nothing_is_lost(start: Start, swarm: Path, small_disk: Path) -> None:
    folder = small_disk / "a"
    shutil.copytree(swarm, folder)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(b"\0" * (free - 400_000))
    node = Daemon(folder, "run")
    try:
        node.wait_for(
            lambda s: any("No space" in a["text"] for a in s["alerts"]), "an alert for the full disk"
        )
        filler.unlink()
        node.wait_for_version(1)
        assert node.stop() == 0
    finally:
        if node.process.poll() is None:
            node.kill()


def test_a_device_that_is_none_and_one_that_this_machine_lacks(swarm: Path) -> None:
    where = ["--data-dir", str(swarm), "--host", "127.0.0.1"]
    assert "device" in refused(2, "run", *where, "--device", "foo")
    done = atoll("run", *where, "--device", "cuda:99")
    assert done.returncode == 12, done.stderr
    assert done.stderr.count("can't be used") == 1 and "Traceback" not in done.stderr


def test_a_look_at_a_swarm_leaves_nothing(start: Start, swarm: Path, tmp_path: Path) -> None:
    node = start("a", "run")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = str(tmp_path / "n")
    command = ["join", node.ticket(), "--dry-run", "--data-dir", folder, "--host", "127.0.0.1"]
    done = atoll(*command, TMPDIR=str(scratch))
    assert done.returncode == 0 and "Organiser" in done.stdout, done.stderr
    assert "login" not in done.stdout
    assert not Path(folder).exists() and list(scratch.iterdir()) == []
    left = atoll("leave", "--data-dir", str(swarm))
    assert left.returncode == 0 and left.stdout.endswith("It has ended.\n")
    assert node.process.wait(5) == 0
    assert "The node has ended" in node.log.read_text()


def test_a_port_that_is_taken_since_the_last_start(start: Start, swarm: Path) -> None:
    node = start("a", "run")
    node.wait_for(lambda s: True, "the first answer")
    node.ticket()
    assert node.stop() == 0
    port = DataDir(swarm).node_facts()["port"]
    with socket.create_server(("127.0.0.1", port)):
        again = start("a", "run")
        status = again.wait_for(lambda s: s["alerts"], "an alert")
        assert f"Port {port}" in again.log.read_text() and "tickets" in again.log.read_text()
        assert "port_changed" in [a["code"] for a in status["alerts"]]
        assert again.stop() == 0
