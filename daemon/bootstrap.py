"""A node that only helps others to find each other: a DHT node and relay, no swarm, no training.

Any libp2p peer that speaks hivemind's DHT can use it, Atoll or not.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from atoll.daemon.alerts import Alerts
from atoll.daemon.config import Config
from atoll.daemon.container import tell_of_loss
from atoll.daemon.events import Events
from atoll.daemon.network import Network
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers import identity


async def run_bootstrap(folder: DataDir, config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Prints its addresses, one a line. Raises AtollError."""
    settings = config.settings
    keyring = folder.keyring(folder.identity)
    folder.remember(role="bootstrap")
    events = Events(folder.events, time.time)
    alerts = Alerts(events)
    tell_of_loss(folder.root, alerts)
    network = Network(folder, events, alerts, None)
    async with AsyncExitStack() as undo:
        await network.open(undo, settings, keyring, settings.bootstrap, lambda: None)
        work = [
            asyncio.create_task(network.finder.run(swarm=False), name="finder"),
            asyncio.create_task(network.keep_up(time.monotonic), name="p2pd-watch"),
            asyncio.create_task(network.reachability.keep(), name="reachability"),
        ]
        try:
            for address in network.addresses:
                print(address, flush=True)
            name = identity.readable_name(network.host.peer_id)
            events.emit("start", f"Serving: nodes find each other through {name}.")
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            for task in done - {stopped}:
                task.result()  # neither ends by itself: a bug, told where it is
            events.emit("stop", "Stopping: it was asked to.")
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
