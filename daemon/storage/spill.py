"""Payloads that wait in files instead of in memory.

What a round holds for a while (contributions to chunks of which others are late) grows with the model and
with the slowest line. The kernel may take pages of files back, and writes them out only where they stay long.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from atoll.protocol.wire import Payload

log = logging.getLogger(__name__)

SPARE_BYTES = 256 << 20
"""On a disk with less room, a round's results need it more."""
MAX_SPILLED = 256
"""Payloads in files at once: each keeps a file open, of which a process often has 1024."""

_open: set[int] = set()


def spill(folder: Path, payload: Payload) -> Payload:
    """The same bytes, in a file without a name in `folder`, gone with the last view of it.

    Where the disk refuses or is nearly full, or many are there, the payload itself. Only what is there whole
    is mapped: reading a hole in a file on a full disk would end the process.
    """
    try:
        if not payload or len(_open) >= MAX_SPILLED or shutil.disk_usage(folder).free < SPARE_BYTES:
            return payload
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = memoryview(payload)
            while left:
                left = left[os.write(file.fileno(), left) :]
            kept = mmap.mmap(file.fileno(), len(payload), access=mmap.ACCESS_READ)
        _open.add(id(kept))
        weakref.finalize(kept, _open.discard, id(kept))
        return memoryview(kept)
    except OSError as error:
        log.info("%d bytes of a round stay in memory: %s", len(payload), error.strerror)
        return payload


def loaded(payload: Payload) -> bytearray:
    """A copy in memory; the pages of a payload that waits in a file are given back."""
    data = bytearray(payload)
    source = payload.obj if isinstance(payload, memoryview) else None
    if isinstance(source, mmap.mmap):
        source.madvise(mmap.MADV_DONTNEED)
    return data
