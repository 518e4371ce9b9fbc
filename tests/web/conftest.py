"""A served fake node, and a client that holds its token."""

from collections.abc import AsyncIterator

import httpx
import pytest

from atoll.web_ui.server import WebServer

from .fake_node import FakeNode

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
async def server(node: FakeNode) -> AsyncIterator[WebServer]:
    server = WebServer(
        node, port=0, token=TOKEN, heartbeat_s=0.05, gap_s=0.02, max_streams=2, command_timeout_s=0.05
    )
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def scripted(server: WebServer) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with the bearer token."""
    async with httpx.AsyncClient(base_url=server.url, headers=BEARER, trust_env=False) as client:
        yield client


@pytest.fixture
async def stranger(server: WebServer) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client without any credential."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client
