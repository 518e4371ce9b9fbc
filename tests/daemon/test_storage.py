"""Files that survive power cuts, checkpoints that are believed only whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.daemon.cli.api import running
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import checkpoint, files
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.chain import Head
from atoll.protocol.schema import ParameterSchema

SWARM = b"s" * 32
SCHEMA = ParameterSchema.of([("weight", (20, 30)), ("bias", (7,))])


def head(version: int) -> Head:
    return Head(version, bytes([version]) * 32, (b"a" * 38, b"b" * 38), version % 2 == 0, 1000 * version)


def vectors(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(SCHEMA.total).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def saved(folder: Path, version: int) -> Path:
    checkpoint.save(folder, SWARM, head(version), SCHEMA, *vectors(version))
    return checkpoint.path_of(folder, version)


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(errno.ENOSPC, "disk_full", Exit.TEMPORARY), (errno.EROFS, "disk_not_writable", Exit.PREFLIGHT)],
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, status: Exit
) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600

    def no_room(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise OSError(number, os.strerror(number))

    with pytest.raises(AtollError) as caught:
        files.write_atomic(path, no_room)
    assert (caught.value.code, caught.value.exit_status) == (code, status)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_that_is_damaged_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert files.read_json(path) is None
    files.write_json(path, {"a": [1]})
    assert files.read_json(path) == {"a": [1]}
    path.write_text("{")
    assert files.read_json(path) is None


def test_where_a_daemon_that_was_killed_could_be_asked_is_forgotten_by_the_next(tmp_path: Path) -> None:
    folder, asking = DataDir(tmp_path / "d"), DataDir(tmp_path / "d")
    folder.create()
    files.write_json(folder.api, {"url": "http://127.0.0.1:1"})
    with pytest.raises(AtollError) as caught:
        running(asking)
    assert caught.value.code == "no_swarm"
    folder.lock()
    with pytest.raises(AtollError, match="only starting") as caught:
        running(asking)
    assert (caught.value.code, caught.value.exit_status) == ("starting", Exit.TEMPORARY)
    folder.remember(role="bootstrap")
    with pytest.raises(AtollError, match="has no page") as caught:
        running(asking)
    assert (caught.value.code, caught.value.exit_status) == ("no_page", Exit.USAGE)
    files.write_json(folder.api, {"url": "http://127.0.0.1:2"})
    assert running(asking) is not None
    folder.unlock()


def test_a_data_dir_is_locked_and_remembers(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path / "d"), DataDir(tmp_path / "d")
    first.create()
    assert not first.is_locked()
    first.lock()
    assert second.is_locked()
    with pytest.raises(AtollError) as caught:
        second.lock()
    assert caught.value.exit_status is Exit.LOCKED
    first.unlock()
    second.lock()
    second.remember(port=1)
    second.remember(peers=["x"])
    assert second.node_facts() == {"port": 1, "peers": ["x"]}
    assert second.token() == second.token() and second.token_file.stat().st_mode & 0o777 == 0o600
    second.unlock()


def test_checkpoints_come_back_bit_for_bit_and_only_the_newest_stay(tmp_path: Path) -> None:
    for version in range(5):
        saved(tmp_path, version)
    assert checkpoint.versions(tmp_path) == [4, 3, 2]
    parameters, momentum = np.empty(SCHEMA.total, np.float32), np.empty(SCHEMA.total, np.float32)
    found = checkpoint.load(checkpoint.path_of(tmp_path, 4), SWARM, parameters, momentum)
    assert found.head == head(4) and found.schema == SCHEMA
    assert [v.tobytes() for v in (parameters, momentum)] == [v.tobytes() for v in vectors(4)]
    assert checkpoint.verify(checkpoint.path_of(tmp_path, 4), SWARM) == found
    assert checkpoint.schema_of(checkpoint.path_of(tmp_path, 4), SWARM, SCHEMA.digest) == SCHEMA


def test_safetensors_reads_a_checkpoint(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(saved(tmp_path, 1))
    assert tensors["parameters"].tobytes() == vectors(1)[0].tobytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_checkpoint_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = saved(tmp_path_factory.mktemp("c"), 3)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(whole) - 1))
        flip = data.draw(st.integers(1, 255))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    else:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    parameters, momentum = np.empty(SCHEMA.total, np.float32), np.empty(SCHEMA.total, np.float32)
    try:
        found = checkpoint.load(path, SWARM, parameters, momentum)
    except CheckpointError:
        return
    # The flip hit what nothing depends on (spaces, offsets): facts and bits are still right.
    assert (found.head, found.read) == (head(3), ())
    assert parameters.tobytes() == vectors(3)[0].tobytes()


def test_a_count_of_rounds_is_kept_where_there_is_one(tmp_path: Path) -> None:
    counted = replace(head(3), progress=5 << 16)
    found = checkpoint.save(tmp_path, SWARM, counted, SCHEMA, *vectors(3))
    assert checkpoint.verify(checkpoint.path_of(tmp_path, 3), SWARM) == found and found.head == counted
    for wrong in (-5, 10**30):
        checkpoint.save(tmp_path, SWARM, replace(head(3), progress=wrong), SCHEMA, *vectors(3))
        with pytest.raises(CheckpointError, match="impossible progress"):
            checkpoint.verify(checkpoint.path_of(tmp_path, 3), SWARM)


PAST = (b"p" * 32, b"q" * 32)


def test_the_file_of_a_version_is_the_same_on_every_node(tmp_path: Path) -> None:
    made = []
    for name, certified in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        one = replace(head(5), certified=certified)
        where = tmp_path / name
        checkpoint.save(where, SWARM, one, SCHEMA, *vectors(5), inner_step=500, read=(0, 9), ancestors=PAST)
        path = checkpoint.path_of(tmp_path / name, 5)
        made.append(path.read_bytes())
        found = checkpoint.verify(path, SWARM)
        assert found.head == one
        assert (found.fragments, found.inner_step, found.read) == ((5,), 500, (0, 9))
        assert found.ancestors == PAST
    assert made[0] == made[1]


def test_what_a_node_knows_of_one_chain_it_does_not_believe_of_another(tmp_path: Path) -> None:
    certified = replace(head(5), certified=True)
    checkpoint.save(tmp_path, SWARM, certified, SCHEMA, *vectors(5))
    other = replace(head(5), digest=b"o" * 32, certified=False)
    checkpoint.save(tmp_path, SWARM, other, SCHEMA, *vectors(6))
    assert not checkpoint.verify(checkpoint.path_of(tmp_path, 5), SWARM).head.certified
    # The genesis needs no votes.
    genesis = Head(0, b"g" * 32, (b"a" * 38,), False)
    checkpoint.save(tmp_path, SWARM, genesis, SCHEMA, *vectors(0))
    assert checkpoint.verify(checkpoint.path_of(tmp_path, 0), SWARM).head.certified


@pytest.mark.parametrize(
    "fact",
    [
        {"electorate": '["00"]'},
        {"cumulative_tokens": "7"},
        {"fragments": "[3, 3]"},
        {"fragments": "[2]"},
        {"inner_step": "1"},
        {"cursor": '{"tokens": 3000}'},
        {"cursor": '{"shards": [1], "tokens": 3000}'},
        {"cursor": '{"shards": [-1], "tokens": 3000}'},
        {"cursor": '{"shards": [], "tokens": 7}'},
        {"cursor": '{"shards": {}, "tokens": 3000}'},
        {"cursor": '{"shards": [], "tokens": 3000, "more": 1}'},
        {"cursor": "[]"},
        {"digest": "00"},
        {"version": "-1"},
        {"more": "x"},
        {"state": "00"},
        {"format": "atoll-checkpoint-1"},
    ],
)
def test_no_fact_can_be_changed(tmp_path: Path, fact: dict[str, str]) -> None:
    path = saved(tmp_path, 3)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] |= fact
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(CheckpointError):
        checkpoint.verify(path, SWARM)


def test_a_disk_that_fills_up_in_mid_write_leaves_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2, 3):
        saved(tmp_path, version)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(file: BinaryIO, *rest: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(AtollError, match="No space left"):
        saved(tmp_path, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_small_disk_that_fills_up(tmp_path: Path) -> None:
    """The same on a real file system that is too small."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        versions = []
        with pytest.raises(AtollError, match="No space left"):
            for version in range(20):
                monster = np.zeros(4096, np.float32)
                layout = ParameterSchema.of([("weight", (4096,))])
                checkpoint.save(tmp_path, SWARM, head(version), layout, monster, monster)
                versions.append(version)
        assert versions and checkpoint.versions(tmp_path)[0] == versions[-1]
        for version in checkpoint.versions(tmp_path):
            checkpoint.verify(checkpoint.path_of(tmp_path, version), SWARM)
        assert not list(tmp_path.glob(".*"))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    for version in range(1, 6):
        saved(tmp_path, version)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f"checkpoint-000000000{v}.safetensors" for v in (3, 4, 5)} | {
        "checkpoint-0000000004.certified"
    }
    for left in (".checkpoint-0000000006.safetensors.tmp", "checkpoint-0000000002.certified"):
        (tmp_path / left).write_bytes(b"x")
    (tmp_path / "incoming-00.safetensors.part").write_bytes(b"x")  # a transfer goes on from it
    checkpoint.tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"incoming-00.safetensors.part"}


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    small = np.empty(256, np.float32)
    with pytest.raises(CheckpointError, match="another swarm"):
        checkpoint.read_header(path, b"t" * 32)
    with pytest.raises(CheckpointError, match="schema"):
        checkpoint.schema_of(path, SWARM, b"x" * 32)
    with pytest.raises(CheckpointError, match="values"):
        checkpoint.load(path, SWARM, small, small.copy())
    with pytest.raises(CheckpointError):
        checkpoint.verify(tmp_path / "none", SWARM)
