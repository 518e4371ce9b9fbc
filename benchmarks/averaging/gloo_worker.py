"""One process of the gloo arm: torch.distributed's all_reduce of fp32, no encryption, no faults tolerated."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from benchmarks.averaging.worker import Channel, Meter, error_of, forget_peak, memory_bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("rank", "peers", "values"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", required=True)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(1)
    store = f"file://{Path(args.folder).parent / 'gloo'}"
    dist.init_process_group("gloo", init_method=store, rank=args.rank, world_size=args.peers)
    own = torch.from_numpy(np.random.default_rng(args.rank).standard_normal(args.values, dtype=np.float32))
    work = torch.empty_like(own)
    channel.say(begun=True)
    base = 0
    while True:
        order = channel.hear()
        if order["do"] == "prepare":
            work.copy_(own)
            forget_peak()
            base = memory_bytes()
            channel.say(prepared=True)
        elif order["do"] == "go":
            meter = Meter()
            dist.all_reduce(work)
            work.div_(args.peers)
            said = meter.result()
            digest = hashlib.sha256(work.numpy().data.cast("B")).hexdigest()
            channel.say(**said, digest=digest, extra=memory_bytes("VmHWM") - base)
        elif order["do"] == "error":
            channel.say(error=error_of(work.numpy(), args.peers))
        else:
            return


if __name__ == "__main__":
    main()
