"""What the replay log needs of a disk, and the disk of this machine. The simulator has another one.

Writes raise AtollError (full, read-only, broken); reads raise OSError (FileNotFoundError above all), and
make nothing. What was written with `pwrite` is durable after `fsync`, a file that was put with
`write` when it returns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from atoll.daemon.storage import files


class Disk(Protocol):
    """Files by path. All methods block."""

    def pwrite(self, path: Path, data: bytes | bytearray | memoryview, offset: int) -> None:
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
        self._open: tuple[Path, int, bool] | None = None

    def pwrite(self, path: Path, data: bytes | bytearray | memoryview, offset: int) -> None:
        left = memoryview(data)
        try:
            descriptor = self._descriptor(path, writes=True)
            while left:
                # A disk that is about to be full takes a part, and refuses the rest with a reason.
                count = os.pwrite(descriptor, left, offset)
                left, offset = left[count:], offset + count
        except OSError as error:
            raise files.disk_error(path, error) from error

    def pread(self, path: Path, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor(path, writes=False), size, offset)

    def truncate(self, path: Path, size: int) -> None:
        try:
            os.ftruncate(self._descriptor(path, writes=True), size)
        except OSError as error:
            raise files.disk_error(path, error) from error

    def fsync(self, path: Path) -> None:
        try:
            os.fsync(self._descriptor(path, writes=True))
        except OSError as error:
            raise files.disk_error(path, error) from error

    def _descriptor(self, path: Path, writes: bool) -> int:
        """The file, open; one that is to be written is made where there is none. Raises OSError."""
        if self._open is not None and self._open[0] == path and (self._open[2] or not writes):
            return self._open[1]
        self._close()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY, 0o644)
        self._open = (path, descriptor, writes)
        return descriptor

    def write(self, path: Path, data: bytes) -> None:
        files.write_bytes(path, data)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.disk_error(path, error, "removed") from error

    def release(self) -> None:
        path = self._open[0] if self._open is not None else Path()
        try:
            self._close()
        except OSError as error:
            raise files.disk_error(path, error) from error

    def _close(self) -> None:
        if self._open is not None:
            descriptor, self._open = self._open[1], None
            os.close(descriptor)
