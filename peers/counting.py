"""How many of something each peer has at this moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted(counts: Counter[bytes], peer: bytes) -> Iterator[None]:
    """One more of `peer` while the context is open; of whom there is none left nothing is kept."""
    counts[peer] += 1
    try:
        yield
    finally:
        counts[peer] -= 1
        if not counts[peer]:
            del counts[peer]
