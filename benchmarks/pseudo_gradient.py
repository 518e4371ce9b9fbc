"""A real pseudo-gradient to try codecs on: what a round of inner steps changed."""

from __future__ import annotations

from functools import cache

import torch

from atoll.daemon.training.corpus import builtin_corpus
from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten, store
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig, initialise

MODEL = GPTConfig(layers=2, width=128, heads=4, context=64)
WARM_UP, STEPS = 100, 100
WORKERS = 4
SEED = 1


@cache
def pseudo_gradients(block: int) -> list[torch.Tensor]:
    """Anchor − local of each worker, fp32, tensors at multiples of `block`; same bits for the same seed.

    All begin at the same warm parameters, with optimizers of their own, and read other stretches of the text.
    """
    text = builtin_corpus()
    size = len(text) // WORKERS
    data = [Windows.of(text[k * size : (k + 1) * size], MODEL.context) for k in range(WORKERS)]
    config = InnerConfig(batch=8, micro_batch=8)
    model = GPT(MODEL)
    initialise(model, SEED)
    schema, flat = flatten(model, block)

    def run(worker: int, begin: int, steps: int) -> None:
        optimizer = make_optimizer(model, config)
        for step in range(begin, begin + steps):
            batch = data[worker].batch(SEED, f"worker-{worker}", step, (0, 1), config.batch)
            inner_step(model.loss, optimizer, config, batch, step)
        store(model, schema, flat)

    run(0, 0, WARM_UP)
    anchor, warm = flat.copy(), {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for worker in range(WORKERS):
        model.load_state_dict(warm)
        run(worker, WARM_UP, STEPS)
        found.append(torch.from_numpy(anchor - flat))
    return found
