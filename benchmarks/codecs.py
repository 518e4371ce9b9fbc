"""How fast are the codecs on one core? As ratios to a copy of the same fp32 bytes, alternated in one run.

Copy, encode, decode and decode-add walk over 64 MB of Gaussian values in chunks of 512 Ki values, with
buffers that are kept, as a round does; each figure is CPU time of this thread, the best and the median of
--repeats walks. Walks of all kinds take turns, so that a busy machine slows all of them alike. Then what each
codec loses of a real pseudo-gradient. Writes Markdown tables.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from atoll.protocol.codecs import CODECS, aggregate
from atoll.protocol.manifest import block_of
from benchmarks.pseudo_gradient import STEPS, WORKERS, pseudo_gradients

CHUNK = 512 * 1024
CHUNKS = 32
GOALS = {("int8", "encode"): 0.4, ("int8", "add"): 0.6, ("int4", "encode"): 0.3, ("int4", "add"): 0.5}
"""Of the speed of the copy; none may be under FLOOR."""
FLOOR = 0.05
RESULTS = Path(__file__).parent / "results"


class Walks:
    """What is timed for one codec, each over all chunks."""

    def __init__(self, name: str, values: torch.Tensor, into: torch.Tensor) -> None:
        self._codec = CODECS[name]()
        self._values, self._into = values, into
        self._payloads = torch.empty(CHUNKS, self._codec.bound(CHUNK), dtype=torch.uint8)

    def encode(self) -> None:
        for chunk in range(CHUNKS):
            self._codec.encode(self._values[chunk], self._payloads[chunk])

    def decode(self) -> None:
        for chunk in range(CHUNKS):
            self._codec.decode(self._payloads[chunk], self._into[chunk])

    def add(self) -> None:
        for chunk in range(CHUNKS):
            self._codec.decode_add(self._payloads[chunk], 0.25, self._into[chunk])

    def error(self) -> float:
        """Relative error of what was decoded."""
        self.decode()
        return float((self._into - self._values).norm() / self._values.norm())


def timed(work: Callable[[], None]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measure(repeats: int) -> list[tuple[str, float, dict[str, tuple[float, float]], float]]:
    """For each codec: name, GB/s of the copy, (best, median) ratio of each walk, relative error."""
    torch.set_num_threads(1)
    values = torch.randn(CHUNKS, CHUNK, generator=torch.Generator().manual_seed(1))
    into, copy = torch.zeros_like(values), torch.zeros_like(values)

    def copied() -> None:
        for chunk in range(CHUNKS):
            copy[chunk].copy_(values[chunk])

    rows = []
    for name in CODECS:
        walks = Walks(name, values, into)
        kinds: dict[str, Callable[[], None]] = {
            "copy": copied,
            "encode": walks.encode,
            "decode": walks.decode,
            "add": walks.add,
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(1 + repeats):
            for kind, work in kinds.items():
                times[kind].append(timed(work))
        times = {kind: taken[1:] for kind, taken in times.items()}  # the first walk makes the scratch
        best, median = min(times["copy"]), statistics.median(times["copy"])
        ratios = {
            kind: (best / min(taken), median / statistics.median(taken))
            for kind, taken in times.items()
            if kind != "copy"
        }
        rows.append((name, values.nbytes / best / 1e9, ratios, walks.error()))
    return rows


def losses(name: str) -> tuple[float, float]:
    """Relative error of one worker's pseudo-gradient, and of the mean of all, encoded once."""
    codec, deltas = CODECS[name](), pseudo_gradients(block_of(name))
    payloads = [codec.encode(d, torch.empty(codec.bound(d.numel()), dtype=torch.uint8)) for d in deltas]
    out = torch.empty_like(deltas[0])
    codec.decode(payloads[0], out)
    one = float((out - deltas[0]).norm() / deltas[0].norm())
    aggregate(codec, payloads, [1] * WORKERS, out)
    mean = sum(deltas[1:], deltas[0]) / WORKERS
    return one, float((out - mean).norm() / mean.norm())


def loss_table() -> str:
    found = {name: losses(name) for name in CODECS}
    order = sorted(found, key=lambda name: found[name][0])
    return "\n".join(
        [
            f"What each loses of a real pseudo-gradient ({STEPS} steps of AdamW after a warm start, built-in",
            f"text), and of the mean of {WORKERS} before it is encoded. No error feedback.",
            "",
            "| codec | one worker | mean |",
            "|---|---|---|",
            *(f"| {name} | {one:.2%} | {mean:.2%} |" for name, (one, mean) in found.items()),
            "",
            f"From the finest to the coarsest: {', '.join(order)}.",
            "",
        ]
    )


def cell(name: str, kind: str, ratio: tuple[float, float]) -> str:
    goal = GOALS.get((name, kind), FLOOR)
    mark = "" if max(ratio) >= goal else f" (goal {goal:g})"
    return f"{ratio[0]:.2f} / {ratio[1]:.2f}{mark}"


def table(rows: list[tuple[str, float, dict[str, tuple[float, float]], float]], repeats: int) -> str:
    lines = [
        "# Codecs on one core",
        "",
        f"Speed over that of a copy of the same fp32 bytes (best / median of {repeats}), 64 MB of Gaussian",
        f"values; torch {torch.__version__}; made by `python -m benchmarks.codecs`.",
        "",
        "| codec | bits per value | copy, GB/s | encode | decode | decode and add | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, copy, ratios, error in rows:
        cells = " | ".join(cell(name, kind, ratios[kind]) for kind in ("encode", "decode", "add"))
        bits = 8 * CODECS[name].bound(CHUNK) / CHUNK
        lines.append(f"| {name} | {bits:.4g} | {copy:.1f} | {cells} | {error:.2%} |")
    goals = ", ".join(f"{name} {kind} {goal:g}" for (name, kind), goal in GOALS.items())
    return "\n".join([*lines, "", f"Goals: {goals}; none under {FLOOR:g}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="walks of each kind (15)")
    parser.add_argument("--out", type=Path, default=RESULTS / "codecs.md")
    args = parser.parse_args()
    text = table(measure(args.repeats), args.repeats) + "\n" + loss_table()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
