"""Network namespaces on a bridge: each node on its own line, which can be cut and shaped. Needs root.

And with routers between: nodes in private networks, behind NAT, and an internet of public addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

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


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """The calling thread is in a namespace while the context is open, and what it starts then stays there."""
    with Path("/proc/thread-self/ns/net").open() as here, Path(f"/run/netns/{name}").open() as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(here.fileno())


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace can't be entered")


def nat_available() -> bool:
    """Whether this process may make namespaces, and nftables is there to make routers of them."""
    return (
        available() and subprocess.run(["nft", "--version"], capture_output=True, check=False).returncode == 0
    )


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

    def name(self, k: int) -> str:
        """Of node k's namespace."""
        return self._names[k]

    def route(self, k: int, target: str) -> None:
        """Node k sends what is for `target` out on its line."""
        _ip("-n", self._names[k], "route", "add", target, "dev", "line")

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


NAT = """
table ip nat {
    chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
    chain pre { type nat hook prerouting priority dstnat; }
}
table ip filter {
    chain input { type filter hook input priority filter; policy drop; iifname != "wan" accept; }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "lan" accept
        ct status dnat accept
    }
}
"""
"""A home router: whatever comes from inside goes out under its own address, and only answers come in; the
rest is dropped without a word."""


class Internet:
    """Namespaces `public` (some) and `hidden` (some), each of the hidden ones behind a NAT of its own.

    Public node k is 44.77.0.(k+1); the router of hidden node k is 44.77.0.(101+k) outside, and the node
    itself 192.168.(k+1).2. The addresses look public to software that asks; nothing of it leaves the machine.
    """

    def __init__(self, public: int, hidden: int, name: str) -> None:
        self._switch = f"{name}-net"
        self.public = [f"{name}-p{k}" for k in range(public)]
        self.routers = [f"{name}-r{k}" for k in range(hidden)]
        self.hidden = [f"{name}-h{k}" for k in range(hidden)]
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def address(self, name: str) -> str:
        """Of a node in its own network."""
        if name in self.public:
            return f"44.77.0.{self.public.index(name) + 1}"
        return f"192.168.{self.hidden.index(name) + 1}.2"

    def outside(self, name: str) -> str:
        """At which the others see a hidden node."""
        return f"44.77.0.{101 + self.hidden.index(name)}"

    def inside(self, name: str) -> list[str]:
        """The words that run a command in a node's namespace."""
        return ["ip", "netns", "exec", name]

    def _make(self) -> None:
        for name in self._all():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self.public:
            self._plug(name, "line", f"{self.address(name)}/16")
        for k, (router, name) in enumerate(zip(self.routers, self.hidden, strict=True)):
            self._plug(router, "wan", f"{self.outside(name)}/16")
            _ip("-n", router, "link", "add", "lan", "type", "veth", "peer", "name", "line", "netns", name)
            _ip("-n", router, "addr", "add", f"192.168.{k + 1}.1/24", "dev", "lan")
            _ip("-n", router, "link", "set", "lan", "up")
            _ip("-n", name, "addr", "add", f"{self.address(name)}/24", "dev", "line")
            _ip("-n", name, "link", "set", "line", "up")
            _ip("-n", name, "route", "add", "default", "via", f"192.168.{k + 1}.1")
            with entered(router):
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            self._nft(router, NAT)

    def _plug(self, name: str, device: str, address: str) -> None:
        port = f"port{self._all().index(name)}"
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", device, "netns", name)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "addr", "add", address, "dev", device)
        _ip("-n", name, "link", "set", device, "up")

    def _nft(self, router: str, rules: str) -> None:
        done = subprocess.run(
            [*self.inside(router), "nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"nft in {router}: {done.stderr.strip()}")

    def forward_port(self, name: str, port: int) -> None:
        """The router of a hidden node lets others in at one TCP port, as a person would set it up."""
        router = self.routers[self.hidden.index(name)]
        rule = f'iifname "wan" tcp dport {port} dnat to {self.address(name)}:{port}'
        self._nft(router, f"add rule ip nat pre {rule}\n")

    def scramble_ports(self, name: str) -> None:
        """The router of a hidden node gives each connection another port outside: no hole can be punched."""
        router = self.routers[self.hidden.index(name)]
        wide = 'add rule ip nat post oifname "wan" meta l4proto {tcp, udp} masquerade to :20000-60000'
        self._nft(router, f"flush chain ip nat post\n{wide} random,fully-random\n")

    def close(self) -> None:
        """Removes everything that was made."""
        for name in self._all():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _all(self) -> list[str]:
        return [self._switch, *self.public, *self.routers, *self.hidden]


def an_internet(name: str) -> Iterator[Internet]:
    """For a fixture: one public node and two hidden ones, gone when the test ends."""
    if not nat_available():
        pytest.skip("network namespaces with nftables need root")
    net = Internet(1, 2, f"{name}-{os.getpid()}")
    yield net
    net.close()
