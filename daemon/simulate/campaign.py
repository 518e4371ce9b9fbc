"""Many seeds, on all cores, with a file that says how far it has come: stopping it loses nothing.

Seeds are independent; results come back in their order, so what is done is one number. A seed that violates
an invariant is noted and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.simulate import chaos
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.storage import files

SAVE_EVERY = 25


@dataclass
class Progress:
    """Seeds from `first` on; `done` of `count` have been run."""

    first: int
    count: int
    done: int = 0
    rounds: int = 0
    delivered: int = 0
    cpu_s: float = 0.0
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: chaos.Outcome | dict[str, Any]) -> None:
        self.done += 1
        if isinstance(result, dict):
            self.violations.append(result)
            return
        self.rounds += result.rounds
        self.delivered += result.delivered
        self.cpu_s += result.cpu_s

    def summary(self) -> str:
        rate = self.delivered / self.cpu_s if self.cpu_s else 0.0
        return (
            f"{self.done} of {self.count} seeds, {len(self.violations)} violations, {self.rounds} rounds, "
            f"{self.delivered} deliveries, {rate:,.0f} per CPU-second"
        )


def load(path: Path | None, first: int, count: int) -> Progress:
    """How far an earlier run came. Raises AtollError where the file is of other seeds."""
    kept = files.read_json(path) if path is not None else None
    if kept is None:
        return Progress(first, count)
    if (kept.get("first"), kept.get("count")) != (first, count):
        raise AtollError(
            Exit.USAGE,
            "other_seeds",
            f"{path} is of seeds {kept.get('first')} and {kept.get('count')} of them.",
            "Name the same ones, or another file.",
        )
    return Progress(**kept)


def run(progress: Progress, jobs: int, path: Path | None, tell: Callable[[Progress], None]) -> None:
    """Runs what is left. Keyboard interrupts go through, after the state is saved."""
    seeds = range(progress.first + progress.done, progress.first + progress.count)
    try:
        with _mapped(jobs) as mapped:
            for result in mapped(_one, seeds):
                progress.add(result)
                if progress.done % SAVE_EVERY == 0 or isinstance(result, dict):
                    _save(progress, path)
                    tell(progress)
    finally:
        _save(progress, path)


def _save(progress: Progress, path: Path | None) -> None:
    if path is not None:
        files.write_json(path, asdict(progress))


@contextmanager
def _mapped(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    if jobs == 1:
        torch.set_num_threads(1)
        yield map
        return
    # Fresh processes: a fork of one that has threads may never come back.
    with multiprocessing.get_context("spawn").Pool(jobs, _prepare) as pool:
        yield lambda work, seeds: pool.imap(work, seeds, chunksize=4)


def _prepare() -> None:
    """In a worker: an interrupt is the parent's affair, and one core is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _one(seed: int) -> chaos.Outcome | dict[str, Any]:
    try:
        return chaos.run(seed)
    except Violation as violation:
        return {
            "seed": seed,
            "kind": violation.kind,
            "at_s": round(violation.at, 3),
            "message": violation.message,
        }
