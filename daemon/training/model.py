"""A byte-level GPT: the model of the demo and of `atoll init --model SIZE`.

Reads like the paper: embedding, blocks of attention and MLP, norm, the embedding again as the head.
RMSNorm before each half block, rotary positions, no biases, no dropout, vocabulary = the 256 bytes.
Shapes in comments: B batch, T time (bytes), D width, H heads, K = D / H.

Every node must be able to make the same version 0, so initial values are drawn as integers from a
seeded CPU generator and scaled by one fp32 multiplication each: exact on every machine, where a normal
distribution (log, cos) is not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.daemon.training.errors import ConfigError

VOCABULARY = 256
"""One token per byte."""

_INIT_STD = 0.02
_DRAW = 1 << 23
"""Initial values are integers in [-2^23, 2^23], exact in fp32."""


@dataclass(frozen=True)
class GPTConfig:
    """Shape of the model; `context` is the number of bytes that it sees at once."""

    layers: int
    width: int
    heads: int
    context: int

    def __post_init__(self) -> None:
        bounds = {"layers": 512, "width": 65536, "heads": 1024, "context": 65536}
        for name, largest in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise ConfigError(f"model {name} must be an integer from 1 to {largest}, not {value!r}.")
        if self.width % (2 * self.heads):
            raise ConfigError(f"model width {self.width} must be a multiple of twice its {self.heads} heads.")

    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> GPTConfig:
        """The inverse of `to_dict`. Raises ConfigError on missing, unknown or impossible fields."""
        if set(fields) != {"layers", "width", "heads", "context"}:
            raise ConfigError(f"a model needs layers, width, heads and context; got {sorted(fields)}.")
        return cls(**fields)  # type: ignore[arg-type]  # __post_init__ checks the types

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


SIZES: dict[str, GPTConfig] = {
    "0.8m": GPTConfig(layers=4, width=128, heads=4, context=128),
    "4m": GPTConfig(layers=5, width=256, heads=4, context=256),
    "11m": GPTConfig(layers=6, width=384, heads=6, context=256),
    "30m": GPTConfig(layers=10, width=512, heads=8, context=512),
    "124m": GPTConfig(layers=13, width=896, heads=14, context=1024),
}
"""The built-in sizes of `atoll init --model`; the name is roughly the number of parameters."""


def rotary_table(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each [1, 1, context, head_width / 2] (RoFormer, 2104.09864, base 10000)."""
    inverse = 10000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), inverse)
    return angles.cos()[None, None], angles.sin()[None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (x1, x2) of x [B, H, T, K] by its position's angle."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention over H heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.project(x, cos, sin)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries, keys (both at their positions) and values, [B, H, T, K] each."""
        b, t, d = x.shape
        parts = self.qkv(x).view(b, t, 3, self.heads, d // self.heads)  # [B, T, 3, H, K]
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # [B, H, T, K] each
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def merge(self, y: Tensor) -> Tensor:
        """What each head found, [B, H, T, K] -> [B, T, D]."""
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Two layers with GELU between, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class GPT(nn.Module):
    """Bytes in, next-byte logits out. The embedding is also the output head (tied, counted once)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        cos, sin = rotary_table(config.context, config.width // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, T], T <= context -> logits [B, T, 256] in fp32."""
        t = tokens.shape[1]
        cos, sin = self.cos[:, :, :t], self.sin[:, :, :t]
        x = self.embedding(tokens)  # [B, T, D]
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight).float()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte; inputs and targets int64 [B, T]."""
        return F.cross_entropy(self(inputs).view(-1, VOCABULARY), targets.reshape(-1))


def initialise(model: GPT, seed: int) -> None:
    """Sets all parameters from `seed`, the same bits on every machine.

    Matrices: uniform with standard deviation 0.02; those that write into the residual stream smaller by
    sqrt(2 * layers), so that its variance does not grow with depth (GPT-2). Norm gains: 1.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = 1.0 / math.sqrt(2 * model.config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            std = _INIT_STD * (residual if name.endswith(("out.weight", "down.weight")) else 1.0)
            draws = torch.randint(-_DRAW, _DRAW + 1, parameter.shape, generator=generator, dtype=torch.int64)
            # A uniform distribution on [-a, a] has standard deviation a / sqrt(3).
            parameter.copy_(draws.to(torch.float32) * (std * math.sqrt(3.0) / _DRAW))
