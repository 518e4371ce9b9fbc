"""Do three nodes, each training a third of the text, beat one node that takes the same steps on all of it?

Three arms, each for R rounds of H inner steps per node, and for several seeds (of parameters and data order):

    three  three nodes on three shards, averaged after each round by the shipping path
    one    one node alone on the whole text, with the same outer step (a swarm of one)
    plain  one node alone on the whole text, AdamW without rounds: what one would do without Atoll

All settings are those that `atoll demo` ships (daemon/genesis.py). The nodes live in one process without
sockets. That is faithful, because nothing that decides the numbers is left out or written again: model,
batches and inner step are the trainer's, encoding and reduction the driver's codec worker (int8, chunk by
chunk), the step is `outer_step` on the decoded result. After a round in which a node took part its
parameters are the committed ones bit for bit, and its AdamW moments stay its own, as here. What the network
may change (who is late, who is lost) does not happen. `--daemons` shows one seed over real daemons instead.

Reads the shipped text, writes one Markdown table. One thread for each arm: the same bits on every run on
one machine (other CPUs may round a matrix product differently).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atoll.daemon.genesis import NewSwarm, make_swarm
from atoll.daemon.rounds.codec_worker import CodecWorker
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training.corpus import builtin_corpus, cut
from atoll.daemon.training.data import Windows
from atoll.daemon.training.flat import flatten, load_into, store
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, SIZES, initialise
from atoll.daemon.training.session import Validate
from atoll.daemon.training.trainer import validation
from atoll.protocol.codecs import result_codec
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.outer import Float32, outer_step
from atoll.protocol.round.types import Part

NODES = {"three": 3, "one": 1, "plain": 1}
CREATED_UNIX_S = 0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arm:
    """One training run."""

    name: str
    seed: int
    rounds: int


class Swarm:
    """The outer state of a swarm whose nodes all take part in every round, and its outer step."""

    def __init__(self, manifest: SwarmManifest, parameters: Float32) -> None:
        self.parameters = parameters
        self._momentum = np.zeros_like(parameters)
        self._manifest = manifest
        rounds = manifest.body.rounds
        self._worker = CodecWorker(rounds.codec, rounds.result_codec, manifest.chunks)
        self._codec = result_codec(rounds.codec, rounds.result_codec, rounds.merge)

    def commit(self, snapshots: list[Float32]) -> None:
        """Averages the nodes' pseudo-gradients, chunk by chunk as their owners do, and steps."""
        chunks = self._manifest.chunks
        lr = self._manifest.outer_lr(len(snapshots))
        for chunk in range(len(chunks)):
            span, size = chunks.span(chunk), chunks.size(chunk)
            payloads = [self._worker.encode(self.parameters, local, chunk) for local in snapshots]
            weights = [1] * len(payloads)
            parts = [Part((k,), 1, payload) for k, payload in enumerate(payloads)]
            result = bytearray(self._worker.reduce(parts, weights, size))
            mean = np.empty(size, dtype=np.float32)
            self._codec.decode(torch.frombuffer(result, dtype=torch.uint8), weights, torch.from_numpy(mean))
            beta = self._manifest.body.outer.momentum
            outer_step(self.parameters[span], self._momentum[span], mean, lr, beta, np.empty_like(mean))


