"""Deterministic batches: which bytes a node trains on at a step is a pure function of a few integers.

The last 5 % of the text are for validation. The rest is cut into windows of `context` bytes that do not
overlap; window i belongs to shard `blake2b(seed, i) mod count`, so all nodes agree on who trains on what
without a table and without talking. A validator can rebuild any batch from (seed, node id, step).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.daemon.training.errors import CorpusError

VALIDATION_PERCENT = 5

_SHARD = b"atoll.shard"
_DRAW = b"atoll.batch"
_DRAWS_PER_WINDOW = 16
"""Random draws per shard before a window is sought one by one (a shard may hold a single window)."""


def _hash(domain: bytes, *parts: bytes) -> int:
    """64 unambiguous pseudo-random bits: every part is preceded by its length."""
    digest = hashlib.blake2b(digest_size=8, person=domain)
    for part in parts:
        digest.update(len(part).to_bytes(4, "little") + part)
    return int.from_bytes(digest.digest(), "little")


def _integer(value: int) -> bytes:
    return value.to_bytes(16, "little", signed=True)


def shard_of(seed: int, window: int, count: int) -> int:
    """The shard (0 <= shard < count) of a training window."""
    return _hash(_SHARD, _integer(seed), _integer(window)) % count


@dataclass(frozen=True)
class Windows:
    """A text, split and cut into windows of `context` bytes plus the one to predict after them."""

    data: NDArray[np.uint8]
    context: int

    @classmethod
    def of(cls, text: bytes, context: int) -> Windows:
        """Raises CorpusError if there is not one window to train on and one to validate on."""
        windows = cls(np.frombuffer(text, dtype=np.uint8), context)
        if windows.training_windows < 1 or windows.validation_windows < 1:
            least = -(-100 * (context + 1) // VALIDATION_PERCENT)
            raise CorpusError(
                f"The training text has {len(text)} bytes, too few for windows of {context}.",
                f"Give at least {least} bytes.",
            )
        return windows

    @property
    def split(self) -> int:
        """Position of the first validation byte."""
        return len(self.data) - len(self.data) * VALIDATION_PERCENT // 100

    @property
    def training_windows(self) -> int:
        return (self.split - 1) // self.context

    @property
    def validation_windows(self) -> int:
        return (len(self.data) - self.split - 1) // self.context

    def draw(self, seed: int, node_id: str, step: int, shard: tuple[int, int], size: int) -> list[int]:
        """The windows of one batch: uniform over the node's shard (index, count), with replacement."""
        index, count = shard
        return [self._draw(seed, node_id, step, place, index, count) for place in range(size)]

    def _draw(self, seed: int, node_id: str, step: int, place: int, index: int, count: int) -> int:
        window = 0
        for attempt in range(_DRAWS_PER_WINDOW * count):
            key = (_integer(seed), node_id.encode(), _integer(step), _integer(place), _integer(attempt))
            window = _hash(_DRAW, *key) % self.training_windows
            if shard_of(seed, window, count) == index:
                return window
        for distance in range(self.training_windows):
            near = (window + distance) % self.training_windows
            if shard_of(seed, near, count) == index:
                return near
        return window  # more nodes than windows: this shard is empty, so share someone else's

    def batch(
        self, seed: int, node_id: str, step: int, shard: tuple[int, int], size: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [size, context] each, the targets one byte later."""
        return self._gather(self.draw(seed, node_id, step, shard, size), 0)

    def validation(self, count: int) -> tuple[Tensor, Tensor]:
        """At most `count` fixed windows spread evenly over the validation part; same layout as `batch`."""
        count = min(count, self.validation_windows)
        chosen = [i * self.validation_windows // count for i in range(count)]
        return self._gather(chosen, self.split)

    def _gather(self, windows: list[int], base: int) -> tuple[Tensor, Tensor]:
        rows = [self.data[base + w * self.context :][: self.context + 1] for w in windows]
        block = torch.from_numpy(np.stack(rows).astype(np.int64))
        return block[:, :-1], block[:, 1:]
