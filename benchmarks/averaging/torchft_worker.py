"""One process of the torchft arm: a replica group of its own, averaging through torchft's Manager over gloo.

An operation is what a step of its users does: a new quorum, the allreduce, and the vote on whether to commit.
The first process has the lighthouse, which asks for all of them: nobody averages with fewer. Addresses are
127.0.0.1 throughout, for torchft's own take the machine's name, which a namespace need not resolve.
"""

from __future__ import annotations

import argparse
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer

from benchmarks.averaging.worker import Channel, arguments, own_values, serve

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
    args, channel = arguments(), Channel()
    torch.set_num_threads(1)
    own = torch.from_numpy(own_values(args))
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
    serve(channel, args.peers, lambda: work.copy_(own), lambda: average(manager, work), work.numpy)
    manager.shutdown()
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    main()
