"""Workers of unequal speed without a barrier, in virtual time: each is taken in as it comes (2401.09135)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import torch
from benchmarks.papers.arms import STRETCHES, WARM_UP, Arm, texts, warm
from benchmarks.papers.replicas import Replicas

from atoll.protocol.modes.asynchronous import delayed_nesterov_step, inner_steps_by_speed
from atoll.protocol.outer import outer_step

SPEEDS = {
    "none": (1.0, 1.0, 1.0, 1.0),
    "very": (1 / 0.58, 1 / 0.75, 1 / 1.51, 1 / 3.33),
}
"""Steps per second; the second is the paper's toy example."""


@dataclass(frozen=True)
class AsyncArm:
    """A run of four workers: as many inner steps in all as `rounds` of `steps` of each.

    `outer`: "sync" (DiLoCo, everyone waits), "naive" (Nesterov on each arrival) or "dn" (delayed Nesterov,
    and phases by speed).
    """

    outer: str
    speeds: str
    rounds: int = 50
    steps: int = 20
    lr: float = 0.7
    beta: float = 0.9


def run(arm: AsyncArm, seed: int) -> float:
    """Validation loss of the outer parameters, in nats per byte."""
    torch.set_num_threads(1)
    base = Arm(steps=arm.steps, rounds=arm.rounds)
    inner, data = base.inner(), texts(base.model.context)
    speeds = SPEEDS[arm.speeds]
    count = len(speeds)
    lengths = inner_steps_by_speed(speeds, arm.steps) if arm.outer == "dn" else (arm.steps,) * count
    workers = [Replicas(base.model, 1) for _ in range(count)]
    outer = warm(base.model, seed, inner).copy()
    momentum, scratch = np.zeros_like(outer), np.zeros_like(outer)
    starts = [outer.copy() for _ in range(count)]
    done = [0] * count
    for worker in workers:
        worker.fill(outer)
    # (virtual time of the arrival, worker)
    queue = [(lengths[k] / speeds[k], k) for k in range(count)]
    heapq.heapify(queue)
    budget, spent, arrival, gathered = arm.rounds * arm.steps * count, 0, 0, []
    while spent < budget:
        now, k = heapq.heappop(queue)
        for _ in range(lengths[k]):
            inputs, targets = data.batch(seed, f"worker {k}", done[k], base.batch, range(STRETCHES))
            # The schedule is of the run: all have the rate of as many steps as were taken on average.
            workers[k].step(inputs[None], targets[None], inner, WARM_UP + spent // count)
            done[k] += 1
            spent += 1
        delta = starts[k] - workers[k].row(0)
        if arm.outer == "sync":
            gathered.append((k, delta))
            if len(gathered) == count:
                mean = np.stack([d for _, d in gathered]).mean(axis=0, dtype=np.float32)
                outer_step(outer, momentum, mean, arm.lr, arm.beta, scratch)
                for other, _ in gathered:
                    starts[other][:] = outer
                    workers[other].row(0)[:] = outer
                    heapq.heappush(queue, (now + lengths[other] / speeds[other], other))
                gathered = []
            continue
        if arm.outer == "naive":
            delta /= np.float32(count)
            outer_step(outer, momentum, delta, arm.lr, arm.beta, scratch)
        else:
            delayed_nesterov_step(outer, momentum, delta, arrival, count, arm.lr, arm.beta, scratch)
        arrival += 1
        starts[k][:] = outer
        workers[k].row(0)[:] = outer
        heapq.heappush(queue, (now + lengths[k] / speeds[k], k))
    return workers[0].validation(outer, data.inputs, data.targets)
