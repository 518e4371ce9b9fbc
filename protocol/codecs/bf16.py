"""bf16 as two bytes, little endian, and how codecs keep scales and codebooks in it."""

from __future__ import annotations

import torch
from torch import Tensor


def up(values: Tensor) -> Tensor:
    """Non-negative fp32 `values` rounded up to bf16, in place, as fp32."""
    values.view(torch.int32).add_(0xFFFF).bitwise_and_(-0x10000)
    return values


def store(values: Tensor, out: Tensor) -> None:
    """Writes fp32 `values` [k] that are bf16 numbers to `out` [k, 2] uint8."""
    out.copy_(values.reshape(-1, 1).view(torch.uint8).view(-1, 4)[:, 2:])


def load(data: Tensor) -> Tensor:
    """[k, 2] little-endian bf16 bytes as [k] fp32, whatever the alignment."""
    wide = torch.zeros(data.shape[0], dtype=torch.float32, device=data.device)
    wide.view(torch.uint8).view(-1, 4)[:, 2:].copy_(data)
    return wide
