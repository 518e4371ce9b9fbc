"""Finding a swarm's nodes in one's own network by multicast DNS (RFC 6762, 6763): no address is needed.

Only where the owner asked for it (setting `mdns`): a node then tells the network that it is there, under a
digest of its swarm's id, with its private addresses and port, and dials whoever tells the same. What it finds
is an address to try and nothing more: a link still begins with the handshake. Anybody in the network can tell
anything, so of what is told only private addresses are tried, and of the peers only MAX_FOUND.

Uses the `zeroconf` package (extra `mdns`), which is checked for before a node starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import Any

from atoll.peers import addresses as a
from atoll.protocol.signing import PEER_ID_BYTES, peer_bytes, peer_text

TYPE = "_atoll._tcp.local."
MAX_FOUND = 32
ASK_MS = 3000

log = logging.getLogger(__name__)


def tag(swarm_id: bytes) -> str:
    """What names a swarm in its network: who knows the id can tell it, who does not can't tell the id."""
    return hashlib.sha256(b"atoll/1/lan\0" + swarm_id).hexdigest()[:32]


def told(name: str, port: int | None, ips: Sequence[str], properties: object, wanted: str) -> list[str]:
    """Addresses to try of what somebody told under `name`; none where it is not of the swarm `wanted`."""
    swarm = properties.get(b"swarm") if isinstance(properties, dict) else None
    if swarm != wanted.encode() or not port or not 0 < port < 65536:
        return []
    peer = name.removesuffix(f".{TYPE}")
    try:
        if len(peer_bytes(peer)) != PEER_ID_BYTES:
            return []
    except ValueError:
        return []
    found = [a.tcp(ip.partition("%")[0], port) for ip in ips]
    return [f"{address}/p2p/{peer}" for address in found if a.scope(address) == a.LAN and a.parts(address)]


class LanSearch:
    """Tells of one node, and of others to `found`, until it is closed."""

    def __init__(self, found: Callable[[str], None]) -> None:
        self._found = found
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._zeroconf: Any = None
        self._browser: Any = None

    async def start(self, swarm_id: bytes, me: bytes, addresses: Sequence[str], port: int) -> None:
        """`addresses`: of this node; only private ones are told. Raises OSError without multicast."""
        from zeroconf import IPVersion, ServiceInfo
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._tag, self._me = tag(swarm_id), peer_text(me)
        private = [ip for x in addresses if a.scope(x) == a.LAN and (ip := a.ip_of(x)) is not None]
        self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
        info = ServiceInfo(
            TYPE,
            f"{self._me}.{TYPE}",
            port=port,
            addresses=[ip.packed for ip in private if ip.version == 4],
            properties={"swarm": self._tag},
            server=f"{hashlib.sha256(me).hexdigest()[:16]}.local.",
        )
        await self._zeroconf.async_register_service(info)
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, TYPE, handlers=[self._changed])

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change.name == "Removed" or name.startswith(self._me) or len(self._tasks) >= MAX_FOUND:
            return
        task = asyncio.get_running_loop().create_task(self._ask(name), name="lan")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, name: str) -> None:
        info = await self._zeroconf.async_get_service_info(TYPE, name, ASK_MS)
        if info is None:
            return
        ips = [str(ipaddress.ip_address(packed)) for packed in info.addresses]
        for address in told(name, info.port, ips, info.properties, self._tag):
            if address not in self._seen and len(self._seen) < MAX_FOUND:
                self._seen.add(address)
                self._found(address)

    async def close(self) -> None:
        """Takes back what was told."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()
