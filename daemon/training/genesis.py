"""Version 0 of the built-in model: the same bits on every machine that knows its shape and seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.daemon.training.flat import flatten
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from atoll.protocol.schema import BLOCK, ParameterSchema


def builtin_genesis(
    config: GPTConfig, seed: int, block: int = BLOCK
) -> tuple[ParameterSchema, NDArray[np.float32]]:
    """The layout and the initial parameters, fp32 [schema.total], padding zero."""
    model = GPT(config)
    initialise(model, seed)
    return flatten(model, block)
