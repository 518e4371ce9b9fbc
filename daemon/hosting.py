"""Starting what listens: the libp2p host on the port asked for, else that of last time, else any; lanes."""

from __future__ import annotations

import errno
import os

from atoll.daemon.config import DEFAULT_PORT, Settings, rate_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers import addresses as a
from atoll.peers.lanes import Lanes
from atoll.peers.line import Caps, Line
from atoll.peers.p2pd import Host, HostError


async def start_host(folder: DataDir, settings: Settings) -> Host:
    """The host, its port remembered for the next start. Raises AtollError, or a transient HostError."""
    remembered = int(folder.node_facts().get("port", DEFAULT_PORT))
    ports = [settings.port] if settings.port else [remembered, 0]
    for port in ports:
        try:
            host = await Host.start(
                folder.identity,
                _listen(settings, port),
                folder.run,
                announce=settings.announce,
                nat_port_map=settings.nat_port_map,
            )
        except HostError as error:
            if error.transient:
                raise  # another try may do better
            if not error.port_taken:
                raise AtollError(Exit.TEMPORARY, "host", f"{error}.", "See the log.") from error
            if port != ports[-1]:
                continue
            raise AtollError(
                Exit.PREFLIGHT,
                "port_taken",
                f"Port {port} on {settings.host} is taken by another process.",
                "Give another --port, or 0 for any free one.",
            ) from error
        addresses = await host.addresses()
        listening = next((a for a in addresses if "/tcp/" in a), None)
        if listening is not None and not settings.announce:
            # What is announced may be the port of a router; only one that is listened on is worth keeping.
            port = int(listening.split("/tcp/")[1].split("/")[0])
        folder.remember(addresses=addresses, port=port)
        host.line = Line(caps_of(settings))
        return host
    raise AssertionError("the last port either works or raises")


def _listen(settings: Settings, port: int) -> list[str]:
    """Multiaddrs: TCP, and for holes in routers QUIC on the same port where that is known beforehand."""
    found = [a.tcp(settings.host, port)]
    if settings.punch and port and a.scope(found[0]) != a.MACHINE:
        found.append(a.quic(settings.host, port))
    return found


def caps_of(settings: Settings) -> Caps:
    """The line's caps, from settings that were checked."""
    return Caps(rate_of(settings.up) or 0.0, rate_of(settings.down) or 0.0)


async def start_lanes(folder: DataDir, settings: Settings) -> Lanes | None:
    """Direct lanes, on the address that the host has; None where they are off. Raises AtollError."""
    if not settings.lane:
        return None
    key = folder.keyring(folder.identity).private_key
    try:
        return await Lanes.start(key, settings.host, settings.lane_port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = os.strerror(error.errno) if error.errno else str(error)
        raise AtollError(
            Exit.PREFLIGHT if taken else Exit.TEMPORARY,
            "port_taken" if taken else "lane",
            f"Port {settings.lane_port} on {settings.host} can't be used for direct lanes: {why}.",
            "Give another lane_port, or 0 for any free one; lane = false does without.",
        ) from error
