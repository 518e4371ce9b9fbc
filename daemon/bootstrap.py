"""A node that only helps others to find each other: a DHT node and relay, no swarm, no training.

Any libp2p peer that speaks hivemind's DHT can use it, Atoll or not.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time

from atoll.daemon.config import Config
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.events import Events
from atoll.daemon.finder import Finder
from atoll.daemon.hosting import start_host
from atoll.daemon.storage.data_dir import DataDir
from atoll.dht.discovery import Discovery
from atoll.peers import identity


async def run_bootstrap(folder: DataDir, config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Prints its addresses, one a line. Raises AtollError."""
    settings = config.settings
    keyring = folder.keyring(folder.identity)
    folder.remember(role="bootstrap")
    events = Events(folder.events, time.time)
    host = await start_host(folder, settings)
    discovery = await Discovery.create(host.p2p, None)
    rng = random.Random(secrets.randbits(64))
    finder = Finder(host, discovery, keyring, settings.bootstrap, list, lambda: None, rng)
    finding = asyncio.create_task(finder.run(swarm=False))
    try:
        for address in await host.addresses():
            print(address, flush=True)
        events.emit(
            "start", f"Serving: nodes find each other through {identity.readable_name(host.peer_id)}."
        )
        ended = asyncio.create_task(host.process.wait())
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopped):
            task.cancel()
        if ended in done:
            raise AtollError(Exit.TEMPORARY, "p2pd", "The libp2p process ended.", "Start the node again.")
        events.emit("stop", "Stopping: it was asked to.")
    finally:
        finding.cancel()
        await discovery.close()
        await host.close()
