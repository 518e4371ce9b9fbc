"""Real libp2p hosts on loopback for tests: each with its own key and folder, all gone when the test ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from atoll.peers import identity
from atoll.peers.p2pd import Host
from atoll.protocol.signing import Ed25519Keyring

DEADLINE_S = 30.0


class Hosts:
    """Starts hosts by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()

    async def start(self, name: str) -> tuple[Host, Ed25519Keyring]:
        folder = self._folder / name
        folder.mkdir()
        key = folder / "identity.key"
        keyring = identity.create(key)
        host = await Host.start(key, ["/ip4/127.0.0.1/tcp/0"], folder / "run")
        self._stack.push_async_callback(host.close)
        return host, keyring

    def at_the_end(self, work: Callable[[], Awaitable[object]]) -> None:
        """Awaited before the hosts that were started earlier are closed."""
        self._stack.push_async_callback(work)

    async def close(self) -> None:
        await self._stack.aclose()


async def connect(a: Host, b: Host) -> None:
    """A libp2p connection between two hosts."""
    async with asyncio.timeout(DEADLINE_S):
        await a.connect(b.peer_id, await b.addresses())


async def until(condition: Callable[[], object], changed: asyncio.Event | None = None) -> None:
    """Returns when `condition` holds; looks whenever `changed` is set, else at every turn of the loop."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            if changed is None:
                await asyncio.sleep(0)
            else:
                changed.clear()
                await changed.wait()
