"""How often the DHT is asked for the others."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.daemon import finder
from atoll.daemon.finder import ANNOUNCE_S, LARGE, LOOK_S, Finder
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Ed25519Keyring


class Around:
    """A node with one link in a swarm of so many; `now` passes in pauses alone."""

    def __init__(self, size: int) -> None:
        self.now = 1000.0
        self.looks: list[float] = []
        self.announced: list[float] = []
        self.records = [pb.PeerRecord(peer=bytes([n % 250, n // 250]) * 19) for n in range(size)]
        self.peers = {bytes(self.records[0].peer): object()}
        self.finder = Finder(
            host=SimpleNamespace(connect=self.connect),  # type: ignore[arg-type]
            discovery=SimpleNamespace(find=self.find, announce=self.announce),  # type: ignore[arg-type]
            keyring=Ed25519Keyring(Ed25519PrivateKey.generate()),
            addresses=(),
            announced=list,
            changed=lambda: None,
            rng=random.Random(1),
        )
        links: Any = SimpleNamespace(peers=self.peers, is_full=True)
        self.finder.links = links
        self.finder._pause = self.pause  # type: ignore[method-assign]
        self.end = 0.0

    async def connect(self, peer: bytes, addresses: list[str]) -> None:
        pass

    async def find(self, now: float) -> list[pb.PeerRecord]:
        self.looks.append(self.now)
        return self.records

    async def announce(self, *arguments: object) -> bool:
        self.announced.append(self.now)
        return True

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.end:
            raise asyncio.CancelledError

    async def run(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks.clear()
        self.announced.clear()
        self.end = self.now + seconds
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        monkeypatch.setattr(finder, "time", clock)
        try:
            await self.finder.run(swarm=True)
        except asyncio.CancelledError:
            pass
        finally:
            monkeypatch.undo()


@pytest.mark.parametrize(("size", "every"), [(2, 1), (LARGE, 1), (4 * LARGE, 4), (16 * LARGE, 16)])
async def test_a_large_swarm_is_looked_up_less_often_and_told_as_often(
    size: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = Around(size)
    span = 64 * LOOK_S
    await around.run(span, monkeypatch)
    assert len(around.looks) == pytest.approx(span / (every * LOOK_S), rel=0.25, abs=1.5)
    assert len(around.announced) >= span / (ANNOUNCE_S + 1.25 * LOOK_S)


async def test_who_is_alone_or_lost_somebody_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    around = Around(16 * LARGE)
    await around.run(4 * LOOK_S, monkeypatch)
    assert len(around.looks) == 1
    around.finder.look_now()
    await around.run(4 * LOOK_S, monkeypatch)
    assert len(around.looks) == 1
    around.peers.clear()
    await around.run(4 * LOOK_S, monkeypatch)
    assert len(around.looks) > 4, "as long as it has no link"
