"""What this node's own disk refuses while it fetches: never a fault of the peer that is asked.

No OSError, because streams fail with those: whoever goes on to the next peer must not swallow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DiskRefused(Exception):
    """`path` on this disk can't be read or written; `error` says why."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror or error}")
        self.path = path
        self.error = error


@contextmanager
def this_disk(path: Path) -> Iterator[None]:
    """Within it, where nothing else than this disk is used, an OSError becomes DiskRefused."""
    try:
        yield
    except OSError as error:
        raise DiskRefused(path, error) from error
