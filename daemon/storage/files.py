"""Writing files so that a power cut leaves the old one or the new one, never a half.

write to a temporary name, fsync, rename, fsync the folder. A full or read-only disk is an AtollError with
the path; what was there before stays.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from atoll.daemon.errors import AtollError, Exit
from atoll.peers.disk import DiskRefused

_FULL = (errno.ENOSPC, errno.EDQUOT)
TROUBLE_CODES = ("disk_full", "disk_not_writable", "disk", "results_lacking", "no_vote", "trainer_silent")
"""Alerts that an outer step which was taken is the end of."""
_NOT_WRITABLE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.EISDIR,
)


def disk_error(path: Path, error: OSError, what: str = "written") -> AtollError:
    """The sentence for a failed write, or for whatever else could not be done (`what`: "read")."""
    if error.errno in _FULL:
        return AtollError(
            Exit.TEMPORARY, "disk_full", f"No space left to write {path}.", "Free some disk space."
        )
    if error.errno in _NOT_WRITABLE:
        return AtollError(
            Exit.PREFLIGHT,
            "disk_not_writable",
            f"{path} can't be {what}: {error.strerror}.",
            "Choose a data dir that this user may write to, with --data-dir.",
        )
    return AtollError(Exit.TEMPORARY, "disk", f"{path} can't be {what}: {error.strerror}.", "Check the disk.")


@contextmanager
def refusals_told() -> Iterator[None]:
    """Within it, what the fetching code says of this disk is an AtollError."""
    try:
        yield
    except DiskRefused as refused:
        raise disk_error(refused.path, refused.error) from refused


def write_atomic(path: Path, write: Callable[[BinaryIO], None], mode: int = 0o644) -> None:
    """Replaces `path` by what `write` puts into the file it is given. Raises AtollError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces `path` by `data`, atomically. Raises AtollError."""

    def put(file: BinaryIO) -> None:
        file.write(data)

    write_atomic(path, put, mode)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Replaces `path` by `value` as JSON, atomically. Raises AtollError."""
    write_bytes(path, json.dumps(value, indent=1).encode() + b"\n", mode)


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None where there is no such file or it is damaged (it is then rewritten)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
