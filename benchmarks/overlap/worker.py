"""One node of benchmarks/overlap: a training loop of its own, paced to a fixed time per step.

Says in one line of JSON when each step was over and what the outer parameters lose, version by version. Paced
trainers leave most of the processors idle, so none is faster because another waits.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import nn

import atoll
from atoll.daemon.training.corpus import builtin_corpus
from atoll.daemon.training.data import Windows
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from atoll.daemon.training.trainer import validation

MODEL = GPTConfig(layers=6, width=336, heads=8, context=64)
WARM_UP = 200
"""Steps of one worker before there is a swarm: outer momentum at random parameters tells nothing."""
VERSIONS = 5
"""Versions of the last eighth whose loss is measured."""
INNER = InnerConfig(lr=1e-3, batch=2, micro_batch=2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--ticket")
    parser.add_argument("--create", help="JSON list: options of atoll init")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--inner-steps", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = GPT(MODEL)
    initialise(model, 1)
    text = builtin_corpus()
    held_out = len(text) // 20
    windows = Windows.of(text[:-held_out], MODEL.context)
    if args.create:
        warm_up(model, windows)
        options = json.loads(args.create)
        atoll.create("overlap", model, data_dir=args.data_dir, inner_steps=args.inner_steps, options=options)
    held_out_windows = Windows.of(text[-held_out:], MODEL.context)
    inputs, targets = held_out_windows.spread(4)
    ended: list[float] = []
    outer: list[dict[str, torch.Tensor]] = []

    def validate(module: nn.Module) -> float:
        """Cheap while it trains: what the parameters of the last versions lose is measured afterwards."""
        assert isinstance(module, GPT)
        if args.rank == 0 and len(ended) > 7 * args.steps // 8:
            outer.append({name: value.clone() for name, value in module.state_dict().items()})
        return float(module.loss(inputs, targets))

    optimizer = make_optimizer(model, INNER)
    late = 0
    with atoll.join(args.ticket, model, optimizer, data_dir=args.data_dir, validate=validate) as swarm:
        for _ in range(args.steps):
            began = time.monotonic()
            batch = windows.batch(1, f"node {args.rank}", swarm.position, (args.rank, 4), INNER.batch)
            loss = inner_step(model.loss, optimizer, INNER, batch, swarm.position)
            left = args.step_s - (time.monotonic() - began)
            late += left < 0
            time.sleep(max(0.0, left))
            swarm.step(loss, tokens=batch[0].numel())
            ended.append(time.monotonic())
        version = swarm.version
    check = validation(held_out_windows, torch.device("cpu"))
    losses = []
    for parameters in outer[:: max(1, len(outer) // VERSIONS)]:
        model.load_state_dict(parameters)
        with torch.no_grad():
            losses.append(check(model))
    print(json.dumps({"ended": ended, "late": late, "version": version, "losses": losses}), flush=True)


def warm_up(model: GPT, windows: Windows) -> None:
    """Version 0 is what one worker makes of the first steps."""
    optimizer = make_optimizer(model, INNER)
    for step in range(WARM_UP):
        batch = windows.batch(1, "warm-up", step, (0, 1), INNER.batch)
        inner_step(model.loss, optimizer, INNER, batch, step)


if __name__ == "__main__":
    main()
