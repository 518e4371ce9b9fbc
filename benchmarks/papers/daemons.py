"""The same experiments with real daemons: four of them on this machine, each with the small model's loop.

Batches, schedules, warm start and validation are those of the stacked replicas (arms.py), so a run of a mode
should lose what the stacked arm of that mode loses. What is different is everything between: processes,
p2pd, plans, commits, votes, and trainers that don't wait for each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

import atoll
from atoll.daemon.training.flat import load_into, schema_of
from atoll.daemon.training.inner import inner_step, make_optimizer
from atoll.daemon.training.model import GPT
from benchmarks.papers.arms import STRETCHES, WARM_UP, Arm, texts, warm

NODES = 4
START_S = 120.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RealArm:
    """Daemons in a mode, `options` of atoll init; each takes `rounds` times `steps` inner steps.

    `optimizer`: the inner one, of the loops.
    """

    options: tuple[str, ...]
    rounds: int = 50
    steps: int = 20
    optimizer: str = "adamw"


def run(arm: RealArm, seed: int) -> float:
    """Validation loss of the last outer parameters that the first node saw, in nats per byte."""
    with tempfile.TemporaryDirectory(prefix="atoll-papers-") as name:
        folder = Path(name)
        processes = [_start(arm, seed, folder, 0)]
        try:
            ticket = _ticket(folder / "0", processes[0])
            processes += [_start(arm, seed, folder, k, ticket) for k in range(1, NODES)]
            said = [process.communicate()[0] for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        for k, process in enumerate(processes):
            if process.returncode:
                raise RuntimeError(f"node {k} of {arm} failed:\n{(folder / f'{k}.log').read_text()[-3000:]}")
    return float(json.loads(said[0].strip().splitlines()[-1])["loss"])


def _start(
    arm: RealArm, seed: int, folder: Path, rank: int, ticket: str | None = None
) -> subprocess.Popen[str]:
    about = {**asdict(arm), "seed": seed, "rank": rank}
    command = [sys.executable, "-m", "benchmarks.papers.daemons", "--about", json.dumps(about)]
    command += ["--data-dir", str(folder / str(rank)), *(["--ticket", ticket] if ticket else [])]
    with (folder / f"{rank}.log").open("w") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)


def _ticket(data_dir: Path, process: subprocess.Popen[str]) -> str:
    """Of the first node, once it gives one."""
    command = [sys.executable, "-m", "atoll", "ticket", "--data-dir", str(data_dir)]
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip().splitlines()[-1]
        time.sleep(0.5)
    raise RuntimeError(f"the first node gives no ticket: {data_dir.with_suffix('.log').read_text()[-2000:]}")


def work(about: dict[str, object], data_dir: str, ticket: str | None) -> float:
    """One node: trains, and says what the last outer parameters lose that it saw."""
    options, rounds, steps, seed, rank = (about[k] for k in ("options", "rounds", "steps", "seed", "rank"))
    assert isinstance(rounds, int) and isinstance(steps, int) and isinstance(seed, int)
    assert isinstance(options, list)
    torch.set_num_threads(1)
    base = Arm(steps=steps, rounds=rounds)
    inner, data, model = base.inner(), texts(base.model.context), GPT(base.model)
    if ticket is None:
        load_into(model, schema_of(model), warm(base.model, seed, inner))
        options = [*options, "--min-peers", str(NODES)]
        atoll.create("papers", model, data_dir=data_dir, inner_steps=steps, options=options)
    last: dict[str, torch.Tensor] = {}

    def validate(module: nn.Module) -> float:
        """Of a few windows; all are looked at in the end."""
        assert isinstance(module, GPT)
        last.update({name: value.clone() for name, value in module.state_dict().items()})
        return float(module.loss(data.inputs[:8], data.targets[:8]))

    optimizer = make_optimizer(model, replace(inner, optimizer=str(about["optimizer"])))
    with atoll.join(ticket, model, optimizer, data_dir=data_dir, validate=validate) as swarm:
        for _ in range(rounds * steps):
            position = swarm.position
            batch = data.batch(seed, f"worker {rank}", WARM_UP + position, base.batch, range(STRETCHES))
            loss = inner_step(model.loss, optimizer, inner, batch, WARM_UP + position)
            swarm.step(loss, tokens=batch[0].numel())
    model.load_state_dict(last)
    with torch.no_grad():
        return float(model.loss(data.inputs, data.targets))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--about", required=True, help="JSON: the arm, the seed and this node's rank")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--ticket")
    args = parser.parse_args()
    print(json.dumps({"loss": work(json.loads(args.about), args.data_dir, args.ticket)}), flush=True)


if __name__ == "__main__":
    main()
