"""The replay log: a vote needs all bytes and is given once, a decision stays, and so does the disk's word."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from atoll.daemon.errors import AtollError
from atoll.daemon.storage import files
from atoll.daemon.storage.disk import RealDisk
from atoll.daemon.storage.round_log import KEEP, MAX_PROMISES, NoVoteLeft, RoundLog, RoundLogError
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.codecs import Int8Codec, result_codec
from atoll.protocol.schema import ChunkTable


def test_reading_makes_no_file_and_raises_as_reading_does(tmp_path: Path) -> None:
    disk = RealDisk()
    for path in (tmp_path / "none", tmp_path / "no folder" / "none"):
        with pytest.raises(FileNotFoundError):
            disk.pread(path, 1, 0)
    assert list(tmp_path.iterdir()) == []
    # What was opened for reading is opened anew for writing, and read through the same descriptor then.
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert disk.pread(path, 3, 0) == b"abc"
    disk.pwrite(path, b"xy", 1)
    assert disk.pread(path, 3, 0) == b"axy" and path.read_bytes() == b"axy"
    disk.release()


def test_all_that_a_disk_takes_piece_by_piece_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, pwrite = RealDisk(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:3], offset))
    disk.pwrite(tmp_path / "file", b"0123456789", 2)
    assert disk.read(tmp_path / "file") == b"\0\x000123456789"
    disk.release()


def test_what_can_not_be_removed_or_written_is_told_to_people(tmp_path: Path) -> None:
    disk = RealDisk()
    for work in (
        lambda: disk.unlink(tmp_path),
        lambda: disk.pwrite(tmp_path, b"x", 0),
        lambda: disk.truncate(tmp_path, 0),
        lambda: disk.fsync(tmp_path / "no folder" / "none"),
    ):
        with pytest.raises(AtollError, match=str(tmp_path)):
            work()


def test_a_decision_stands_although_its_vote_can_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    commit = vote_for(log, 7, FIRST)

    def broken(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", broken)
    log.decide(7, commit, (), saved=6)
    assert log.read(7) is not None


# ---- records and votes

CHUNKS = ChunkTable(1024, 512)


def payload(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return rng.integers(20, 100, Int8Codec.bound(512), dtype=np.uint8).tobytes()  # scales in range, too


def signed_commit(version: int, payloads: list[bytes], parent: bytes = b"") -> pb.Signed:
    chunks = [
        pb.CommittedChunk(contributors=[0] if p else [], payload_digest=hashlib.sha256(p).digest())
        for p in payloads
    ]
    session = pb.SessionId(parent=parent or version.to_bytes(32, "big"))
    return pb.Signed(body=pb.Commit(session=session, version=version, chunks=chunks).SerializeToString())


def vote_for(log: RoundLog, version: int, payloads: list[bytes], parent: bytes = b"") -> pb.Signed:
    signed = signed_commit(version, payloads, parent)
    for chunk in (0, 1):
        log.put(version, chunk, payloads[chunk])
    log.vote(version, signed)
    return signed


def damage(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


FIRST, OTHER = [payload(1), payload(2)], [payload(3), payload(4)]


def test_a_vote_needs_all_bytes_and_a_decision_keeps_them(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    payloads = [payload(1), payload(2)]
    commit = signed_commit(7, payloads)
    log.put(7, 0, payloads[0])
    with pytest.raises(RoundLogError, match="digest"):
        log.vote(7, commit)
    assert not log.path(7, "vote").exists()
    log.put(7, 1, payloads[1])
    log.vote(7, commit)
    assert log.path(7, "vote").exists() and log.read(7) is None
    votes = (pb.Signed(body=b"vote"),)
    log.decide(7, commit, votes, saved=6)
    assert not log.path(7, "vote").exists()
    record = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8")).read(7)
    assert record is not None and (record.commit, list(record.votes)) == (commit, list(votes))
    assert [log.get(7, c, 2) for c in (0, 1)] == payloads


def test_untouched_chunks_leave_a_hole(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    commit = signed_commit(1, [b"", payload(3)])
    log.put(1, 0, b"")
    log.put(1, 1, payload(3))
    log.vote(1, commit)
    log.check_payload(1, pb.Commit.FromString(commit.body))
    assert log.path(1, "payload").stat().st_size == log.payload_bytes


def test_the_log_keeps_what_the_checkpoint_does_not_cover(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    for version in range(1, 21):
        payloads = [payload(version), payload(version)]
        for chunk in (0, 1):
            log.put(version, chunk, payloads[chunk])
        log.vote(version, signed_commit(version, payloads))
        log.decide(version, signed_commit(version, payloads), (), saved=5 if version < 20 else 19)
        if version == 19:
            assert log.read(6) is not None and log.read(5) is None
    assert [v for v in range(1, 21) if log.read(v)] == list(range(21 - KEEP, 21))
    log.clear(keep_up_to=15)
    assert [v for v in range(1, 21) if log.read(v)] == [13, 14, 15]


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    with pytest.raises(RoundLogError, match="bytes"):
        log.put(1, 0, payload(1) + b"long")
    with pytest.raises(RoundLogError, match="can't be read"):
        log.get(1, 1, 2)
    log.put(1, 0, payload(1))
    with pytest.raises(RoundLogError, match="incomplete"):
        log.get(1, 1, 2)
    log.path(2, "commit").write_bytes(b"\xff\xff\xff")
    with pytest.raises(RoundLogError, match="readable"):
        log.read(2)


def test_one_vote_for_one_parent_even_after_another_chain_was_taken_over(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    first, other = [payload(1), payload(2)], [payload(3), payload(4)]

    vote_for(log, 7, first)
    log.decide(7, signed_commit(7, first), (), saved=7)
    log.clear()
    assert log.read(7) is None and log.voted(7) is None
    with pytest.raises(NoVoteLeft, match="another commit of this parent"):
        vote_for(log, 7, other)
    assert log.voted(7) is None
    vote_for(log, 7, first)
    for version in range(8, 8 + 2 * KEEP):
        log.decide(version, signed_commit(version, [b"", b""]), (), saved=version)
    assert log.read(8) is None
    with pytest.raises(NoVoteLeft, match="another commit of this parent"):
        vote_for(log, 8, first)


def test_a_vote_that_can_not_be_kept_to_is_still_the_only_one(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    first = vote_for(log, 7, FIRST)
    log.release()
    damage(log.path(7, "payload"))
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    with pytest.raises(RoundLogError, match="digest"):
        log.check_payload(7, pb.Commit.FromString(first.body))
    with pytest.raises(NoVoteLeft):
        vote_for(log, 7, OTHER)
    kept = log.voted(7)
    assert kept is not None and kept.commit == first
    # The other commit is held all the same: it may be applied without this node's vote.
    assert [log.get(7, chunk, 2) for chunk in (0, 1)] == OTHER
    vote_for(log, 7, FIRST)


def test_a_promise_outlives_a_decision_for_another_commit(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    vote_for(log, 7, FIRST)
    log.decide(7, signed_commit(7, OTHER), (), saved=6)
    assert log.voted(7) is None
    log.clear()
    with pytest.raises(NoVoteLeft):
        vote_for(log, 7, OTHER)
    vote_for(log, 7, FIRST)


def test_what_a_take_over_left_behind_is_a_promise(tmp_path: Path) -> None:
    """A kill came between the other chain's checkpoint and the end of this log."""
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    for version, parent in ((7, b"p" * 32), (8, b"q" * 32)):
        log.decide(version, vote_for(log, version, FIRST, parent), (), saved=6)
    vote_for(log, 9, FIRST, b"r" * 32)
    for version, parent in ((7, b"a" * 32), (8, b"b" * 32), (9, b"c" * 32)):
        log.decide(version, vote_for(log, version, OTHER, parent), (), saved=6)
    log.clear()
    for version, parent in ((7, b"p" * 32), (8, b"q" * 32), (9, b"r" * 32)):
        with pytest.raises(NoVoteLeft):
            vote_for(log, version, OTHER, parent)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000])
