"""Rounds that don't wait for everybody, in virtual time: by quorum (DBW, 2102.06280) and by period (FedFix).

What a round goes without stays in its worker's parameters, and is offered against the next outer ones, as
with the product's `--missed keep`. All arms have the same time, not the same steps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from atoll.protocol.modes.doors import ALL, DBW, best_quorum
from atoll.protocol.outer import outer_step
from atoll.protocol.round.plan import weights
from benchmarks.papers.arms import STRETCHES, WARM_UP, Arm, texts, warm
from benchmarks.papers.arrivals import SPEEDS
from benchmarks.papers.replicas import Replicas

JITTER = 0.1
"""Of a phase's length, one standard deviation."""
STEPS_IN_ALL = 1000
"""Of the schedule: it ends with the time."""


@dataclass(frozen=True)
class TimedArm:
    """Four workers of very unequal speed; `door`: all, dbw or period, `period` its seconds.

    `seconds`: of the run; a step of the fastest takes 0.58. `attendance`: contributions weigh by the rounds
    since the last one, too. `shuffled`: everybody reads everywhere.
    """

    door: str
    seconds: float = 1000.0
    period: float = 16.0
    attendance: bool = False
    shuffled: bool = True
    steps: int = 20
    lr: float = 0.5
    beta: float = 0.8


def run(arm: TimedArm, seed: int) -> float:
    """Validation loss of the outer parameters, in nats per byte."""
    torch.set_num_threads(1)
    base = Arm(steps=arm.steps)
    inner, data = base.inner(), texts(base.model.context)
    chance, speeds = random.Random(seed), SPEEDS["very"]
    count = len(speeds)
    workers = [Replicas(base.model, 1) for _ in range(count)]
    outer = warm(base.model, seed, inner).copy()
    momentum, scratch = np.zeros_like(outer), np.zeros_like(outer)
    for worker in workers:
        worker.fill(outer)
    done, since, took = [0] * count, [0] * count, [arm.steps / speed for speed in speeds]

    def phase_s(k: int) -> float:
        took[k] = arm.steps / speeds[k] * max(0.5, chance.gauss(1.0, JITTER))
        return took[k]

    ready_at = [phase_s(k) for k in range(count)]
    now, number = 0.0, 0
    while now < arm.seconds:
        now, number = _closes(arm, now, ready_at, took), number + 1
        there = [k for k in range(count) if ready_at[k] <= now]
        for k in there:
            of = range(STRETCHES) if arm.shuffled else range(k, STRETCHES, count)
            for _ in range(arm.steps):
                inputs, targets = data.batch(seed, f"worker {k}", done[k], base.batch, of)
                place = WARM_UP + int(STEPS_IN_ALL * min(1.0, now / arm.seconds))
                workers[k].step(inputs[None], targets[None], inner, place)
                done[k] += 1
        rounds = [number - since[k] for k in there] if arm.attendance else ()
        shares = weights([arm.steps] * len(there), rounds)
        mean = np.zeros_like(outer)
        for k, weight in zip(there, shares, strict=True):
            mean += np.float32(weight / sum(shares)) * (outer - workers[k].row(0))
        outer_step(outer, momentum, mean, arm.lr, arm.beta, scratch)
        for k in there:
            workers[k].row(0)[:] = outer
            ready_at[k], since[k] = now + phase_s(k), number
    return workers[0].validation(outer, data.inputs, data.targets)


def _closes(arm: TimedArm, opened: float, ready_at: list[float], took: list[float]) -> float:
    """When the round that opened then closes its door."""
    ordered = sorted(ready_at)
    if arm.door == ALL:
        return ordered[-1]
    if arm.door == DBW:
        return max(opened, ordered[best_quorum(took, 0.0) - 1])
    return max(opened + arm.period, ordered[0])
