"""One micro-step of a swarm's model in a process of its own: what it needs, measured and not estimated.

Reads one JSON object from standard input (`device`, `threads`, and `model` and `inner`, without which it
takes the smallest built-in model with the demo's inner steps), makes model and optimizer as the trainer does,
takes one optimizer step on random bytes with the whole micro-batch, halved for as long as the device is out
of memory, and prints one JSON object: the device, bytes at the peak, seconds, the micro-batch that fitted.
What can't be done is printed as `failed` with its fix. Whoever started it reads a death by signal 9 as the
kernel's answer to memory that runs out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from atoll.daemon.training.errors import TrainingError
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, SIZES, GPTConfig
from atoll.daemon.training.trainer import die_with_parent, halved, lower_priority, pick_device


@dataclass(frozen=True)
class _Asked:
    device: str
    threads: int


def main() -> int:
    die_with_parent()
    lower_priority()
    try:
        answer = measure(json.loads(sys.stdin.read()))
    except TrainingError as error:
        answer = {"failed": error.code, "text": str(error)}
    print(json.dumps(answer), flush=True)
    return 0


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Takes the step. Raises TrainingError."""
    config = InnerConfig.from_dict(asked["inner"]) if "inner" in asked else InnerConfig()
    shape = GPTConfig.from_dict(asked["model"]) if "model" in asked else SIZES["0.8m"]
    device = pick_device(_Asked(str(asked["device"]), int(asked["threads"])))
    model = GPT(shape).to(device)
    optimizer = make_optimizer(model, config)
    at_a_time = config.micro_batch
    while True:
        text = torch.randint(0, 256, (at_a_time, model.config.context + 1))
        batch = text[:, :-1].to(device), text[:, 1:].to(device)
        began = time.perf_counter()
        try:
            inner_step(model.loss, optimizer, config, batch, 0, at_a_time)
        except RuntimeError as error:
            at_a_time = halved(at_a_time, error)
            continue
        return {
            "device": str(device),
            "peak_bytes": _peak(device),
            "step_s": time.perf_counter() - began,
            "micro_batch": at_a_time,
            "wanted": config.micro_batch,
        }


def _peak(device: torch.device) -> int:
    """Of the device that computes: of the processor's memory all that the process had at once."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1024 if sys.platform == "linux" else 1  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main())
