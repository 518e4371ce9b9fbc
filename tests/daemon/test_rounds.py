"""Rounds with real codecs, disk and signatures: the right mean, the same bits, and what faults do to them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.daemon.errors import AtollError
from atoll.daemon.rounds import outer_state
from atoll.daemon.rounds.drops import MAX_REASONS, MAX_SENDERS, Drops
from atoll.daemon.rounds.outer_state import check_record, genesis_head, served_file
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.round_log import RoundLogError
from atoll.peers.identity import readable_name
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.amendments import Amendments
from atoll.protocol.round import types as t

from .swarm import SCHEMA, Make, Member, Swarm, delta


async def one_round(swarm: Swarm, seed: int) -> None:
    target = max(m.state.head.version for m in swarm.members) + 1
    for number, member in enumerate(swarm.members):
        member.train(delta(10 * seed + number), 100 * (number + 1))
    await swarm.version(target)


async def test_each_node_sees_how_far_it_agrees_with_the_others(make: Make) -> None:
    swarm = make(3, codecs=("int8", "int8"))
    assert [m.driver.cosine for m in swarm.members] == [None] * 3
    same = delta(1)
    for sign, member in zip((1, 1, -1), swarm.members, strict=True):
        member.train(sign * same, 100)
    await swarm.version(1)
    cosines = [m.driver.cosine for m in swarm.members]
    assert cosines == pytest.approx([1.0, 1.0, -1.0], abs=0.02)


async def test_a_codec_that_changes_from_plan_to_plan(make: Make) -> None:
    swarm = make(3, codecs=("auto", "int8"))
    sizes = list[set[int]]()
    await one_round(swarm, 1)
    for seed, speed in ((2, 1000), (3, 1000), (4, 10**13)):
        for member in swarm.members:
            member.driver.feed(t.TrainingChanged(True, speed, speed))
        before = swarm.members[0].state.parameters.copy()
        swarm.sizes.clear()
        await one_round(swarm, seed)
        sizes.append(set(swarm.sizes))
        assert len({m.bits for m in swarm.members}) == 1
        mean = sum(w * delta(10 * seed + n).astype(np.float64) for n, w in enumerate((100, 200, 300))) / 600
        step = before - swarm.members[0].state.parameters
        cosine = np.dot(step, mean) / np.linalg.norm(step) / np.linalg.norm(mean)
        assert cosine > 0.6, "momentum of other rounds, and the codec's error"
    reports = swarm.members[1].reports
    assert [r.codec for r in reports] == ["int8", "int4", "int4", "int8"]
    assert "no line has been measured" in reports[0].codec_reason
    assert reports[1].codec_reason.startswith("Contributions go as int4: the exchange takes about")
    assert sizes[0] == sizes[1] and max(sizes[0]) < 0.6 * max(sizes[2])
    assert not any(m.trouble or m.driver.dropped.reasons for m in swarm.members)


async def test_the_mean_is_right_and_the_bits_are_the_same(make: Make) -> None:
    swarm = make(3)
    before = swarm.members[0].state.parameters.copy()
    await one_round(swarm, 1)
    assert len({m.bits for m in swarm.members}) == 1
    assert len({m.state.head for m in swarm.members}) == 1
    # Weights by tokens, none over twice the mean: 100, 200, 300.
    mean = sum(w * delta(10 + n).astype(np.float64) for n, w in enumerate((100, 200, 300))) / 600
    step = before - swarm.members[0].state.parameters
    expected = 0.6 * 1.9 * mean  # first Nesterov step: lr (1 + momentum)
    assert np.linalg.norm(step - expected) / np.linalg.norm(expected) < 0.02
    commit = swarm.members[0].commits[0]
    assert commit.cumulative_tokens == 600
    assert all(list(chunk.contributors) == [0, 1, 2] for chunk in commit.chunks)
    for member in swarm.members:
        assert member.reports[-1].outcome == "certified" and not member.trouble


@pytest.mark.parametrize(
    ("codec", "result_codec", "error"),
    [
        ("fp32", "fp32", 1e-5),
        ("bf16", "bf16", 0.005),
        ("int4", "int8", 0.15),
        ("e3m0", "int8", 0.25),
        ("2bit", "int4", 0.45),
        ("2bit", "int8", 0.36),
    ],
)
async def test_every_codec_carries_a_round(make: Make, codec: str, result_codec: str, error: float) -> None:
    swarm = make(3, codecs=(codec, result_codec))
    before = swarm.members[0].state.parameters.copy()
    await one_round(swarm, 1)
    assert len({m.bits for m in swarm.members}) == 1
    mean = sum(w * delta(10 + n).astype(np.float64) for n, w in enumerate((100, 200, 300))) / 600
    step = (before - swarm.members[0].state.parameters) / (0.6 * 1.9)
    assert np.linalg.norm(step - mean) / np.linalg.norm(mean) < error
    assert all(member.reports[-1].outcome == "certified" for member in swarm.members)


@pytest.mark.parametrize(
    ("codec", "result_codec", "error"),
    [
        ("fp32", "fp32", 1e-5),
        ("int8", "int8", 0.015),
        ("int4", "int8", 0.12),
        ("auto", "int4", 0.2),
        ("2bit", "fp32", 0.36),  # groups and results are the contributions themselves
        ("2bit", "int8", 0.36),  # only groups are
    ],
)
async def test_two_levels_give_the_same_mean_and_the_same_bits(
    make: Make, codec: str, result_codec: str, error: float
) -> None:
    """The mean of a group goes as a result does: on the way to the owner it loses as much."""
    swarm = make(9, codecs=(codec, result_codec), two_level_above=3)
    before = swarm.members[0].state.parameters.copy()
    await one_round(swarm, 1)
    assert len({m.bits for m in swarm.members}) == 1
    tokens = [100 * (n + 1) for n in range(9)]
    mean = sum(w * delta(10 + n).astype(np.float64) for n, w in enumerate(tokens)) / sum(tokens)
    step = (before - swarm.members[0].state.parameters) / (0.6 * 1.9)
    assert np.linalg.norm(step - mean) / np.linalg.norm(mean) < error
    (report,) = swarm.members[4].reports
    assert report.outcome == "certified" and report.groups == 3 and len(report.contributed) == 9
    commit = swarm.members[0].commits[0]
    assert all(list(chunk.contributors) == list(range(9)) for chunk in commit.chunks)
    assert not any(m.trouble or m.driver.dropped.reasons for m in swarm.members)


async def test_a_collector_that_lies_costs_its_group_a_chunk_and_nobody_a_round(make: Make) -> None:
    swarm = make(9, two_level_above=3)
    await one_round(swarm, 1)
    liar = swarm.members[5]
    swarm.spoiled.add(liar.me)
    for member in swarm.members:
        member.train(delta(7), 100)
    await swarm.until(lambda: all(m.driver.machine.head.version >= 2 for m in swarm.members if m is not liar))
    honest = [m for m in swarm.members if m is not liar]
    assert len({m.bits for m in honest}) == 1
    named = {peer for m in honest for peer, _ in m.reports[1].rejected}
    assert named == {liar.me}


async def test_means_that_say_nothing_of_themselves_are_malformed(make: Make) -> None:
    swarm = make(2)
    one, other = swarm.members
    for told in (
        pb.Contribution(members=[0]),
        pb.Contribution(partial=True),
        pb.Contribution(chunk=10**6, partial=True, members=[0]),
        pb.Contribution(partial=True, members=range(1025)),
    ):
        await one.driver.received(other.me, pb.Frame(contribution=told), b"payload")
    assert one.driver.dropped.reasons["malformed contribution"] == 4
    await one.driver.received(other.me, pb.Frame(contribution=pb.Contribution(partial=True)), b"")
    assert one.driver.dropped.reasons["malformed contribution"] == 4, "that nobody of a group came is a fact"


async def test_error_feedback_brings_back_what_a_codec_lost(make: Make) -> None:
    swarm = make(2, codecs=("2bit", "fp32"))
    shown = swarm.members[0].state.parameters.copy()
    for _ in range(12):
        target = swarm.members[0].state.head.version + 1
        for member in swarm.members:
            member.train(delta(1), 100)
        await swarm.version(target)
    assert len({m.bits for m in swarm.members}) == 1
    # With Nesterov the sum of the steps is that of a constant pseudo-gradient, if nothing of it is lost.
    momentum, steps = 0.0, 0.0
    for _ in range(12):
        momentum = 0.9 * momentum + 1
        steps += 0.6 * (1 + 0.9 * momentum)
    moved = (shown - swarm.members[0].state.parameters) / steps
    lost = np.linalg.norm(moved - delta(1)) / np.linalg.norm(delta(1))
    assert lost < 0.2, "in one round it is 0.34"


async def test_fragments_take_turns_and_nothing_else_is_touched(make: Make) -> None:
    swarm = make(3, fragments=2)
    manifest, before = swarm.manifest, swarm.members[0].state.parameters.copy()
    first, second = manifest.chunks.fragments
    assert first and second and manifest.segment_steps == 5
    for seed, due in ((1, first), (2, second), (3, first)):
        swarm.sizes.clear()
        await one_round(swarm, seed)
        assert len({m.bits for m in swarm.members}) == 1 and not any(m.trouble for m in swarm.members)
        commit, after = swarm.members[1].commits[-1], swarm.members[1].state.parameters.copy()
        assert commit.session.fragment == (seed - 1) % 2
        for chunk in range(len(manifest.chunks)):
            moved = np.abs(after - before)[manifest.chunks.span(chunk)].max() > 0
            assert moved == (chunk in due) == bool(commit.chunks[chunk].contributors)
        mean = sum(w * delta(10 * seed + n).astype(np.float64) for n, w in enumerate((100, 200, 300))) / 600
        values = np.concatenate([np.arange(*manifest.chunks.span(c).indices(len(mean))) for c in due])
        step, wanted = (before - after)[values], mean[values]
        cosine = np.dot(step, wanted) / np.linalg.norm(step) / np.linalg.norm(wanted)
        assert cosine > (0.99 if seed < 3 else 0.5), "each fragment has its own momentum"
        # Two of three members' chunks of the fragment cross the wire, and no other.
        assert len(swarm.sizes) == 2 * len(due)
        before = after
    whole = sum(manifest.chunks.size(c) for c in range(len(manifest.chunks)))
    assert whole == manifest.chunks.total
    tokens = [round(600 * len(due) / (len(first) + len(second)), 0) for due in (first, second, first)]
    assert abs(swarm.members[0].state.head.cumulative_tokens - sum(tokens)) <= 3


async def test_a_commit_out_of_turn_is_refused(make: Make) -> None:
    swarm = make(2, fragments=2)
    await one_round(swarm, 1)
    record = swarm.members[0].state.rounds.read(1)
    assert record is not None
    genesis = genesis_head(swarm.manifest)
    check_record(Amendments(swarm.manifest), genesis, record)
    leader = next(keys for keys in swarm._keys if keys.peer_id == record.commit.signer)
    for spoil in ("fragment", "chunk"):
        commit = pb.Commit.FromString(record.commit.body)
        if spoil == "fragment":
            commit.session.fragment = 1
        else:
            commit.chunks[swarm.manifest.chunks.fragments[1][0]].contributors.append(0)
        lie = leader.sign("commit", commit.SerializeToString(deterministic=True))
        with pytest.raises(RoundLogError, match="fragment"):
            check_record(Amendments(swarm.manifest), genesis, pb.RoundRecord(commit=lie))


@pytest.mark.parametrize("codecs", [("int8", "int8"), ("2bit", "int8")], ids=("means", "gathered"))
async def test_many_rounds_and_a_restart_from_disk(make: Make, codecs: tuple[str, str]) -> None:
    swarm = make(3, codecs=codecs)
    for seed in range(1, 5):
        await one_round(swarm, seed)
    assert len({m.bits for m in swarm.members}) == 1
    # The newest checkpoint is lost: the one before it and the replay log give the same bits.
    folder = swarm.members[1].folder
    await swarm.members[1].driver.on_disk(swarm.members[1].state.save_if_due, True)
    newest = checkpoint.versions(folder / "checkpoints")[0]
    checkpoint.path_of(folder / "checkpoints", newest).unlink()
    again = Member(folder, swarm._keys[1], swarm)
    assert again.state.digests == swarm.members[0].state.digests and len(again.state.digests) == 5
    assert again.problems == []
    assert again.bits == swarm.members[0].bits
    assert again.state.head == swarm.members[0].state.head
    await again.driver.close()


async def test_the_cursor_is_the_same_everywhere_and_after_a_restart(make: Make) -> None:
    swarm = make(3, sizes=(1000, 1000, 50))
    for version in range(1, 4):
        for number, member in enumerate(swarm.members):
            member.train(delta(10 * version + number), 100 * (number + 1), shard=number % 2)
        await swarm.version(version)
        assert {m.state.read for m in swarm.members} == {(400 * version, 200 * version)}
    member = swarm.members[1]
    await member.driver.on_disk(member.state.save_if_due, True)
    for lost in (3, 2):
        again = Member(member.folder, swarm._keys[1], swarm)
        assert (again.state.read, again.state.head) == (member.state.read, member.state.head)
        await again.driver.close()
        # Next time the commits are replayed on an older checkpoint.
        checkpoint.path_of(member.folder / "checkpoints", lost).unlink()
    where, manifest = member.folder / "checkpoints", swarm.manifest
    parameters, momentum = member.state.parameters, member.state.momentum
    checkpoint.save(where, manifest.swarm_id, member.state.head, SCHEMA, parameters, momentum, 30, (1, 2, 3))
    with pytest.raises(checkpoint.CheckpointError, match="other data"):
        member.state.adopt(checkpoint.path_of(where, 3))


async def test_all_hold_the_same_states_and_any_of_them_is_served(make: Make, tmp_path: Path) -> None:
    swarm = make(3)
    for seed in range(1, 5):
        await one_round(swarm, seed)
    for member in swarm.members:
        await member.driver.on_disk(member.state.save_if_due, True)
    held = swarm.members[0].state.held
    assert [version for version, _ in held] == [4, 3, 2]
    assert {m.state.held for m in swarm.members} == {held}
    found = []
    for member in swarm.members:
        folder = DataDir(member.folder)
        for version, _ in held:
            file = served_file(folder, member.state, None, "checkpoint", version)
            assert file is not None and file.version == version
            found.append((version, file.path.read_bytes()))
        newest = served_file(folder, member.state, None, "checkpoint", 0)
        assert newest is not None and newest.version == 4
        assert served_file(folder, member.state, None, "checkpoint", 1) is None
    assert len(set(found)) == 3
    about, _ = checkpoint.read_header(newest.path, swarm.manifest.swarm_id)
    assert about.inner_step == 4 * swarm.manifest.body.inner.steps


async def test_a_damaged_byte_in_a_kept_commit_stops_nobody(make: Make) -> None:
    """The checkpoint is of the head; what led to it can't be told any more, and that is all."""
    swarm = make(2)
    for seed in (1, 2):
        await one_round(swarm, seed)
    member = swarm.members[1]
    await member.driver.on_disk(member.state.save_if_due, True)
    path = member.state.rounds.path(2, "commit")
    whole, missing = path.read_bytes(), 0
    for at in range(min(len(whole), 400)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        again = Member(member.folder, swarm._keys[1], swarm)
        assert again.bits == member.bits and again.state.head == member.state.head
        missing += not again.state.kept_commits()
        await again.driver.close()
    assert missing > 100


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
async def test_damaged_checkpoints_are_passed_over(make: Make, damage: str) -> None:
    """The newest two can't be used: the one before them and the replay log give the same bits."""
    swarm = make(2)
    for seed in range(1, 5):
        await one_round(swarm, seed)
    member = swarm.members[1]
    await member.driver.on_disk(member.state.save_if_due, True)
    folder = member.folder / "checkpoints"
    for version in (4, 3):
        path = checkpoint.path_of(folder, version)
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"truncated": whole[:-1], "flipped": flipped, "empty": b""}[damage])
    again = Member(member.folder, swarm._keys[1], swarm)
    assert len(again.problems) == 2 and all("checkpoint-" in problem for problem in again.problems)
    assert again.bits == swarm.members[0].bits and again.state.head == swarm.members[0].state.head
    assert again.state.saved is not None and again.state.saved.head.version == 2
    await again.driver.close()


