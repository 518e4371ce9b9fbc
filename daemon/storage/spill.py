"""Payloads that wait in files instead of in memory, and parts of files as memory: lent by the page cache.

What a round holds for a while (contributions to chunks of which others are late, results on their way to slow
peers) grows with the model and with the slowest line. The kernel may take pages of files back, and writes
them out only where they stay long. A mapped file that can't be read any more would end the process: so only
what this process has just written itself is mapped.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from pathlib import Path

from atoll.protocol.wire import Payload

log = logging.getLogger(__name__)


def mapped(descriptor: int, size: int, offset: int = 0) -> memoryview:
    """`size` bytes of a file as read-only memory; the file may be closed and removed meanwhile.

    Raises OSError, ValueError where the file ends before.
    """
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    whole = mmap.mmap(descriptor, offset - start + size, offset=start, access=mmap.ACCESS_READ)
    return memoryview(whole)[offset - start :]


def spill(folder: Path, payload: Payload) -> Payload:
    """The same bytes, in a file without a name in `folder`, gone with the last view of it.

    Where the disk refuses, the payload itself.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = memoryview(payload)
            while left:
                left = left[os.write(file.fileno(), left) :]
            return mapped(file.fileno(), len(payload))
    except OSError as error:
        log.info("%d bytes of a round stay in memory: %s", len(payload), error.strerror)
        return payload
