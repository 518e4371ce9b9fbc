"""Rate caps as the kernel sees them: one node with `--up` or `--down`, three peers, fast lines, real p2pd.

    python -m benchmarks.links.caps [--mbit 5 20 100] [--seconds 20]        as root, in network namespaces

For each cap a table row: bytes of frames as the node counts them, and bytes on its network device in the same
time, both as a part of the cap; what framing adds; the fullest 100 ms on the device. The first 3 s are left
out: buffers on the way fill without anybody reading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from atoll.peers import identity
from atoll.peers.line import Caps, Line
from atoll.peers.links import Callbacks, Link, Links
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from benchmarks.averaging.arms import ROOT
from benchmarks.links.lines import shaped

FAST_MBIT = 2000.0
PEERS = 3
WARM_S = 3.0
PAYLOAD_BYTES = 512 * 1024
SAMPLE_S = 0.01


async def _worker(address: str, up_bps: float, down_bps: float, sends: bool, seconds: float) -> None:
    """One node: says its address, is told its peers, then sends to all of them or reads."""
    with tempfile.TemporaryDirectory(prefix="atoll-caps-") as name:
        folder = Path(name)
        keyring = identity.create(folder / "key")
        host = await Host.start(folder / "key", [f"/ip4/{address}/tcp/4001"], folder / "run")
        host.line = Line(Caps(up_bps, down_bps))
        try:
            await _links(host, keyring.peer_id, sends, seconds)
        finally:
            await host.close()


async def _links(host: Host, me: bytes, sends: bool, seconds: float) -> None:
    def hello() -> pb.Hello:
        return pb.Hello(swarm_id=b"s" * 32, protocol=pb.ProtocolRange(lowest=1, highest=1))

    def refuse(peer: bytes, theirs: pb.Hello) -> None:
        return None

    def up(link: Link) -> None:
        pass

    def down(peer: bytes, reason: str) -> None:
        pass

    async def frame(peer: bytes, received: pb.Frame, payload: wire.Payload) -> None:
        pass

    links = Links(host, me, Callbacks(hello, refuse, up, down, frame), packs=False)
    await links.listen()
    print(json.dumps({"peer": me.hex(), "addresses": await host.addresses()}), flush=True)
    peers = json.loads(await asyncio.to_thread(sys.stdin.readline))
    for peer in peers:
        await host.connect(bytes.fromhex(peer["peer"]), peer["addresses"])
        await links.dial(bytes.fromhex(peer["peer"]))
    print("linked", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    senders = [asyncio.create_task(_send(links, peer)) for peer in links.peers for _ in range(2) if sends]
    await asyncio.sleep(WARM_S)
    before, device, began = _counted(host.line), _device(), time.monotonic()
    samples = [device]
    while time.monotonic() - began < seconds:
        await asyncio.sleep(SAMPLE_S)
        samples.append(_device())
    took = samples[-1][0] - samples[0][0]
    after = _counted(host.line)
    for sender in senders:
        sender.cancel()
    report = {
        "frames": [(b - a) / took for a, b in zip(before, after, strict=True)],
        "device": [(samples[-1][k] - device[k]) / took for k in (1, 2)],
        "peak": [_fullest(samples, k) for k in (1, 2)],
        "measured_bps": [host.line.upload_bps, host.line.download_bps],
    }
    print(json.dumps(report), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await links.close("measured")


async def _send(links: Links, peer: bytes) -> None:
    chunk = 0
    payload = bytes(PAYLOAD_BYTES)
    while True:
        frame = pb.Frame(contribution=pb.Contribution(chunk=chunk))
        await links.send_bulk(peer, frame, payload)
        chunk += 1


def _counted(line: Line) -> tuple[int, int]:
    return line.sent.total(), line.received.total()


def _device() -> tuple[float, int, int]:
    """Now, and the bytes that the namespace's device has sent and received, Ethernet's heads included."""
    folder = Path("/sys/class/net/line/statistics")
    sent, received = (int((folder / name).read_text()) for name in ("tx_bytes", "rx_bytes"))
    return time.monotonic(), sent, received


def _fullest(samples: list[tuple[float, int, int]], which: int) -> float:
    """Most bytes in 100 ms."""
    most, first = 0.0, 0
    for last in samples:
        while last[0] - samples[first][0] > 0.1:
            first += 1
        most = max(most, last[which] - samples[first][which])
    return most


def _measure(mbit: float, way: str, seconds: float) -> dict[str, Any]:
    with shaped("atoll-caps", [FAST_MBIT] * (PEERS + 1)) as lines:
        workers = []
        for k, address in enumerate(lines.addresses):
            capped = mbit * 1e6 if k == 0 else 0.0
            words = [address, str(capped if way == "up" else 0.0), str(capped if way == "down" else 0.0)]
            words += ["1" if (k == 0) == (way == "up") else "0", str(seconds)]
            workers.append(
                subprocess.Popen(
                    [*lines.inside(k), sys.executable, "-m", "benchmarks.links.caps", "--worker", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
        try:
            return _conduct(workers)
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()


def _conduct(workers: list[subprocess.Popen[str]]) -> dict[str, Any]:
    def hear(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout is not None
        return worker.stdout.readline().strip()

    def say(text: str, *whom: subprocess.Popen[str]) -> None:
        for worker in whom:
            assert worker.stdin is not None
            print(text, file=worker.stdin, flush=True)

    known = [json.loads(hear(worker)) for worker in workers]
    say("[]", *workers[1:])
    say(json.dumps(known[1:]), workers[0])
    for worker in workers:
        if hear(worker) != "linked":
            raise RuntimeError("a node did not start")
    say("go", *workers)
    reports = [json.loads(hear(worker)) for worker in workers]
    say("end", *workers)
    return dict(reports[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mbit", type=float, nargs="+", default=[5.0, 20.0, 100.0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        address, up, down, sends, seconds = arguments.worker
        asyncio.run(_worker(address, float(up), float(down), sends == "1", float(seconds)))
        return 0
    print("| cap | frames / cap | device / cap | framing adds | fullest 100 ms above the cap | meter says |")
    print("|---|---|---|---|---|---|")
    for way, which in (("up", 0), ("down", 1)):
        for mbit in arguments.mbit:
            got = _measure(mbit, way, arguments.seconds)
            frames, device = 8e-6 * got["frames"][which], 8e-6 * got["device"][which]
            above = (got["peak"][which] - mbit * 12_500) / 1024
            print(
                f"| --{way} {mbit:g}Mbit | {frames / mbit:.3f} | {device / mbit:.3f} "
                f"| {100 * (device / frames - 1):.1f} % | {above:.0f} KiB "
                f"| {got['measured_bps'][which] / 1e6:.1f} Mbit/s |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
