"""Text from a trained built-in model: what `atoll generate` prints.

While prompt and text fit into the model's context, keys and values of earlier bytes are kept, so each byte
costs one position. Beyond it all of the last `context` bytes are fed again for every byte: positions move,
and what was kept has seen bytes that the model must no longer see.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atoll.daemon.training.errors import ConfigError
from atoll.daemon.training.flat import load_into
from atoll.daemon.training.model import GPT, VOCABULARY, Block, GPTConfig
from atoll.protocol.schema import ParameterSchema


class Memory:
    """Keys and values of the bytes that were read, for each block [1, H, T, K]; at most a context of them."""

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._known: list[tuple[Tensor, Tensor] | None] = [None] * len(model.blocks)
        self._length = 0

    def read(self, tokens: list[int]) -> Tensor:
        """Reads what is new of `tokens`, which go on from those of before -> logits [256] of what follows."""
        begin, self._length = self._length, len(tokens)
        cos, sin = (table[:, :, begin : self._length] for table in (self._model.cos, self._model.sin))
        x = self._model.embedding(torch.tensor([tokens[begin:]]))  # [1, T, D]
        for index, block in enumerate(self._model.blocks):
            assert isinstance(block, Block)
            q, k, v = block.attention.project(block.attention_norm(x), cos, sin)
            if (known := self._known[index]) is not None:
                k, v = torch.cat((known[0], k), dim=2), torch.cat((known[1], v), dim=2)
            self._known[index] = (k, v)
            # What is new is the prompt, with nothing before it, or one byte, which may see everything.
            y = F.scaled_dot_product_attention(q, k, v, is_causal=begin == 0)
            x = x + block.attention.merge(y)
            x = x + block.mlp(block.mlp_norm(x))
        return F.linear(self._model.norm(x[:, -1]), self._model.embedding.weight).float()[0]


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
    memory = Memory(model)
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt) or [ord("\n")]
    for _ in range(n):
        with torch.no_grad():
            if len(tokens) <= config.context:
                logits = memory.read(tokens)  # [256]
            else:
                logits = model(torch.tensor([tokens[-config.context :]]))[0, -1]
        if temperature == 0:
            choice = int(logits.argmax())
        else:
            likeliest = torch.topk(logits, min(top_k or VOCABULARY, VOCABULARY))
            odds = torch.softmax(likeliest.values / temperature, dim=0)
            choice = int(likeliest.indices[torch.multinomial(odds, 1, generator=generator)])
        tokens.append(choice)
        yield bytes([choice])
