"""Model, genesis, flat layout, rebase, schedule: the numbers that all nodes must agree on."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atoll.daemon.cli import build_parser
from atoll.daemon.training.data import Windows
from atoll.daemon.training.errors import ConfigError, SchemaMismatchError
from atoll.daemon.training.flat import flatten, load_into, schema_of
from atoll.daemon.training.generate import Memory, generate
from atoll.daemon.training.genesis import builtin_genesis
from atoll.daemon.training.inner import InnerConfig, inner_step, learning_rate, make_optimizer
from atoll.daemon.training.model import GPT, SIZES, GPTConfig, initialise
from atoll.daemon.training.rebase import Missed, rebase_, rebased, split
from atoll.protocol.manifest import MISSED

TINY = GPTConfig(layers=1, width=32, heads=2, context=16)
TEXT = (b"the tide comes in, the tide goes out; " * 40)[:1500]


def tiny_model(seed=0):
    model = GPT(TINY)
    initialise(model, seed)
    return model


@pytest.mark.parametrize(
    ("size", "millions"), [("0.8m", 0.82), ("4m", 4.0), ("11m", 10.7), ("30m", 31.6), ("124m", 125.5)]
)
def test_sizes_are_what_they_are_called(size, millions):
    with torch.device("meta"):
        model = GPT(SIZES[size])
    assert schema_of(model).parameters / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": 1, "width": 32, "heads": 2},
        {"layers": 1, "width": 32, "heads": 2, "context": 16, "more": 1},
        {"layers": 0, "width": 32, "heads": 2, "context": 16},
        {"layers": 1, "width": 33, "heads": 2, "context": 16},
        {"layers": True, "width": 32, "heads": 2, "context": 16},
        {"layers": 1, "width": "32", "heads": 2, "context": 16},
        {"layers": 1, "width": 32, "heads": 2, "context": 1 << 40},
    ],
)
def test_impossible_models_are_refused(fields):
    with pytest.raises(ConfigError):
        GPTConfig.from_dict(fields)


def test_config_round_trip():
    assert GPTConfig.from_dict(dict(TINY.to_dict())) == TINY


def test_model_is_causal_and_starts_at_the_loss_of_ignorance():
    model = tiny_model()
    tokens = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 10:] = 0
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :10], after[:, :10], atol=1e-6)
    assert not torch.allclose(before[:, 10:], after[:, 10:], atol=1e-3)
    assert model.loss(tokens, tokens.roll(1)).item() == pytest.approx(math.log(256), abs=0.1)


def genesis_digest(config, seed):
    schema, flat = builtin_genesis(config, seed)
    return hashlib.sha256(schema.digest + flat.tobytes()).hexdigest()


GENESIS_PROGRAM = """
import hashlib, sys
from atoll.daemon.training.genesis import builtin_genesis
from atoll.daemon.training.model import GPTConfig
schema, flat = builtin_genesis(GPTConfig(1, 32, 2, 16), 5)
print(hashlib.sha256(schema.digest + flat.tobytes()).hexdigest())
"""


def test_genesis_bits_are_the_same_in_two_processes_and_on_every_machine():
    done = subprocess.run(
        [sys.executable, "-c", GENESIS_PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
    )
    here = genesis_digest(TINY, 5)
    assert done.stdout.strip() == here
    assert here != genesis_digest(TINY, 6)
    # Golden: a change of this digest is a change of every built-in swarm's identity.
    assert here == "1f92b353e664bfeabca696d00a0b42080def8e61371bca3137e32e74f55eebf5"


def test_genesis_has_the_right_spread_and_zero_padding():
    schema, flat = builtin_genesis(TINY, 0)
    used = np.zeros(schema.total, dtype=bool)
    for spec in schema.tensors:
        used[spec.offset : spec.end] = True
        part = flat[spec.offset : spec.end]
        if len(spec.shape) == 1:
            assert (part == 1.0).all()
        else:
            std = 0.02 / math.sqrt(2) if spec.name.endswith(("out.weight", "down.weight")) else 0.02
            assert part.std() == pytest.approx(std, rel=0.1)
    assert (flat[~used] == 0).all()


def test_tied_and_frozen_parameters():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    model["b"].bias.requires_grad_(False)
    assert [t.name for t in schema_of(model).tensors] == ["a.weight", "a.bias"]


def test_load_into_is_the_inverse_of_flatten_even_for_strided_parameters():
    model = nn.Linear(6, 4)
    model.weight = nn.Parameter(torch.randn(6, 4).t())
    schema, flat = flatten(model)
    expected = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    load_into(model, schema, flat)
    assert torch.equal(model.weight, expected)
    with pytest.raises(SchemaMismatchError):
        load_into(nn.Linear(4, 6), schema, flat)
    with pytest.raises(SchemaMismatchError):
        load_into(nn.Linear(6, 4, bias=False), schema, flat)
    with pytest.raises(SchemaMismatchError):
        load_into(model, schema, flat[:-1])
    with pytest.raises(SchemaMismatchError):
        flatten(nn.ReLU())


floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(floats32, min_size=1, max_size=40)


@given(vectors, vectors)
def test_a_contributed_span_becomes_the_committed_bits(new, now):
    n = min(len(new), len(now))
    committed, local = torch.tensor(new[:n]), torch.tensor(now[:n])
    assert rebased(local, committed, None).numpy().tobytes() == committed.numpy().tobytes()
    assert rebased(local, committed, local.clone()).numpy().tobytes() == committed.numpy().tobytes()
    rebase_(local, committed, None, 256, (), Missed.KEEP)
    assert local.numpy().tobytes() == committed.numpy().tobytes()


def test_progress_since_the_snapshot_is_put_on_top():
    local = torch.tensor([1.0, 2.0, 3.0, 4.0])
    snapshot = torch.tensor([1.0, 1.5, 3.0, 4.0])
    new = torch.tensor([-0.0, 10.0, 20.0, 30.0])
    rebase_(local, new, snapshot, 0, [(2, 3)], Missed.KEEP)
    assert local.numpy().tobytes() == np.array([-0.0, 10.5, 3.0, 30.0], np.float32).tobytes()
    rebase_(local, new, None, 0, [(0, 4)], Missed.RESET)
    assert torch.equal(local, new)


def test_progress_of_missed_spans_moves_onto_the_new_anchor():
    local = torch.tensor([1.0, 2.0, 3.0, 4.0])
    anchor = torch.tensor([0.5, 2.0, 2.5, 3.0])
    new = torch.tensor([10.0, -0.0, 30.0, 40.0])
    rebase_(local, new, None, 256, [(256, 259)], Missed.REBASE, anchor)
    assert local.numpy().tobytes() == np.array([10.5, -0.0, 30.5, 40.0], np.float32).tobytes()


def test_the_manifest_names_every_rule_and_no_other():
    assert tuple(rule.value for rule in Missed) == MISSED
    init = next(a for a in build_parser()._actions if isinstance(a.choices, dict)).choices["init"]
    assert next(a for a in init._actions if a.dest == "missed").choices == MISSED


edges = st.sets(st.integers(0, 60), max_size=12).map(sorted)


@given(st.integers(0, 60), st.integers(0, 60), edges)
def test_split_covers_exactly(a, b, cuts):
    start, stop = sorted((a, b))
    keep = list(zip(cuts[::2], cuts[1::2], strict=False))
    parts = list(split(start, stop, keep))
    covered = [(i, contributed) for first, last, contributed in parts for i in range(first, last)]
    kept = {i for first, last in keep for i in range(first, last)}
    assert covered == [(i, i not in kept) for i in range(start, stop)]
    assert all(first < last for first, last, _ in parts)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_schedule_shape(schedule):
    config = InnerConfig(lr=1.0, warmup_steps=10, total_steps=110, schedule=schedule)
    rates = [learning_rate(config, position) for position in range(200)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0
    assert all(earlier <= later for earlier, later in itertools.pairwise(rates[:10]))
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert rates[60] == pytest.approx({"constant": 1.0, "cosine": 0.55, "wsd": 1.0}[schedule], abs=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": 0},
        {"lr": "1"},
        {"lr": True},
        {"lr": math.nan},
        {"schedule": "linear"},
        {"batch": 0},
        {"batch": 4, "micro_batch": 8},
        {"batch": 4.0},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"clip": 0},
        {"weight_decay": -1},
        {"warmup_steps": -1},
        {"momentum": 1},
    ],
)
def test_impossible_inner_settings_are_refused(fields):
    with pytest.raises(ConfigError):
        InnerConfig.from_dict(fields)


def test_inner_settings_round_trip():
    config = InnerConfig(lr=1e-3, schedule="wsd", batch=4, micro_batch=2, betas=(0.8, 0.95))
    assert InnerConfig.from_dict(config.to_dict()) == config


def test_micro_batches_give_the_same_step():
    batch = Windows.of(TEXT, 16).batch(0, "n", 0, (0, 1), 5)
    results = []
    for micro in (5, 2):
        model = tiny_model()
        config = InnerConfig(warmup_steps=0, batch=5, micro_batch=micro, lr=1e-2)
        loss = inner_step(model.loss, make_optimizer(model, config), config, batch, 0)
        results.append((loss, flatten(model)[1]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert np.allclose(results[0][1], results[1][1], atol=1e-4)


def test_a_loss_that_is_not_finite_changes_nothing():
    model = tiny_model()
    config = InnerConfig(batch=2, micro_batch=2)
    optimizer = make_optimizer(model, config)
    before = flatten(model)[1]
    batch = Windows.of(TEXT, 16).batch(0, "n", 0, (0, 1), 2)
    loss = inner_step(lambda x, y: model.loss(x, y) * math.inf, optimizer, config, batch, 0)
    assert math.isnan(loss) and np.array_equal(flatten(model)[1], before)


def test_the_model_learns():
    model = tiny_model()
    config = InnerConfig(lr=1e-2, warmup_steps=5, batch=8, micro_batch=8)
    optimizer = make_optimizer(model, config)
    windows = Windows.of(TEXT, 16)
    losses = [
        inner_step(model.loss, optimizer, config, windows.batch(0, "n", step, (0, 1), 8), step)
        for step in range(80)
    ]
    assert losses[0] > 5.0
    assert losses[-1] < 1.5


def test_weight_decay_spares_gains():
    model = tiny_model()
    decayed, spared = make_optimizer(model, InnerConfig()).param_groups
    assert {p.dim() for p in decayed["params"]} == {2} and {p.dim() for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_what_is_remembered_of_earlier_bytes_changes_nothing():
    model = tiny_model()
    memory, text = Memory(model), list(b"To be, or no")[: TINY.context]
    with torch.no_grad():
        for length in (5, *range(6, len(text) + 1)):
            whole = model(torch.tensor([text[:length]]))[0, -1]
            torch.testing.assert_close(memory.read(text[:length]), whole, atol=1e-5, rtol=1e-4)


def test_generate_is_deterministic_and_leaves_the_parameters_alone():
    schema, flat = builtin_genesis(TINY, 0)
    before = copy.copy(flat)

    def text(**options):
        return b"".join(generate(TINY, schema, flat, b"To be" * 10, 20, **options))

    assert len(text()) == 20
    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text(temperature=0, seed=1) == text(temperature=0, seed=2) == text(top_k=1)
    assert len(text(top_k=None)) == 20
    assert np.array_equal(flat, before)
    assert list(generate(TINY, schema, flat, b"", 0)) == []
    with pytest.raises(ConfigError):
        list(generate(TINY, schema, flat, b"", 1, temperature=-1))
