"""One process of the gloo arm: torch.distributed's all_reduce of fp32, no encryption, no faults tolerated."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.averaging.worker import Channel, arguments, own_values, serve


def main() -> None:
    args, channel = arguments(), Channel()
    torch.set_num_threads(1)
    store = f"file://{Path(args.folder).parent / 'gloo'}"
    dist.init_process_group("gloo", init_method=store, rank=args.rank, world_size=args.peers)
    own = torch.from_numpy(own_values(args))
    work = torch.empty_like(own)

    def average() -> None:
        dist.all_reduce(work)
        work.div_(args.peers)

    channel.say(begun=True)
    serve(channel, args.peers, lambda: work.copy_(own), average, work.numpy)


if __name__ == "__main__":
    main()
