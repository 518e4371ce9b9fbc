"""What do lost contributions cost, and what should a worker do that missed a commit?

Eight workers, each on its own stretch of the text (not shuffled: each reads other plays), H inner steps a
round. In each round each worker's pseudo-gradient is lost with some probability, as when its line fails; it
still gets the commit. DiLoCo's own ablation (arXiv 2311.08105, section 3.2, "dropped communication") found
2.1 % perplexity at 50 % for 150 M parameters. Three rules for its local progress:

    keep    it keeps its parameters; the next delta is measured against the new outer parameters
    rebase  what it learned since the old outer parameters is moved onto the new ones
    reset   it takes the new outer parameters; what it learned is gone

Model, batches, inner step, encoding (int8), weights (tokens carried, capped at twice the mean), reduction and
outer step are those of the product. Reads the shipped text, writes one Markdown table. A run takes minutes
and there are thirty: with --resume FILE what is done stays done.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from atoll.daemon.genesis import OUTER_LR, OUTER_MOMENTUM
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.training.corpus import builtin_corpus, cut
from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten, load_into, store
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig, initialise
from atoll.daemon.training.trainer import validation
from atoll.protocol.codecs import Int8Codec
from atoll.protocol.outer import outer_step
from atoll.protocol.round.plan import weights
from atoll.protocol.round.types import Part
from atoll.protocol.schema import ChunkTable

WORKERS = 8
MODEL = GPTConfig(layers=2, width=64, heads=4, context=64)
RATES = (0.1, 0.3, 0.5)
RULES = ("keep", "rebase", "reset")
GOALS = {0.1: 2.0, 0.3: 6.0, 0.5: 10.0}
"""Per cent of perplexity that a rate may cost."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arm:
    """One training run: `rate` of the contributions are lost."""

    rule: str
    rate: float
    seed: int
    rounds: int
    steps: int

    def __str__(self) -> str:
        return f"{self.rule} {self.rate:.0%} seed {self.seed}, {self.rounds} x {self.steps}"


def stretches(text: bytes) -> list[Windows]:
    """The text, cut into one stretch for each worker."""
    size = len(text) // WORKERS
    return [Windows.of(text[k * size : (k + 1) * size], MODEL.context) for k in range(WORKERS)]


def train(arm: Arm) -> float:
    """Validation loss (nats per byte) of the outer parameters after the last round."""
    torch.set_num_threads(1)
    text = builtin_corpus()
    config = InnerConfig(batch=8, micro_batch=8)
    model = GPT(MODEL)
    initialise(model, arm.seed)
    schema, outer = flatten(model)
    momentum, mean, scratch = (np.zeros_like(outer) for _ in range(3))
    local = [outer.copy() for _ in range(WORKERS)]
    carried = [0] * WORKERS
    optimizers = [make_optimizer(model, config) for _ in range(WORKERS)]
    worker, codec = CodecWorker("int8", "int8", ChunkTable(outer.size, outer.size)), Int8Codec()
    end, _ = cut(len(text), len(text), MODEL.context)
    data = stretches(text[:end])
    lost = random.Random(arm.seed)
    for version in range(arm.rounds):
        payloads, tokens, missed = [], [], []
        for k in range(WORKERS):
            load_into(model, schema, local[k])
            for step in range(arm.steps):
                position = version * arm.steps + step
                batch = data[k].batch(arm.seed, f"worker-{k}", position, (0, 1), config.batch)
                inner_step(model.loss, optimizers[k], config, batch, position)
            store(model, schema, local[k])
            carried[k] += arm.steps * config.batch * MODEL.context
            if lost.random() < arm.rate:
                missed.append(k)
            else:
                payloads.append(worker.encode(outer, local[k], 0))
                tokens.append(carried[k])
        if not payloads:
            continue
        before = outer.copy()
        parts = [
            Part((k,), weight, payload)
            for k, (weight, payload) in enumerate(zip(weights(tokens), payloads, strict=True))
        ]
        result = worker.reduce(parts, weights(tokens), outer.size)
        codec.decode(torch.frombuffer(bytearray(result), dtype=torch.uint8), torch.from_numpy(mean))
        lr = OUTER_LR[min(len(payloads), len(OUTER_LR)) - 1]
        outer_step(outer, momentum, mean, lr, OUTER_MOMENTUM, scratch)
        for k in range(WORKERS):
            if k not in missed:
                local[k][:], carried[k] = outer, 0
            elif arm.rule == "rebase":
                local[k] += outer - before
            elif arm.rule == "reset":
                local[k][:], carried[k] = outer, 0
    load_into(model, schema, outer)
    with torch.no_grad():
        return validation(Windows.of(text[end:], MODEL.context), torch.device("cpu"))(model)


def measure(arms: list[Arm], jobs: int, resume: Path | None) -> dict[Arm, float]:
    """Every arm's loss; those that `resume` knows (JSON, arm to loss) are not trained again."""
    known: dict[str, float] = json.loads(resume.read_text()) if resume and resume.exists() else {}
    # Spawned, not forked: torch has threads.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running = {pool.submit(train, arm): arm for arm in arms if str(arm) not in known}
        for future in as_completed(running):
            arm = running[future]
            known[str(arm)] = future.result()
            print(f"{arm}: {known[str(arm)]:.4f}", file=sys.stderr, flush=True)
            if resume is not None:
                resume.write_text(json.dumps(known, indent=1))
    return {arm: known[str(arm)] for arm in arms}


def table(results: dict[Arm, float], rounds: int, steps: int) -> str:
    """The results in Markdown."""
    seeds = sorted({arm.seed for arm in results})

    def perplexities(rule: str, rate: float) -> list[float]:
        return [float(np.exp(results[Arm(rule, rate, s, rounds, steps)])) for s in seeds]

    base = perplexities("keep", 0.0)
    lines = [
        "# Lost contributions",
        "",
        f"{WORKERS} workers on {WORKERS} stretches of the text, {rounds} rounds of {steps} steps,",
        f"0.1 M parameters, seeds {', '.join(map(str, seeds))}; made by `benchmarks/dropped_gradients.py`.",
        "Perplexity per byte, and how much more it is than that of the run that loses nothing",
        f"({np.mean(base):.3f}: {', '.join(f'{b:.3f}' for b in base)}).",
        "",
        "| rule | " + " | ".join(f"{rate:.0%} lost" for rate in RATES) + " |",
        "|---" * (len(RATES) + 1) + "|",
    ]
    for rule in RULES:
        cells = []
        for rate in RATES:
            each = perplexities(rule, rate)
            worse = [100 * (p / b - 1) for p, b in zip(each, base, strict=True)]
            single = ", ".join(f"{w:+.1f}" for w in worse)
            cells.append(f"{np.mean(each):.3f} (**{np.mean(worse):+.1f} %**: {single})")
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    goals = ", ".join(f"{goal:.0f} % at {rate:.0%}" for rate, goal in GOALS.items())
    return "\n".join([*lines, "", f"Goals: at most {goals}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="What lost contributions cost.")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--steps", type=int, default=20, help="inner steps of a round (20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (2)")
    parser.add_argument("--resume", type=Path, help="JSON file of the runs that are done")
    parser.add_argument("--out", type=Path, default=RESULTS / "dropped_gradients.md")
    args = parser.parse_args()
    cases = [("keep", 0.0), *((rule, rate) for rate in RATES for rule in RULES)]
    arms = [Arm(rule, rate, s, args.rounds, args.steps) for s in args.seeds for rule, rate in cases]
    results = measure(arms, args.jobs, args.resume)
    text = table(results, args.rounds, args.steps)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
