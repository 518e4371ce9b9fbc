"""The thin client, against a served node and against things that are no node."""

import asyncio
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from atoll.web_ui.client import ApiClient, ApiRefused, ApiUnreachable
from atoll.web_ui.server import WebServer

from .conftest import TOKEN
from .fake_node import FakeNode


@pytest.fixture
def client(server: WebServer) -> ApiClient:
    return ApiClient(server.url, TOKEN)


async def test_state_and_commands(client: ApiClient, node: FakeNode) -> None:
    state = await asyncio.to_thread(client.state)
    assert state["name"] == "coral-heron"
    answer = await asyncio.to_thread(client.command, "pause", for_s=60)
    assert answer == {"ok": True, "command": "pause"}
    assert node.commands == [("pause", {"for_s": 60})]
    assert await asyncio.to_thread(client.ready) == (False, "paused")
    assert (await asyncio.to_thread(client.login_link)).startswith(client.url + "/login?key=")


async def test_refusals_come_with_code_and_fix(client: ApiClient, server: WebServer) -> None:
    with pytest.raises(ApiRefused) as caught:
        await asyncio.to_thread(client.command, "no such/thing")
    assert caught.value.status == 404
    with pytest.raises(ApiRefused) as caught:
        await asyncio.to_thread(client.command, "no-such-thing")
    assert (caught.value.code, caught.value.fix) == ("unknown-command", "See the documentation.")
    stranger = ApiClient(server.url, "wrong")
    with pytest.raises(ApiRefused, match="token or a session") as caught:
        await asyncio.to_thread(stranger.state)
    assert caught.value.status == 401
    with pytest.raises(ApiRefused):
        await asyncio.to_thread(lambda: next(stranger.events()))


async def test_events_are_followed_until_the_node_ends(
    client: ApiClient, node: FakeNode, server: WebServer
) -> None:
    events = client.events(since=7)
    first = await asyncio.to_thread(next, events)
    assert (first["sequence"], first["kind"]) == (8, "accepted")
    node.log.add("alert", "Disk is nearly full.")
    assert (await asyncio.to_thread(next, events))["text"] == "Disk is nearly full."
    rest = asyncio.create_task(asyncio.to_thread(list, events))
    await server.close()
    assert await rest == []


async def test_a_gap_shows_as_a_reset() -> None:
    node = FakeNode(ring_size=3)
    server = WebServer(node, port=0, token=TOKEN)
    await server.start()
    events = ApiClient(server.url, TOKEN).events(since=1)
    kinds = [(await asyncio.to_thread(next, events))["kind"] for _ in range(2)]
    assert kinds == ["reset", "accepted"]
    events.close()
    await server.close()


async def test_nobody_there(server: WebServer) -> None:
    url = server.url
    await server.close()
    with pytest.raises(ApiUnreachable, match=r"No node answers at http://127.*refused"):
        await asyncio.to_thread(ApiClient(url, TOKEN).state)


class Impostor(socketserver.StreamRequestHandler):
    """Answers every request with fixed bytes and then keeps silent."""

    answer = b""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(self.answer)
        self.rfile.read()


@pytest.fixture
def impostor(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Impostor,), {"answer": request.param})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "impostor",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"",
    ],
    indirect=True,
)
def test_something_else_answers(impostor: str) -> None:
    with pytest.raises(ApiUnreachable):
        ApiClient(impostor, TOKEN, timeout_s=0.2).state()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:1", "http://", ""])
def test_not_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a node"):
        ApiClient(url, TOKEN)


def test_the_client_imports_nothing_heavy() -> None:
    script = "import sys, atoll.web_ui.client; print('\\n'.join(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert not loaded & {"starlette", "uvicorn", "anyio", "asyncio", "torch", "hivemind", "numpy", "google"}
