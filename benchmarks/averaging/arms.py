"""The arms of a comparison: what each system under test is, how it is started, and one operation of it.

Each arm's processes share a folder, and as root each arm has a network namespace (averaging) or each process
has one (links). An operation is told to all processes of an arm at once. An arm that is not started yet is
only a plan: what it would be called, and what memory it would take.
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
NEEDS = {
    "hivemind": ("torch==2.13.0", "hivemind==1.1.12", "numpy<2.4"),
    "torchft": ("torch==2.13.0", "torchft==0.2.0", "numpy<2.4"),
}
"""What others are installed with, each in an environment of its own under build/."""
MEMORY_SHARE = 0.9
"""Of the memory that is available: what arms may be planned to take."""


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
    """A system under test: `workers` that are up, and what was measured.

    The memory is what was seen at 25 to 100 M values: the largest proportional set size of a process and of
    those it started.
    """

    name: str
    bits: float  # of an encoded value, both legs' mean
    command: list[str]
    meet: Callable[[Arm], None]  # what its processes say until they are ready
    value_bytes: float  # of memory, for each value and process
    base_bytes: float  # of memory, for each process however few the values
    importance: int = 4  # where memory is short 0 comes first
    paths: Sequence[Path] = (ROOT,)
    hosts: Sequence[str] = ()
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


def all_know_all(arm: Arm) -> None:
    peers = [worker.hear() for worker in arm.workers]
    arm.ask_all(peers=peers)
    arm.ask_all(link=True)


def all_know_first(arm: Arm) -> None:
    first = arm.workers[0].hear()["addresses"]
    for worker in arm.workers[1:]:
        worker.tell(peers=first)
    for worker in arm.workers[1:]:
        worker.hear()


def all_have_begun(arm: Arm) -> None:
    for worker in arm.workers:
        worker.hear()


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


def python_of(system: str) -> Path | None:
    """The interpreter of a system's environment; None, and why on stderr, where it can't be made."""
    folder = ROOT / "build" / f"{system}-env"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        print(f"making an environment for {system}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", *NEEDS[system]],
            [str(python), "-m", "compileall", "-q", str(folder / "lib")],
        ):
            if subprocess.run(command, check=False, stdout=sys.stderr).returncode and "pip" in command:
                print(f"{system} can't be installed here: it is left out", file=sys.stderr)
                return None
        (folder / ".ready").touch()
    return python


def available_bytes() -> int:
    """What the kernel would give to processes that start now, without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


class Arms:
    """Plans arms, and starts them, each in a folder and a namespace of its own."""

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

    def that_fit(self, arms: Sequence[Arm]) -> list[Arm]:
        """Those that memory suffices for all at once, the most important ones first; in the order given."""
        room = MEMORY_SHARE * available_bytes()
        fit = set()
        for arm in sorted(arms, key=lambda arm: arm.importance):
            needed = self._peers * (arm.value_bytes * self._values + arm.base_bytes)
            if needed <= room:
                room -= needed
                fit.add(arm.name)
        return [arm for arm in arms if arm.name in fit]

    def start(self, arm: Arm) -> None:
        """A worker for each rank, in folders that the ranks share a parent of; returns when all are ready."""
        self._count += 1
        inside = self._inside
        if inside is None:
            own = self._stack.enter_context(namespace(f"atoll-{os.getpid()}-{self._count}"))
            inside = lambda rank: own  # noqa: E731
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, arm.paths)),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        for rank in range(self._peers):
            each = ["--host", arm.hosts[rank]] if arm.hosts else []
            folder = self._folder / str(self._count) / str(rank)
            folder.mkdir(parents=True)
            options = ["--rank", rank, "--peers", self._peers, "--values", self._values, "--folder", folder]
            whole = [*inside(rank), *arm.command, *each, *map(str, options)]
            worker = Worker(whole, environment, folder / "log")
            self._stack.callback(worker.end)
            arm.workers.append(worker)
        arm.meet(arm)

    def atoll(self, codec: str, result_codec: str, chunk: int, lane: bool, hosts: Sequence[str] = ()) -> Arm:
        """`hosts`: the address of each rank, else loopback."""
        n = block_of(codec)
        returned = codecs.result_codec(codec, result_codec).size(n, self._peers)
        name = codec if result_codec == codec else f"{codec} / {result_codec}"
        command = [sys.executable, "-m", "benchmarks.averaging.atoll_worker", "--codec", codec]
        return Arm(
            f"Atoll {name}, {'direct' if lane else 'libp2p'}",
            bits=4 * (codecs.CODECS[codec].bound(n) + returned) / n,
            command=[*command, "--result-codec", result_codec, "--chunk", str(chunk), *["--lane"] * lane],
            meet=all_know_all,
            value_bytes=23,
            base_bytes=300e6,
            importance=0 if codec == "int8" and lane else 4,
            paths=(ROOT, ROOT / "src"),
            hosts=hosts,
        )

    def gloo(self) -> Arm:
        command = [sys.executable, "-m", "benchmarks.averaging.gloo_worker"]
        return Arm("gloo fp32", 32, command, all_have_begun, value_bytes=8, base_bytes=200e6, importance=1)

    def hivemind(self, python: Path, compression: str) -> Arm:
        script = str(Path(__file__).parent / "hivemind_worker.py")
        return Arm(
            f"hivemind {compression}",
            bits={"8bit": 8, "fp16": 16}[compression],
            command=[str(python), script, "--compression", compression],
            meet=all_know_first,
            value_bytes=20,
            base_bytes=500e6,
            importance=2 if compression == "8bit" else 4,
        )

    def torchft(self, python: Path) -> Arm:
        script = str(Path(__file__).parent / "torchft_worker.py")
        return Arm(
            "torchft gloo fp32",
            bits=32,
            command=[str(python), script],
            meet=all_know_first,
            value_bytes=8,
            base_bytes=250e6,
            importance=3,
        )
