"""The memory that daemon and trainer share: fp32 vectors in the layout of the parameter schema.

    [ committed: total values ][ snapshot: total ][ momentum: total ]      native byte order, no header

`committed` is written by the daemon (the outer parameters of the last version), `snapshot` by the trainer
(its local parameters at the end of an inner phase, or what it changed in one). `momentum`, the outer one, is
there only where trainers start ahead of a commit; it goes with `committed`. Neither side locks: each message
on the control channel hands one vector over, and a vector is written only while its writer holds it. The
daemon writes `committed` between a Ready and the Committed or Begin that answers it or, for a node that is in
the middle of a phase, before the Committed that tells it; the trainer reads `committed` only while it handles
Begin or Committed, until its next message. A trainer that starts ahead reads both at the end of a phase, too:
if a commit that goes on without it is being applied, it starts from some values of before and some of after.

On Linux a sealed memfd, which the other process opens as /proc/<pid>/fd/<n> (same user); elsewhere a file
in the data dir. Never /dev/shm, which has 64 MB in a container. Space is reserved at creation, so a full
disk is a SharedMemoryError there and not a bus error later. A memfd has no limit of its own: reserving more
than the machine has would make the kernel kill processes, so what is available is asked first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from atoll.daemon.training.errors import SharedMemoryError

FILE_NAME = "trainer.memory"
_VALUE_BYTES = 4
_MAX_TOTAL = 1 << 40


class SharedMemory:
    """Fp32 vectors of `total` values each. Make with `create` (daemon) or `open` (trainer)."""

    def __init__(self, fd: int, total: int, path: str, owned_file: Path | None, ahead: bool = False) -> None:
        """Takes over `fd`, which must hold the vectors: three if trainers start `ahead`, else two."""
        self.total = total
        self.path = path
        """What the other process opens."""
        self._fd = fd
        self._owned_file = owned_file
        mapped = np.frombuffer(mmap.mmap(fd, size_bytes(total, ahead)), dtype=np.float32)
        self._committed: NDArray[np.float32] | None = mapped[:total]
        self._snapshot: NDArray[np.float32] | None = mapped[total : 2 * total]
        self._momentum: NDArray[np.float32] | None = mapped[2 * total :] if ahead else None

    @classmethod
    def create(cls, total: int, directory: Path, ahead: bool = False) -> SharedMemory:
        """Makes zeroed vectors; `directory` is used where there is no memfd. Raises SharedMemoryError."""
        _check_total(total)
        try:
            if sys.platform == "linux":
                _check_room(size_bytes(total, ahead))
                fd = os.memfd_create("atoll-trainer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                return cls._reserved(fd, total, f"/proc/{os.getpid()}/fd/{fd}", None, ahead)
            path = directory / FILE_NAME
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            return cls._reserved(fd, total, str(path), path, ahead)
        except OSError as error:
            raise SharedMemoryError(
                f"No {size_bytes(total, ahead) >> 20} MiB of memory to share with the trainer: "
                f"{error.strerror}.",
                "Free some memory or disk, or use a smaller model.",
            ) from error

    @classmethod
    def _reserved(cls, fd: int, total: int, path: str, owned_file: Path | None, ahead: bool) -> SharedMemory:
        """Reserves and maps; the descriptor (and file) are given back if that fails."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size_bytes(total, ahead))
            else:
                os.ftruncate(fd, size_bytes(total, ahead))
            if owned_file is None:
                # Nobody can shrink it under the other's feet.
                fcntl.fcntl(
                    fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                )
            return cls(fd, total, path, owned_file, ahead)
        except OSError:
            os.close(fd)
            if owned_file is not None:
                owned_file.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: str, total: int, ahead: bool = False) -> SharedMemory:
        """Maps what the other process made. Raises SharedMemoryError if it is gone or has another size."""
        _check_total(total)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise SharedMemoryError(f"The shared memory {path} can't be opened: {error.strerror}.") from error
        size = os.fstat(fd).st_size
        if size != size_bytes(total, ahead):
            os.close(fd)
            raise SharedMemoryError(
                f"The shared memory has {size} bytes; {total} parameters need {size_bytes(total, ahead)}."
            )
        return cls(fd, total, path, None, ahead)

    @property
    def committed(self) -> NDArray[np.float32]:
        """Outer parameters, fp32 [total]; the daemon writes, the trainer reads."""
        return self._view(self._committed)

    @property
    def snapshot(self) -> NDArray[np.float32]:
        """Local parameters at the end of an inner phase, fp32 [total]; the trainer writes."""
        return self._view(self._snapshot)

    @property
    def momentum(self) -> NDArray[np.float32] | None:
        """Outer momentum, fp32 [total]; the daemon writes, the trainer reads. None: it is not shared."""
        return None if self._momentum is None else self._view(self._momentum)

    @staticmethod
    def _view(view: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if view is None:
            raise SharedMemoryError("The shared memory is closed.")
        return view

    def close(self) -> None:
        """Gives the memory back (once nobody holds a view of it any more). May be called twice."""
        if self._committed is None:
            return
        self._committed = self._snapshot = self._momentum = None
        os.close(self._fd)
        if self._owned_file is not None:
            with contextlib.suppress(FileNotFoundError):
                self._owned_file.unlink()

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def size_bytes(total: int, ahead: bool = False) -> int:
    """Bytes of all vectors."""
    return (3 if ahead else 2) * _VALUE_BYTES * total


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that the kernel can give without swapping (proc(5), MemAvailable). Raises OSError."""
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise OSError(errno.ENOTSUP, f"no MemAvailable in {meminfo}")


def _check_room(needed: int) -> None:
    if needed > available_bytes():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _check_total(total: int) -> None:
    if not 0 < total <= _MAX_TOTAL:
        raise SharedMemoryError(f"Shared memory for {total} values makes no sense.")
