"""Runs of arms and what is known of them: a cache of one file each, and a pool of processes for the rest."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from multiprocessing import get_context
from pathlib import Path

from benchmarks.papers import arms, arrivals, daemons, punctual
from benchmarks.papers.experiments import AnyArm

FORMAT = 1
"""Of what an arm means: another one makes everything anew."""

Found = dict[tuple[AnyArm, int], float]


def key(arm: AnyArm, seed: int) -> str:
    """The name of a run in the cache."""
    # What it has by default is not in its name: a new field leaves what is done as it is.
    special = {f.name: getattr(arm, f.name) for f in fields(arm) if getattr(arm, f.name) != f.default}
    about = json.dumps([FORMAT, type(arm).__name__, special, seed], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:24]


def read(cache: Path, arm: AnyArm, seed: int) -> float | None:
    """The loss of a run that is done; None where it is not, or its file is damaged."""
    try:
        return float(json.loads((cache / f"{key(arm, seed)}.json").read_text())["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(cache: Path, arm: AnyArm, seed: int, loss: float, took_s: float) -> None:
    """Notes a run that is done: all of it or nothing."""
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{key(arm, seed)}.json"
    about = {"arm": asdict(arm), "seed": seed, "loss": loss, "took_s": round(took_s, 1)}
    part = target.with_suffix(".part")
    part.write_text(json.dumps(about, indent=1))
    part.replace(target)


def work(arm: AnyArm, seed: int) -> tuple[float, float]:
    """Loss and seconds of a run."""
    began = time.monotonic()
    match arm:
        case arms.Arm():
            loss = arms.run(arm, seed)
        case arrivals.AsyncArm():
            loss = arrivals.run(arm, seed)
        case punctual.TimedArm():
            loss = punctual.run(arm, seed)
        case daemons.RealArm():
            loss = daemons.run(arm, seed)
    return loss, time.monotonic() - began


def measure(wanted: Sequence[tuple[AnyArm, int]], cache: Path, jobs: int) -> Found:
    """Every run's loss; what the cache has is not done again."""
    found: Found = {}
    missing = []
    for run in wanted:
        known = read(cache, *run)
        if known is None:
            missing.append(run)
        else:
            found[run] = known
    # Spawned, not forked: torch has threads.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running = {pool.submit(work, *run): run for run in missing}
        for done, future in enumerate(as_completed(running), 1):
            run = running[future]
            loss, took_s = future.result()
            write(cache, *run, loss, took_s)
            found[run] = loss
            print(
                f"{done} of {len(missing)}: {run[0]} seed {run[1]}: {loss:.4f} in {took_s:.0f} s",
                file=sys.stderr,
            )
    return found
