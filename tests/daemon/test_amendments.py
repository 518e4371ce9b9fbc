"""Amendments at nodes: rounds of real drivers go by them, whoever heard first; files, telling, commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.daemon import amending
from atoll.daemon.alerts import Alerts
from atoll.daemon.amending import Amending, described, keep, load, said
from atoll.daemon.cli import main
from atoll.daemon.events import Events
from atoll.daemon.rhythm import Terms, terms_of
from atoll.daemon.rounds.outer_state import OuterState, check_record, genesis_head
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLogError
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import MAX_AMENDMENT_BYTES, Amended, Amendments

from .swarm import SCHEMA, Member, Swarm, delta, keyring, make_manifest

ORGANISER = keyring(99)
"""Of the swarms of drivers."""


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    made = Swarm(tmp_path / "swarm", 3)
    yield made
    await made.close()


def new(amendments: Amendments, from_round: int, **values: Any) -> Amended:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return amendments.amend(ORGANISER, named, from_round, 1_700_000_000)


def give(member: Member, amended: Amended) -> None:
    member.state.amendments.add(amended.signed)
    member.driver.amended()


async def one_round(swarm: Swarm, seed: int) -> None:
    target = max(m.state.head.version for m in swarm.members) + 1
    for number, member in enumerate(swarm.members):
        member.train(delta(10 * seed + number), 100)
    await swarm.version(target)


def outer_lr(member: Member) -> float:
    return float(member.commits[-1].outer_lr)


async def test_a_round_goes_by_what_all_have_heard_of_from_its_round_on(swarm: Swarm) -> None:
    amended = new(Amendments(swarm.manifest), 2, outer__lr_by_contributors=[0.1], outer__momentum=0.0)
    for member in swarm.members:
        give(member, amended)
    await one_round(swarm, 1)
    assert {(outer_lr(m), m.commits[-1].amendment) for m in swarm.members} == {(0.6, b"")}
    before = swarm.members[0].state.parameters.copy()
    await one_round(swarm, 2)
    assert {(outer_lr(m), m.commits[-1].amendment) for m in swarm.members} == {(0.1, amended.digest)}
    assert len({m.bits for m in swarm.members}) == 1
    mean = sum(delta(20 + n).astype(np.float64) for n in range(3)) / 3
    step = (before - swarm.members[0].state.parameters) / 0.1
    assert np.abs(step - mean).max() < 2e-3, "without momentum the step is the mean"
    assert swarm.members[0].state.head.amendment == amended.digest


async def test_a_swarm_of_which_few_have_heard_does_not_stand_still(swarm: Swarm) -> None:
    await one_round(swarm, 1)
    amended = new(Amendments(swarm.manifest), 2, outer__lr_by_contributors=[0.1])
    for number, member in enumerate(swarm.members):
        member.train(delta(20 + number), 100)
        if number == 0:
            give(member, amended)
    reason = "plan by another version of the manifest"
    knows, others = swarm.members[0], swarm.members[1:]

    def declined() -> bool:
        return any(
            count for m in swarm.members for why, count in m.driver.dropped.reasons.items() if why == reason
        )

    await swarm.until(lambda: declined() or knows.state.head.version == 2)
    for member in others:
        give(member, amended)
    await swarm.version(2)
    assert len({m.bits for m in swarm.members}) == 1
    await one_round(swarm, 3)
    assert {m.state.head.amendment for m in swarm.members} == {amended.digest}


async def test_replay_needs_the_amendment_and_goes_by_it(swarm: Swarm) -> None:
    for seed in (1, 2):
        await one_round(swarm, seed)
    amended = new(Amendments(swarm.manifest), 3, outer__momentum=0.5)
    for member in swarm.members:
        give(member, amended)
    for seed in (3, 4):
        await one_round(swarm, seed)
    member = swarm.members[0]
    assert next(c for c in member.commits if c.version == 3).amendment == amended.digest

    def from_folder(amendments: Amendments | None) -> OuterState:
        vector, folder = np.zeros(SCHEMA.total, np.float32), member.folder / "checkpoints"
        rounds = member.state.rounds
        return OuterState(swarm.manifest, SCHEMA, vector, folder, rounds, amendments=amendments)

    from_disk = from_folder(None)
    problems = await member.driver.on_disk(from_disk.restore)
    assert any("another manifest" in p or "can't be gone on from" in p for p in problems)
    assert from_disk.head.version == 2, "it stops before what it can't follow"
    again = from_folder(member.state.amendments)
    assert await member.driver.on_disk(again.restore) == []
    assert (again.parameters.tobytes(), again.momentum.tobytes()) == member.bits
    assert again.head == member.state.head


async def test_a_commit_that_names_what_it_may_not_is_refused(swarm: Swarm) -> None:
    await one_round(swarm, 1)
    early = new(Amendments(swarm.manifest), 9, outer__momentum=0.5)
    member = swarm.members[0]
    record, genesis = member.state.rounds.read(1), member.state.amendments.genesis
    assert record is not None
    leader = next(k for k in swarm._keys if k.peer_id == record.commit.signer)
    amendments = Amendments(genesis, [early.signed])
    for name, why in ((early.digest, "from round 9 on"), (bytes(32), "not here")):
        commit = pb.Commit.FromString(record.commit.body)
        commit.amendment = name
        lie = leader.sign("commit", commit.SerializeToString(deterministic=True))
        with pytest.raises(RoundLogError, match=why):
            check_record(amendments, genesis_head(genesis), pb.RoundRecord(commit=lie))


def test_what_phases_are_told() -> None:
    gpt = make_manifest(keyring(0), 1, sizes=(50, 50))
    amendments = Amendments(gpt)
    head = genesis_head(amendments.genesis)
    assert terms_of(amendments, head) == Terms(1, 0.4, None)
    amendments.add(new(amendments, 1, inner__lr=5e-4, rounds__validate_every=3).signed)
    inner = {"lr": 5e-4, "warmup_steps": 0, "total_steps": 1}
    assert terms_of(amendments, head) == Terms(3, 0.4, inner)
    own = Amendments(make_manifest(keyring(0), 1))
    own.add(new(own, 1, inner__lr=5e-4).signed)
    assert terms_of(own, head).inner is None, "a loop of one's own has its own optimizer"


# ---- files, and telling


@pytest.fixture
def folder(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def swarm_at(tmp_path: Path) -> Callable[[bytes], DataDir]:
    """Data dirs of organisers whose newest state is version 7, by this amendment."""

    def make(amendment: bytes) -> DataDir:
        made = DataDir(tmp_path / (amendment.hex()[:4] or "none"))
        assert main(["init", "lab", "--data-dir", str(made.root)]) == 0
        manifest = made.load_manifest()
        path = checkpoint.path_of(made.checkpoints, 0)
        schema = checkpoint.schema_of(path, manifest.swarm_id, manifest.body.schema_digest)
        head = replace(genesis_head(manifest), version=7, digest=bytes(32), amendment=amendment)
        zeros = np.zeros(schema.total, np.float32)
        checkpoint.save(made.checkpoints, manifest.swarm_id, head, schema, zeros, zeros)
        return made

    return make


class Node:
    """What amending has to do with."""

    def __init__(self, folder: DataDir, amendments: Amendments) -> None:
        self.told: list[tuple[pb.Frame, bytes]] = []
        self.changes = 0
        self.events = Events(folder.events, lambda: 0.0)
        self.alerts = Alerts(self.events)
        self.amending = Amending(folder, amendments, self.events, self.alerts, self._changed)
        self.amending.tell = lambda frame, but: self.told.append((frame, but))

    def _changed(self) -> None:
        self.changes += 1

    @property
    def said(self) -> str:
        return " ".join(event["text"] for event in self.events.since(0)[0])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_what_a_peer_tells_is_kept_and_told_on(folder: DataDir) -> None:
    manifest = make_manifest(keyring(0), 1)
    node = Node(folder, Amendments(manifest))
    first = new(Amendments(manifest), 5, inner__lr=1e-4)
    node.amending.heard(b"peer", first.signed)
    node.amending.heard(b"other", first.signed)
    assert [(f.amendment, but) for f, but in node.told] == [(first.signed, b"peer")] and node.changes == 1
    assert [f.amendment for f in node.amending.greeting()] == [first.signed]
    other = new(Amendments(manifest), 6, inner__lr=1e-4).signed.body
    node.amending.heard(b"peer", keyring(1).sign("amendment", other))
    assert node.amending.refused.reasons["amendment that is not possible"] == 1 and node.changes == 1
    task = asyncio.create_task(node.amending.keep())
    await until(lambda: len(load(folder, manifest)) == 1)
    task.cancel()
    assert "inner.lr 0.001 → 0.0001, from round 5 on" in node.said


async def test_two_of_one_version_are_an_alert(folder: DataDir) -> None:
    manifest = make_manifest(keyring(0), 1)
    node = Node(folder, Amendments(manifest))
    node.amending.heard(b"peer", new(Amendments(manifest), 5, inner__lr=1e-4).signed)
    node.amending.heard(b"other", new(Amendments(manifest), 5, inner__lr=1e-5).signed)
    (alert,) = node.alerts.all()
    assert alert["code"] == "amendments_differ" and "two different versions 2" in alert["text"]
    assert node.amending.amendments.newest.body.inner.lr == 1e-4, "what is here holds"


async def test_a_disk_that_refuses_is_an_alert_and_tried_again(
    folder: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(keyring(0), 1)
    node = Node(folder, Amendments(manifest))
    folder.amendments.write_bytes(b"no folder")
    node.amending.heard(b"peer", new(Amendments(manifest), 5, inner__lr=1e-4).signed)
    monkeypatch.setattr(amending, "LOOK_S", 0.01)
    task = asyncio.create_task(node.amending.keep())
    await until(lambda: bool(node.alerts.all()))
    folder.amendments.unlink()
    await until(lambda: len(load(folder, manifest)) == 1)
    task.cancel()


def test_state_that_goes_by_what_is_not_here_is_not_amended_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swarm_at: Callable[[bytes], DataDir]
) -> None:
    where = ["--data-dir", str(swarm_at(bytes(32)).root)]
    assert main(["manifest", "update", "inner.lr=0.001", "--yes", *where]) == 2
    assert "goes by an amendment that is not there" in capsys.readouterr().err
    where = ["--data-dir", str(swarm_at(b"").root)]
    assert main(["manifest", "update", "inner.lr=0.001", "--yes", *where]) == 0
    assert "from round 17 on" in capsys.readouterr().out, "ten after what is here"
    assert main(["manifest", "update", "rounds.min_peers_to_start=2", "--yes", *where]) == 2
    assert "about round 1" in capsys.readouterr().err
    assert main(["manifest", "update", "inner.lr=0.002", "--from-round", "18", "--yes", *where]) == 0
    capsys.readouterr()


async def test_what_a_command_leaves_is_taken_and_told(folder: DataDir) -> None:
    manifest = make_manifest(keyring(0), 1)
    node = Node(folder, Amendments(manifest))
    task = asyncio.create_task(node.amending.keep())
    keep(folder, new(Amendments(manifest), 5, inner__lr=1e-4))
    await until(lambda: node.changes == 1)
    (folder.amendments / "000009.pb").write_bytes(b"\xff")
    await until(lambda: "000009.pb is not used" in node.said)
    task.cancel()
    assert [but for _, but in node.told] == [b""]


def test_files_that_are_no_use_are_passed_over(folder: DataDir, caplog: pytest.LogCaptureFixture) -> None:
    folder.amendments.mkdir()
    (folder.amendments / "000002.pb").write_bytes(bytes(MAX_AMENDMENT_BYTES + 1))
    (folder.amendments / "000003.pb").write_bytes(b"\xff")
    assert not len(load(folder, make_manifest(keyring(0), 1)))
    assert "over" in caplog.text and "damaged" in caplog.text


def test_what_the_page_shows() -> None:
    amendments = Amendments(make_manifest(keyring(0), 1))
    first = new(amendments, 5, inner__lr=1e-4, bootstrap=["/ip4/1.2.3.4/tcp/1"])
    amendments.add(first.signed)
    amendments.add(new(amendments, 7, rounds__grace_cap_s=60.0).signed)
    assert [one["in_force"] for one in described(amendments, None)] == [False, False]
    head = genesis_head(amendments.genesis)
    shown = described(amendments, replace(head, amendment=first.digest))
    assert [one["in_force"] for one in shown] == [True, False]
    assert shown[0]["changes"] == [
        {"field": "inner.lr", "before": "0.001", "after": "0.0001"},
        {"field": "bootstrap", "before": "none", "after": "/ip4/1.2.3.4/tcp/1"},
    ]
    assert said(first).endswith("from round 5 on")


# ---- the command


def test_the_organiser_amends_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--data-dir", str(tmp_path / "a")]
    assert main(["init", "lab", *where]) == 0
    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["manifest", *arguments, *where])
        return status, *capsys.readouterr()

    status, _, err = run("update", "inner.lr=0.001")
    assert status == 2 and "--yes" in err, "nobody is there to look at it"
    status, out, _ = run(
        "update", "rounds.min_peers_to_start=2", "inner.lr=0.001", "--yes", "--note", "calmer"
    )
    assert status == 0 and "inner.lr 0.002 → 0.001" in out and "from round 1 on" in out and "atoll run" in out
    status, out, _ = run(
        "update", "outer.lr_by_contributors=0.5,0.25", "--from-round", "30", "--yes", "--json"
    )
    assert status == 0 and json.loads(out)["changes"]["outer.lr_by_contributors"]["after"] == [0.5, 0.25]
    status, out, _ = run("show", "--json")
    facts = json.loads(out)
    assert facts["inner"]["lr"] == 0.001 and facts["sequence"] == "3"
    assert [one["from_round"] for one in facts["amendments"]] == [1, 30]
    assert facts["amendments"][0]["note"] == "calmer"
    for bad, why in (
        (["update", "--yes"], "nothing to amend"),
        (["update", "inner.lr", "--yes"], "NAME=VALUE"),
        (["update", "inner.lr=1", "inner.lr=2", "--yes"], "twice"),
        (["update", "inner.lr=fast", "--yes"], "can't be 'fast'"),
        (["update", "inner.steps=10", "--yes"], "can't be amended"),
        (["update", "inner.lr=0.5", "--from-round", "30", "--yes"], "after 30"),
        (["update", "inner.lr=0.5", "--from-round", "-1", "--yes"], "has to be 1 to"),
        (["update", "bootstrap=", "--yes"], "can't be ''"),
        (["update", "bootstrap=/ip4/1.2.3.4/tcp/1", "--yes"], "can't be"),
        (["show", "inner.lr=1"], "takes no values"),
    ):
        status, _, err = run(*bad)
        assert status == 2 and why in err, bad
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, version in (("n\n", "3"), ("y\n", "4")):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        status, out, _ = run("update", "rounds.grace_cap_s=90")
        assert status == 0 and "Every node goes by it from round 31 on. Sign it?" in out
        _, out, _ = run("show", "--json")
        assert json.loads(out)["sequence"] == version
    other = tmp_path / "a" / "amendments" / "000005.pb"
    other.write_bytes(b"another one")
    status, _, err = run("update", "inner.lr=0.5", "--yes")
    assert status == 2 and "another version 5" in err and other.read_bytes() == b"another one"
    (tmp_path / "a" / "organiser.key").unlink()
    status, _, err = run("update", "inner.lr=0.5", "--yes")
    assert status == 2 and "its key is not here" in err


class Terminal:
    """Somebody who answers."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._answer
