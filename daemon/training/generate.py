"""Text from a trained built-in model: what `atoll generate` prints.

Feeds the last `context` bytes again for every byte; no key-value cache, which keeps it to one screen and
is fast enough to read along at the sizes that run on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from atoll.daemon.training.errors import ConfigError
from atoll.daemon.training.flat import load_into
from atoll.daemon.training.model import GPT, VOCABULARY, GPTConfig
from atoll.protocol.schema import ParameterSchema


def generate(
    config: GPTConfig,
    schema: ParameterSchema,
    flat: NDArray[np.float32],
    prompt: bytes,
    n: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> Iterator[bytes]:
    """Yields `n` bytes one by one after `prompt` (an empty prompt starts at a line feed).

    `flat` holds the parameters, fp32 [schema.total]. `temperature` 0 takes the likeliest byte each time;
    else one is drawn from the `top_k` likeliest (None: from all). The same seed gives the same text.
    Raises ConfigError, SchemaMismatchError.
    """
    if n < 0 or temperature < 0 or (top_k is not None and top_k < 1):
        raise ConfigError("generation needs n >= 0, temperature >= 0 and top_k >= 1.")
    model = GPT(config).eval()
    load_into(model, schema, flat)
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt) or [ord("\n")]
    for _ in range(n):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[-config.context :]]))[0, -1]  # [256]
        if temperature == 0:
            choice = int(logits.argmax())
        else:
            likeliest = torch.topk(logits, min(top_k or VOCABULARY, VOCABULARY))
            odds = torch.softmax(likeliest.values / temperature, dim=0)
            choice = int(likeliest.indices[torch.multinomial(odds, 1, generator=generator)])
        tokens.append(choice)
        yield bytes([choice])
