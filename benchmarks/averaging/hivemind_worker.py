"""One process of the hivemind arm: DecentralizedAverager, matchmaking included, as its users run it."""

from __future__ import annotations

import argparse
import hashlib

import hivemind
import numpy as np
import torch
from benchmarks.averaging.worker import Channel, Meter, error_of, forget_peak, memory_bytes
from hivemind.averaging import DecentralizedAverager
from hivemind.compression import Float16Compression, Uniform8BitQuantization

COMPRESSION = {"8bit": Uniform8BitQuantization, "fp16": Float16Compression}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("rank", "peers", "values"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("folder", "compression"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(1)
    own = torch.from_numpy(np.random.default_rng(args.rank).standard_normal(args.values, dtype=np.float32))
    peers = channel.hear()["peers"] if args.rank else []
    dht = hivemind.DHT(initial_peers=peers, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    channel.say(addresses=[str(address) for address in dht.get_visible_maddrs()])
    averager = DecentralizedAverager(
        [own.clone()],
        dht,
        prefix="averaging",
        target_group_size=args.peers,
        min_group_size=args.peers,
        min_matchmaking_time=1.0,
        compression=COMPRESSION[args.compression](),
        start=True,
    )
    base = 0
    while True:
        order = channel.hear()
        if order["do"] == "prepare":
            with averager.get_tensors() as tensors:
                tensors[0].copy_(own)
            forget_peak()
            base = memory_bytes()
            channel.say(prepared=True)
        elif order["do"] == "go":
            meter = Meter()
            averager.step(timeout=300, wait=True, allow_retries=True)
            said = meter.result()
            with averager.get_tensors() as tensors:
                digest = hashlib.sha256(tensors[0].numpy().data.cast("B")).hexdigest()
            channel.say(**said, digest=digest, extra=memory_bytes("VmHWM") - base)
        elif order["do"] == "error":
            with averager.get_tensors() as tensors:
                channel.say(error=error_of(tensors[0].numpy(), args.peers))
        else:
            averager.shutdown()
            dht.shutdown()
            return


if __name__ == "__main__":
    main()
