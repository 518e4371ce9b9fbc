"""The paths that only read: the page, and the node's state, events and rounds.

They are the same for the owner's page and for the public one; what differs is the `Source` behind them.
"""

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from atoll.web_ui.assets import Asset
from atoll.web_ui.changes import ROUNDS_AT_ONCE, Snapshots
from atoll.web_ui.interface import Source
from atoll.web_ui.replies import error_reply, json_reply
from atoll.web_ui.stream import EventStreams

_SEQUENCE = re.compile(r"[0-9]{1,18}")


class Reading:
    """The endpoints around one source."""

    def __init__(
        self, source: Source, assets: Mapping[str, Asset], streams: EventStreams, snapshots: Snapshots
    ) -> None:
        self._source = source
        self._assets = assets
        self._streams = streams
        self._snapshots = snapshots

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/static/{path:path}", self.static),
            Route("/api/v1/state", self.state),
            Route("/api/v1/events", self.events),
            Route("/api/v1/log", self.log),
            Route("/api/v1/rounds", self.rounds),
            Route("/healthz", self.healthz),
        ]

    async def page(self, request: Request) -> Response:
        return self._assets["index.html"].reply(request)

    async def static(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["path"])
        if asset is None:
            raise HTTPException(404)
        return asset.reply(request)

    async def state(self, _request: Request) -> Response:
        return Response(self._snapshots.whole(), media_type="application/json")

    async def events(self, request: Request) -> ASGIApp:
        # EventSource repeats its URL when it reconnects, so the header is the newer of the two.
        given = request.headers.get("last-event-id") or request.query_params.get("since")
        changes = request.query_params.get("changes") == "1"
        address = request.client.host if request.client else ""
        if given is None:
            return self._streams.open(None, changes, address)
        if not _SEQUENCE.fullmatch(given):
            return error_reply(400, "bad-sequence", "Events are numbered.", "Give since=NUMBER, from 0 on.")
        return self._streams.open(int(given), changes, address)

    async def log(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not _SEQUENCE.fullmatch(after):
            return error_reply(400, "bad-sequence", "Events are numbered.", "Give after=NUMBER, from 0 on.")
        log = self._source.events()
        # A number from the future is one of an earlier life of this node.
        found, gap = log.since(0 if int(after) > log.last else int(after))
        return json_reply({"events": list(found), "last": log.last, "gap": gap or int(after) > log.last})

    async def rounds(self, request: Request) -> Response:
        given = request.query_params
        after, limit = given.get("after", "0"), given.get("limit", str(ROUNDS_AT_ONCE))
        if not (_SEQUENCE.fullmatch(after) and _SEQUENCE.fullmatch(limit)):
            return error_reply(400, "bad-revision", "Revisions are numbers.", "Give after=NUMBER, from 0 on.")
        return json_reply(self._source.rounds(int(after), min(int(limit), ROUNDS_AT_ONCE)))

    async def healthz(self, _request: Request) -> Response:
        return json_reply({"ok": True})
