"""The replay log: the last commits with their encoded results, so that any of them can be applied again.

For version v (the one a commit makes):
    v.payload   encoded results, chunk c at a fixed offset (untouched chunks leave a hole)
    v.vote      the signed commit, fsynced with the payload before this node votes for it
    v.commit    the same with the votes, once the commit is certified or adopted as provisional

    promises.json  commits that are no longer kept, by parent: this node voted for them, or may have

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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.storage.disk import Disk, RealDisk
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import commit_digest
from atoll.protocol.codecs import CODECS
from atoll.protocol.schema import ChunkTable

KEEP = 8
MAX_RECORD_BYTES = 8 << 20
MAX_PROMISES = 128
_PROMISES = "promises.json"
_NAME = re.compile(r"^(\d{10})\.(payload|vote|commit)$")


class RoundLogError(ValueError):
    """A record or payload that is damaged or not of this swarm."""


class RoundLog:
    """Commits of one swarm in one folder of a disk (this machine's by default)."""

    def __init__(self, folder: Path, chunks: ChunkTable, result_codec: str, disk: Disk | None = None) -> None:
        self.folder = folder
        self._chunks = chunks
        self._bound = CODECS[result_codec].bound
        self._disk = RealDisk() if disk is None else disk

    def path(self, version: int, kind: str) -> Path:
        return self.folder / f"{version:010d}.{kind}"

    def _offset(self, chunk: int) -> int:
        return chunk * self._bound(self._chunks.values) if chunk else 0

    @property
    def payload_bytes(self) -> int:
        """Size of a whole payload file."""
        last = len(self._chunks) - 1
        return self._offset(last) + self._bound(self._chunks.size(last))

    def put(self, version: int, chunk: int, payload: bytes) -> None:
        """Keeps the encoded result of a chunk. Raises AtollError when the disk refuses."""
        expected = self._bound(self._chunks.size(chunk))
        if payload and len(payload) != expected:
            raise RoundLogError(f"chunk {chunk}: {len(payload)} bytes, not {expected}")
        self._disk.pwrite(self.path(version, "payload"), payload, self._offset(chunk))

    def release(self) -> None:
        """Lets go of the payload file that was used last: it may be replaced."""
        self._disk.release()

    def get(self, version: int, chunk: int) -> bytes:
        """The kept result of a chunk. Raises RoundLogError."""
        size = self._bound(self._chunks.size(chunk))
        try:
            payload = self._disk.pread(self.path(version, "payload"), size, self._offset(chunk))
        except OSError as error:
            raise RoundLogError(f"the results of version {version} can't be read") from error
        if len(payload) != size:
            raise RoundLogError(f"the results of version {version} are incomplete")
        return payload

    def vote(self, version: int, commit: pb.Signed) -> None:
        """Makes results and commit durable: after this, the node may vote.

        Raises AtollError, and RoundLogError if a result is not here as the commit names it, or if the vote
        for this parent is given.
        """
        parent, digest = _named(commit)
        if self._promises().get(parent, digest) != digest:
            raise RoundLogError("this node has voted for another commit of this parent")
        path = self.path(version, "payload")
        self._disk.truncate(path, self.payload_bytes)
        self._disk.fsync(path)
        self.check_payload(version, pb.Commit.FromString(commit.body))
        record = pb.RoundRecord(commit=commit)
        self._disk.write(self.path(version, "vote"), record.SerializeToString())

    def decide(self, version: int, commit: pb.Signed, votes: tuple[pb.Signed, ...], saved: int) -> None:
        """The commit is this node's next version; nothing after checkpoint `saved` is forgotten.

        Raises AtollError.
        """
        record = pb.RoundRecord(commit=commit, votes=votes)
        self._disk.write(self.path(version, "commit"), record.SerializeToString())
        self.release()
        self._disk.unlink(self.path(version, "vote"))
        try:
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
        try:
            return parse_record(self._disk.read(self.path(version, kind)))
        except FileNotFoundError:
            return None

    def check_payload(self, version: int, commit: pb.Commit) -> None:
        """Raises RoundLogError unless the kept results are those that the commit names."""
        for chunk, committed in enumerate(commit.chunks):
            payload = self.get(version, chunk) if committed.contributors else b""
            if hashlib.sha256(payload).digest() != committed.payload_digest:
                raise RoundLogError(f"chunk {chunk} of version {version} does not have its digest")

    def clear(self, keep_up_to: int = -1) -> None:
        """Forgets everything above a version, but not what was voted for: another chain was taken over.

        Raises AtollError, and has then forgotten nothing.
        """
        self.release()
        self._forget(lambda v: v > keep_up_to)

    def _promises(self) -> dict[str, str]:
        """Commit by parent, both in hex, oldest first."""
        try:
            kept = json.loads(self._disk.read(self.folder / _PROMISES))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(k): str(v) for k, v in kept.items()} if isinstance(kept, dict) else {}

    def _forget(self, condition: Callable[[int], bool]) -> None:
        """Removes versions, and keeps what this node promised with them. Raises AtollError, and keeps all."""
        matches = (_NAME.match(name) for name in self._disk.names(self.folder))
        doomed = [(int(m.group(1)), m.group(2)) for m in matches if m and condition(int(m.group(1)))]
        promises = self._promises()
        for version, kind in doomed:
            if kind != "payload":
                with suppress(RoundLogError):
                    record = self._read(version, kind)
                    if record is not None:
                        promises.update([_named(record.commit)])
        if doomed:
            newest = dict(list(promises.items())[-MAX_PROMISES:])
            self._disk.write(self.folder / _PROMISES, json.dumps(newest, indent=1).encode())
        for version, kind in doomed:
            self._disk.unlink(self.path(version, kind))


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
