"""Which tensor is in which fragment, and plans that are about one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.modes.fragments import BALANCED, balanced, fragments, layer_of
from atoll.protocol.round.plan import Offered, PlanError, check_plan, due_chunks, make_plan
from atoll.protocol.schema import BLOCK, ChunkTable, ParameterSchema, SchemaError

from .test_machine_parts import CONFIG, HEAD, A, B, C, ready


def model(layers: int) -> ParameterSchema:
    shapes = [("embedding", (256, 8))]
    for k in range(layers):
        shapes += [(f"blocks.{k}.attention.weight", (64, 64)), (f"blocks.{k}.norm", (7,))]
    return ParameterSchema.of([*shapes, ("norm", (8,))])


def owners_of(schema: ParameterSchema, count: int) -> dict[str, int]:
    """The fragment of each tensor."""
    runs = fragments(schema, count)
    return {t.name: [number for at, number in runs if at <= t.offset][-1] for t in schema.tensors}


def test_layers_are_strided_and_embeddings_by_themselves():
    of = owners_of(model(4), 3)
    assert of["embedding"] == of["norm"] == 0
    assert of["blocks.0.norm"] == of["blocks.2.norm"] == of["blocks.2.attention.weight"] == 1
    assert of["blocks.1.norm"] == of["blocks.3.attention.weight"] == 2


def test_balanced_fragments_have_one_size_and_cut_no_tensor():
    schema = model(6)
    runs = fragments(schema, 3, BALANCED)
    assert {at for at, _ in runs} <= {t.offset for t in schema.tensors}
    edges = [*(at for at, _ in runs), schema.total]
    filled = [0] * 3
    for (start, number), stop in zip(runs, edges[1:], strict=True):
        filled[number] += stop - start
    assert max(filled) - min(filled) <= max(t.size for t in schema.tensors) + 3 * BLOCK * len(schema.tensors)
    with pytest.raises(SchemaError, match="no pattern"):
        fragments(schema, 3, "spiral")


def test_names_tell_the_layer():
    names = {"blocks.3.norm": 3, "h.11": 11, "0.weight": 0, "conv2d.weight": None, "embedding": None}
    assert {name: layer_of(name) for name in names} == names


@given(layers=st.integers(0, 9), count=st.integers(1, 8))
def test_every_value_is_in_one_fragment(layers: int, count: int):
    schema = model(layers)
    if count > len(schema.tensors):
        with pytest.raises(SchemaError, match="can't make"):
            fragments(schema, count)
        return
    table = ChunkTable(schema.total, 16 * BLOCK, runs=fragments(schema, count))
    assert len(table.fragments) == count
    assert sorted(chunk for due in table.fragments for chunk in due) == list(range(len(table)))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(1, 30))
def test_no_fragment_is_heavier_than_the_lightest_by_more_than_a_tensor(sizes: list[int], count: int):
    if count > len(sizes):
        with pytest.raises(SchemaError):
            balanced(sizes, count)
        return
    place = balanced(sizes, count)
    filled = [sum(s for s, k in zip(sizes, place, strict=True) if k == number) for number in range(count)]
    assert max(filled) - min(filled) <= max(sizes) and min(filled) > 0


STREAMING = replace(CONFIG, chunks=6, fragments=((0, 3), (1, 4), (2, 5)))


@pytest.mark.parametrize("version", range(4))
def test_a_plan_is_about_the_fragment_whose_turn_it_is(version: int):
    head = replace(HEAD, version=version)
    said = {A: ready(100), B: ready(200), C: ready(300)}
    plan = make_plan(STREAMING, head, A, said, (), 1, (1.0, 1.0, 1.0))
    due = STREAMING.fragments[version % 3]
    assert due_chunks(plan) == due and plan.session.fragment == version % 3
    assert [o for c, o in enumerate(plan.owners) if c not in due] == [3] * 4, "nobody's"
    check = (STREAMING, head, B, Offered(200, 0, 0), 0)
    check_plan(*check, plan)
    plan.owners[:] = [0] * 6
    with pytest.raises(PlanError, match="not due"):
        check_plan(*check, plan)
    plan.owners[:] = [3] * 6
    with pytest.raises(PlanError, match="not due"):
        check_plan(*check, plan)
    plan.session.fragment = (version + 1) % 3
    with pytest.raises(PlanError, match="fragment"):
        check_plan(*check, plan)
