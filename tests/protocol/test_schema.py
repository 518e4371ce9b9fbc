"""The parameter schema: where tensors lie, how chunks cut them, what is refused, and its digest."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import schema as schemas
from atoll.protocol.schema import BLOCK, ChunkTable, ParameterSchema, SchemaError, default_chunk_values

SHAPES = st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=1, max_size=12)


@given(SHAPES)
def test_tensors_lie_in_order_at_whole_blocks(shapes: list[list[int]]):
    schema = ParameterSchema.of((f"t{k}", shape) for k, shape in enumerate(shapes))
    end = 0
    for spec in schema.tensors:
        assert spec.offset % BLOCK == 0 and spec.offset >= end
        assert spec.offset - end < BLOCK
        end = spec.end
        assert schema.tensor_at(spec.offset) == schema.tensor_at(spec.end - 1) == spec.name
    assert schema.total % BLOCK == 0 and 0 <= schema.total - end < BLOCK
    assert schema.tensor_at(schema.total - 1) == schema.tensors[-1].name
    assert schema.parameters == sum(s.size for s in schema.tensors) <= schema.total


def test_a_scalar_has_one_value_and_a_block():
    schema = ParameterSchema.of([("scalar", ()), ("vector", (3,))])
    assert [(s.size, s.offset) for s in schema.tensors] == [(1, 0), (3, BLOCK)]
    with pytest.raises(IndexError):
        schema.tensor_at(-1)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([], "at least one"),
        ([("", (1,))], "must be 1 to"),
        ([("é" * 257, (1,))], "must be 1 to"),
        ([("a", (1,)), ("a", (2,))], "occurs twice"),
        ([("a", (3, 0))], "empty dimension"),
        ([("a", (-1,))], "empty dimension"),
        ([("a", (1 << 30, 1 << 11))], "more than"),
    ],
)
def test_impossible_schemas_are_refused(shapes: list[tuple[str, tuple[int, ...]]], reason: str):
    with pytest.raises(SchemaError, match=reason):
        ParameterSchema.of(shapes)


def test_there_is_a_largest_number_of_tensors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schemas, "MAX_TENSORS", 2)
    with pytest.raises(SchemaError, match="more than 2 tensors"):
        ParameterSchema.of((f"t{k}", (1,)) for k in range(3))


def test_the_digest_names_names_shapes_and_order():
    digests = {
        ParameterSchema.of(shapes).digest
        for shapes in (
            [("a", (2, 3)), ("b", (4,))],
            [("a", (3, 2)), ("b", (4,))],
            [("b", (4,)), ("a", (2, 3))],
            [("a", (2, 3)), ("c", (4,))],
            [("a", (6,)), ("b", (4,))],
        )
    }
    assert len(digests) == 5


@given(st.integers(1, 500), st.integers(1, 70))
def test_chunks_cover_everything_once(blocks: int, per_chunk: int):
    table = ChunkTable(blocks * BLOCK, per_chunk * BLOCK)
    spans = [table.span(c) for c in range(len(table))]
    assert spans[0].start == 0 and spans[-1].stop == table.total
    assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
    assert [table.size(c) for c in range(len(table))] == [s.stop - s.start for s in spans]
    assert all(table.size(c) % BLOCK == 0 for c in range(len(table)))
    for chunk in (-1, len(table)):
        with pytest.raises(IndexError):
            table.span(chunk)


@pytest.mark.parametrize(("total", "values"), [(0, BLOCK), (BLOCK, 0), (BLOCK + 1, BLOCK), (BLOCK, 100)])
def test_chunks_are_whole_blocks(total: int, values: int):
    with pytest.raises(SchemaError):
        ChunkTable(total, values)


@given(st.integers(1, 1 << 22))
def test_default_chunks_are_shared_evenly_and_never_too_large(blocks: int):
    total = blocks * BLOCK
    values = default_chunk_values(total)
    assert values % BLOCK == 0 and 16 * 1024 <= values <= 512 * 1024
    chunks = len(ChunkTable(total, values))
    if 16 * 1024 * 12 < total <= 64 * 1024 * 12:
        assert 11 <= chunks <= 12
    elif 64 * 1024 * 12 < total <= 512 * 1024 * 48:
        assert 12 <= chunks <= 48


def test_tensors_lie_at_multiples_of_a_larger_block_where_the_codec_wants_it():
    shapes = [("matrix", (100, 100)), ("gain", (100,))]
    schema = ParameterSchema.of(shapes, 4096)
    assert [t.offset for t in schema.tensors] == [0, 12288] and schema.total == 16384
    assert schema.digest != ParameterSchema.of(shapes).digest
    assert default_chunk_values(schema.total, 4096) % 4096 == 0
    for block in (0, 100, 1 << 20):
        with pytest.raises(SchemaError, match="blocks"):
            ParameterSchema.of(shapes, block)
    with pytest.raises(SchemaError, match="whole blocks of 4096"):
        ChunkTable(8192, 256, 4096)


def test_chunks_lie_in_one_fragment_each():
    runs = ((0, 0), (3 * BLOCK, 1), (8 * BLOCK, 2), (9 * BLOCK, 1))
    table = ChunkTable(20 * BLOCK, 4 * BLOCK, runs=runs)
    spans = [(table.span(c).start // BLOCK, table.span(c).stop // BLOCK) for c in range(len(table))]
    assert spans == [(0, 3), (3, 7), (7, 8), (8, 9), (9, 13), (13, 17), (17, 20)]
    assert table.fragments == ((0,), (1, 2, 4, 5, 6), (3,))
    assert [table.due(version) for version in range(4)] == [*table.fragments, (0,)]
    assert sum(table.size(c) for c in range(len(table))) == table.total
    whole = ChunkTable(20 * BLOCK, 4 * BLOCK)
    assert whole.fragments == (tuple(range(5)),) and whole.due(7) == tuple(range(5))


@pytest.mark.parametrize(
    "runs",
    [
        ((BLOCK, 0),),
        ((0, 1),),
        ((0, 0), (BLOCK, 2)),
        ((0, 0), (BLOCK + 1, 1)),
        ((0, 0), (2 * BLOCK, 1), (BLOCK, 0)),
        ((0, 0), (BLOCK, 1), (BLOCK, 2)),
        ((0, 0), (8 * BLOCK, 1)),
    ],
)
def test_runs_that_are_no_fragments_are_refused(runs: tuple[tuple[int, int], ...]):
    with pytest.raises(SchemaError, match="fragment"):
        ChunkTable(8 * BLOCK, BLOCK, runs=runs)
