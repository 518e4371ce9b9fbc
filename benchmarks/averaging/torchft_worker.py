"""One process of the torchft arm: a replica group of its own, averaging through torchft's Manager over gloo.

An operation is what a step of its users does: a new quorum, the allreduce, and the vote on whether to commit.
The first process has the lighthouse, which asks for all of them: nobody averages with fewer. Addresses are
127.0.0.1 throughout, for torchft's own take the machine's name, which a namespace need not resolve.
"""

from __future__ import annotations

import argparse
import hashlib
from datetime import timedelta

import numpy as np
import torch
from benchmarks.averaging.worker import Channel, Meter, error_of, forget_peak, memory_bytes
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer

HOST = "127.0.0.1"
TIMEOUT = timedelta(seconds=300)


def manager_of(args: argparse.Namespace, store_port: int, lighthouse: str) -> Manager:
    """All begin with the same state, so that none of them is made to fetch it in the first step."""
    return Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        load_state_dict=None,
        state_dict=None,
        min_replica_size=args.peers,
        timeout=TIMEOUT,
        quorum_timeout=TIMEOUT,
        rank=0,
        world_size=1,
        store_addr=HOST,
        store_port=store_port,
        lighthouse_addr=lighthouse,
        replica_id=f"replica_{args.rank}",
        hostname=HOST,
        init_sync=False,
    )


def average(manager: Manager, work: torch.Tensor) -> None:
    manager.start_quorum()
    manager.allreduce(work).wait()
    if not manager.should_commit():
        raise SystemExit(f"torchft does not commit: {manager.errored()}")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("rank", "peers", "values"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", required=True)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(1)
    own = torch.from_numpy(np.random.default_rng(args.rank).standard_normal(args.values, dtype=np.float32))
    work = torch.empty_like(own)
    server = None
    if args.rank == 0:
        server = LighthouseServer(bind=f"{HOST}:0", min_replicas=args.peers, join_timeout_ms=60_000)
        addresses = [f"http://{HOST}:{server.address().rpartition(':')[2]}"]
    else:
        addresses = channel.hear()["peers"]
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    manager = manager_of(args, store.port, addresses[0])
    channel.say(addresses=addresses)
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
            average(manager, work)
            said = meter.result()
            digest = hashlib.sha256(work.numpy().data.cast("B")).hexdigest()
            channel.say(**said, digest=digest, extra=memory_bytes("VmHWM") - base)
        elif order["do"] == "error":
            channel.say(error=error_of(work.numpy(), args.peers))
        else:
            manager.shutdown()
            if server is not None:
                server.shutdown()
            return


if __name__ == "__main__":
    main()
