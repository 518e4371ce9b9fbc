"""The replay log: the last commits with their encoded results, so that any of them can be applied again.

For version v (the one a commit makes):
    v.payload   encoded results, chunk c at a fixed offset (short ones and untouched chunks leave a hole)
    v.vote      the signed commit, fsynced with the payload before this node votes for it
    v.commit    the same with the votes, once the commit is certified or adopted as provisional

    promises.json  commits that are no longer kept, by parent: this node voted for them, or may have

A promise outlives its record: whatever is overwritten or forgotten is noted in promises.json before. Where a
record is damaged, nobody knows what it promised, so there is no vote for that version any more; where the
promises are damaged, there is none until as many newer ones are kept. Without a vote a commit is held and
applied all the same.

A start replays v.commit files on top of the newest checkpoint. A v.vote alone is a promise: others may have
counted it, so a node that starts again keeps to it and adopts the commit as provisional. Peers that missed a
commit fetch v.commit and v.payload. The last KEEP versions stay. A node that takes another chain over may
come by a parent that it voted on before: it has one vote for each, whatever became of it.
All methods block; they run on the daemon's disk thread, in order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.storage.disk import Disk, RealDisk
from atoll.daemon.storage.files import disk_error
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import commit_digest
from atoll.protocol.schema import ChunkTable
from atoll.protocol.wire import Payload

if TYPE_CHECKING:
    from atoll.protocol.codecs import ResultCodec
    from atoll.protocol.outer import Float32

KEEP = 8
MAX_RECORD_BYTES = 8 << 20
MAX_PROMISES = 128
_PROMISES = "promises.json"
_LOST = "lost"
"""Stands in the promises for those that could not be read; it goes when as many newer ones are there."""
_NAME = re.compile(r"^(\d{10})\.(payload|vote|commit)$")


class RoundLogError(ValueError):
    """A record or payload that is damaged or not of this swarm."""


class NoVoteLeft(RoundLogError):
    """The commit is held, all of it, but this node has voted before, or may have: it must not vote for it."""


class RoundLog:
    """Commits of one swarm in one folder of a disk (this machine's by default)."""

    def __init__(
        self, folder: Path, chunks: ChunkTable, codec: ResultCodec, disk: Disk | None = None
    ) -> None:
        self.folder = folder
        self._chunks = chunks
        self.codec = codec
        self._disk = RealDisk() if disk is None else disk
        self._written: dict[tuple[int, int], bytes] = {}
        """Digests of what this object has put, by version and chunk, until somebody else may have written."""

    def path(self, version: int, kind: str) -> Path:
        return self.folder / f"{version:010d}.{kind}"

    def _offset(self, chunk: int) -> int:
        return chunk * self.codec.room(self._chunks.values) if chunk else 0

    @property
    def payload_bytes(self) -> int:
        """Size of a whole payload file."""
        last = len(self._chunks) - 1
        return self._offset(last) + self.codec.room(self._chunks.size(last))

    def put(self, version: int, chunk: int, payload: Payload, digest: bytes | None = None) -> None:
        """Keeps the encoded result of a chunk. Raises AtollError when the disk refuses.

        `digest`: its SHA-256, where the caller has judged it: then a vote does not read it again.
        """
        self._written.pop((version, chunk), None)
        room = self.codec.room(self._chunks.size(chunk))
        if len(payload) > room:
            raise RoundLogError(f"chunk {chunk}: {len(payload)} bytes, at most {room} are allowed")
        self._disk.pwrite(self.path(version, "payload"), payload, self._offset(chunk))
        if digest is not None:
            self._written[version, chunk] = digest

    def release(self) -> None:
        """Lets go of the payload file that was used last: it may be replaced."""
        self._written.clear()
        self._disk.release()

    def size(self, chunk: int, count: int) -> int:
        """Bytes of the result of a chunk with `count` contributors."""
        return self.codec.size(self._chunks.size(chunk), count)

    def get(self, version: int, chunk: int, count: int, digest: bytes | None = None) -> bytes:
        """The kept result of a chunk with `count` contributors. Raises RoundLogError.

        `digest`: the SHA-256 that it must have. What this object has put by that digest is not read twice.
        """
        size = self.size(chunk, count)
        try:
            payload = self._disk.pread(self.path(version, "payload"), size, self._offset(chunk))
        except OSError as error:
            raise RoundLogError(
                f"the results of version {version} can't be read: {error.strerror}"
            ) from error
        if len(payload) != size:
            raise RoundLogError(f"the results of version {version} are incomplete")
        if digest is not None and digest != self._written.get((version, chunk)):
            _check_digest(version, chunk, payload, digest)
        return payload

    def mean(self, version: int, chunk: int, weights: Sequence[int], out: Float32) -> None:
        """Decodes the kept result of a chunk, made of contributions with these weights, into `out`, fp32.

        Raises RoundLogError.
        """
        import torch

        encoded = torch.frombuffer(bytearray(self.get(version, chunk, len(weights))), dtype=torch.uint8)
        self.codec.decode(encoded, weights, torch.from_numpy(out))

    def hold(self, version: int, commit: pb.Signed) -> None:
        """Makes results durable, and promises nothing: the node is against the commit, and may yet apply it.

        Raises AtollError, and RoundLogError if a result is not here as the commit names it.
        """
        path = self.path(version, "payload")
        self._disk.truncate(path, self.payload_bytes)
        self._disk.fsync(path)
        self._check_chunks(version, pb.Commit.FromString(commit.body), self._written)

    def vote(self, version: int, commit: pb.Signed) -> None:
        """Makes results and commit durable: after this, the node may vote.

        Raises AtollError, RoundLogError if a result is not here as the commit names it, and NoVoteLeft if the
        results are durable and the vote for this parent is given.
        """
        self.hold(version, commit)
        parent, digest = _named(commit)
        voted = self._promised(version, "vote")
        promises = {**self._promised(version, "commit"), **voted, **self._promises()}
        if _LOST in promises or str(version) in promises:
            raise NoVoteLeft("what this node has voted for can't be read any more")
        if promises.get(parent, digest) != digest:
            raise NoVoteLeft("it has voted for another commit of this parent")
        self._keep_promises(voted, but=digest)
        record = pb.RoundRecord(commit=commit)
        self._disk.write(self.path(version, "vote"), record.SerializeToString())

    def decide(self, version: int, commit: pb.Signed, votes: tuple[pb.Signed, ...], saved: int) -> None:
        """The commit is this node's next version; nothing after checkpoint `saved` is forgotten.

        Raises AtollError.
        """
        replaced = {**self._promised(version, "commit"), **self._promised(version, "vote")}
        self._keep_promises(replaced, but=commit_digest(commit.body).hex())
        record = pb.RoundRecord(commit=commit, votes=votes)
        self._disk.write(self.path(version, "commit"), record.SerializeToString())
        self.release()
        try:
            self._disk.unlink(self.path(version, "vote"))
            self._forget(lambda v: v <= min(version - KEEP, saved))
        except AtollError:
            # The commit is here, and that is what counts; a full disk keeps a little more until the next one.
            return

    def read(self, version: int) -> pb.RoundRecord | None:
        """The decided commit that makes `version`, or None. Raises RoundLogError."""
        return self._read(version, "commit")

    def voted(self, version: int) -> pb.RoundRecord | None:
        """The commit for `version` that was voted for and not seen decided. Raises RoundLogError."""
        return self._read(version, "vote")

    def _read(self, version: int, kind: str) -> pb.RoundRecord | None:
        path = self.path(version, kind)
        try:
            return parse_record(self._disk.read(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RoundLogError(f"{path.name} can't be read: {error.strerror}") from error

    def check_payload(self, version: int, commit: pb.Commit) -> None:
        """Raises RoundLogError unless the kept results are those that the commit names and can be applied."""
        self._check_chunks(version, commit, {})

    def _check_chunks(self, version: int, commit: pb.Commit, judged: Mapping[tuple[int, int], bytes]) -> None:
        for chunk, committed in enumerate(commit.chunks):
            if judged.get((version, chunk)) == committed.payload_digest:
                continue
            count = len(committed.contributors)
            payload = self.get(version, chunk, count) if count else b""
            _check_digest(version, chunk, payload, committed.payload_digest)
            if payload:
                self._check_codec(version, chunk, payload, count)

    def _check_codec(self, version: int, chunk: int, payload: bytes, count: int) -> None:
        """A digest says who made the bytes, not that an outer step can take them."""
        import torch

        from atoll.protocol.codecs import CodecError

        try:
            self.codec.check(
                torch.frombuffer(bytearray(payload), dtype=torch.uint8), self._chunks.size(chunk), count
            )
        except CodecError as error:
            raise RoundLogError(f"chunk {chunk} of version {version} is no result: {error}") from error

    def clear(self, keep_up_to: int = -1) -> None:
        """Forgets everything above a version, but not what was voted for: another chain was taken over.

        Raises AtollError, and has then forgotten nothing.
        """
        self.release()
        self._forget(lambda v: v > keep_up_to)

    def _promised(self, version: int, kind: str) -> dict[str, str]:
        """The promise in a record; where that can't be read, one for its version, whatever the parent."""
        try:
            record = self._read(version, kind)
            return {} if record is None else dict([_named(record.commit)])
        except RoundLogError:
            return {str(version): _LOST}

    def _promises(self) -> dict[str, str]:
        """Commit by parent, both in hex, oldest first. Raises AtollError."""
        path = self.folder / _PROMISES
        try:
            kept = json.loads(self._disk.read(path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise disk_error(path, error, "read") from error
        except (ValueError, RecursionError):
            return {_LOST: _LOST}
        return {str(k): str(v) for k, v in kept.items()} if isinstance(kept, dict) else {_LOST: _LOST}

    def _keep_promises(self, more: Mapping[str, str], but: str = "") -> None:
        """Notes promises whose records are about to go, those of commit `but` apart. Raises AtollError."""
        promises = self._promises() if more else {}
        # The first promise for a parent is the one that was given.
        new = {k: digest for k, digest in more.items() if digest != but and k not in promises}
        if new:
            newest = dict(list({**promises, **new}.items())[-MAX_PROMISES:])
            self._disk.write(self.folder / _PROMISES, json.dumps(newest, indent=1).encode())

    def _forget(self, condition: Callable[[int], bool]) -> None:
        """Removes versions, and keeps what this node promised with them. Raises AtollError, and keeps all."""
        try:
            matches = (_NAME.match(name) for name in self._disk.names(self.folder))
            doomed = [(int(m.group(1)), m.group(2)) for m in matches if m and condition(int(m.group(1)))]
        except OSError as error:
            raise disk_error(self.folder, error, "read") from error
        more: dict[str, str] = {}
        for version, kind in doomed:
            if kind != "payload":
                more.update(self._promised(version, kind))
        self._keep_promises(more)
        for version, kind in doomed:
            self._disk.unlink(self.path(version, kind))


def _check_digest(version: int, chunk: int, payload: bytes, digest: bytes) -> None:
    """Raises RoundLogError unless this is the payload's SHA-256."""
    if hashlib.sha256(payload).digest() != digest:
        raise RoundLogError(f"chunk {chunk} of version {version} does not have its digest")


def _named(signed: pb.Signed) -> tuple[str, str]:
    """Parent and digest of a commit, in hex. Raises RoundLogError."""
    try:
        commit = pb.Commit.FromString(signed.body)
    except DecodeError as error:
        raise RoundLogError("a commit that is not readable") from error
    return commit.session.parent.hex(), commit_digest(signed.body).hex()


def parse_record(data: bytes) -> pb.RoundRecord:
    """A record from disk or from a peer. Raises RoundLogError."""
    if len(data) > MAX_RECORD_BYTES:
        raise RoundLogError("round record that is too long")
    try:
        return pb.RoundRecord.FromString(data)
    except DecodeError as error:
        raise RoundLogError("round record that is not readable") from error
