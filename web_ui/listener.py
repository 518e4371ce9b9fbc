"""One listening socket of a node and the uvicorn behind it, inside the daemon's own event loop.

It leaves signals to the daemon and binds the socket itself, so that a taken port is `PortTaken`, an error
with a fix, and not the end of the process. `close` first ends the event streams, which would otherwise hold
the shutdown up, then lets running requests finish for two seconds.

Its connections are bounded, together and for each client, and may not dawdle (connections.py).

What can fail: binding (`PortTaken`, `CannotListen`).
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from atoll.web_ui.connections import HEADER_S, Bounded, share_of
from atoll.web_ui.stream import STALL_S, EventStreams

MAX_CONNECTIONS = 256
MAX_HEADER_BYTES = 32 * 1024
GRACE_S = 2


class WebServerError(Exception):
    """The server cannot start. `code` is for machines, the message and `fix` are sentences for people."""

    code = "web-server"

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class PortTaken(WebServerError):
    """Another process listens on this port already."""

    code = "port-taken"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"Port {port} on {host} is taken by another process.",
            "Give another port, or 0 for any free one, or stop the process that holds it.",
        )
        self.host = host
        self.port = port


class CannotListen(WebServerError):
    """The address cannot be bound for a reason other than a taken port."""

    code = "cannot-listen"

    def __init__(self, host: str, port: int, cause: str) -> None:
        super().__init__(
            f"Cannot listen on {host} port {port}: {cause}.",
            "Give an address of this machine and a port above 1023.",
        )
        self.host = host
        self.port = port


class _EmbeddedServer(uvicorn.Server):  # type: ignore[misc]  # uvicorn is not followed by the type checker
    """uvicorn that leaves signals to its host and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


class Listener:
    """Serves one application. `streams`: its event streams. Port 0 takes any free one."""

    def __init__(
        self,
        app: ASGIApp,
        streams: EventStreams,
        host: str,
        port: int,
        *,
        max_connections: int = MAX_CONNECTIONS,
        header_s: float = HEADER_S,
        stall_s: float = STALL_S,
    ) -> None:
        self.host = host
        self._port = port
        self._streams = streams
        self._server = _EmbeddedServer(
            uvicorn.Config(
                app,
                http=partial(Bounded, share=share_of(max_connections), header_s=header_s, stall_s=stall_s),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=max_connections,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use, also after `close`; before `start`, the port asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The base address for this machine's browser, without a slash at the end."""
        host = self.host
        if is_wildcard(host):
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen, and return when requests are answered. Raises `PortTaken`, `CannotListen`."""
        self._socket = _bind(self.host, self._port)
        self._port = int(self._socket.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="web server")
        serving = asyncio.create_task(self._server.serving.wait())
        try:
            await asyncio.wait((self._task, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
        if self._task.done():
            self._socket.close()
            await self._task
            raise CannotListen(self.host, self._port, "the server ended while it started")

    async def close(self) -> None:
        """End all streams, finish running requests, stop listening. Harmless twice, or before `start`."""
        self._streams.close()
        task, self._task = self._task, None
        if task is None or self._socket is None:
            return
        self._server.should_exit = True
        try:
            await task
        finally:
            self._socket.close()


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False  # a name


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port) from error
        raise CannotListen(host, port, error.strerror or str(error)) from error