def test_damaged_promises_are_not_no_promises(tmp_path: Path, content: bytes) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    (tmp_path / "promises.json").write_bytes(content)
    with pytest.raises(NoVoteLeft, match="read"):
        vote_for(log, 1, FIRST)
    # The node goes on without voting, and votes again when the file would have forgotten what was lost.
    last = MAX_PROMISES + KEEP
    for version in range(1, last):
        log.decide(version, signed_commit(version, FIRST), (), saved=version)
    with pytest.raises(NoVoteLeft, match="read"):
        vote_for(log, last, FIRST)
    log.decide(last, signed_commit(last, FIRST), (), saved=last)
    vote_for(log, last + 1, FIRST)
    with pytest.raises(NoVoteLeft, match="another commit"):
        vote_for(log, last, OTHER)


@pytest.mark.parametrize("kind", ["vote", "commit"])
def test_a_damaged_record_costs_the_vote_for_its_version(tmp_path: Path, kind: str) -> None:
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    first = vote_for(log, 7, FIRST)
    if kind == "commit":
        log.decide(7, first, (), saved=6)
    log.path(7, kind).write_bytes(b"\xff\xff\xff")
    with pytest.raises(NoVoteLeft):
        vote_for(log, 7, OTHER)
    log.decide(7, signed_commit(7, OTHER), (), saved=6)
    log.clear()
    with pytest.raises(NoVoteLeft):
        vote_for(log, 7, OTHER, b"o" * 32)
    vote_for(log, 8, OTHER)


