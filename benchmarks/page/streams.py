"""What many clients of a node's events cost it: two real daemons that train, one of them watched.

The clients are one process that reads as many streams as asked, each with the changes of the snapshot, as a
page does. CPU is that of the daemon's process alone (user and system, from the kernel), not of p2pd.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.process.harness import Daemon, must, wait_until

from atoll.daemon.cli.api import running
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiClient
from benchmarks.daemons import cpu_s

WINDOW_S = 30.0
"""In which CPU is counted."""
FIRST_ROUNDS = 2


@dataclass(frozen=True)
class Cost:
    """Of one turn: CPU-seconds a second, and seconds of a round's averaging, median."""

    without_cpu: float
    with_cpu: float
    without_round_s: float
    with_round_s: float


def cost_of_clients(clients: int, turns: int) -> list[Cost]:
    with tempfile.TemporaryDirectory(prefix="atoll-page-") as name:
        folder = Path(name)
        must("init", "page", "--data-dir", str(folder / "a"), "--inner-steps", "20")
        nodes = [Daemon(folder / "a", "run", "--threads", "1")]
        try:
            nodes.append(Daemon(folder / "b", "join", nodes[0].ticket(), "--yes", "--threads", "1"))
            for node in nodes:
                node.wait_for_version(FIRST_ROUNDS)
            return [_turn(nodes[0], clients) for _ in range(turns)]
        finally:
            for node in nodes:
                node.stop()


def _turn(node: Daemon, clients: int) -> Cost:
    client = running(DataDir(node.folder))
    without = _window(node, client)
    watchers = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.page.streams", client.url, str(clients)],
        env={**os.environ, "ATOLL_API_TOKEN_FOR_BENCHMARK": DataDir(node.folder).token()},
        stdout=subprocess.PIPE,
    )
    try:
        assert watchers.stdout is not None and watchers.stdout.readline() == b"all read\n"
        watched = _window(node, client)
    finally:
        watchers.kill()
        watchers.wait()
    return Cost(without[0], watched[0], without[1], watched[1])


def _window(node: Daemon, client: ApiClient) -> tuple[float, float]:
    """CPU of the daemon in the window, and the median of its rounds' durations."""
    revision = client.state()["rounds_revision"]
    began, before = time.monotonic(), cpu_s([node.process.pid])
    wait_until(lambda: time.monotonic() - began >= WINDOW_S, "the end of the window")
    spent, took = cpu_s([node.process.pid]) - before, time.monotonic() - began
    rounds = [r["duration_s"] for r in client.rounds(revision) if r["outcome"] == "certified"]
    return spent / took, statistics.median(rounds)


async def _read(host: str, port: int, token: str, begun: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        f"GET /api/v1/events?changes=1 HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    while await reader.read(1 << 16):
        begun.set()


async def _read_all(url: str, clients: int, token: str) -> None:
    parts, begun = urlsplit(url), [asyncio.Event() for _ in range(clients)]
    async with asyncio.TaskGroup() as group:
        for event in begun:
            group.create_task(_read(str(parts.hostname), int(parts.port or 80), token, event))
        async with asyncio.timeout(30):
            for event in begun:
                await event.wait()
        print("all read", flush=True)


if __name__ == "__main__":
    asyncio.run(_read_all(sys.argv[1], int(sys.argv[2]), os.environ["ATOLL_API_TOKEN_FOR_BENCHMARK"]))
