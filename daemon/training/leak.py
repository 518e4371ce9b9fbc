"""What an update tells of the text it was learned from: three looks that any member could take.

    rows      which bytes the text holds, by the rows of the embedding that moved unlike most others
    rank      how many bytes a gradient was made from, by the rank of one matrix of it
    matching  the text itself, by looking for one whose gradient points the same way (Deep Leakage from
              Gradients, 1906.08935; with the cosine as in 2003.14053; on language as LAMP, 2202.08827, but
              without its prior)

The first is taken at what a node really sends, the other two at what they need: the gradient of one step on
one example, exact, as encoded, and with the owner's bound and noise. Everything is computed here, from this
node's own parameters and text; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import load_into, store
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, VOCABULARY, GPTConfig
from atoll.protocol.outer import Float32
from atoll.protocol.schema import ParameterSchema

EMBEDDING = "embedding.weight"
LIKELY = 3.0
"""Rows that moved more than so many times the median row are those of bytes in the text."""
_STEP = 0.1
"""Of Adam, on the logits of the guess."""

Sent = Callable[[Float32], Float32]
"""What arrives of a vector [total]: encoded and decoded, say."""


@dataclass(frozen=True)
class Rows:
    """`found` of the `held` distinct bytes of a text are among the `held` rows that moved most unlike the
    others; blind guesses would find `by_chance`.
    """

    held: int
    found: int
    by_chance: float


@dataclass(frozen=True)
class Match:
    """A guess at a text [bytes]: `in_place` of its bytes are where they were, `at_all` are in it somewhere.
    `by_chance`: in place, if each were the text's most frequent byte.
    """

    text: bytes
    guess: bytes
    in_place: int
    at_all: int
    by_chance: int


def rows(schema: ParameterSchema, update: Float32, text: Sequence[int]) -> Rows:
    """What the embedding's rows of an update [total] tell of the bytes in `text`."""
    truth, moved = set(text), _moved(schema, update)
    best = np.argsort(-moved, kind="stable")[: len(truth)]
    return Rows(len(truth), len(truth & set(best.tolist())), len(truth) ** 2 / VOCABULARY)


def _moved(schema: ParameterSchema, update: Float32) -> Float32:
    """How far each row of the embedding moved from where most did, fp32 [256].

    The embedding is the head as well, so that rows of bytes that never came move too: all alike, and with an
    optimizer that scales its steps, such as AdamW, further than others.
    """
    spec = next(each for each in schema.tensors if each.name == EMBEDDING)
    moved = update[spec.offset : spec.end].reshape(VOCABULARY, -1)
    apart: Float32 = np.linalg.norm(moved - np.median(moved, axis=0), axis=1)
    return apart


def phase(
    config: GPTConfig,
    schema: ParameterSchema,
    parameters: Float32,
    windows: Windows,
    inner: InnerConfig,
    steps: int,
    seed: int,
) -> tuple[Float32, list[int]]:
    """The pseudo-gradient [total] of an inner phase from `parameters`, and all bytes that it saw."""
    model = GPT(config)
    load_into(model, schema, parameters)
    optimizer, seen = make_optimizer(model, inner), []
    for step in range(steps):
        batch = windows.batch(seed, "leak", step, (0, 1), inner.batch)
        inner_step(model.loss, optimizer, inner, batch, step)
        seen += sorted({*batch[0].flatten().tolist(), *batch[1].flatten().tolist()})
    after = np.zeros_like(parameters)
    store(model, schema, after)
    return parameters - after, seen


def gradient(config: GPTConfig, schema: ParameterSchema, parameters: Float32, text: Sequence[int]) -> Float32:
    """The gradient [total] of one step on one example."""
    model = GPT(config)
    load_into(model, schema, parameters)
    tokens = torch.tensor(list(text))[None]
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    found = np.zeros_like(parameters)
    store(model, schema, found)
    return found


def rank(schema: ParameterSchema, update: Float32) -> int:
    """Rank of the update of the first MLP's input matrix: no more than the bytes of one step's batch."""
    spec = next(each for each in schema.tensors if each.name.endswith("mlp.up.weight"))
    matrix = torch.from_numpy(update[spec.offset : spec.end].reshape(spec.shape).copy())
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-5))


def match(
    config: GPTConfig,
    schema: ParameterSchema,
    parameters: Float32,
    seen: Float32,
    text: Sequence[int],
    effort: int,
    seed: int,
) -> Match:
    """Looks, `effort` times, for a text as long as `text` whose gradient points where `seen` [total] does.

    The true text is used to judge the guess only. About four gradients' time for each try.
    """
    model = GPT(config)
    load_into(model, schema, parameters)
    specs = {spec.name: spec for spec in schema.tensors}
    named = list(model.named_parameters())
    aim = [
        torch.from_numpy(seen[specs[n].offset : specs[n].end].reshape(specs[n].shape).copy())
        for n, _ in named
    ]
    weights = [parameter for _, parameter in named]
    moved = _moved(schema, seen)
    likely = np.flatnonzero(moved > LIKELY * np.median(moved))
    if len(likely) < 2:
        likely = np.arange(VOCABULARY)
    candidates = torch.from_numpy(likely)
    generator = torch.Generator().manual_seed(seed)
    guess = (0.1 * torch.randn(len(text), len(likely), generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=_STEP)
    length = torch.sqrt(sum((each.square().sum() for each in aim), torch.zeros(())))
    # The other ways to compute attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(effort):
            soft = torch.zeros(len(text), VOCABULARY).index_copy(1, candidates, guess.softmax(dim=-1))
            found = torch.autograd.grad(_soft_loss(model, soft), weights, create_graph=True)
            inner = sum(((a * b).sum() for a, b in zip(aim, found, strict=True)), torch.zeros(()))
            own = torch.sqrt(sum((each.square().sum() for each in found), torch.zeros(())))
            optimizer.zero_grad()
            (-inner / (own * length + 1e-20)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return judged(bytes(text), bytes(candidates[guess.detach().argmax(dim=-1)].tolist()))


def _soft_loss(model: GPT, soft: Tensor) -> Tensor:
    """`GPT.loss` of a text whose bytes are distributions, [T + 1, 256]."""
    x = (soft[:-1] @ model.embedding.weight)[None]
    t = x.shape[1]
    cos, sin = model.cos[:, :, :t], model.sin[:, :, :t]
    for block in model.blocks:
        x = block(x, cos, sin)
    said = F.log_softmax(F.linear(model.norm(x), model.embedding.weight), dim=-1)[0]
    return -(soft[1:] * said).sum(dim=-1).mean()


def judged(text: bytes, guess: bytes) -> Match:
    """How much of a text a guess of the same length has."""
    in_place = sum(a == b for a, b in zip(text, guess, strict=True))
    at_all = sum(min(text.count(byte), guess.count(byte)) for byte in set(text))
    return Match(text, guess, in_place, at_all, max(text.count(byte) for byte in set(text)))
