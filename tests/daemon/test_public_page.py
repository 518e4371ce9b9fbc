"""The page for everybody is there when it was asked for, and a port that can't be had is said."""

from __future__ import annotations

import socket

import httpx
import pytest

from atoll.daemon.config import Settings
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.page import start_public_page
from tests.web.fake_node import FakeNode


async def test_there_is_none_unless_it_is_wanted() -> None:
    assert await start_public_page(FakeNode(), Settings()) is None


async def test_it_serves_where_it_is_wanted() -> None:
    page = await start_public_page(FakeNode(), Settings(public_host="127.0.0.1"), port=0)
    assert page is not None and page.url == f"http://127.0.0.1:{page.port}"
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{page.url}/api/v1/state")).json()["public"] is True
    await page.close()


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AtollError, match="taken") as caught:
        await start_public_page(
            FakeNode(), Settings(public_host="127.0.0.1", public_port=taken.getsockname()[1])
        )
    assert (caught.value.exit_status, caught.value.code) == (Exit.PREFLIGHT, "port_taken")
