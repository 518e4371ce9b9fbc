"""Deterministic batches: which bytes a node trains on at a step is a pure function of a few integers.

A shard is cut into windows of `context` bytes that do not overlap. Where several nodes read one shard,
window i belongs to part `blake2b(seed, i) mod count`, so they agree on who trains on what without talking. A
validator can rebuild any batch from (seed, node id, step, shard, part).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.daemon.training.errors import CorpusError

_PART = b"atoll.shard"
_DRAW = b"atoll.batch"
_DRAWS_PER_WINDOW = 16
"""Random draws per part before a window is sought one by one (a part may hold a single window)."""


def _hash(domain: bytes, *parts: bytes) -> int:
    """64 unambiguous pseudo-random bits: every part is preceded by its length."""
    digest = hashlib.blake2b(digest_size=8, person=domain)
    for part in parts:
        digest.update(len(part).to_bytes(4, "little") + part)
    return int.from_bytes(digest.digest(), "little")


def _integer(value: int) -> bytes:
    return value.to_bytes(16, "little", signed=True)


def part_of(seed: int, window: int, count: int) -> int:
    """The part (0 <= part < count) of a window."""
    return _hash(_PART, _integer(seed), _integer(window)) % count


@dataclass(frozen=True)
class Windows:
    """A shard, cut into windows of `context` bytes, each with the byte to predict after it."""

    data: NDArray[np.uint8]
    context: int

    @classmethod
    def of(cls, text: bytes, context: int) -> Windows:
        """Raises CorpusError if there is not one window."""
        return cls._checked(np.frombuffer(text, dtype=np.uint8), context, "The text")

    @classmethod
    def mapped(cls, path: Path, context: int) -> Windows:
        """A file that is mapped, not read into memory. Raises CorpusError."""
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise CorpusError(f"The training text {path} can't be read: {error}.") from error
        return cls._checked(data, context, str(path))

    @classmethod
    def _checked(cls, data: NDArray[np.uint8], context: int, name: str) -> Windows:
        windows = cls(data, context)
        if windows.count < 1:
            raise CorpusError(f"{name} has {len(data)} bytes, too few for windows of {context}.")
        return windows

    @property
    def count(self) -> int:
        """How many windows there are."""
        return (len(self.data) - 1) // self.context

    def draw(self, seed: int, node_id: str, step: int, part: tuple[int, int], size: int) -> list[int]:
        """The windows of one batch: uniform over the node's part (index, count), with replacement."""
        index, count = part
        return [self._draw(seed, node_id, step, place, index, count) for place in range(size)]

    def _draw(self, seed: int, node_id: str, step: int, place: int, index: int, count: int) -> int:
        window = 0
        for attempt in range(_DRAWS_PER_WINDOW * count):
            key = (_integer(seed), node_id.encode(), _integer(step), _integer(place), _integer(attempt))
            window = _hash(_DRAW, *key) % self.count
            if part_of(seed, window, count) == index:
                return window
        for distance in range(self.count):
            near = (window + distance) % self.count
            if part_of(seed, near, count) == index:
                return near
        return window  # more nodes than windows: this part is empty, so share someone else's

    def batch(
        self, seed: int, node_id: str, step: int, part: tuple[int, int], size: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [size, context] each, the targets one byte later."""
        return self._gather(self.draw(seed, node_id, step, part, size))

    def spread(self, count: int) -> tuple[Tensor, Tensor]:
        """At most `count` fixed windows, evenly spread; same layout as `batch`."""
        count = min(count, self.count)
        return self._gather([i * self.count // count for i in range(count)])

    def _gather(self, windows: list[int]) -> tuple[Tensor, Tensor]:
        rows = [self.data[w * self.context :][: self.context + 1] for w in windows]
        block = torch.from_numpy(np.stack(rows).astype(np.int64))
        return block[:, :-1], block[:, 1:]
