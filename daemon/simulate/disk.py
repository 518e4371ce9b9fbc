"""A disk in memory that does what disks do: it loses unsynced writes at a power cut, fills up, flips bits.

What the operating system shows (`names`, contents) and what is on the platter are kept apart. An fsync
brings a file's content to the platter, an atomic write its name as well, with all names of its folder. At a
power cut every other write to a file survives, is lost or is torn, by the generator that is given; of the
changes of names, a journal's prefix survives. A process that is killed loses nothing here.

`cut_after` arms a fault: after so many steps of work the machine stops in the middle (PowerCut).
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from atoll.daemon.storage import files


class PowerCut(Exception):
    """The machine stopped in the middle of a disk operation; whoever runs the node ends it."""


class _File:
    """Content as it is seen, content on the platter, and the operations that lie between."""

    __slots__ = ("durable", "pending", "seen")

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = b""
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None): truncated

    def write(self, offset: int, data: bytes) -> None:
        _put(self.seen, offset, data)
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        _resize(self.seen, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        self.durable, self.pending = bytes(self.seen), []

    def cut(self, chance: random.Random) -> None:
        content = bytearray(self.durable)
        for at, data in self.pending:
            fate = chance.random()
            if data is None:
                if fate < 0.5:
                    _resize(content, at)
            elif fate < 0.4:
                _put(content, at, data)
            elif fate < 0.6:
                _put(content, at, data[: chance.randrange(len(data) + 1)])
        self.seen = content
        self.sync()


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        _resize(content, offset + len(data))
    content[offset : offset + len(data)] = data


class SimulatedDisk:
    """See daemon/storage/disk.py for the interface; folders need not be made."""

    def __init__(self) -> None:
        self.full = False
        self.cut_after: int | None = None
        self._seen: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._journal: list[tuple[str, _File | None]] = []  # changes of names since the last folder sync

    # ---- the interface

    def pwrite(self, path: Path, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._step(path)
        self._made(str(path)).write(offset, bytes(data))

    def pread(self, path: Path, size: int, offset: int) -> bytes:
        return self.read(path)[offset : offset + size]

    def truncate(self, path: Path, size: int) -> None:
        self._step(path)
        self._made(str(path)).truncate(size)

    def fsync(self, path: Path) -> None:
        self._step(path)
        self._made(str(path)).sync()

    def write(self, path: Path, data: bytes) -> None:
        self._step(path)
        file = _File()
        file.write(0, data)
        self._step(path)
        file.sync()
        self._name(str(path), file)
        self._step(path)
        self._sync_names()

    def read(self, path: Path) -> bytes:
        file = self._seen.get(str(path))
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return bytes(file.seen)

    def names(self, folder: Path) -> list[str]:
        start = f"{folder}/"
        return sorted(name.removeprefix(start) for name in self._seen if name.startswith(start))

    def unlink(self, path: Path) -> None:
        if str(path) in self._seen:
            self._step(path, writes=False)
            self._name(str(path), None)

    def release(self) -> None:
        """Nothing is open here."""

    def _step(self, path: Path, writes: bool = True) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after <= 0:
                self.cut_after = None
                raise PowerCut
        if writes and self.full:
            raise files.disk_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _made(self, name: str) -> _File:
        file = self._seen.get(name)
        if file is None:
            file = _File()
            self._name(name, file)
        return file

    def _name(self, name: str, file: _File | None) -> None:
        if file is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = file
        self._journal.append((name, file))

    def _sync_names(self) -> None:
        self._durable, self._journal = dict(self._seen), []

    # ---- faults, and what the simulator may know

    def power_cut(self, chance: random.Random) -> None:
        """The machine stops and starts again: only the platter is left."""
        kept = dict(self._durable)
        for name, file in self._journal[: chance.randrange(len(self._journal) + 1)]:
            if file is None:
                kept.pop(name, None)
            else:
                kept[name] = file
        self._seen = kept
        self._sync_names()
        for name in sorted(kept):
            kept[name].cut(chance)
        self.cut_after = None

    def flip(self, path: Path, chance: random.Random) -> None:
        """Another bit in a byte of a file, on the platter."""
        file = self._seen.get(str(path))
        if file is not None and file.seen:
            file.seen[chance.randrange(len(file.seen))] ^= 1 << chance.randrange(8)
            file.sync()

    def durable(self, path: Path) -> bytes | None:
        """What a power cut is sure to leave of a file; None where it may be gone."""
        file = self._durable.get(str(path))
        return None if file is None or file is not self._seen.get(str(path)) else file.durable

    def size_bytes(self) -> int:
        return sum(len(file.seen) for file in self._seen.values())
