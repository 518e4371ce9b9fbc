"""A state that is taken over is judged before it touches anything; what is refused leaves all as it was."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atoll.daemon.errors import AtollError
from atoll.daemon.rounds.outer_state import StateLost, check_file
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.modes.asynchronous import shared_nesterov_step

from .swarm import SCHEMA, Member, Swarm, genesis_parameters
from .test_rounds import delta, one_round


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Member]:
    """At version 3, with checkpoints of 1 to 3."""
    swarm = Swarm(tmp_path / "swarm", 1)
    for seed in (1, 2, 3):
        await one_round(swarm, seed)
        await swarm.members[0].driver.on_disk(swarm.members[0].state.save_if_due, True)
    yield swarm.members[0]
    await swarm.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(member: Member, change: Callable[[Head], Head] = lambda head: head, **facts: object) -> Path:
    """A checkpoint file of version 2 of another chain, which fits its own `state`."""
    head = change(replace(member.state.head, version=2, digest=b"z" * 32, certified=False))
    folder = member.folder / "fetched"
    folder.mkdir()
    written: dict[str, object] = {
        "parameters": delta(9),
        "momentum": delta(8),
        "inner_step": 10 * head.version,
        "read": (),
        "schema": SCHEMA,
    } | facts
    checkpoint.save(folder, member.swarm.manifest.swarm_id, head, **written)  # type: ignore[arg-type]
    return checkpoint.path_of(folder, head.version)


def genesis(member: Member, **change: object) -> Callable[[Head], Head]:
    first = Head(0, member.state.chain[-1].digest, (member.me,))
    return lambda _: replace(first, **change)  # type: ignore[arg-type]


async def refused(member: Member, path: Path, error: type[Exception] = CheckpointError) -> None:
    bits, head, saved = member.bits, member.state.position, member.state.saved
    disk = contents(member.folder)
    with pytest.raises(error):
        await member.driver.on_disk(member.state.take_over, path, ())
    assert (member.bits, member.state.position, member.state.saved) == (bits, head, saved)
    assert contents(member.folder) == disk
    # It goes on from there.
    await one_round(member.swarm, 4)
    assert member.state.head.version == 4 and not member.trouble


async def test_a_state_that_fits_is_taken(member: Member) -> None:
    path = fetched(member)
    assert check_file(member.swarm.manifest, path).head.version == 2
    await member.driver.on_disk(member.state.take_over, path, ())
    assert member.state.head.digest == b"z" * 32 and not path.exists()
    assert member.bits == (delta(9).tobytes(), delta(8).tobytes())
    again = checkpoint.verify(
        checkpoint.path_of(member.folder / "checkpoints", 2), member.swarm.manifest.swarm_id
    )
    assert again.head.digest == b"z" * 32


@pytest.mark.parametrize(
    "facts",
    [
        {"inner_step": 21},
        {"read": (1,)},
        {"schema": type(SCHEMA).of([(spec.name + "x", spec.shape) for spec in SCHEMA.tensors])},
    ],
)
async def test_facts_of_another_swarm_are_refused(member: Member, facts: dict[str, object]) -> None:
    path = fetched(member, **facts)
    with pytest.raises(CheckpointError):
        check_file(member.swarm.manifest, path)
    await refused(member, path)


@pytest.mark.parametrize(
    "change", [{"digest": b"z" * 32}, {"electorate": (b"z" * 38,)}, {"cumulative_tokens": 7}, {}]
)
@pytest.mark.parametrize("momentum", [False, True])
async def test_there_is_one_genesis(member: Member, change: dict[str, object], momentum: bool) -> None:
    start = (genesis_parameters(), delta(1)) if momentum else (delta(1), np.zeros(SCHEMA.total, np.float32))
    path = fetched(member, genesis(member, **change), parameters=start[0], momentum=start[1])
    with pytest.raises(CheckpointError, match="genesis"):
        check_file(member.swarm.manifest, path)
    await refused(member, path)


async def test_a_file_that_is_damaged_after_it_was_checked(member: Member) -> None:
    path = fetched(member)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    await refused(member, path)


async def test_a_state_that_can_not_be_put_in_its_place(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetched(member)

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        bits, position = member.bits, member.state.position
        with pytest.raises(AtollError, match="No space left"):
            await member.driver.on_disk(member.state.take_over, path, ())
    assert (member.bits, member.state.position) == (bits, position)


async def test_a_replayed_step_that_fails_is_not_taken_again(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another peer gives the same commit, but half of its step is in the vectors already."""
    behind = Member(member.folder.parent / "behind", member.swarm._keys[0], member.swarm)
    log, theirs = behind.state.rounds, member.state.rounds
    record = theirs.read(1)
    assert record is not None
    log.path(1, "payload").write_bytes(theirs.path(1, "payload").read_bytes())
    pread = log._disk.pread

    def broken(path: Path, size: int, offset: int) -> bytes:
        if offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(path, size, offset)

    with monkeypatch.context() as patch:
        patch.setattr(log._disk, "pread", broken)
        with pytest.raises(StateLost, match="version 1 has failed"):
            await behind.driver.on_disk(behind.state.replay, record, True)
    with pytest.raises(StateLost, match="before it"):
        await behind.driver.on_disk(behind.state.replay, record, True)
    behind.state.restore()
    at_first = checkpoint.path_of(member.folder / "checkpoints", 1)
    other = Member(member.folder.parent / "other", member.swarm._keys[0], member.swarm)
    other.state.adopt(at_first)
    assert behind.bits == other.bits and behind.state.head.digest == other.state.head.digest
    for one in (behind, other):
        await one.driver.close()


async def test_with_nothing_to_go_back_to_the_node_ends_and_writes_nothing(member: Member) -> None:
    path = fetched(member)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    for version in checkpoint.versions(member.folder / "checkpoints"):
        checkpoint.forget(member.folder / "checkpoints", version)
    with pytest.raises(StateLost):
        await member.driver.on_disk(member.state.take_over, path, ())
    with pytest.raises(AtollError, match="between two versions"):
        member.state.save_if_due(always=True)
    assert checkpoint.versions(member.folder / "checkpoints") == []


async def test_a_count_of_rounds_is_for_swarms_that_count_them(member: Member) -> None:
    await refused(member, fetched(member, lambda head: replace(head, progress=5)))


async def test_small_commits_are_shares_of_a_step(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path, 2)
    try:
        await one_round(swarm, 1)
        state = swarm.members[0].state
        record = state.rounds.read(1)
        assert record is not None
        commit = pb.Commit.FromString(record.commit.body)
        commit.voters.extend(bytes([k]) * 38 for k in range(8))
        before = state.parameters.copy(), state.momentum.copy()
        state._step(commit)
        beta, scratch = state.manifest.body.outer.momentum, np.empty_like(state.parameters)
        for chunk in range(len(state.manifest.chunks)):
            span = state.manifest.chunks.span(chunk)
            mean = state.mean_of(commit, chunk).copy()
            vectors = before[0][span], before[1][span]
            shared_nesterov_step(*vectors, mean, 2 / 8, commit.outer_lr, beta, scratch[span])
        assert before[0].tobytes() == state.parameters.tobytes()
        assert before[1].tobytes() == state.momentum.tobytes()
    finally:
        await swarm.close()
