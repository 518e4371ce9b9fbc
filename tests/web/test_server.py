"""Starting, stopping, and addresses that cannot be had."""

import signal
import socket

import pytest
import uvloop

from atoll.web_ui.server import CannotListen, PortTaken, TokenRequired, WebServer

from .fake_node import FakeNode


async def test_a_taken_port_is_an_error_with_a_fix(node: FakeNode, server: WebServer) -> None:
    second = WebServer(node, port=server.port, token="t")
    with pytest.raises(PortTaken, match=str(server.port)) as caught:
        await second.start()
    assert (caught.value.host, caught.value.port) == ("127.0.0.1", server.port)
    assert caught.value.fix
    await second.close()


async def test_an_address_of_another_machine_cannot_be_bound(node: FakeNode) -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1") as caught:
        await WebServer(node, host="192.0.2.1", port=0, token="t").start()
    assert caught.value.fix


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "node.example"])
def test_a_wider_address_wants_a_token(node: FakeNode, host: str) -> None:
    with pytest.raises(TokenRequired, match="open to everyone"):
        WebServer(node, host=host, token="")


def test_addresses_for_a_browser(node: FakeNode) -> None:
    def url(host: str) -> str:
        return WebServer(node, host=host, port=8787, token="t").url

    assert url("127.0.0.1") == "http://127.0.0.1:8787"
    assert url("0.0.0.0") == "http://127.0.0.1:8787"
    assert url("::") == url("::1") == "http://[::1]:8787"
    assert url("node.example") == "http://node.example:8787"


async def test_it_listens_on_ipv6_loopback(node: FakeNode) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    server = WebServer(node, host="::1", port=0, token="t")
    await server.start()
    assert server.port > 0
    await server.close()


async def test_closing_is_harmless_before_the_start_and_twice(node: FakeNode) -> None:
    server = WebServer(node, port=0, token="t")
    await server.close()
    server = WebServer(node, port=0, token="t")
    await server.start()
    port = server.port
    await server.close()
    await server.close()
    again = WebServer(node, port=port, token="t")
    await again.start()  # the port is free again
    await again.close()


def test_it_lives_in_a_uvloop_and_leaves_signals_alone() -> None:
    async def serve() -> None:
        server = WebServer(FakeNode(), port=0, token="t")
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        await server.start()
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        await server.close()

    uvloop.run(serve())