def train(arm: Arm) -> list[float]:
    """Validation loss of the outer parameters: before the first round, then after each."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        data_dir = DataDir(Path(folder))
        data_dir.create()
        manifest = make_swarm(data_dir, NewSwarm(name="bench", seed=arm.seed), CREATED_UNIX_S)
    config = inner_config(manifest)
    model = GPT(SIZES[manifest.body.model.size])
    initialise(model, arm.seed)
    schema, parameters = flatten(model)
    text, context = builtin_corpus(), model.config.context
    end, _ = cut(len(text), len(text), context)
    windows = Windows.of(text[:end], context)
    evaluate = validation(Windows.of(text[end:], context), torch.device("cpu"))
    nodes = NODES[arm.name]
    optimizers = [make_optimizer(model, config) for _ in range(nodes)]
    snapshots = [parameters.copy() for _ in range(nodes)]
    swarm = Swarm(manifest, parameters)
    losses = [_no_grad(evaluate, model)]
    for version in range(arm.rounds):
        for node, (optimizer, snapshot) in enumerate(zip(optimizers, snapshots, strict=True)):
            if arm.name != "plain":
                load_into(model, schema, swarm.parameters)
            for position, batch in batches(windows, manifest, node, nodes, version):
                inner_step(model.loss, optimizer, config, batch, position)
            store(model, schema, snapshot)
        if arm.name != "plain":
            swarm.commit(snapshots)
            load_into(model, schema, swarm.parameters)
        losses.append(_no_grad(evaluate, model))
        print(
            f"{arm.name} seed {arm.seed} round {version + 1}: {losses[-1]:.4f}", file=sys.stderr, flush=True
        )
    return losses


def _no_grad(evaluate: Validate, model: GPT) -> float:
    with torch.no_grad():
        return evaluate(model)


def batches(
    windows: Windows, manifest: SwarmManifest, node: int, nodes: int, version: int
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """The inner steps of one node in one round: position in the run, inputs and targets."""
    inner = manifest.body.inner
    for step in range(inner.steps):
        position = version * inner.steps + step
        yield (
            position,
            windows.batch(manifest.body.seed, f"node-{node}", position, (node, nodes), inner.batch),
        )


def inner_config(manifest: SwarmManifest) -> InnerConfig:
    """What a daemon tells its trainer."""
    inner = manifest.body.inner
    return InnerConfig(
        lr=inner.lr,
        warmup_steps=inner.warmup_steps,
        total_steps=inner.total_steps,
        schedule=inner.schedule,
        batch=inner.batch,
        micro_batch=inner.batch,
        weight_decay=inner.weight_decay,
        clip=inner.clip,
        betas=(inner.beta1, inner.beta2),
    )


def table(results: dict[Arm, list[float]], rounds: int) -> str:
    """The results in Markdown."""
    marks = sorted({min(10, rounds), rounds})
    seeds = sorted({arm.seed for arm in results})
    title = {
        "three": "three nodes",
        "one": "one node, same outer step",
        "plain": "one node, AdamW alone",
    }
    lines = ["# Three nodes against one", ""]
    lines += [
        f"Validation loss in nats per byte, {len(seeds)} seeds, {rounds} rounds with the demo's defaults,",
        "the same number of steps for each node; made by `benchmarks/three_beat_one.py`.",
        "",
    ]
    for mark in marks:
        lines += [f"After {mark} rounds:", ""]
        lines += [
            "| | " + " | ".join(f"seed {s}" for s in seeds) + " | mean |",
            "|---" * (len(seeds) + 2) + "|",
        ]
        for name, words in title.items():
            at = [results[Arm(name, seed, rounds)][mark] for seed in seeds]
            cells = [f"{v:.4f}" for v in at]
            lines.append(f"| {words} | " + " | ".join(cells) + f" | **{np.mean(at):.4f}** |")
        lines.append("")
    wins = sum(
        results[Arm("three", s, rounds)][rounds]
        < min(results[Arm(n, s, rounds)][rounds] for n in ("one", "plain"))
        for s in seeds
    )
    lines += [f"Three nodes beat both others after {rounds} rounds with {wins} of {len(seeds)} seeds.", ""]
    every = max(1, rounds // 10)
    lines += ["Mean over the seeds, by round:", "", "| round | three | one | plain |", "|---|---|---|---|"]
    for at_round in range(0, rounds + 1, every):
        means = [np.mean([results[Arm(n, s, rounds)][at_round] for s in seeds]) for n in title]
        lines.append(f"| {at_round} | " + " | ".join(f"{m:.4f}" for m in means) + " |")
    return "\n".join(lines) + "\n"


def daemons(rounds: int, seed: int) -> str:
    """The same with real daemons: `atoll demo` with three nodes, then with one."""
    lines = [
        "# Three daemons against one",
        "",
        f"`atoll demo --rounds {rounds} --seed {seed}` over loopback; made by `three_beat_one.py --daemons`.",
        "",
        "| nodes | val. loss before | after 10 | after the last | bytes sent by a node | wall |",
        "|---|---|---|---|---|---|",
    ]
    for peers in (3, 1):
        command = [sys.executable, "-m", "atoll", "demo", "--json", "--no-browser"]
        options = ["--peers", str(peers), "--rounds", str(rounds), "--seed", str(seed)]
        done = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
        losses = said["val_loss"]
        lines.append(
            f"| {peers} | {said['val_loss_before']:.4f} | {losses[min(10, rounds) - 1]:.4f} | "
            f"{losses[-1]:.4f} | {max(said['bytes_sent']):,} | {said['wall_s']:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Three nodes against one, for the same steps per node.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time, one thread each (2)")
    parser.add_argument("--daemons", action="store_true", help="real daemons, first seed only")
    parser.add_argument("--out", type=Path, help="where the table goes (benchmarks/results/)")
    args = parser.parse_args()
    if args.daemons:
        text, out = daemons(args.rounds, args.seeds[0]), args.out or RESULTS / "three_beat_one_daemons.md"
    else:
        # Spawned, not forked: torch has threads.
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            arms = [Arm(name, seed, args.rounds) for name in NODES for seed in args.seeds]
            results = dict(zip(arms, pool.map(train, arms), strict=True))
        text, out = (
            table(results, args.rounds),
            args.out or RESULTS / "three_beat_one.md",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
