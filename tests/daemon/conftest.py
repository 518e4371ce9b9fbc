"""Fixtures of the tests of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .swarm import Make, Swarm


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    swarms: list[Swarm] = []

    def begin(count: int, min_peers: int | None = None, sizes: Sequence[int] = (), **more: Any) -> Swarm:
        swarms.append(Swarm(tmp_path / "swarm", count, min_peers, sizes, **more))
        return swarms[-1]

    yield begin
    for swarm in swarms:
        await swarm.close()