async def test_a_state_of_another_schedule_is_refused(make: Make) -> None:
    swarm = make(1)
    member = swarm.members[0]
    await one_round(swarm, 1)
    parameters, momentum = member.state.parameters.copy(), member.state.momentum.copy()
    folder = member.folder / "rounds"
    checkpoint.save(folder, swarm.manifest.swarm_id, member.state.head, SCHEMA, parameters, momentum, 99)
    with pytest.raises(checkpoint.CheckpointError, match="schedule"):
        member.state.adopt(checkpoint.path_of(folder, 1))


async def test_a_member_that_dies_is_left_out(make: Make) -> None:
    swarm = make(3)
    await one_round(swarm, 1)
    lost = swarm.members[2]
    for number, member in enumerate(swarm.members[:2]):
        member.train(delta(50 + number), 100)
    await swarm.lose(lost)
    await swarm.version(2)
    assert len({m.bits for m in swarm.members}) == 1
    assert {m.reports[-1].outcome for m in swarm.members} == {"certified"}


async def test_a_liar_is_left_out_and_named(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    swarm = make(3)
    liar = swarm.members[2]
    swarm.spoiled.add(liar.me)
    for number, member in enumerate(swarm.members):
        member.train(delta(number), 100)
    honest = swarm.members[:2]
    await swarm.until(lambda: any(m.driver.dropped.reasons for m in honest))
    reasons = {reason for m in honest for reason in m.driver.dropped.reasons}
    assert reasons <= {"contribution that the codec refuses", "malformed result"}, reasons
    assert {sender for m in honest for sender in m.driver.dropped.senders} == {liar.me}
    assert readable_name(liar.me) in caplog.text
    assert not any(m.trouble for m in honest)


async def test_messages_that_are_not_signed_are_counted_and_dropped(make: Make) -> None:
    swarm = make(2)
    first, second = swarm.members
    forged = pb.Signed(body=pb.Commit(version=1).SerializeToString(), signer=second.me, signature=b"x" * 64)
    for frame in (
        pb.Frame(commit=forged),
        pb.Frame(plan=forged),
        pb.Frame(vote=forged),
        pb.Frame(result=forged),
        pb.Frame(contribution=pb.Contribution(chunk=10_000)),
        pb.Frame(goodbye=pb.Goodbye()),
    ):
        await first.driver.received(second.me, frame, b"payload")
    assert first.driver.dropped.senders == {second.me: 6}
    assert sum(first.driver.dropped.reasons.values()) == 6
    await one_round(swarm, 1)
    assert first.bits == second.bits


async def test_what_strangers_send_makes_no_new_reason(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads of a thousand lengths are one reason, and a thousand senders are not a thousand rows."""
    swarm = make(1)
    driver, events = swarm.members[0].driver, []
    monkeypatch.setattr(driver, "feed", events.append)
    for length in range(1, 1000):
        sender = length.to_bytes(38, "big")
        await driver.received(sender, pb.Frame(contribution=pb.Contribution()), bytes(length))
        await driver.received(sender, pb.Frame(contribution=pb.Contribution(chunk=10_000 + length)), b"")
    assert len(events) == 999 and len({event.reason for event in events}) == 1
    assert dict(driver.dropped.reasons) == {"malformed contribution": 999}
    assert len(driver.dropped.senders) == MAX_SENDERS and sender in driver.dropped.senders


def test_reasons_are_few_even_if_code_made_many() -> None:
    drops = Drops()
    for number in range(1000):
        drops.note(b"x" * 38, f"reason {number}")
    assert len(drops.reasons) == MAX_REASONS and sum(drops.reasons.values()) == 1000
    drops.note(b"x" * 38, "reason 3")
    assert drops.reasons["reason 3"] == 2 and drops.senders == {b"x" * 38: 1001}


async def test_a_disk_that_refuses_gets_no_vote(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = make(2)
    first, second = swarm.members

    def refuse(version: int, commit: pb.Signed) -> None:
        from atoll.daemon.errors import Exit

        raise AtollError(Exit.TEMPORARY, "disk_full", "No space left.", "Free some.")

    monkeypatch.setattr(second.state.rounds, "vote", refuse)
    for number, member in enumerate(swarm.members):
        member.train(delta(number), 100)
    # The first commit's electorate is the genesis node alone, so it goes on; the other one says why not.
    await swarm.until(lambda: first.driver.machine.head.version == 1)
    await swarm.until(lambda: bool(second.trouble) and bool(second.reports))
    assert second.trouble[0][0] == "disk_full"
    assert second.driver.machine.head.version == 0
    assert second.reports[-1].outcome == "missed"


async def test_whoever_looks_in_mid_step_sees_one_position(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers are told of head and chain while the disk thread works: they must belong together at any time."""
    swarm = make(1)
    state, seen = swarm.members[0].state, []

    def looked_at(work: Callable[..., object]) -> Callable[..., object]:
        def look(*arguments: object) -> object:
            seen.append((state.head.digest, state.chain[0].digest))
            return work(*arguments)

        return look

    for module, name in ((outer_state.forks, "extend"), (outer_state.shards, "advance")):
        monkeypatch.setattr(module, name, looked_at(getattr(module, name)))
    await one_round(swarm, 1)
    assert len(seen) == 2 and all(head == end for head, end in seen)
    assert state.head.digest == state.chain[0].digest


async def test_an_outer_step_that_fails_ends_the_node_and_leaves_no_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left when the results are read back; what the disk has is whole."""
    swarm = make(1)
    member = swarm.members[0]
    decide = member.state.decide

    def refuse(*arguments: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def decided(*arguments: Any) -> None:
        decide(*arguments)
        monkeypatch.setattr(member.state.rounds._disk, "pread", refuse)

    monkeypatch.setattr(member.state, "decide", decided)
    member.train(delta(1), 100)
    await swarm.until(lambda: bool(member.reports))
    await swarm.until(lambda: bool(member.trouble))
    assert [code for code, _ in member.trouble] == ["bug"] and "outer step" in member.trouble[0][1]
    with pytest.raises(AtollError, match="between two versions"):
        await member.driver.on_disk(member.state.save_if_due, True)
    monkeypatch.undo()
    again = Member(member.folder, swarm._keys[0], swarm)
    assert again.state.head.version == 1 and again.problems == []
    await again.driver.close()


async def test_a_vote_is_kept_to_after_a_restart(make: Make) -> None:
    swarm = make(2)
    await one_round(swarm, 1)
    first, second = swarm.members
    log = second.state.rounds
    await second.driver.on_disk(second.state.save_if_due, True)
    # As if the node had been killed between its vote and the decision.
    record = log.read(1)
    assert record is not None
    log.path(1, "vote").write_bytes(pb.RoundRecord(commit=record.commit).SerializeToString())
    log.path(1, "commit").unlink()
    checkpoint.path_of(second.folder / "checkpoints", 1).unlink()
    again = Member(second.folder, swarm._keys[1], swarm)
    assert again.bits == first.bits
    assert again.state.head.digest == first.state.head.digest and not again.state.head.certified
    assert log.read(1) is not None and log.voted(1) is None
    await again.driver.close()


async def test_a_node_whose_vote_is_given_goes_on_without_it(make: Make) -> None:
    """It voted before a restart, and what it voted for is damaged: nobody else can give it that back."""
    swarm = make(1)
    member = swarm.members[0]
    log, parent = member.state.rounds, member.state.head.digest
    lost = pb.Signed(body=pb.Commit(version=1, session=pb.SessionId(parent=parent)).SerializeToString())
    log.path(1, "vote").write_bytes(pb.RoundRecord(commit=lost).SerializeToString())
    await one_round(swarm, 1)
    assert [code for code, _ in member.trouble] == ["no_vote"]
    assert not member.state.head.certified and log.voted(1) is None
    await one_round(swarm, 2)
    assert member.state.head.certified and len(member.trouble) == 1


async def test_replayed_commits_are_checked(make: Make) -> None:
    swarm = make(2)
    await one_round(swarm, 1)
    member = swarm.members[0]
    record = member.state.rounds.read(1)
    assert record is not None
    parent = Member(member.folder.parent / "fresh", swarm._keys[1], swarm)
    commit, certified = check_record(Amendments(swarm.manifest), parent.state.head, record)
    assert commit.version == 1 and certified
    unvoted = pb.RoundRecord(commit=record.commit)
    assert check_record(Amendments(swarm.manifest), parent.state.head, unvoted)[1] is False
    with pytest.raises(RoundLogError, match="version"):
        check_record(Amendments(swarm.manifest), member.state.head, record)
    garbled = pb.RoundRecord(commit=swarm._keys[1].sign("commit", b"\xff\xff\xff"))
    with pytest.raises(RoundLogError, match="readable"):
        check_record(Amendments(swarm.manifest), parent.state.head, garbled)
    record.commit.signature = b"0" * 64
    with pytest.raises(RoundLogError, match="signed"):
        check_record(Amendments(swarm.manifest), parent.state.head, record)
    await parent.driver.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"outer_lr": float("nan")}, "learning rate"),
        ({"outer_lr": 9.0}, "learning rate"),
        ({"result_codec": "float32"}, "codec"),
        ({"cumulative_tokens": 1 << 60}, "sum of tokens"),
        ({"progress": 1}, "count of rounds"),
        ({"voters": [b"v" * 38]}, "names voters where it may not"),
    ],
)
async def test_a_peers_commit_obeys_the_rules_of_a_session(
    make: Make, change: dict[str, object], error: str
) -> None:
    swarm = make(2)
    await one_round(swarm, 1)
    member = swarm.members[0]
    record = member.state.rounds.read(1)
    assert record is not None
    head = genesis_head(swarm.manifest)
    commit, _ = check_record(Amendments(swarm.manifest), head, record)
    commit.MergeFrom(pb.Commit(**change))  # type: ignore[arg-type]
    leader = next(keys for keys in swarm._keys if keys.peer_id == commit.session.leader)
    forged = pb.RoundRecord(commit=leader.sign("commit", commit.SerializeToString()))
    with pytest.raises(RoundLogError, match=error):
        check_record(Amendments(swarm.manifest), head, forged)


async def test_a_peers_commit_has_results_that_can_be_applied(make: Make) -> None:
    """Their digests are right, and no outer step could take them: this must be seen before it is decided."""
    swarm = make(2)
    await one_round(swarm, 1)
    log = swarm.members[0].state.rounds
    record = log.read(1)
    assert record is not None
    commit = pb.Commit.FromString(record.commit.body)
    log.check_payload(1, commit)
    bad = b"\xff" * len(log.get(1, 0, 1))
    log.put(1, 0, bad)
    commit.chunks[0].payload_digest = hashlib.sha256(bad).digest()
    with pytest.raises(RoundLogError, match="no result"):
        log.check_payload(1, commit)


async def test_a_pseudo_gradient_that_is_not_finite_is_named(make: Make) -> None:
    swarm = make(1)
    member = swarm.members[0]
    member.snapshot[:] = member.state.parameters
    assert await member.driver.first_non_finite() is None
    weight = SCHEMA.tensors[1]
    member.snapshot[weight.offset + 3] = np.nan
    assert await member.driver.first_non_finite() == "weight"


async def test_a_genesis_that_is_not_the_manifests_is_refused(make: Make) -> None:
    swarm = make(1)
    member = swarm.members[0]
    path = checkpoint.path_of(member.folder / "checkpoints", 0)
    head = member.state.head
    other = member.state.parameters + 1
    checkpoint.save(
        member.folder / "checkpoints", swarm.manifest.swarm_id, head, SCHEMA, other, np.zeros_like(other)
    )
    assert path.exists()
    with pytest.raises(AtollError, match="no usable checkpoint"):
        member.state.restore()


async def test_votes_show_that_a_commit_is_certified_and_nothing_else_does(make: Make) -> None:
    swarm = make(3)
    await one_round(swarm, 1)
    await one_round(swarm, 2)
    one, other, third = swarm.members
    record = other.state.rounds.read(2)
    assert record is not None
    link = other.state.chain[0]
    assert one.state.judge(record, link) is True
    # What the next commit's voters are is known as well, and older ones from the log.
    first = other.state.rounds.read(1)
    assert first is not None and one.state.judge(first, other.state.chain[1]) is True
    assert one.state.judge(first, link) is False, "the record of another commit"
    unsigned = pb.RoundRecord()
    unsigned.CopyFrom(record)
    unsigned.commit.signature = bytes(64)
    assert one.state.judge(unsigned, link) is False
    bare = pb.RoundRecord(commit=record.commit)
    assert one.state.judge(bare, link) is None, "too few votes"
    assert one.state.voters(40) is None

    # A node that never saw the votes learns of them, and knows it after a restart.
    def forget() -> None:
        third.state.rounds.decide(2, record.commit, (), 2)
        for note in (third.folder / "checkpoints").glob("*2.certified"):
            note.unlink()
        unsure = tuple(replace(x, certified=False) for x in third.state.chain)
        third.state.position = replace(third.state.position, chain=unsure)

    await third.driver.on_disk(forget)
    again = Member(third.folder, swarm._keys[2], swarm)
    assert not again.state.chain[0].certified
    await again.driver.on_disk(again.state.certify, {link.digest}, record)
    assert again.state.head.certified and again.state.chain[0].certified
    later = Member(third.folder, swarm._keys[2], swarm)
    assert [x.certified for x in later.state.chain[:2]] == [True, True]
    for member in (again, later):
        await member.driver.close()


async def test_what_comes_after_the_driver_closed_is_nobodys(make: Make) -> None:
    """Links are closed after the driver: frames still come in between, and must not need its threads."""
    swarm = make(2)
    leaver, stayer = swarm.members
    stayer.train(delta(1), 100)
    leaver.train(delta(2), 100)
    await swarm.until(lambda: any(m.driver.machine.session is not None for m in swarm.members))
    await leaver.driver.close()
    message = pb.Signed(signer=stayer.me, body=b"body", signature=bytes(64))
    for frame in (pb.Frame(result=message), pb.Frame(contribution=pb.Contribution(chunk=0))):
        await leaver.driver.received(stayer.me, frame, b"payload")
    leaver.driver.feed(t.LocalReady(100, 10, shard=0))
    assert not leaver.trouble


async def test_a_driver_can_close_at_any_moment_of_a_round(tmp_path: Path) -> None:
    """Whatever effect is under way, nothing fails for want of a thread."""
    for moment in range(1, 40):
        swarm = Swarm(tmp_path / str(moment), 2)
        leaver = swarm.members[moment % 2]
        for number, member in enumerate(swarm.members):
            member.train(delta(number), 100)
        for _ in range(moment):
            await asyncio.sleep(0)
        await leaver.driver.close()
        await swarm.close()
        assert not leaver.trouble, moment
