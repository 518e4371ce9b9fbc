"""The inner optimizer of the built-in trainer: AdamW or Muon, its schedule, and one step.

The learning rate is a pure function of the step's position in the whole run (version times steps per
round plus step in the round), so it travels with the version and a newcomer trains at the swarm's rate.
DiLoCo (2311.08105): AdamW inside, its moments never leave the node. MuLoCo (2505.23725): Muon inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from atoll.daemon.training.errors import ConfigError
from atoll.daemon.training.muon import MuonAdamW

SCHEDULES = ("constant", "cosine", "wsd")
OPTIMIZERS = ("adamw", "muon")
_FLOOR = 0.1
"""cosine and wsd end at this part of the peak learning rate."""
_WSD_DECAY = 0.2
"""wsd (warm-up, stable, decay) falls linearly over this last part of the run."""


@dataclass(frozen=True)
class InnerConfig:
    """How a node trains between two rounds. `batch` in sequences; `micro_batch` at a time on the device.

    The defaults are those of the demo (0.8m, three nodes, 100 to 120 steps per round), found by trial.
    """

    lr: float = 2e-3
    warmup_steps: int = 50
    total_steps: int = 10_000
    schedule: str = "constant"
    batch: int = 4
    micro_batch: int = 4
    weight_decay: float = 0.1
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        def check(good: bool, name: str, rule: str) -> None:
            if not good:
                raise ConfigError(f"inner {name} must be {rule}, not {getattr(self, name)!r}.")

        check(0 < self.lr <= 10, "lr", "above 0 and at most 10")
        check(0 <= self.warmup_steps < 1 << 40, "warmup_steps", "from 0 to 2^40")
        check(1 <= self.total_steps < 1 << 40, "total_steps", "from 1 to 2^40")
        check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        check(1 <= self.batch <= 1 << 20, "batch", "from 1 to 2^20")
        check(1 <= self.micro_batch <= self.batch, "micro_batch", f"from 1 to the batch, {self.batch}")
        check(0 <= self.weight_decay <= 10, "weight_decay", "from 0 to 10")
        check(0 < self.clip < math.inf, "clip", "above 0")
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers from 0 to below 1")

    @classmethod
    def from_dict(cls, given: dict[str, object]) -> InnerConfig:
        """Missing fields take their defaults. Raises ConfigError on unknown fields and wrong types."""
        kinds = {f.name: type(f.default) for f in fields(cls)}
        values: dict[str, object] = {}
        for name, value in given.items():
            if name not in kinds:
                raise ConfigError(f"unknown inner setting {name!r}; known are {', '.join(sorted(kinds))}.")
            values[name] = _typed(name, kinds[name], value)
        return cls(**values)  # type: ignore[arg-type]  # each value was brought to its field's type

    def to_dict(self) -> dict[str, object]:
        """JSON values; the inverse of `from_dict`."""
        return {**asdict(self), "betas": list(self.betas)}


def _typed(name: str, kind: type[object], value: object) -> object:
    """`value` from JSON as the `kind` of the field. Raises ConfigError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(float(value)):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if kind is int and number and isinstance(value, int):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is tuple and isinstance(value, list | tuple) and len(value) == 2:
        return tuple(_typed(name, float, item) for item in value)
    raise ConfigError(f"inner {name} has a value of the wrong type: {value!r}.")


def learning_rate(config: InnerConfig, position: int) -> float:
    """The rate of the inner step number `position` (from 0) of the run.

    Linear warm-up, then constant, cosine to a tenth, or stable with a linear decay to a tenth (WSD,
    2405.18392). After `total_steps` the last value holds.
    """
    if position < config.warmup_steps:
        return config.lr * (position + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    length = max(1, config.total_steps - config.warmup_steps)
    done = min(1.0, (position - config.warmup_steps) / length)
    if config.schedule == "cosine":
        return config.lr * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
    into_decay = max(0.0, done - (1 - _WSD_DECAY)) / _WSD_DECAY
    return config.lr * (1 - (1 - _FLOOR) * into_decay)


def make_optimizer(model: nn.Module, config: InnerConfig) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only (norm gains and biases keep their size).

    Or Muon on the matrices that are no embeddings, and AdamW on the rest.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "muon":
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in parameters if p.dim() == 2 and id(p) not in embeddings]
        taken = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in taken]
        return MuonAdamW(matrices, rest, config.lr, config.weight_decay, config.betas)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def micro_batches(size: int, at_a_time: int) -> Iterable[slice]:
    """Cuts `size` rows into runs of at most `at_a_time`."""
    return (slice(start, min(start + at_a_time, size)) for start in range(0, size, at_a_time))


def inner_step(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    config: InnerConfig,
    batch: tuple[Tensor, Tensor],
    position: int,
    micro_batch: int | None = None,
) -> float:
    """One optimizer step on `batch` (inputs and targets, [B, T] each), accumulated over micro-batches.

    `loss_of` gives the mean loss of a part; parts are weighted by their rows, so the step does not depend
    on the micro-batch size. Returns the mean loss; if it or the gradient is not finite, it returns NaN and
    changes no parameter. bf16 autocast on CUDA.
    """
    inputs, targets = batch
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for rows in micro_batches(len(inputs), micro_batch or config.micro_batch):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"):
            loss = loss_of(inputs[rows], targets[rows])
        loss = loss * (len(inputs[rows]) / len(inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    norm = float(nn.utils.clip_grad_norm_(parameters, config.clip))
    if not math.isfinite(total) or not math.isfinite(norm):
        return math.nan
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, position)
    optimizer.step()
    return total
