"""Averages the same vectors with Atoll and with others, side by side in one run; writes a Markdown table.

    python -m benchmarks.averaging                 4 processes, 25 M values
    python -m benchmarks.averaging --peers 2 4 8 --values 25 100 --codecs int8 int4 fp32

All arms stay up and take turns, operation by operation, so that a busy machine slows all of them alike. Wall
clock is from the first process that is told to begin to the last that has the mean. CPU is that of a process
and of those it started (p2pd). As root each arm has a network namespace, and its loopback counts the bytes;
else they are not counted. hivemind runs in an environment of its own under build/, made when it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.protocol.codecs import CODECS
from atoll.protocol.manifest import block_of

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
HIVEMIND_ENV = ROOT / "build" / "hivemind-env"
HIVEMIND_NEEDS = ("torch==2.13.0", "hivemind==1.1.12", "numpy<2.4")
RESULT = {"fp32": "fp32", "bf16": "bf16"}
"""What means are encoded with where nothing is said, if it is not int8."""


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

    def __init__(self, stack: ExitStack, peers: int, values: int) -> None:
        self._stack = stack
        self._peers = peers
        self._values = values
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        self._count = 0

    def _start(self, arm: Arm, command: Sequence[str], paths: Sequence[Path]) -> Arm:
        """A worker for each rank, in folders that the ranks share a parent of."""
        self._count += 1
        before = self._stack.enter_context(namespace(f"atoll-{os.getpid()}-{self._count}"))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        for rank in range(self._peers):
            folder = self._folder / str(self._count) / str(rank)
            folder.mkdir(parents=True)
            options = ["--rank", rank, "--peers", self._peers, "--values", self._values, "--folder", folder]
            whole = [*before, *command, *map(str, options)]
            worker = Worker(whole, environment, folder / "log")
            self._stack.callback(worker.end)
            arm.workers.append(worker)
        return arm

    def atoll(self, codec: str, result_codec: str, chunk: int, lane: bool) -> Arm:
        n = block_of(codec)
        bits = statistics.mean(8 * CODECS[name].bound(n) / n for name in (codec, result_codec))
        name = codec if result_codec == codec else f"{codec} / {result_codec}"
        arm = Arm(f"Atoll {name}, {'direct' if lane else 'libp2p'}", bits)
        command = [sys.executable, "-m", "benchmarks.averaging.atoll_worker", "--codec", codec]
        self._start(
            arm,
            [*command, "--result-codec", result_codec, "--chunk", str(chunk), *["--lane"] * lane],
            [ROOT, ROOT / "src"],
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
        self._start(arm, command, [])
        first = arm.workers[0].hear()["addresses"]
        for worker in arm.workers[1:]:
            worker.tell(peers=first)
        for worker in arm.workers[1:]:
            worker.hear()
        return arm


def measure(args: argparse.Namespace, peers: int, values: int, python: Path | None) -> list[Arm]:
    with ExitStack() as stack:
        arms = Arms(stack, peers, values)
        results = {codec: args.result_codec or RESULT.get(codec, "int8") for codec in args.codecs}
        running = [
            arms.atoll(codec, result, args.chunk, way == "direct")
            for codec, result in results.items()
            for way in args.ways
        ]
        running.append(arms.gloo())
        if python is not None:
            running += [arms.hivemind(python, compression) for compression in ("8bit", "fp16")]
        for turn in range(args.repeats + 1):
            for arm in running:
                if turn > args.slow_repeats and arm.name.startswith("hivemind"):
                    continue
                operation = arm.operate()
                print(f"{arm.name}: {operation}", file=sys.stderr)
                if turn:  # the first one warms links, caches and scratch
                    arm.operations.append(operation)
        for arm in running:
            arm.error = arm.ask_all(do="error")[0]["error"]
    return running


def row(arm: Arm, peers: int, values: int, arms: Sequence[Arm]) -> str:
    ops = arm.operations
    wall = [op.wall_s for op in ops]
    cpu = statistics.median(op.cpu_s for op in ops)
    own = statistics.median(op.own_cpu_s for op in ops)
    bound = 2 * (peers - 1) * values * arm.bits / 8
    counted = [op.wire_bytes for op in ops if op.wire_bytes is not None]
    wire = f"{statistics.median(counted) / bound:.3f}" if counted else "–"
    extra = max(op.extra_bytes for op in ops) / 2**20
    same = "yes" if all(op.same for op in ops) else "**no**"
    others = []
    for name in ("hivemind 8bit", "gloo fp32"):
        other = next((a for a in arms if a.name == name), None)
        if other is None or other is arm:
            others.append("–")
            continue
        walls = statistics.median(wall) / statistics.median(op.wall_s for op in other.operations)
        cpus = cpu / statistics.median(op.cpu_s for op in other.operations)
        others.append(f"{walls:.2f} / {cpus:.2f}")
    return (
        f"| {arm.name} | {min(wall):.2f} / {statistics.median(wall):.2f} | {cpu:.3f} ({own:.3f}) | {wire} "
        f"| {extra:.0f} | {arm.error:.2%} | {same} | {' | '.join(others)} |"
    )


def table(measured: Sequence[tuple[int, int, list[Arm]]], repeats: int) -> str:
    lines = [
        "# Averaging on loopback",
        "",
        f"Made by `python -m benchmarks.averaging`, {repeats} operations of each arm, which take turns.",
        "Wall is min / median in seconds; CPU-seconds per peer with p2pd (in brackets: without it and other",
        "children); wire: bytes on the loopback over the bound of 2(N-1) payloads; extra: what the largest",
        "process grew by during an operation; ratios are of medians, wall / CPU. Atoll and hivemind encrypt",
        "(TLS), gloo does not. Atoll's operation has matchmaking, the vote with its fsync and the outer step",
        "inside.",
    ]
    for peers, values, arms in measured:
        lines += [
            "",
            f"## {peers} peers, {values / 1e6:g} M values",
            "",
            "| arm | wall | CPU-s per peer | wire | extra, MB | error | same bits | to hivemind | to gloo |",
            "|---|---|---|---|---|---|---|---|---|",
            *(row(arm, peers, values, arms) for arm in arms),
        ]
        phases = {
            name: statistics.median(op.phases[name] for op in arms[0].operations)
            for name in arms[0].operations[0].phases
        }
        if phases:
            said = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
            lines += ["", f"Phases of {arms[0].name} as the first peer saw them, median seconds: {said}."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--peers", type=int, nargs="+", default=[4])
    parser.add_argument("--values", type=float, nargs="+", default=[25.0], help="millions (25)")
    parser.add_argument("--codecs", nargs="+", default=["int8", "int4"], choices=sorted(CODECS))
    parser.add_argument("--ways", nargs="+", default=["direct", "libp2p"], choices=["direct", "libp2p"])
    parser.add_argument("--result-codec", choices=sorted(CODECS), help="int8, but the floats' own")
    parser.add_argument("--chunk", type=int, default=0, help="values per chunk (as the product has it)")
    parser.add_argument("--repeats", type=int, default=9, help="operations of each arm (9)")
    parser.add_argument("--slow-repeats", type=int, default=7, help="of hivemind (7)")
    parser.add_argument("--no-hivemind", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "averaging.md")
    args = parser.parse_args()
    python = None if args.no_hivemind else hivemind_python()
    measured = []
    for peers in args.peers:
        for millions in args.values:
            values = int(millions * 1e6)
            measured.append((peers, values, measure(args, peers, values, python)))
            text = table(measured, args.repeats)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
