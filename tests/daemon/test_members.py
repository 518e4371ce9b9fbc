"""The roll on disk: what commands leave, running node or not, is taken in and lost by nobody."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from atoll.daemon.events import Events
from atoll.daemon.members import Members, leave_for_node, read_roll
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest

from ..protocol.test_membership import NODE
from .private import private_swarm

DEADLINE_S = 20.0


@pytest.fixture
def made(tmp_path: Path) -> tuple[DataDir, SwarmManifest]:
    return private_swarm(tmp_path / "a")


def certificate(folder: DataDir, manifest: SwarmManifest) -> pb.Roll:
    organiser = folder.keyring(folder.organiser)
    return pb.Roll(
        members=[m.new_certificate(organiser, manifest.swarm, NODE.peer_id, role=pb.MEMBER, issued_s=1.0)]
    )


def opened(folder: DataDir, manifest: SwarmManifest) -> Members:
    return Members(folder, manifest, folder.keyring(folder.identity), Events(folder.events, lambda: 0.0))


async def kept(members: Members, folder: DataDir) -> None:
    """Until the inbox is empty."""
    keeping = asyncio.create_task(members.keep())
    async with asyncio.timeout(DEADLINE_S):
        while list(folder.inbox.glob("*.pb")):
            await asyncio.sleep(0)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


@pytest.mark.parametrize("running", [False, True])
async def test_what_a_command_left_outlives_the_inbox(
    made: tuple[DataDir, SwarmManifest], running: bool
) -> None:
    folder, manifest = made
    if not running:
        leave_for_node(folder, certificate(folder, manifest))
    members = opened(folder, manifest)
    if running:
        leave_for_node(folder, certificate(folder, manifest))
    await kept(members, folder)
    assert members.admission.lets_in(NODE.peer_id)
    again = read_roll(folder, manifest)
    assert again is not None and again.standing(NODE.peer_id, 2.0).is_in, "and the next start knows it"


async def test_what_is_forged_is_told_and_goes(made: tuple[DataDir, SwarmManifest]) -> None:
    folder, manifest = made
    members = opened(folder, manifest)
    forged = certificate(folder, manifest)
    forged.members[0].certificate.signature = bytes(64)
    leave_for_node(folder, forged)
    await kept(members, folder)
    assert not members.admission.lets_in(NODE.peer_id)
    assert "is refused" in folder.events.read_text()
