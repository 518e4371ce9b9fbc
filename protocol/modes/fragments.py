"""Fragments of a model, which are synchronised in turns (Streaming DiLoCo, 2501.18512, section 2.2).

A model's layers are told by the first number in the names of its tensors (blocks.3.attention.weight). Layer
l belongs to fragment l mod (P - 1): strided, which the paper found slightly better than neighbours together.
Whatever is in no layer (embeddings, the last norm) is a fragment of its own, as the paper has its embeddings.
Balanced fragments, and those of a model without such names, are cut by size: each tensor goes to the fragment
that has the fewest values, so that each exchange takes as long as the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from atoll.protocol.schema import ParameterSchema, SchemaError, TensorSpec

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")

STRIDED = "strided"
BALANCED = "balanced"
PATTERNS = (STRIDED, BALANCED)

Runs = tuple[tuple[int, int], ...]
"""(start, fragment) of stretches of the flat vector."""


def layer_of(name: str) -> int | None:
    """The layer that a tensor's name tells, if any."""
    found = _NUMBER.search(name)
    return int(found.group(1)) if found else None


def fragments(schema: ParameterSchema, count: int, pattern: str = STRIDED) -> Runs:
    """`count` fragments of a model: strided over its layers, or balanced by size. Raises SchemaError."""
    if pattern not in PATTERNS:
        raise SchemaError(f"there is no pattern {pattern!r} of fragments ({' and '.join(PATTERNS)} are)")
    numbers = [layer_of(spec.name) for spec in schema.tensors]
    layers = sorted({number for number in numbers if number is not None})
    others = None in numbers
    if pattern == STRIDED and len(layers) >= max(1, count - others) and count > others:
        place = {layer: k % (count - others) for k, layer in enumerate(layers)}
        return _runs(schema.tensors, [count - 1 if n is None else place[n] for n in numbers])
    return _runs(schema.tensors, balanced([spec.size for spec in schema.tensors], count))


def balanced(sizes: Sequence[int], count: int) -> list[int]:
    """The fragment of each part, the largest first to whichever has the fewest values. Raises SchemaError."""
    if not 0 < count <= len(sizes):
        raise SchemaError(f"{len(sizes)} tensors can't make {count} fragments")
    filled, place = [0] * count, [0] * len(sizes)
    for part in sorted(range(len(sizes)), key=lambda k: (-sizes[k], k)):
        place[part] = min(range(count), key=lambda k: (filled[k], k))
        filled[place[part]] += sizes[part]
    return place


def _runs(tensors: Sequence[TensorSpec], place: Sequence[int]) -> Runs:
    """Neighbours of one fragment joined; fragments numbered in their order in the vector."""
    order = {number: k for k, number in enumerate(dict.fromkeys(place))}
    runs = [(spec.offset, order[number]) for spec, number in zip(tensors, place, strict=True)]
    return (runs[0], *(b for a, b in pairwise(runs) if a[1] != b[1]))
