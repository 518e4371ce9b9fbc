"""Long and lossy lines in user space: a switch between TUN devices that delays, limits and drops IP packets.

    python -m benchmarks.links.emulator NAMESPACE… --rtt-ms 40 --loss 0.001 --mbit 50

Node k's device `line` lies in namespace k and has the address 10.78.0.(k+1). Every packet waits for its
sender's uplink, half a round trip, and its receiver's downlink; a queue of more than QUEUE_S is full, and
what comes then is dropped, as in a router. `--loss` is the probability that a packet is dropped on its way.
Kernels without netem need this for delays; rates without delay are better left to the kernel (lines.py).
Says "ready" when the devices are there; ends with its standard input. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import gc
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
MTU = 1500
QUEUE_S = 0.1
"""What a line's buffer holds, in seconds of its rate; at least a round trip."""
READS = 64


def address(k: int) -> str:
    return f"10.78.0.{k + 1}"


def device(namespace: str, name: str = "line") -> int:
    """A TUN device in a namespace; its descriptor, non-blocking."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"namespace {namespace} can't be entered")
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "the own namespace can't be entered again")
    return descriptor


@dataclass
class Port:
    """One node's line. Rates in bytes per second; `…_free`: when the line has sent all that it has."""

    descriptor: int
    up: float
    down: float
    up_free: float = 0.0
    down_free: float = 0.0


class Switch:
    """Carries packets between ports; `late_s` is how far behind the clock it was at its worst."""

    def __init__(self, ports: list[Port], rtt_s: float, loss: float, seed: int) -> None:
        self._ports = ports
        self._half_s = rtt_s / 2
        self._loss = loss
        self._queue_s = max(QUEUE_S, rtt_s)
        self._random = random.Random(seed).random
        self._due: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self.late_s = 0.0
        self.dropped = 0

    def run(self, until: int) -> None:
        """Until descriptor `until` is at its end."""
        poll = select.epoll()
        poll.register(until, select.EPOLLIN)
        sources = {port.descriptor: port for port in self._ports}
        for descriptor in sources:
            poll.register(descriptor, select.EPOLLIN)
        while True:
            wait = -1.0 if not self._due else max(self._due[0][0] - time.monotonic(), 0.0)
            for descriptor, _ in poll.poll(wait):
                if descriptor == until:
                    return
                self._read(sources[descriptor])
            self._deliver()

    def _read(self, source: Port) -> None:
        for _ in range(READS):
            try:
                packet = os.read(source.descriptor, 2048)
            except BlockingIOError:
                return
            target = packet[19] - 1 if packet[0] >> 4 == 4 else -1
            if not 0 <= target < len(self._ports) or self._random() < self._loss:
                continue
            self._send(source, target, packet)

    def _send(self, source: Port, target: int, packet: bytes) -> None:
        now, port = time.monotonic(), self._ports[target]
        begin = max(now, source.up_free)
        if begin - now > self._queue_s:
            self.dropped += 1
            return
        source.up_free = begin + len(packet) / source.up
        there = source.up_free + self._half_s
        begin = max(there, port.down_free)
        if begin - there > self._queue_s:
            self.dropped += 1
            return
        port.down_free = begin + len(packet) / port.down
        self._count += 1
        heapq.heappush(self._due, (port.down_free, self._count, target, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, target, packet = heapq.heappop(self._due)
            self.late_s = max(self.late_s, now - due)
            try:
                os.write(self._ports[target].descriptor, packet)
            except BlockingIOError:
                self.dropped += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("namespaces", nargs="+")
    parser.add_argument("--mbit", type=float, nargs="+", required=True, help="of each, or of all; both ways")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rates = args.mbit * len(args.namespaces) if len(args.mbit) == 1 else args.mbit
    ports = []
    for k, (namespace, mbit) in enumerate(zip(args.namespaces, rates, strict=True)):
        ports.append(Port(device(namespace), mbit * 125_000, mbit * 125_000))
        inside = ["ip", "-n", namespace]
        for words in (
            ["addr", "add", f"{address(k)}/24", "dev", "line"],
            ["link", "set", "line", "mtu", str(MTU), "txqueuelen", "2000", "up"],
        ):
            subprocess.run([*inside, *words], check=True)
    switch = Switch(ports, args.rtt_ms / 1e3, args.loss, args.seed)
    gc.disable()
    print("ready", flush=True)
    switch.run(sys.stdin.fileno())
    print(f"worst delay {1e3 * switch.late_s:.1f} ms, {switch.dropped} packets dropped by full queues")


if __name__ == "__main__":
    main()