def test_a_disk_that_can_not_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk()
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"), disk)
    vote_for(log, 7, FIRST)
    read = disk.read
    broken = {"promises.json"}

    def broken_read(path: Path) -> bytes:
        if path.name in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(disk, "read", broken_read)
    with pytest.raises(AtollError, match=r"promises\.json can't be read"):
        vote_for(log, 8, OTHER)
    broken.add(log.path(7, "vote").name)
    with pytest.raises(RoundLogError, match="can't be read"):
        log.voted(7)


def test_a_disk_that_is_full_keeps_what_it_would_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk()
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"), disk)
    for version in range(1, KEEP + 1):
        log.decide(version, signed_commit(version, [b"", b""]), (), saved=version)
    write = disk.write

    def full(path: Path, data: bytes) -> None:
        if path.name == "promises.json":
            raise files.disk_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(path, data)

    monkeypatch.setattr(disk, "write", full)
    log.decide(KEEP + 1, signed_commit(KEEP + 1, [b"", b""]), (), saved=KEEP + 1)
    assert log.read(1) is not None and log.read(KEEP + 1) is not None
    with pytest.raises(AtollError):
        log.clear()
    assert log.read(1) is not None
    monkeypatch.undo()
    log.clear()
    assert log.read(1) is None


def test_a_vote_reads_again_what_nobody_has_judged(tmp_path: Path) -> None:
    """What was put with its digest counts as it is, until the file may have been replaced."""
    log = RoundLog(tmp_path, CHUNKS, result_codec("int8", "int8"))
    payloads = [payload(1), payload(2)]
    digests = [hashlib.sha256(p).digest() for p in payloads]
    commit = signed_commit(3, payloads)

    def put_all() -> None:
        for chunk in (0, 1):
            log.put(3, chunk, payloads[chunk], digests[chunk])

    put_all()
    log.put(3, 1, payload(4), hashlib.sha256(payload(4)).digest())
    with pytest.raises(RoundLogError, match=r"chunk 1 .* digest"):
        log.vote(3, commit)
    put_all()
    log.release()
    damage(log.path(3, "payload"))
    with pytest.raises(RoundLogError, match=r"chunk 0 .* digest"):
        log.vote(3, commit)
    log.put(3, 0, payload(5))  # written without a digest: nothing is known of it
    with pytest.raises(RoundLogError, match=r"chunk 0 .* digest"):
        log.vote(3, commit)
    put_all()
    log.vote(3, commit)
    assert log.voted(3) is not None
