"""How many of something each peer has at this moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Who = TypeVar("_Who", bound=Hashable)


@contextmanager
def counted(counts: Counter[_Who], peer: _Who) -> Iterator[None]:
    """One more of `peer` while the context is open; of whom there is none left nothing is kept."""
    counts[peer] += 1
    try:
        yield
    finally:
        counts[peer] -= 1
        if not counts[peer]:
            del counts[peer]
