"""Lines between network namespaces: shaped by the kernel (tbf), or long and lossy (emulator.py). As root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.averaging.arms import ROOT
from benchmarks.links import emulator

BURST_BYTES = 16_000
"""At most what tbf sends at once; a network card's own segments are split before (no offloads)."""
TBF_QUEUE_MS = 100


@dataclass(frozen=True)
class Lines:
    """Where each node is: the words before its commands, and its address."""

    namespaces: tuple[str, ...]
    addresses: tuple[str, ...]

    def inside(self, k: int) -> list[str]:
        return ["ip", "netns", "exec", self.namespaces[k]]


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


@contextmanager
def _namespaces(names: Sequence[str]) -> Iterator[None]:
    with ExitStack() as undo:
        for name in names:
            _run("ip", "netns", "add", name)
            undo.callback(_run, "ip", "netns", "delete", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        yield


@contextmanager
def shaped(name: str, mbit: Sequence[float]) -> Iterator[Lines]:
    """Nodes on a bridge, each with this rate up and down, by the kernel's tbf on both ends of its line."""
    nodes = tuple(f"{name}-{k}" for k in range(len(mbit)))
    switch = f"{name}-sw"
    addresses = tuple(f"10.79.0.{k + 1}" for k in range(len(mbit)))
    with _namespaces([switch, *nodes]):
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for k, (node, rate) in enumerate(zip(nodes, mbit, strict=True)):
            port = f"port{k}"
            peer = ("peer", "name", "line", "netns", node)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", *peer)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", node, "addr", "add", f"{addresses[k]}/24", "dev", "line")
            _run("ip", "-n", node, "link", "set", "line", "up")
            tbf = f"tbf rate {rate}mbit burst {BURST_BYTES} latency {TBF_QUEUE_MS}ms".split()
            for where, device in ((node, "line"), (switch, port)):
                # Segments of 64 kB would wait in front of a bucket that is smaller.
                _run("ip", "netns", "exec", where, "ip", "link", "set", device, "gso_max_size", "1500")
                _run("tc", "-n", where, "qdisc", "add", "dev", device, "root", *tbf)
        yield Lines(nodes, addresses)


@contextmanager
def long(name: str, mbit: Sequence[float], rtt_ms: float, loss: float) -> Iterator[Lines]:
    """Nodes behind the emulator."""
    nodes = tuple(f"{name}-{k}" for k in range(len(mbit)))
    with _namespaces(nodes):
        options = ["--mbit", *map(str, mbit), "--rtt-ms", str(rtt_ms), "--loss", str(loss)]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.links.emulator", *nodes, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("the emulator did not start")
            yield Lines(nodes, tuple(emulator.address(k) for k in range(len(mbit))))
        finally:
            said, _ = process.communicate()
            print(f"emulator: {said.strip()}", file=sys.stderr)
