"""hivemind's DHT and libp2p client run in a process that can't even find PyTorch."""

from __future__ import annotations

import subprocess
import sys

import hivemind

from atoll.dht import without_torch

HEAVY = {"torch", "numpy", "scipy", "grpc", "pydantic"}

STORE_AND_GET = f"""
import asyncio, importlib.abc, sys

class NotHere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is imported", name=name)

sys.meta_path.insert(0, NotHere())
from atoll.dht.without_torch import lighten_hivemind
lighten_hivemind()
lighten_hivemind()
from hivemind.dht.node import DHTNode
from hivemind.utils.timed_storage import get_dht_time

async def main():
    one = await DHTNode.create(host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    other = await DHTNode.create(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=await one.get_visible_maddrs()
    )
    assert await one.store("key", b"value", get_dht_time() + 60)
    print((await other.get("key")).value.decode())
    for node in (other, one):
        await node.shutdown()
        await node.p2p.shutdown()

asyncio.run(main())
import atoll.daemon.bootstrap
"""


def test_two_nodes_of_the_dht_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", STORE_AND_GET], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["value"]


def test_a_hivemind_that_is_there_stays() -> None:
    before = hivemind.DHT
    without_torch.lighten_hivemind()
    assert sys.modules["hivemind"] is hivemind
    assert hivemind.DHT is before
