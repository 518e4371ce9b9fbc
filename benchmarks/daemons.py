"""Swarms of real daemons for benchmarks: in a temporary folder, and gone with the `with`."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.process.harness import Daemon, descendants, must

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def a_swarm(count: int, *options: str) -> Iterator[list[Daemon]]:
    """So many nodes of a new swarm, made with these options of `atoll init`; the organiser's first."""
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        root = Path(folder)
        must("init", "lab", "--data-dir", str(root / "n0"), *options)
        nodes = [Daemon(root / "n0", "run")]
        try:
            nodes[0].ticket()
            for k in range(1, count):
                nodes.append(Daemon(root / f"n{k}", "join", a_ticket(nodes[0]), "--yes"))
            yield nodes
        finally:
            for node in nodes:
                node.kill()


def a_ticket(node: Daemon) -> str:
    """One for one newcomer, of a node that knows its addresses."""
    return must("ticket", "--data-dir", str(node.folder)).strip().splitlines()[-1]


def cpu_s(pids: list[int]) -> float:
    """User and system time of these processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(int(ticks) for ticks in fields[11:13])
    return total / _TICKS


def daemon_of(node: Daemon) -> list[int]:
    """The daemon and its p2pd; the others below it are trainers."""
    below = descendants(node.process.pid)
    return [node.process.pid, *(p for p in below if b"p2pd" in Path(f"/proc/{p}/cmdline").read_bytes())]


def trainers_of(node: Daemon) -> list[int]:
    """What is below the daemon and is not its p2pd."""
    daemons = daemon_of(node)
    return [pid for pid in descendants(node.process.pid) if pid not in daemons]


def options_of(doc: str | None, results: Path) -> argparse.ArgumentParser:
    """A benchmark's command line: its docstring as help, and where the table goes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=results)
    return parser
