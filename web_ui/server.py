"""The web server of a node: its page and API for those who may in.

It owns the gate and the event streams; the socket is its `Listener`'s. What can fail besides binding: an
address that others can reach without a token (`TokenRequired`, from the constructor).
"""

import time
from collections.abc import Callable, Iterable

from atoll.web_ui.assets import load_assets
from atoll.web_ui.changes import GAP_S, Snapshots
from atoll.web_ui.interface import Node
from atoll.web_ui.listener import Listener, WebServerError, is_wildcard
from atoll.web_ui.reading import Reading
from atoll.web_ui.routes import COMMAND_TIMEOUT_S, build_app
from atoll.web_ui.security import Gate, is_loopback
from atoll.web_ui.stream import HEARTBEAT_S, MAX_STREAMS, STALL_S, EventStreams

DEFAULT_PORT = 8787


class TokenRequired(WebServerError):
    """The address is reachable from other machines and there is no token."""

    code = "token-required"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"The dashboard would be open to everyone who reaches {host}.",
            "Set a token, or bind to 127.0.0.1.",
        )
        self.host = host


class WebServer(Listener):
    """Serves one node's page and API. Use it from the loop that it should live in.

    `host`, `port`: where to listen; port 0 takes any free one. `token`: the bearer token; it may be empty
    only on loopback, where every process of the machine then may in. `allowed_hosts`: names beside the
    loopback names and `host` itself under which the page may be opened. `clock`: Unix seconds, for links
    and sessions; `ticks`: seconds that only grow, for attempts to get in. `gap_s`: between two snapshots;
    `stall_s`: how long a reader may take nothing.
    """

    def __init__(
        self,
        node: Node,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str,
        allowed_hosts: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        heartbeat_s: float = HEARTBEAT_S,
        gap_s: float = GAP_S,
        max_streams: int = MAX_STREAMS,
        stall_s: float = STALL_S,
        command_timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        if not token and not is_loopback(host):
            raise TokenRequired(host)
        own_name = [] if is_wildcard(host) else [host]
        self._gate = Gate(token, allowed_hosts=[*allowed_hosts, *own_name], clock=clock, ticks=ticks)
        snapshots = Snapshots(node, gap_s=gap_s)
        streams = EventStreams(node.events(), snapshots, limit=max_streams, heartbeat_s=heartbeat_s)
        reading = Reading(node, load_assets(), streams, snapshots)
        app = build_app(node, self._gate, reading, self.login_url, command_timeout_s=command_timeout_s)
        super().__init__(app, streams, host, port, stall_s=stall_s)

    def login_url(self) -> str:
        """Return a link that signs one browser in, once. Without a token it is just the page."""
        return f"{self.url}/" if self._gate.open else f"{self.url}/login?key={self._gate.new_login_key()}"
