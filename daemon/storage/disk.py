"""What the replay log needs of a disk, and the disk of this machine. The simulator has another one.

Writes raise AtollError (full, read-only, broken); reads raise OSError, FileNotFoundError above all. What was
written with `pwrite` is durable after `fsync`, a file that was put with `write` when it returns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from atoll.daemon.storage import files


class Disk(Protocol):
    """Files by path. All methods block."""

    def pwrite(self, path: Path, data: bytes, offset: int) -> None:
        """Writes at an offset, into a file that is made where there is none."""

    def pread(self, path: Path, size: int, offset: int) -> bytes:
        """At most `size` bytes from an offset."""

    def truncate(self, path: Path, size: int) -> None:
        """Cuts or extends (with zeros) a file."""

    def fsync(self, path: Path) -> None:
        """Makes what was written to a file durable; its name is so with the next `write` in its folder."""

    def write(self, path: Path, data: bytes) -> None:
        """Replaces a whole file, atomically and durably, and makes the names in its folder durable."""

    def read(self, path: Path) -> bytes:
        """A whole file."""

    def names(self, folder: Path) -> list[str]:
        """The files in a folder, sorted."""

    def unlink(self, path: Path) -> None:
        """Removes a file, if there is one."""

    def release(self) -> None:
        """Lets go of what is open: files may be replaced from outside."""


class RealDisk:
    """The disk of this machine. The file that was used last at an offset stays open."""

    def __init__(self) -> None:
        self._open: tuple[Path, int] | None = None

    def pwrite(self, path: Path, data: bytes, offset: int) -> None:
        try:
            os.pwrite(self._descriptor(path), data, offset)
        except OSError as error:
            raise files.disk_error(path, error) from error

    def pread(self, path: Path, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor(path), size, offset)

    def truncate(self, path: Path, size: int) -> None:
        try:
            os.ftruncate(self._descriptor(path), size)
        except OSError as error:
            raise files.disk_error(path, error) from error

    def fsync(self, path: Path) -> None:
        try:
            os.fsync(self._descriptor(path))
        except OSError as error:
            raise files.disk_error(path, error) from error

    def _descriptor(self, path: Path) -> int:
        if self._open is not None and self._open[0] == path:
            return self._open[1]
        self.release()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise files.disk_error(path, error) from error
        self._open = (path, descriptor)
        return descriptor

    def write(self, path: Path, data: bytes) -> None:
        files.write_bytes(path, data)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def release(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
