"""What listens beside p2pd: direct lanes, or why not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.hosting import start_lanes
from atoll.daemon.storage.data_dir import DataDir


@pytest.fixture
def folder(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "node")
    made.root.mkdir()
    return made


async def test_lanes_listen_where_they_are_told_to(folder: DataDir):
    lanes = await start_lanes(folder, Settings(host="127.0.0.1", lane=True))
    assert lanes is not None
    port = lanes.port
    try:
        assert lanes._listener.getsockname() == ("127.0.0.1", port)
        with pytest.raises(AtollError, match="Address already in use") as caught:
            await start_lanes(folder, Settings(host="127.0.0.1", lane=True, lane_port=port))
        assert (caught.value.exit_status, caught.value.code) == (Exit.PREFLIGHT, "port_taken")
    finally:
        await lanes.close()
    again = await start_lanes(folder, Settings(host="::1", lane=True, lane_port=port))
    assert again is not None and again._listener.family == socket.AF_INET6 and again.port == port
    await again.close()


async def test_lanes_are_there_unless_they_are_turned_off(folder: DataDir):
    assert await start_lanes(folder, Settings(lane=False)) is None
    lanes = await start_lanes(folder, Settings(host="127.0.0.1"))
    assert lanes is not None
    await lanes.close()
