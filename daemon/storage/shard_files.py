"""The shards of the data that are on this disk: one file each, named by its digest. Blocking.

Owns data/shards. A file counts only when its bits were checked in this life of the daemon; one that does not
have them is removed. New ones are written atomically, so a power cut leaves nothing that looks whole. The
access time of a file says when it was last in use, and survives restarts.

A disk that refuses is an AtollError, and what was there before stays.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from atoll.daemon.storage import files
from atoll.protocol import messages_pb2 as pb

PART_SUFFIXES = (".part", ".https")
"""Of what is on its way: from peers (pieces in any order), from a web server (from the beginning)."""


class WrongShard(ValueError):
    """Bytes that are not those of the shard; the message says in what."""


def add(folder: Path, pieces: Iterable[bytes]) -> pb.DataShard:
    """Writes a new shard under its digest. Raises AtollError, and what `pieces` raises."""
    total, size = hashlib.sha256(), 0
    path = folder / "new"

    def write(file: BinaryIO) -> None:
        nonlocal size
        for piece in pieces:
            total.update(piece)
            size += file.write(piece)

    files.write_atomic(path, write)
    try:
        path.replace(folder / total.hexdigest())
        files.sync_folder(folder)
    except OSError as error:
        raise files.disk_error(path, error) from error
    return pb.DataShard(digest=total.digest(), size_bytes=size)


class ShardFiles:
    """The shard files of one swarm, by place in the manifest's table; the last one is for validation."""

    def __init__(self, folder: Path, table: Sequence[pb.DataShard]) -> None:
        self.folder = folder
        self.table = tuple(table)
        self.digests = tuple(bytes(shard.digest) for shard in table)
        self.sizes = tuple(int(shard.size_bytes) for shard in table)
        self.validation = len(table) - 1
        self._checked: set[bytes] = set()

    def path(self, index: int) -> Path:
        return self.folder / self.digests[index].hex()

    def create(self) -> None:
        """Makes the folder. Raises AtollError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.disk_error(self.folder, error) from error

    # ---- what is here

    def has(self, index: int) -> bool:
        """Whether the shard is here, and its bits were checked."""
        return self.digests[index] in self._checked and self.path(index).exists()

    def training(self) -> list[int]:
        """The training shards that are here and checked."""
        return [index for index in range(self.validation) if self.has(index)]

    def check(self, index: int) -> bool:
        """Whether the shard is here with all its bits; else its file is removed. Raises AtollError."""
        path = self.path(index)
        try:
            with path.open("rb") as file:
                good = hashlib.file_digest(file, "sha256").digest() == self.digests[index]
            if good:
                self._checked.add(self.digests[index])
            else:
                path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise files.disk_error(path, error) from error
        return good

    # ---- writing

    def put(self, index: int, pieces: Iterable[bytes]) -> None:
        """Writes a shard and checks it. Raises WrongShard, AtollError, and what `pieces` raises."""
        files.write_atomic(self.path(index), lambda file: self._write(index, pieces, file))
        self._checked.add(self.digests[index])

    def _write(self, index: int, pieces: Iterable[bytes], file: BinaryIO) -> None:
        total, left = hashlib.sha256(), self.sizes[index]
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            total.update(piece)
            file.write(piece)
        if left or total.digest() != self.digests[index]:
            raise WrongShard("its bytes are not those that the manifest names")

    def adopt(self, index: int, part: Path) -> None:
        """Makes a whole part the shard if it is it, else removes the part. Raises WrongShard, AtollError."""
        try:
            with part.open("rb+") as file:
                good = hashlib.file_digest(file, "sha256").digest() == self.digests[index]
                os.fsync(file.fileno())
            if not good:
                part.unlink()
                raise WrongShard("its bytes are not those that the manifest names")
            part.replace(self.path(index))
            files.sync_folder(self.folder)
        except OSError as error:
            raise files.disk_error(part, error) from error
        self._checked.add(self.digests[index])

    # ---- room

    def used(self, index: int) -> None:
        """Notes that the shard is in use. Raises AtollError."""
        path = self.path(index)
        try:
            # Not the time of change, by which the file server knows that a file is still the same.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except OSError as error:
            raise files.disk_error(path, error) from error

    def make_room(self, index: int, cap_bytes: int, keep: Collection[int]) -> bool:
        """Removes what is least recently used until the shard fits under the cap; whether it does then.

        Shards in `keep`, and the one for validation, are never removed; 0 is no cap. Raises AtollError.
        """
        if not cap_bytes or self.digests[index] in self._here():
            return True
        wanted = cap_bytes - self.sizes[index]
        kept = {self.digests[i] for i in (*keep, index, self.validation)}
        sizes = dict(zip(self.digests, self.sizes, strict=True))
        if sum(sizes[digest] for digest in kept & self._here()) > wanted:
            return False
        try:
            self._drop_parts(index)
        except OSError as error:
            raise files.disk_error(self.folder, error) from error
        self._remove(wanted, kept)
        return True

    def shrink(self, cap_bytes: int, keep: Collection[int]) -> None:
        """Removes what is least recently used until all fits under the cap, as far as it may go.

        Shards in `keep`, and the one for validation, stay; 0 is no cap. Raises AtollError.
        """
        if cap_bytes:
            self._remove(cap_bytes, {self.digests[i] for i in (*keep, self.validation)})

    def _remove(self, below_bytes: int, kept: Collection[bytes]) -> None:
        sizes = dict(zip(self.digests, self.sizes, strict=True))
        try:
            others = [self.folder / digest.hex() for digest in self._here() - set(kept)]
            others.sort(key=lambda path: path.stat().st_atime_ns)
            while others and sum(sizes[digest] for digest in self._here()) > below_bytes:
                others.pop(0).unlink()
        except OSError as error:
            raise files.disk_error(self.folder, error) from error

    def _here(self) -> set[bytes]:
        """Digests of all shards that lie here, checked or not."""
        return {digest for digest in self.digests if (self.folder / digest.hex()).exists()}

    def _drop_parts(self, index: int) -> None:
        """Removes what was begun of other shards."""
        mine = self.digests[index].hex()
        for path in self.folder.iterdir():
            if path.suffix in PART_SUFFIXES and not path.name.startswith(mine):
                path.unlink()

    def tidy(self) -> None:
        """Removes what a kill in mid-write left, and what is no shard of this swarm. Raises AtollError."""
        names = {digest.hex() for digest in self.digests}
        try:
            for path in self.folder.iterdir():
                if path.name not in names and not (path.suffix in PART_SUFFIXES and path.stem in names):
                    path.unlink()
        except OSError as error:
            raise files.disk_error(self.folder, error) from error
