"""One process of the hivemind arm: DecentralizedAverager, matchmaking included, as its users run it."""

from __future__ import annotations

from typing import Any

import hivemind
import numpy as np
import torch
from hivemind.averaging import DecentralizedAverager
from hivemind.compression import Float16Compression, Uniform8BitQuantization

from benchmarks.averaging.worker import Channel, arguments, own_values, serve

COMPRESSION = {"8bit": Uniform8BitQuantization, "fp16": Float16Compression}


def main() -> None:
    args, channel = arguments("compression"), Channel()
    torch.set_num_threads(1)
    own = torch.from_numpy(own_values(args))
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

    def prepare() -> None:
        with averager.get_tensors() as tensors:
            tensors[0].copy_(own)

    def mean() -> np.ndarray[Any, Any]:
        with averager.get_tensors() as tensors:
            made: np.ndarray[Any, Any] = tensors[0].numpy()
            return made

    def average() -> None:
        averager.step(timeout=300, wait=True, allow_retries=True)

    serve(channel, args.peers, prepare, average, mean)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
