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
from atoll.daemon.storage.data_dir import DataDir
from atoll.dht.discovery import Discovery
from atoll.peers import identity
from atoll.peers.p2pd import Host, HostError

DEFAULT_PORT = 31337


async def run_bootstrap(folder: DataDir, config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Prints its addresses, one a line. Raises AtollError."""
    settings = config.settings
    keyring = identity.load_or_create(folder.identity)
    events = Events(folder.events, time.time)
    port = settings.port or int(folder.node_facts().get("port", DEFAULT_PORT))
    try:
        host = await Host.start(
            folder.identity, [f"/ip4/{settings.host}/tcp/{port}"], folder.run, announce=settings.announce
        )
    except HostError as error:
        raise AtollError(
            Exit.PREFLIGHT if error.port_taken else Exit.TEMPORARY,
            "port_taken" if error.port_taken else "host",
            f"Port {port} on {settings.host} is taken by another process."
            if error.port_taken
            else f"{error}.",
            "Give another --port.",
        ) from error
    discovery = await Discovery.create(host.p2p, None)
    rng = random.Random(secrets.randbits(64))
    finder = Finder(host, discovery, keyring, settings.bootstrap, list, lambda: None, rng)
    finding = asyncio.create_task(finder.run(swarm=False))
    try:
        addresses = await host.addresses()
        folder.remember(addresses=addresses, port=port)
        for address in addresses:
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
