"""The arms of a comparison: what each system under test is, how it is started, and one operation of it.

Each arm's processes share a folder, and as root each arm has a network namespace (averaging) or each process
has one (links). An operation is told to all processes of an arm at once.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.protocol import codecs
from atoll.protocol.manifest import block_of

ROOT = Path(__file__).parents[2]
HIVEMIND_ENV = ROOT / "build" / "hivemind-env"
HIVEMIND_NEEDS = ("torch==2.13.0", "hivemind==1.1.12", "numpy<2.4")


class BenchmarkError(RuntimeError):
    """A worker ended, or said something else than it should."""


@dataclass
class Operation:
    """One averaging of all processes of an arm."""

    wall_s: float
    cpu_s: float  # per peer
    own_cpu_s: float  # of it: not in p2pd or other children
    wire_bytes: int | None
    extra_bytes: int
    same: bool
    phases: dict[str, float]


class Worker:
    """A process of an arm."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                text=True,
            )

    def tell(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = self._log.read_text()[-2000:]
            raise BenchmarkError(f"{self.process.args!r} ended:\n{tail}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def end(self) -> None:
        if self.process.poll() is None:
            try:
                self.tell(do="end")
                self.process.wait(20)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()


@dataclass
class Arm:
    """A system under test: `workers` that are up, and what was measured."""

    name: str
    bits: float  # of an encoded value, both legs' mean
    workers: list[Worker] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    error: float = 0.0

    def ask_all(self, **message: Any) -> list[dict[str, Any]]:
        for worker in self.workers:
            worker.tell(**message)
        return [worker.hear() for worker in self.workers]

    def ask_first(self, **message: Any) -> dict[str, Any]:
        self.workers[0].tell(**message)
        return self.workers[0].hear()

    def wire_bytes(self) -> int | None:
        """Bytes on the loopback of the arm's namespace so far; None where it has none."""
        pid = self.workers[0].process.pid
        if Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            return None
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))

    def operate(self) -> Operation:
        self.ask_all(do="prepare")
        before = self.wire_bytes()
        said = self.ask_all(do="go")
        after = self.wire_bytes()
        cpu = [sum(s["cpu"].values()) for s in said]
        return Operation(
            wall_s=max(s["ended"] for s in said) - min(s["began"] for s in said),
            cpu_s=statistics.mean(cpu),
            own_cpu_s=statistics.mean(s["cpu"]["self"] for s in said),
            wire_bytes=None if before is None or after is None else after - before,
            extra_bytes=max(s["extra"] for s in said),
            same=len({s["digest"] for s in said}) == 1,
            phases=said[0].get("phases", {}),
        )


@contextmanager
def namespace(name: str) -> Iterator[list[str]]:
    """What to put before a command so that it has a network of its own; nothing where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield []
        return
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def hivemind_python() -> Path | None:
    """The interpreter of hivemind's environment; None, and why on stderr, where it can't be made."""
    python = HIVEMIND_ENV / "bin" / "python"
    if not (HIVEMIND_ENV / ".ready").exists():
        print("making an environment for hivemind", file=sys.stderr)
        shutil.rmtree(HIVEMIND_ENV, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(HIVEMIND_ENV)],
            [str(python), "-m", "pip", "install", "-q", *HIVEMIND_NEEDS],
            [str(python), "-m", "compileall", "-q", str(HIVEMIND_ENV / "lib")],
        ):
            if subprocess.run(command, check=False, stdout=sys.stderr).returncode and "pip" in command:
                print("hivemind can't be installed here: it is left out", file=sys.stderr)
                return None
        (HIVEMIND_ENV / ".ready").touch()
    return python


class Arms:
    """Starts arms, each in a folder and a namespace of its own."""

    def __init__(
        self, stack: ExitStack, peers: int, values: int, inside: Callable[[int], list[str]] | None = None
    ) -> None:
        """`inside`: what to put before the command of each rank; else an arm has a namespace of its own."""
        self._stack = stack
        self._peers = peers
        self._values = values
        self._inside = inside
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        self._count = 0

    def _start(
        self, arm: Arm, command: Sequence[str], paths: Sequence[Path], hosts: Sequence[str] = ()
    ) -> Arm:
        """A worker for each rank, in folders that the ranks share a parent of."""
        self._count += 1
        inside = self._inside
        if inside is None:
            own = self._stack.enter_context(namespace(f"atoll-{os.getpid()}-{self._count}"))
            inside = lambda rank: own  # noqa: E731
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        for rank in range(self._peers):
            each = ["--host", hosts[rank]] if hosts else []
            folder = self._folder / str(self._count) / str(rank)
            folder.mkdir(parents=True)
            options = ["--rank", rank, "--peers", self._peers, "--values", self._values, "--folder", folder]
            whole = [*inside(rank), *command, *each, *map(str, options)]
            worker = Worker(whole, environment, folder / "log")
            self._stack.callback(worker.end)
            arm.workers.append(worker)
        return arm

    def atoll(self, codec: str, result_codec: str, chunk: int, lane: bool, hosts: Sequence[str] = ()) -> Arm:
        """`hosts`: the address of each rank, else loopback."""
        n = block_of(codec)
        returned = codecs.result_codec(codec, result_codec).size(n, self._peers)
        bits = 4 * (codecs.CODECS[codec].bound(n) + returned) / n
        name = codec if result_codec == codec else f"{codec} / {result_codec}"
        arm = Arm(f"Atoll {name}, {'direct' if lane else 'libp2p'}", bits)
        command = [sys.executable, "-m", "benchmarks.averaging.atoll_worker", "--codec", codec]
        self._start(
            arm,
            [*command, "--result-codec", result_codec, "--chunk", str(chunk), *["--lane"] * lane],
            [ROOT, ROOT / "src"],
            hosts,
        )
        peers = [worker.hear() for worker in arm.workers]
        arm.ask_all(peers=peers)
        arm.ask_all(link=True)
        return arm

    def gloo(self) -> Arm:
        arm = Arm("gloo fp32", 32)
        self._start(arm, [sys.executable, "-m", "benchmarks.averaging.gloo_worker"], [ROOT, ROOT / "src"])
        for worker in arm.workers:
            worker.hear()
        return arm

    def hivemind(self, python: Path, compression: str) -> Arm:
        arm = Arm(f"hivemind {compression}", {"8bit": 8, "fp16": 16}[compression])
        command = [
            str(python),
            str(Path(__file__).parent / "hivemind_worker.py"),
            "--compression",
            compression,
        ]
        self._start(arm, command, [ROOT])
        first = arm.workers[0].hear()["addresses"]
        for worker in arm.workers[1:]:
            worker.tell(peers=first)
        for worker in arm.workers[1:]:
            worker.hear()
        return arm
