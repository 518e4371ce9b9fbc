"""Network namespaces on a bridge: each node on its own line, which can be cut and shaped. Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWNET = 0x40000000


def available() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() != 0:
        return False
    probe = f"atoll-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "del", probe)
    return made


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Lines:
    """`count` namespaces on one bridge in a namespace of its own; node k has the address 10.77.0.(k+1)."""

    def __init__(self, count: int, name: str) -> None:
        self._switch = f"{name}-sw"
        self._names = [f"{name}-{k}" for k in range(count)]
        self._cut: set[tuple[int, int]] = set()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for k, name in enumerate(self._names):
            _ip("netns", "add", name)
            port = f"port{k}"
            _ip(
                "-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "line", "netns", name
            )
            _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(k)}/24", "dev", "line")
            _ip("-n", name, "link", "set", "line", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def address(self, k: int) -> str:
        return f"10.77.0.{k + 1}"

    def inside(self, k: int) -> list[str]:
        """The words that run a command in node k's namespace."""
        return ["ip", "netns", "exec", self._names[k]]

    def enter(self, k: int) -> None:
        """Moves the calling thread into node k's namespace."""
        with Path(f"/run/netns/{self._names[k]}").open() as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"the namespace of node {k} can't be entered")

    def cut(self, k: int) -> None:
        """Pulls node k's plug."""
        _ip("-n", self._switch, "link", "set", f"port{k}", "down")

    def join(self, k: int) -> None:
        _ip("-n", self._switch, "link", "set", f"port{k}", "up")

    def part(self, one: int, other: int) -> None:
        """The two can't reach each other any more; everyone else can."""
        for k, far in ((one, other), (other, one)):
            if (k, far) not in self._cut:
                _ip("-n", self._names[k], "route", "add", "blackhole", f"{self.address(far)}/32")
                self._cut.add((k, far))

    def unite(self, one: int, other: int) -> None:
        for k, far in ((one, other), (other, one)):
            if (k, far) in self._cut:
                _ip("-n", self._names[k], "route", "del", "blackhole", f"{self.address(far)}/32")
                self._cut.discard((k, far))

    def shape(self, k: int, mbit: float) -> None:
        """Node k sends at most so much."""
        self.unshape(k)
        words = f"tc qdisc add dev line root tbf rate {mbit}mbit burst 64kb latency 400ms".split()
        subprocess.run([*self.inside(k), *words], check=True, capture_output=True)

    def unshape(self, k: int) -> None:
        words = "tc qdisc del dev line root".split()
        subprocess.run([*self.inside(k), *words], check=False, capture_output=True)

    def close(self) -> None:
        """Removes everything that was made."""
        for name in self._all():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _all(self) -> Iterable[str]:
        return [*self._names, self._switch]
