"""Workers of unequal speed without a barrier, in virtual time: each is taken in as it comes (2401.09135)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atoll.protocol.modes.asynchronous import (
    inner_steps_by_speed,
    shared_nesterov_step,
)
from atoll.protocol.modes.doors import WINDOW_PART
from atoll.protocol.outer import Float32, outer_step
from benchmarks.papers.alternatives import delayed_nesterov_step
from benchmarks.papers.arms import STRETCHES, WARM_UP, Arm, texts, warm
from benchmarks.papers.replicas import Replicas

SPEEDS = {
    "none": (1.0, 1.0, 1.0, 1.0),
    "very": (1 / 0.58, 1 / 0.75, 1 / 1.51, 1 / 3.33),
}
"""Steps per second; the second is the paper's toy example."""


@dataclass(frozen=True)
class AsyncArm:
    """A run of four workers: as many inner steps in all as `rounds` of `steps` of each.

    `outer`: "sync" (DiLoCo, everyone waits), "naive" (Nesterov on each arrival), "dn" (delayed Nesterov, and
    phases by speed) or "async" (as it ships: phases by speed, and a window).
    """

    outer: str
    speeds: str
    rounds: int = 50
    steps: int = 20
    lr: float = 0.7
    beta: float = 0.9

    @property
    def window(self) -> float:
        """Part of a phase within which arrivals are taken in together."""
        return {"sync": np.inf, "async": WINDOW_PART}.get(self.outer, 0.0)


def run(arm: AsyncArm, seed: int) -> float:
    """Validation loss of the outer parameters, in nats per byte."""
    torch.set_num_threads(1)
    base = Arm(steps=arm.steps, rounds=arm.rounds)
    inner, data = base.inner(), texts(base.model.context)
    speeds = SPEEDS[arm.speeds]
    count = len(speeds)
    lengths = inner_steps_by_speed(speeds, arm.steps)
    if arm.outer in ("sync", "naive"):
        lengths = (arm.steps,) * count
    workers = [Replicas(base.model, 1) for _ in range(count)]
    outer = Outer(arm, warm(base.model, seed, inner))
    starts = [outer.parameters.copy() for _ in range(count)]
    done = [0] * count
    for worker in workers:
        worker.fill(outer.parameters)
    for group in groups(lengths, speeds, arm.window):
        deltas = []
        for k in group:
            for _ in range(lengths[k]):
                inputs, targets = data.batch(seed, f"worker {k}", done[k], base.batch, range(STRETCHES))
                # The schedule is of the run: all have the rate of as many steps as were taken on average.
                workers[k].step(inputs[None], targets[None], inner, WARM_UP + sum(done) // count)
                done[k] += 1
            deltas.append(starts[k] - workers[k].row(0))
        outer.take(deltas, [lengths[k] for k in group], count)
        for k in group:
            starts[k][:] = outer.parameters
            workers[k].row(0)[:] = outer.parameters
        if sum(done) >= arm.rounds * arm.steps * count:
            break
    return workers[0].validation(outer.parameters, data.inputs, data.targets)


def groups(lengths: Sequence[int], speeds: Sequence[float], window: float) -> Iterator[list[int]]:
    """Who arrives together, for ever: the workers that come within `window`, a part of a phase, of the first.

    Each begins its next phase when its group is taken in: with the last of all, or at the end of the window.
    """
    count, phase = len(lengths), max(n / speed for n, speed in zip(lengths, speeds, strict=True))
    queue = [(lengths[k] / speeds[k], k) for k in range(count)]
    heapq.heapify(queue)
    while True:
        last, k = heapq.heappop(queue)
        group, end = [k], last + window * phase
        while queue and queue[0][0] <= end:
            last, k = heapq.heappop(queue)
            group.append(k)
        begins = last if len(group) == count else end
        yield group
        for k in group:
            heapq.heappush(queue, (begins + lengths[k] / speeds[k], k))


class Outer:
    """The outer parameters of an arm, and its step."""

    def __init__(self, arm: AsyncArm, parameters: Float32) -> None:
        self.parameters = parameters.copy()
        self._arm = arm
        self._momentum, self._scratch = np.zeros_like(parameters), np.zeros_like(parameters)
        self._arrivals = 0

    def take(self, deltas: Sequence[Float32], weights: Sequence[int], count: int) -> None:
        """One step for these pseudo-gradients, of `count` workers in all."""
        arm, vectors = self._arm, (self.parameters, self._momentum)
        mean = np.zeros_like(self.parameters)
        for delta, weight in zip(deltas, weights, strict=True):
            mean += np.float32(weight / sum(weights)) * delta
        match arm.outer:
            case "sync":
                outer_step(*vectors, mean, arm.lr, arm.beta, self._scratch)
            case "naive":
                mean /= np.float32(count)
                outer_step(*vectors, mean, arm.lr, arm.beta, self._scratch)
            case "dn":
                delayed_nesterov_step(*vectors, mean, self._arrivals, count, arm.lr, arm.beta, self._scratch)
            case _:
                share = len(deltas) / count
                shared_nesterov_step(*vectors, mean, share, arm.lr, arm.beta, self._scratch)
        self._arrivals += 1
