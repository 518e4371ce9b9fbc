"""The public page: what anybody may know of a node (`public`), on a listener of its own.

It has the paths of `Reading` and nothing else: no login, no command, no metrics, and no method but GET. It
may be reached under any name, since it has no session that another site could use. What is made for one who
looks is made for all, and streams and connections are bounded apart from those of the owner's page.

What can fail is binding, as for any `Listener`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.web_ui.assets import load_assets
from atoll.web_ui.changes import GAP_S, Snapshots
from atoll.web_ui.interface import EventLog, Source
from atoll.web_ui.listener import Listener
from atoll.web_ui.public import public_event, public_rounds, public_state
from atoll.web_ui.reading import Reading
from atoll.web_ui.replies import error_reply
from atoll.web_ui.routes import REFUSALS
from atoll.web_ui.security import with_headers
from atoll.web_ui.stream import HEARTBEAT_S, EventStreams

MAX_STREAMS = 128
MAX_CONNECTIONS = 512


class PublicLog:
    """An `EventLog` of what is for everybody. Sequences have gaps where something is not."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @property
    def last(self) -> int:
        return self._log.last

    @property
    def changes(self) -> int:
        return self._log.changes

    def since(self, sequence: int) -> tuple[Sequence[Mapping[str, Any]], bool]:
        events, gap = self._log.since(sequence)
        return [known for event in events if (known := public_event(event)) is not None], gap

    async def wait(self, sequence: int) -> None:
        seen = sequence
        while not self.since(seen)[0]:
            seen = max(seen, self._log.last)
            await self._log.wait(seen)

    async def wait_change(self, seen: int) -> None:
        await self._log.wait_change(seen)


class PublicSource:
    """A node as everybody may see it."""

    def __init__(self, node: Source) -> None:
        self._node = node
        self._log = PublicLog(node.events())

    def state(self) -> Mapping[str, Any]:
        return public_state(self._node.state())

    def rounds(self, after: int, limit: int) -> Mapping[str, Any]:
        return public_rounds(self._node.rounds(after, limit))

    def events(self) -> PublicLog:
        return self._log


class PublicServer(Listener):
    """Serves one node's public page. `gap_s`: between two snapshots."""

    def __init__(
        self,
        node: Source,
        *,
        host: str,
        port: int,
        heartbeat_s: float = HEARTBEAT_S,
        gap_s: float = GAP_S,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        source = PublicSource(node)
        snapshots = Snapshots(source, gap_s=gap_s)
        streams = EventStreams(source.events(), snapshots, limit=max_streams, heartbeat_s=heartbeat_s)
        app = build_public_app(Reading(source, load_assets(), streams, snapshots))
        super().__init__(app, streams, host, port, max_connections=MAX_CONNECTIONS)


def build_public_app(reading: Reading) -> ASGIApp:
    """The application, for any host and GET only."""
    app = Starlette(routes=reading.routes(), exception_handlers=REFUSALS)
    app.router.redirect_slashes = False

    async def only_get(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        handler: ASGIApp = app
        if scope["method"] not in ("GET", "HEAD"):
            text = "This page is for reading only."
            handler = error_reply(405, "read-only", text, "Use the owner's page.", {"Allow": "GET, HEAD"})
        await handler(scope, receive, with_headers(send))

    return only_get
