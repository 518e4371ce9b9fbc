"""Muon and AdamW as one optimizer: which parameter is whose, and that its state survives a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atoll.daemon.training.errors import ConfigError
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from atoll.daemon.training.muon import MuonAdamW
from atoll.daemon.training.state import load_state, save_state

SHAPE = GPTConfig(layers=1, width=32, heads=2, context=16)
CONFIG = InnerConfig(optimizer="muon", warmup_steps=0, batch=4)


def model() -> GPT:
    made = GPT(SHAPE)
    initialise(made, 1)
    return made


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randint(97, 105, (4, 17), generator=torch.Generator().manual_seed(seed))
    return text[:, :-1], text[:, 1:]


def test_hidden_matrices_are_muons_and_the_rest_is_adamws():
    made = model()
    optimizer = make_optimizer(made, CONFIG)
    assert isinstance(optimizer, MuonAdamW)
    muon, adamw = optimizer.param_groups
    names = {id(p): name for name, p in made.named_parameters()}
    assert all(p.dim() == 2 for p in muon["params"])
    assert not any("embed" in names[id(p)] for p in muon["params"])
    assert {names[id(p)] for g in (muon, adamw) for p in g["params"]} == set(names.values())
    assert any(p.dim() == 2 for p in adamw["params"]), "the embedding"


def test_it_learns_and_goes_by_the_schedule():
    made = model()
    optimizer = make_optimizer(made, CONFIG)
    losses = [inner_step(made.loss, optimizer, CONFIG, batch(0), step) for step in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert {group["lr"] for group in optimizer.param_groups} == {CONFIG.lr}


def test_a_step_of_muon_is_of_the_size_of_one_of_adamw():
    sizes = {}
    for name in ("muon", "adamw"):
        made, config = model(), InnerConfig(optimizer=name, warmup_steps=0, batch=4, weight_decay=0.0)
        weights = [p.detach().clone() for p in made.parameters()]
        optimizer = make_optimizer(made, config)
        inner_step(made.loss, optimizer, config, batch(0), 0)
        matrices = [k for k, p in enumerate(weights) if p.dim() == 2 and p.shape[0] != 256]
        moved = torch.cat([(list(made.parameters())[k] - weights[k]).flatten() for k in matrices])
        sizes[name] = float(moved.detach().square().mean().sqrt())
    assert 0.1 < sizes["muon"] / sizes["adamw"] < 2


def test_a_restart_goes_on_with_the_same_bits(tmp_path: Path):
    first = model()
    optimizer = make_optimizer(first, CONFIG)
    for step in range(3):
        inner_step(first.loss, optimizer, CONFIG, batch(step), step)
    save_state(optimizer, tmp_path / "state.safetensors")
    second = model()
    second.load_state_dict(first.state_dict())
    again = make_optimizer(second, CONFIG)
    load_state(again, tmp_path / "state.safetensors")
    for step in range(3, 6):
        assert inner_step(first.loss, optimizer, CONFIG, batch(step), step) == inner_step(
            second.loss, again, CONFIG, batch(step), step
        )
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ConfigError, match="matrices"):
        MuonAdamW([], [torch.nn.Parameter(torch.zeros(3))], 1e-3, 0.0, (0.9, 0.99))
    with pytest.raises(ConfigError, match="optimizer"):
        InnerConfig(optimizer="sgd")
