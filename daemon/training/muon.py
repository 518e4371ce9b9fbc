"""Muon on the hidden matrices, AdamW on the rest, as one optimizer (MuLoCo, 2505.23725, section 3).

Muon orthogonalises the momentum of a matrix by Newton–Schulz iterations; torch's own is used, its rate scaled
so that updates have AdamW's size, and one schedule serves both. Embeddings, norms and biases are AdamW's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from atoll.daemon.training.errors import ConfigError

MOMENTUM = 0.95


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers with one table of groups and one of states, so that both are saved and restored."""

    def __init__(
        self,
        matrices: Sequence[Tensor],
        rest: Sequence[Tensor],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError("This torch has no Muon.", "Install torch 2.9 or newer.")
        if not matrices:
            raise ConfigError("Muon needs matrices, and this model has none.", "Use adamw.")
        self._muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = (
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=0.0, fused=True) if rest else None
        )
        groups = [*self._muon.param_groups, *(self._adamw.param_groups if self._adamw else ())]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """What was loaded, or set by a schedule, is what both work with."""
        muons = len(self._muon.param_groups)
        self._muon.param_groups, self._muon.state = self.param_groups[:muons], self.state
        if self._adamw is not None:
            self._adamw.param_groups, self._adamw.state = self.param_groups[muons:], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both. `closure` is not supported."""
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure")
        self._muon.step()  # type: ignore[no-untyped-call]
        if self._adamw is not None:
            self._adamw.step()
        return None
