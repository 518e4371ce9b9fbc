"""A private swarm of real daemons goes on while others try to get in, and each refusal is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Daemon, must
from .intruders import ATTACKS, insiders, intruder, refused_of
from .test_members import SMALL, ticket_of

pytestmark = pytest.mark.process


@pytest.mark.timeout(600)
def test_nobody_gets_in_and_the_swarm_goes_on(start: Callable[..., Daemon], tmp_path: Path) -> None:
    must("init", "lab", "--private", "--data-dir", str(tmp_path / "n0"), *SMALL)
    first = start("n0", "run")
    first.ticket()
    second = start("n1", "join", ticket_of(first), "--yes")
    second.wait_for(lambda s: s["token_account"]["accepted"] > 0, "both train")
    inside = insiders(first)

    async def attacks() -> None:
        for number, (name, (attack, reasons)) in enumerate(ATTACKS.items()):
            before, version = refused_of(first), first.wait_for_version(1)["version"]
            async with intruder(first, tmp_path / f"intruder-{number}") as who:
                await attack(who)
            after = refused_of(first)
            for reason in reasons:
                assert after[reason] > before.get(reason, 0), (name, reason, after)
            status = await asyncio.to_thread(first.wait_for_version, version + 1)
            assert status["peers"] == 1, f"{name}: somebody is in"

    asyncio.run(attacks())
    assert [node for node in insiders(first) if node in inside] == inside
    status = second.wait_for(lambda s: s["peers"] == 1, "the two are linked")
    assert first.wait_for_version(status["version"])["version"] >= status["version"]
