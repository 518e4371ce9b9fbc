"""One training run of the stacked replicas, with the product's outer side.

Weights, codecs with their error feedback, fragments, rules of taking in, eager starts and the outer step are
those of the product. An arm is plain data: the same arm and seed give the same loss.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.training.corpus import builtin_corpus
from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten
from atoll.daemon.training.inner import InnerConfig
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from atoll.daemon.training.rebase import Missed, rebase_
from atoll.protocol.codecs import result_codec
from atoll.protocol.modes.eager import eager_start
from atoll.protocol.modes.fragments import BALANCED, fragments
from atoll.protocol.outer import Float32, outer_step
from atoll.protocol.round.plan import weights
from atoll.protocol.round.types import Part
from atoll.protocol.schema import BLOCK, ChunkTable
from benchmarks.papers.alternatives import eager_estimate
from benchmarks.papers.replicas import Replicas

SMALL = GPTConfig(layers=2, width=64, heads=4, context=32)
LARGE = GPTConfig(layers=5, width=128, heads=4, context=64)
WARM_UP = 300
STRETCHES = 16
"""The text is cut into so many; replica k of K reads those that are k mod K where data is not shuffled."""
CHECKED = 512
"""Windows of the held-out text."""


@dataclass(frozen=True)
class Arm:
    """A run: `workers` replicas, `rounds` of `steps` inner steps after a warm start.

    `pool`: replicas that work in equal parts of the rounds (empty: all). `drop`: the part of contributions
    that is lost. `prune`: the part of each tensor's values that is dropped (the smallest). `shuffled`:
    everybody reads everywhere. `ahead`: "", "eager", "delayed" or "paper" (the estimate of 2502.12996).
    `fragments`, `tau` and `mix` are streaming's. `merge`: of the owner of a chunk. `delay`: outer steps
    by which the mean is late where phases begin ahead. `missed`: what who was lost does with its work, "keep"
    or "reset" (the product's default).
    """

    workers: int = 4
    steps: int = 20
    rounds: int = 50
    batch: int = 8
    lr: float = 0.7
    beta: float = 0.9
    codec: str = "fp32"
    feedback: float = 0.0
    drop: float = 0.0
    prune: float = 0.0
    shuffled: bool = True
    pool: tuple[int, ...] = ()
    ahead: str = ""
    fragments: int = 1
    tau: int = 0
    mix: float = 0.0
    large: bool = False
    merge: str = "mean"
    delay: int = 1
    missed: str = "keep"

    @property
    def model(self) -> GPTConfig:
        return LARGE if self.large else SMALL

    def inner(self, batch: int = 0) -> InnerConfig:
        batch = batch or self.batch
        total = WARM_UP + self.rounds * self.steps
        return InnerConfig(
            3e-3, 50, total, "cosine", batch=batch, micro_batch=batch, weight_decay=0.01, betas=(0.9, 0.99)
        )


@dataclass(frozen=True)
class Texts:
    """Training windows of each stretch, and the windows that are held out, int64 [CHECKED, T] twice."""

    stretches: tuple[Windows, ...]
    inputs: Tensor
    targets: Tensor

    def batch(self, seed: int, who: str, step: int, size: int, of: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One batch from some of the stretches."""
        chosen = random.Random(f"{seed} {who} {step}").choices(of, k=size)
        parts = [self.stretches[s].batch(seed, f"{who}.{k}", step, (0, 1), 1) for k, s in enumerate(chosen)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@cache
def texts(context: int) -> Texts:
    text = builtin_corpus()
    end = len(text) * 19 // 20
    size = end // STRETCHES
    pieces = tuple(Windows.of(text[k * size : (k + 1) * size], context) for k in range(STRETCHES))
    return Texts(pieces, *Windows.of(text[end:], context).spread(CHECKED))


@cache
def warm(model: GPTConfig, seed: int, inner: InnerConfig) -> Float32:
    """What one worker makes of the first steps, fp32 [total]."""
    module, data = GPT(model), texts(model.context)
    initialise(module, seed)
    alone = Replicas(model, 1)
    alone.fill(flatten(module)[1])
    for step in range(WARM_UP):
        inputs, targets = data.batch(seed, "warm-up", step, inner.batch, range(STRETCHES))
        alone.step(inputs[None], targets[None], inner, step)
    return alone.row(0).copy()


class Average:
    """What a round makes of contributions: encoded, weighted by tokens, averaged, decoded."""

    def __init__(self, arm: Arm, table: ChunkTable) -> None:
        self._table = table
        results = "fp32" if arm.codec == "fp32" else "int8"
        self._workers = [
            CodecWorker(arm.codec, results, table, arm.feedback, measured=True, merge=arm.merge)
            for _ in range(arm.workers)
        ]
        self._result = result_codec(arm.codec, results, arm.merge)
        self._offer = 0

    def __call__(
        self, deltas: Sequence[Float32 | None], tokens: Sequence[int], due: Sequence[int], mean: Float32
    ) -> int:
        """Sets the due chunks of `mean` from whole pseudo-gradients; None: lost. How many took part."""
        self._offer += 1
        there = [k for k, delta in enumerate(deltas) if delta is not None]
        if not there:
            return 0
        counted = weights([tokens[k] for k in there])
        for chunk in due:
            parts = []
            for place, (k, weight) in enumerate(zip(there, counted, strict=True)):
                delta = deltas[k]
                assert delta is not None
                payload = self._workers[k].encode(delta, delta, chunk, self._offer)
                parts.append(Part((place,), weight, payload))
            size = self._table.size(chunk)
            result = self._workers[0].reduce(parts, counted, size)
            out = torch.from_numpy(mean[self._table.span(chunk)])
            self._result.decode(torch.frombuffer(bytearray(result), dtype=torch.uint8), counted, out)
        for k in there:
            delta = deltas[k]
            assert delta is not None
            self._workers[k].settle(delta, delta, tuple(due), self._offer)
        return len(there)


def run(arm: Arm, seed: int) -> float:
    """Validation loss of the outer parameters after the last round, in nats per byte."""
    torch.set_num_threads(1)
    return Run(arm, seed).whole()


class Run:
    """The state of an arm under way."""

    def __init__(self, arm: Arm, seed: int) -> None:
        self.arm, self.seed = arm, seed
        self.data = texts(arm.model.context)
        self.replicas = Replicas(arm.model, arm.workers)
        schema = self.replicas.schema
        runs = fragments(schema, arm.fragments, BALANCED) if arm.fragments > 1 else ()
        block = 4096 if arm.codec == "topk" else BLOCK
        total = -(-schema.total // block) * block
        self.table = ChunkTable(total, total, block, runs)
        # The warm-up has the batch of a plain worker in every arm.
        begin = warm(arm.model, seed, Arm(steps=arm.steps, rounds=arm.rounds, large=arm.large).inner())
        self.replicas.fill(begin)
        self.outer = np.zeros(total, np.float32)
        self.outer[: schema.total] = begin
        self.momentum, self.mean, self.scratch = (np.zeros_like(self.outer) for _ in range(3))
        self.average = Average(arm, self.table)
        self.position = WARM_UP
        self.chance = random.Random(seed)
        self.carried = [0] * arm.workers

    # ---- inner side

    def local(self, k: int) -> Float32:
        padded = np.zeros_like(self.outer)
        padded[: self.replicas.schema.total] = self.replicas.row(k)
        return padded

    def set_local(self, k: int, flat: Float32) -> None:
        self.replicas.row(k)[:] = flat[: self.replicas.schema.total]

    def train(self, steps: int, works: Sequence[bool] = ()) -> None:
        arm, inner = self.arm, self.arm.inner()
        for _ in range(steps):
            parts = [
                self.data.batch(self.seed, f"worker {k}", self.position, arm.batch, self._stretches(k))
                for k in range(arm.workers)
            ]
            inputs, targets = (torch.stack([p[n] for p in parts]) for n in (0, 1))
            self.replicas.step(inputs, targets, inner, self.position, works)
            self.position += 1
        for k in range(arm.workers):
            if not works or works[k]:
                self.carried[k] += steps * arm.batch * arm.model.context

    def _stretches(self, k: int) -> Sequence[int]:
        return range(STRETCHES) if self.arm.shuffled else range(k % STRETCHES, STRETCHES, self.arm.workers)

    # ---- outer side

    def whole(self) -> float:
        if self.arm.ahead:
            self._ahead()
        elif self.arm.fragments > 1:
            self._streaming()
        else:
            for number in range(self.arm.rounds):
                self._round(number)
        flat = self.outer[: self.replicas.schema.total]
        return self.replicas.validation(flat, self.data.inputs, self.data.targets)

    def _step(self, due: Sequence[int]) -> None:
        for chunk in due:
            span = self.table.span(chunk)
            vectors = self.outer[span], self.momentum[span], self.mean[span]
            outer_step(*vectors, self.arm.lr, self.arm.beta, self.scratch[span])

    def _round(self, number: int) -> None:
        """DiLoCo: a phase, the mean, the outer step; who was lost keeps its parameters."""
        arm = self.arm
        pool = arm.pool[number * len(arm.pool) // arm.rounds] if arm.pool else arm.workers
        works = [k < pool for k in range(arm.workers)]
        self.train(arm.steps, works)
        deltas = [
            self._pruned(self.outer - self.local(k))
            if works[k] and self.chance.random() >= arm.drop
            else None
            for k in range(arm.workers)
        ]
        if not self.average(deltas, self.carried, range(len(self.table)), self.mean):
            return
        self._step(range(len(self.table)))
        for k, delta in enumerate(deltas):
            if delta is not None or not works[k] or arm.missed == Missed.RESET.value:
                self.set_local(k, self.outer)
                self.carried[k] = 0

    def _pruned(self, delta: Float32) -> Float32:
        """Without the smallest values of each tensor (DiLoCo, table 6, prunes by neuron and sign)."""
        if not self.arm.prune:
            return delta
        for spec in self.replicas.schema.tensors:
            part = delta[spec.offset : spec.end]
            part[np.abs(part) < np.quantile(np.abs(part), self.arm.prune)] = 0
        return delta

    def _streaming(self) -> None:
        """Streaming DiLoCo: each fragment in its turn; the result is there tau steps later."""
        arm, count = self.arm, self.arm.fragments
        segment = arm.steps // count
        for number in range(arm.rounds * count):
            self.train(segment - (arm.tau if number else 0))
            due = self.table.due(number)
            snapshots = [self.local(k) for k in range(arm.workers)]
            self.average([self.outer - s for s in snapshots], self.carried, due, self.mean)
            self._step(due)
            self.carried = [0] * arm.workers
            self.train(arm.tau)
            for k, snapshot in enumerate(snapshots):
                self._take_in(k, snapshot, due)

    def _take_in(self, k: int, snapshot: Float32, due: Sequence[int]) -> None:
        local = self.local(k)
        about = [(self.table.span(chunk).start, self.table.span(chunk).stop) for chunk in due]
        now, new, then = (torch.from_numpy(v) for v in (local, self.outer, snapshot))
        rebase_(now, new, then, 0, (), Missed.KEEP, None, about, self.arm.mix)
        self.set_local(k, local)

    def _ahead(self) -> None:
        """Eager and delayed: the mean of a phase is there `delay` phases later.

        With more than one on its way, an eager start takes a step for each of this worker's own.
        """
        arm, due = self.arm, range(len(self.table))
        starts = [self.outer.copy() for _ in range(arm.workers)]
        stale = [np.zeros_like(self.outer) for _ in range(arm.workers)]
        own = [(self.outer.copy(), np.zeros_like(self.outer)) for _ in range(arm.workers)]
        waiting: list[list[Float32]] = []
        ahead, ahead_momentum = np.empty_like(self.outer), np.empty_like(self.outer)
        for _ in range(arm.rounds):
            self.train(arm.steps)
            fresh = [start - self.local(k) for k, start in enumerate(starts)]
            if len(waiting) == arm.delay:
                self.average(waiting.pop(0), self.carried, due, self.mean)
                self._step(due)
            waiting.append(fresh)
            for k, delta in enumerate(fresh):
                if arm.ahead == "eager":
                    ahead[:], ahead_momentum[:] = self.outer, self.momentum
                    for phase in waiting[:-1]:
                        outer_step(ahead, ahead_momentum, phase[k], arm.lr, arm.beta, self.scratch)
                    eager_start(ahead, ahead_momentum, delta, arm.lr, arm.beta, starts[k])
                elif arm.ahead == "delayed":
                    starts[k][:] = self.outer
                else:
                    eager_estimate(self.mean, delta, stale[k], 1 / arm.workers, stale[k])
                    outer_step(*own[k], stale[k], arm.lr, arm.beta, self.scratch)
                    starts[k][:], stale[k] = own[k][0], delta
                self.set_local(k, starts[k])
