"""The parameter schema: how the named tensors of a model lie in one flat fp32 vector.

Every node of a swarm holds the same schema (its digest is in the manifest), so a position in the
flat vector means the same value everywhere. Each tensor starts at a multiple of `block` values (256, or what
the swarm's codec looks at together) and is padded with zeros to the next one: a quantisation block then never
spans two tensors, whose magnitudes may differ by orders. A chunk (unit of codec, ownership, deadline and
hash) is a run of whole blocks.

Padding stays zero for ever: its pseudo-gradient is zero, so is its decoded mean, so is its outer step.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

BLOCK = 256
"""Values per quantisation block; tensors are aligned to it, or to a multiple."""

MAX_BLOCK = 1 << 16
MAX_TENSORS = 100_000
MAX_VALUES = 1 << 40
MAX_NAME_BYTES = 512


class SchemaError(ValueError):
    """A schema that breaks the rules above; the message names the tensor."""


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: its shape and where its `size` values start in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class ParameterSchema:
    """Tensors in their order in the flat vector of `total` fp32 values, padding included."""

    tensors: tuple[TensorSpec, ...]
    total: int
    block: int = BLOCK

    @classmethod
    def of(cls, shapes: Iterable[tuple[str, Iterable[int]]], block: int = BLOCK) -> ParameterSchema:
        """Lays the named shapes out in the given order, each at a multiple of `block`. Raises SchemaError."""
        if not 0 < block <= MAX_BLOCK or block % BLOCK:
            raise SchemaError(f"tensors can't be laid out in blocks of {block} values")
        tensors: list[TensorSpec] = []
        names: set[str] = set()
        offset = 0
        for name, shape in shapes:
            dims = tuple(int(d) for d in shape)
            if not name or len(name.encode()) > MAX_NAME_BYTES:
                raise SchemaError(f"tensor name {name!r} must be 1 to {MAX_NAME_BYTES} bytes")
            if name in names:
                raise SchemaError(f"tensor name {name!r} occurs twice")
            if any(d <= 0 for d in dims):
                raise SchemaError(f"tensor {name!r} has an empty dimension: {dims}")
            names.add(name)
            tensors.append(TensorSpec(name, dims, offset))
            offset += -(-math.prod(dims) // block) * block
            if len(tensors) > MAX_TENSORS or offset > MAX_VALUES:
                raise SchemaError(f"more than {MAX_TENSORS} tensors or {MAX_VALUES} values")
        if not tensors:
            raise SchemaError("a model needs at least one parameter")
        return cls(tuple(tensors), offset, block)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON of names, shapes and block size (SPEC.md, Schema)."""
        body = {"block": self.block, "tensors": [[t.name, list(t.shape)] for t in self.tensors]}
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).digest()

    @property
    def parameters(self) -> int:
        """Values without padding: what people call the size of the model."""
        return sum(t.size for t in self.tensors)

    def tensor_at(self, position: int) -> str:
        """Name of the tensor that holds flat position `position` (or whose padding does)."""
        for spec in reversed(self.tensors):
            if spec.offset <= position:
                return spec.name
        raise IndexError(position)


@dataclass(frozen=True)
class ChunkTable:
    """Cuts `total` values into chunks of `values` each, the last one of each run shorter. In whole blocks.

    `runs`: (start, fragment) of stretches of the vector, from 0 on; a chunk lies in one of them, and so in
    one fragment. Without runs there is one fragment.
    """

    total: int
    values: int
    block: int = BLOCK
    runs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if min(self.total, self.values) <= 0 or self.total % self.block or self.values % self.block:
            raise SchemaError(
                f"{self.total} values in chunks of {self.values} are not whole blocks of {self.block}"
            )
        starts, numbers = [start for start, _ in self.runs], {number for _, number in self.runs}
        ends = [*starts[1:], self.total]
        if any(a >= b or a % self.block for a, b in zip(starts, ends, strict=False)) or starts[:1] not in (
            [],
            [0],
        ):
            raise SchemaError("the runs of fragments do not cut the vector between blocks")
        if numbers != set(range(len(numbers))):
            raise SchemaError("fragments are not numbered from 0 on")

    @cached_property
    def _table(self) -> tuple[tuple[int, int, int], ...]:
        """Start, end and fragment of each chunk."""
        runs = self.runs or ((0, 0),)
        ends = [*(start for start, _ in runs[1:]), self.total]
        return tuple(
            (at, min(at + self.values, end), number)
            for (start, number), end in zip(runs, ends, strict=True)
            for at in range(start, end, self.values)
        )

    def __len__(self) -> int:
        return len(self._table) if self.runs else -(-self.total // self.values)

    def span(self, chunk: int) -> slice:
        """Flat positions of chunk number `chunk`."""
        if not 0 <= chunk < len(self):
            raise IndexError(f"chunk {chunk} of {len(self)}")
        start, end, _ = self._table[chunk]
        return slice(start, end)

    def size(self, chunk: int) -> int:
        span = self.span(chunk)
        return int(span.stop - span.start)

    @cached_property
    def fragments(self) -> tuple[tuple[int, ...], ...]:
        """The chunks of each fragment."""
        count = 1 + max((number for _, number in self.runs), default=0)
        return tuple(
            tuple(chunk for chunk, row in enumerate(self._table) if row[2] == k) for k in range(count)
        )

    def due(self, version: int) -> tuple[int, ...]:
        """The chunks of the fragment that the commit after `version` is about: fragments take turns."""
        return self.fragments[version % len(self.fragments)]


def default_chunk_values(total: int, block: int = BLOCK) -> int:
    """At most 512 Ki values, and at least twelve chunks, so that a few nodes share them evenly.

    Four times as many where they are no smaller than 64 Ki values: at the end of a round each node still has
    to send the last mean that it made, and on slow lines that is what all wait for.
    """

    def of(parts: int) -> int:
        return -(-total // parts // block) * block

    return min(512 * 1024, max(16 * 1024, min(of(12), max(64 * 1024, of(48)))))
