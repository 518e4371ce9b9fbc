"""K replicas of the built-in model as one stacked parameter tensor, which train at once.

A batched product instead of K small ones: at this size most of a step is dispatch. The same model, layout,
inner optimizer and schedule as the product's (a test compares them, step by step); only sums differ in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.daemon.training.flat import schema_of
from atoll.daemon.training.inner import InnerConfig, learning_rate
from atoll.daemon.training.model import GPT, GPTConfig, rotary_table, rotate
from atoll.protocol.outer import Float32

_EPS = 1e-8
"""AdamW's, torch's default."""


class Replicas:
    """Parameters fp32 [K, total] in the layout of the schema, and AdamW's moments beside them."""

    def __init__(self, config: GPTConfig, count: int) -> None:
        self.config = config
        self.schema = schema_of(GPT(config))
        self.flat = torch.zeros(count, self.schema.total)
        self._first, self._second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self._steps = torch.zeros(count, 1)
        self._named: dict[str, Tensor] = {}
        self._decays = torch.zeros(self.schema.total)
        for spec in self.schema.tensors:
            part = self.flat[:, spec.offset : spec.end].view(count, *spec.shape)
            self._named[spec.name] = part.requires_grad_()
            self._decays[spec.offset : spec.end] = float(len(spec.shape) >= 2)
        cos, sin = rotary_table(config.context, config.width // config.heads)
        self._cos, self._sin = cos[None], sin[None]

    @property
    def count(self) -> int:
        return len(self.flat)

    def row(self, k: int) -> Float32:
        """The parameters of replica k, fp32 [total]: a view."""
        view: Float32 = self.flat.detach()[k].numpy()
        return view

    def fill(self, flat: Float32) -> None:
        """All replicas begin here, with fresh moments."""
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(flat)[None])
        for moments in (self._first, self._second, self._steps):
            moments.zero_()

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of each replica, [K], of inputs and targets int64 [K, B, T]."""
        k, b, t = inputs.shape
        width, heads = self.config.width, self.config.heads
        embedding = self._named["embedding.weight"]
        x = embedding[torch.arange(k)[:, None, None], inputs].view(k, b * t, width)
        for layer in range(self.config.layers):
            name = f"blocks.{layer}"
            y = self._linear(f"{name}.attention.qkv", self._norm(f"{name}.attention_norm", x))
            parts = y.view(k * b, t, 3, heads, width // heads)
            q, key, v = parts.permute(2, 0, 3, 1, 4)
            cos, sin = self._cos[0, :, :, :t], self._sin[0, :, :, :t]
            y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(key, cos, sin), v, is_causal=True)
            x = x + self._linear(f"{name}.attention.out", y.transpose(1, 2).reshape(k, b * t, width))
            y = self._linear(f"{name}.mlp.up", self._norm(f"{name}.mlp_norm", x))
            x = x + self._linear(f"{name}.mlp.down", F.gelu(y, approximate="tanh"))
        logits = torch.bmm(self._norm("norm", x), embedding.transpose(1, 2))
        each = F.cross_entropy(logits.view(k * b * t, -1), targets.reshape(-1), reduction="none")
        return each.view(k, -1).mean(dim=1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.bmm(x, self._named[f"{name}.weight"].transpose(1, 2))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)
        return x * scale * self._named[f"{name}.weight"][:, None]

    def step(
        self, inputs: Tensor, targets: Tensor, config: InnerConfig, position: int, works: Sequence[bool] = ()
    ) -> None:
        """One inner step of each replica (of those that `works` says; empty: all) on its own batch."""
        self.losses(inputs, targets).sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.zeros_like(self.flat)
        for spec in self.schema.tensors:
            part = self._named[spec.name]
            assert part.grad is not None
            gradient[:, spec.offset : spec.end] = part.grad.view(self.count, -1)
            part.grad = None
        rows = torch.tensor(works or [True] * self.count)[:, None]
        with torch.no_grad():
            self._adamw(gradient, config, learning_rate(config, position), rows)

    def _adamw(self, gradient: Tensor, config: InnerConfig, lr: float, rows: Tensor) -> None:
        """As torch.optim.AdamW after clip_grad_norm_, for the marked rows."""
        norms = gradient.norm(dim=1, keepdim=True)
        gradient *= (config.clip / (norms + 1e-6)).clamp(max=1.0)
        one, two = config.betas
        self._steps += rows
        first = torch.lerp(self._first, gradient, 1 - one)
        second = self._second * two + gradient.square() * (1 - two)
        self._first.copy_(torch.where(rows, first, self._first))
        self._second.copy_(torch.where(rows, second, self._second))
        steps = self._steps.clamp(min=1)
        rate = lr / (1 - one**steps)
        spread = self._second.sqrt() / (1 - two**steps).sqrt() + _EPS
        moved = self.flat * (1 - lr * config.weight_decay * self._decays) - rate * self._first / spread
        self.flat.copy_(torch.where(rows, moved, self.flat))

    def validation(self, flat: Float32, inputs: Tensor, targets: Tensor, at_once: int = 64) -> float:
        """Mean loss of these parameters over int64 [N, T] windows, in nats per byte."""
        judge = Replicas(self.config, 1)
        judge.fill(flat)
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(inputs), at_once):
                part, of = inputs[start : start + at_once], targets[start : start + at_once]
                total += float(judge.losses(part[None], of[None])) * len(part)
        loss = total / len(inputs)
        return loss if math.isfinite(loss) else math.inf
