"""Fuzzing for as long as one likes: `python -m tests.fuzz --minutes 10` (or `make fuzz MINUTES=10`).

The time is shared by all targets. With atheris (`pip install atheris`) each runs in a process of its own,
guided by coverage; without it, inputs are mutated at random. The first input that breaks a target is written
to a file and named, with the command that runs it again: `python -m tests.fuzz --replay TARGET FILE`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from .handlers import close_node
from .mutate import MAX_BYTES, mutations
from .targets import TARGETS


def mutate(name: str, seconds: float, seed: int) -> tuple[int, bytes | None]:
    """Inputs tried, and the one that broke the target, if any did."""
    target, seeds = TARGETS[name]
    end = time.monotonic() + seconds
    for count, data in enumerate(mutations(seeds, random.Random(seed))):
        if time.monotonic() >= end:
            return count, None
        try:
            target(data)
        except Exception:  # noqa: BLE001  (whatever comes out is what is looked for)
            traceback.print_exc()
            return count, data
    raise AssertionError("mutations end by themselves")


def guided(name: str, seconds: float, folder: Path) -> int:
    """Runs libFuzzer on one target in a process of its own; its exit status."""
    corpus = folder / name
    corpus.mkdir()
    for number, seed in enumerate(TARGETS[name][1]):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_BYTES}", "-rss_limit_mb=2048"]
    prefix = f"-artifact_prefix={folder}/{name}-"
    words = [sys.executable, "-m", "tests.fuzz.guided", name, *options, prefix, str(corpus)]
    env = {**os.environ, "TMPDIR": str(folder)}  # libFuzzer ends without cleaning up
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    last = [line for line in done.stderr.splitlines() if line.startswith(("#", "Done"))][-1:]
    print(f"{name}: exit {done.returncode}; {last[0] if last else 'no output'}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-6000:], file=sys.stderr)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every decoder and handler.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--no-atheris", action="store_true")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"))
    args = parser.parse_args()
    try:
        if args.replay:
            TARGETS[args.replay[0]][0](Path(args.replay[1]).read_bytes())
            return 0
        names = args.target or sorted(TARGETS)
        seconds = 60 * args.minutes / len(names)
        if not importlib.util.find_spec("atheris") or args.no_atheris:
            return mutate_all(names, seconds, args.seed)
        folder = Path(tempfile.mkdtemp(prefix="atoll-fuzz-"))
        status = max(guided(name, seconds, folder) for name in names)
        if not status:
            shutil.rmtree(folder)
        return status
    finally:
        close_node()


def mutate_all(names: list[str], seconds: float, seed: int) -> int:
    """Each target in turn; the exit status."""
    broken = 0
    for name in names:
        count, data = mutate(name, seconds, seed)
        print(f"{name}: {count} inputs, {'broken' if data is not None else 'none broke it'}", flush=True)
        if data is not None:
            with tempfile.NamedTemporaryFile(prefix=f"atoll-fuzz-{name}-", delete=False) as file:
                file.write(data)
            print(f"again: python -m tests.fuzz --replay {name} {file.name}", file=sys.stderr)
            broken += 1
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
