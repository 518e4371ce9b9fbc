"""Stacked replicas take the product's steps."""

from __future__ import annotations

import numpy as np
import torch

from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten, load_into
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from benchmarks.papers.replicas import Replicas

MODEL = GPTConfig(layers=2, width=32, heads=2, context=16)
INNER = InnerConfig(lr=3e-3, warmup_steps=2, total_steps=20, schedule="cosine", batch=4, micro_batch=4)
TEXT = bytes(range(32, 127)) * 60
K = 3


def batches(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    windows = Windows.of(TEXT, MODEL.context)
    return [windows.batch(1, f"node {k}", step, (k, K), INNER.batch) for k in range(K)]


def test_each_replica_takes_the_steps_of_the_shipping_trainer():
    model = GPT(MODEL)
    initialise(model, 1)
    begin = flatten(model)[1]
    stacked = Replicas(MODEL, K)
    stacked.fill(begin)
    for step in range(6):
        parts = batches(step)
        stacked.step(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]), INNER, step)
    for k in range(K):
        load_into(model, stacked.schema, begin)
        optimizer = make_optimizer(model, INNER)
        for step in range(6):
            inner_step(model.loss, optimizer, INNER, batches(step)[k], step)
        alone = flatten(model)[1]
        moved = np.abs(alone - begin).max()
        assert moved > 1e-3 and np.abs(stacked.row(k) - alone).max() < 0.02 * moved


def test_replicas_that_do_not_work_stand_still():
    stacked = Replicas(MODEL, K)
    stacked.fill(np.ones(stacked.schema.total, np.float32) * 0.01)
    before = stacked.flat.detach().clone()
    parts = batches(0)
    inputs, targets = (torch.stack([p[n] for p in parts]) for n in (0, 1))
    stacked.step(inputs, targets, INNER, 0, [True, False, True])
    same = [bool(torch.equal(a, b)) for a, b in zip(before, stacked.flat, strict=True)]
    assert same == [False, True, False]


def test_validation_is_the_models_loss():
    model = GPT(MODEL)
    initialise(model, 2)
    inputs, targets = Windows.of(TEXT, MODEL.context).spread(10)
    stacked = Replicas(MODEL, 2)
    with torch.no_grad():
        expected = model.loss(inputs, targets).item()
    assert np.isclose(stacked.validation(flatten(model)[1], inputs, targets, 3), expected, rtol=1e-5)
