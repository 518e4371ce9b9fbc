"""Real atoll daemons for tests: started, asked, killed, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from atoll.daemon.cli.api import client_of
from atoll.daemon.cli.observe import status_of
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiError

from .netns import entered

DEADLINE_S = 120.0
POLL_S = 0.1
ROOT = Path(__file__).parents[2]


def atoll(
    *arguments: str, timeout_s: float = DEADLINE_S, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "atoll", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        env={**os.environ, **environment},
        check=False,
    )


def must(*arguments: str) -> str:
    """Output of a command that has to work."""
    done = atoll(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true answer of `condition`; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"not in {deadline_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return answer


def totals(node: Daemon, name: str) -> dict[str, float]:
    """A counter among the node's metrics by its label, or by "" where it has none."""
    client = client_of(DataDir(node.folder))
    assert client is not None
    samples = [s for family in text_string_to_metric_families(client.metrics()) for s in family.samples]
    return {next(iter(s.labels.values()), ""): s.value for s in samples if s.name == f"{name}_total"}


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, by walking the process table."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


class Daemon:
    """One `atoll run` or `join` in the background."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        module: str = "atoll",
        host: str = "127.0.0.1",
        namespace: str | None = None,
    ) -> None:
        """`host`: that it listens on; `namespace`: of the network in which it runs, and is asked."""
        self.folder = folder
        self.namespace = namespace
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"log-{time.monotonic_ns()}.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *inside,
                    *(sys.executable, "-m", module),
                    *arguments,
                    *("--data-dir", str(folder), "--host", host),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def status(self) -> dict[str, Any] | None:
        """What `atoll status --json` prints, asked in this process; None while nobody answers."""
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            state = self.state()
            return status_of(state) if state else None
        except ApiError:
            return None

    def state(self) -> dict[str, Any] | None:
        """The whole snapshot; None while nobody answers. Raises ApiError."""
        client = client_of(DataDir(self.folder))
        with entered(self.namespace) if self.namespace else contextlib.nullcontext():
            return client.state() if client else None

    def wait_for(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """The first status that fulfils the condition."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            return status if status and condition(status) else None

        try:
            found: dict[str, Any] = wait_until(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-4000:]}") from error
        return found

    def wait_for_version(self, version: int) -> dict[str, Any]:
        return self.wait_for(lambda s: s["version"] >= version, f"version {version} in {self.folder.name}")

    def ticket(self) -> str:
        """A ticket, as soon as the node knows its addresses."""

        def look() -> str | None:
            done = atoll("ticket", "--data-dir", str(self.folder))
            return done.stdout.splitlines()[-1] if done.returncode == 0 else None

        text: str = wait_until(look, "a ticket")
        assert text.startswith("atoll1")
        return text

    def kill(self) -> list[int]:
        """kill -9; the processes that were below it."""
        below = descendants(self.process.pid)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return below

    def stop(self, deadline_s: float = 25.0) -> int:
        """SIGTERM; the exit status. Everything below is gone then."""
        if self.process.poll() is None:
            below = descendants(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(deadline_s)
            wait_until(lambda: not any(is_alive(p) for p in below), "no child left", 10.0)
        return int(self.process.returncode)
