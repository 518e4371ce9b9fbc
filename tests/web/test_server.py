"""Starting, stopping, and addresses that cannot be had."""

import asyncio
import contextlib
import select
import signal
import socket

import pytest
import uvicorn
import uvloop
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from atoll.web_ui.connections import Bounded, share_of
from atoll.web_ui.listener import CannotListen, Listener, PortTaken
from atoll.web_ui.server import TokenRequired, WebServer
from atoll.web_ui.stream import EventStreams

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


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


async def test_who_never_says_what_it_wants_is_let_go() -> None:
    listener = Listener(_hello, EventStreams(FakeNode().events()), "127.0.0.1", 0, header_s=0.01)
    await listener.start()
    try:
        for said in (b"", b"GET / HTTP/1.1\r\nHost: a", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /"):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(said)
            answer = b""
            with contextlib.suppress(ConnectionError):  # reset or ended: both are an end
                while more := await reader.read(1000):
                    answer += more
            assert answer.count(b"200 OK") == said.count(b"\r\n\r\n")
            writer.close()
    finally:
        await listener.close()


async def test_who_owes_a_body_that_nobody_wants_is_let_go() -> None:
    listener = Listener(_hello, EventStreams(FakeNode().events()), "127.0.0.1", 0, header_s=0.01)
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        await reader.readuntil(b"hello")
        writer.write(b"x")  # ends the time that is allowed between two requests
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
    finally:
        await listener.close()


async def test_a_body_that_ends_late_leaves_the_connection_for_the_next_request() -> None:
    listener = Listener(_hello, EventStreams(FakeNode().events()), "127.0.0.1", 0)
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            async with asyncio.timeout(20):
                await reader.readuntil(b"hello")
            writer.write(b"12345")
        writer.close()
    finally:
        await listener.close()


async def _more_than_the_network_holds(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(b"x" * (64 << 20))(scope, receive, send)


@pytest.mark.parametrize("reads", [0, 1 << 20])
async def test_who_takes_nothing_is_let_go_with_what_was_not_sent(reads: int) -> None:
    streams = EventStreams(FakeNode().events())
    listener = Listener(_more_than_the_network_holds, streams, "127.0.0.1", 0, stall_s=0.05)
    await listener.start()
    try:
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            for _ in range(reads // 65536):
                await asyncio.to_thread(connection.recv, 65536)
            ended = select.poll()
            ended.register(connection, 0)  # that it was reset is told in any case
            assert await asyncio.to_thread(ended.poll, 20_000)
    finally:
        await listener.close()


async def test_a_stream_whose_reader_takes_nothing_gives_its_connection_back() -> None:
    node = FakeNode()
    node.log.add("note", "x" * (64 << 20))
    server = WebServer(node, port=0, token="t", stall_s=0.05)
    await server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = "GET /api/v1/events?since=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n"
            connection.sendall(head.encode())
            ended = select.poll()
            ended.register(connection, 0)
            assert await asyncio.to_thread(ended.poll, 20_000)
    finally:
        await server.close()


class _Transport(asyncio.Transport):
    """The server's end of a connection from an address."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 50_000)})
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def test_one_client_holds_a_share_of_the_connections() -> None:
    config = uvicorn.Config(_hello, log_config=None, limit_concurrency=8)
    server = ServerState()

    def connect(address: str) -> bool:
        protocol = Bounded(config, server, {}, share=share_of(8), header_s=60, stall_s=60)
        transport = _Transport(address)
        protocol.connection_made(transport)
        if transport.aborted:
            protocol.connection_lost(ConnectionAbortedError())
        else:
            held.append(protocol)
        return not transport.aborted

    held: list[Bounded] = []
    assert [connect("203.0.113.7") for _ in range(3)] == [True, True, False]
    assert [connect(f"2001:db8::{n}") for n in range(3)] == [True, True, False]  # one line of IPv6
    assert [connect(a) for a in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    held[0].connection_lost(ConnectionResetError())
    assert connect("203.0.113.7")
    for protocol in held:
        protocol.connection_lost(ConnectionResetError())


async def test_connections_are_bounded() -> None:
    listener = Listener(_hello, EventStreams(FakeNode().events()), "127.0.0.1", 0, max_connections=3)
    await listener.start()
    writers = []
    try:
        for _ in range(3):
            _reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writers.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    finally:
        for writer in writers:
            writer.close()
        await listener.close()
