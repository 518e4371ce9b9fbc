"""A few hundred mutations of everything that strangers can send; `make fuzz` goes on for longer."""

from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest

from atoll.peers.files import PIECE_BYTES
from atoll.protocol import stripes, wire

from .mutate import MAX_BYTES, mutations
from .targets import TARGETS

INPUTS = 300
MAX_PEAK_BYTES = PIECE_BYTES + 64 * MAX_BYTES
"""What an input may make anybody allocate at most (the file server reads a piece of its own): no length is
believed before it is checked."""
MAX_BUFFERS = {
    "lane": stripes.MAX_OPEN_BYTES,
    "stream": wire.MAX_PAYLOAD_BYTES,
    "handshake": wire.MAX_PAYLOAD_BYTES,
}
"""And for payloads, whose buffer is allocated when their size is known to be within its limit."""


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nothing_but_typed_errors_and_no_large_allocation(name: str):
    target, seeds = TARGETS[name]
    allowed = MAX_PEAK_BYTES + MAX_BUFFERS.get(name, 0)
    target(seeds[0])  # imports and caches are not the input's doing
    tracemalloc.start()
    try:
        for data in itertools.islice(mutations(seeds, random.Random(7)), INPUTS):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            target(data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before <= allowed, f"{peak - before} bytes for an input of {len(data)}"
    finally:
        tracemalloc.stop()


def test_mutations_are_the_same_for_one_seed():
    first, again = (list(itertools.islice(mutations([b"seed"], random.Random(1)), 50)) for _ in range(2))
    assert first == again and len(set(first)) > 30
