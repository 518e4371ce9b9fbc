"""The paths of the page and the API, as a Starlette application around one node.

| path | answer |
|---|---|
| `GET /` and `/static/...` | the page |
| `GET /login?key=...` | redeems a one-time link, sets the session cookie |
| `GET /api/v1/state` | the snapshot (`state_types.State`) |
| `GET /api/v1/events` | server-sent events; `Last-Event-ID` or `?since=`; `?changes=1`: changes.py |
| `GET /api/v1/log?after=` | the kept events after a sequence, at once (`interface.Events`) |
| `GET /api/v1/rounds?after=` | the reports of rounds that changed after a revision (`round_types.Rounds`) |
| `GET /api/v1/history` | one figure over time (`interface.History`); without `name` which there are |
| `POST /api/v1/commands/{name}` | carries out a command, JSON arguments in, JSON answer out |
| `POST /api/v1/login-link` | a fresh one-time link, for holders of the bearer token |
| `GET /api/v1/openapi.json` | all of this for machines (`openapi`) |
| `GET /healthz`, `/readyz` | the loop answered; the node averages, else 503 with the reason code |
| `GET /metrics` | Prometheus text |

Every failure is a JSON refusal (see `replies`). An exception that no one expected becomes a 500 without a
word of its insides; Starlette raises it again, so that the server logs it with its trace.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from atoll.web_ui.interface import CommandError, Node
from atoll.web_ui.openapi import document
from atoll.web_ui.reading import Reading
from atoll.web_ui.replies import BadBody, error_reply, help_page, json_reply, read_object, welcome_page
from atoll.web_ui.security import SESSION_LIFETIME_S, Gate, Guard, sender_of, too_many_attempts

COMMAND_TIMEOUT_S = 30.0
HISTORY_S = 86_400.0
HISTORY_POINTS = 300
MAX_HISTORY_POINTS = 2000
MAX_TIME_S = 253_402_300_800.0
"""The year 10,000."""
_COMMAND_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def build_app(
    node: Node,
    gate: Gate,
    reading: Reading,
    login_url: Callable[[], str],
    *,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> ASGIApp:
    """Return the guarded application. `login_url` mints a one-time link on each call."""
    views = _Views(node, gate, login_url, command_timeout_s)
    app = Starlette(
        routes=[
            *reading.routes(),
            Route("/login", views.login),
            Route("/api/v1/history", views.history),
            Route("/api/v1/commands/{name}", views.command, methods=["POST"]),
            Route("/api/v1/login-link", views.login_link, methods=["POST"]),
            Route("/api/v1/openapi.json", views.openapi),
            Route("/readyz", views.readyz),
            Route("/metrics", views.metrics),
        ],
        exception_handlers=REFUSALS,
    )
    app.router.redirect_slashes = False  # one path, one name
    return Guard(app, gate)


class _Views:
    """The endpoints beside those of `Reading`. They hold no state of their own."""

    def __init__(
        self,
        node: Node,
        gate: Gate,
        login_url: Callable[[], str],
        command_timeout_s: float,
    ) -> None:
        self._node = node
        self._gate = gate
        self._login_url = login_url
        self._command_timeout_s = command_timeout_s

    async def login(self, request: Request) -> Response:
        if request.method == "HEAD":  # a link preview must not use up the key
            return Response(status_code=204)
        # Whoever is signed in already may open an old link again.
        known = self._gate.session_valid(request.cookies.get(self._gate.cookie_name))
        key = request.query_params.get("key", "")
        if not known and key and (refusal := too_many_attempts(self._gate, request)):
            return refusal
        if not known and not self._gate.redeem_login_key(key):
            if key:
                self._gate.attempts.failed(sender_of(request))
            return help_page("This link was used before, or it is too old.")
        reply = welcome_page()
        reply.set_cookie(
            self._gate.cookie_name,
            self._gate.new_session(),
            max_age=int(SESSION_LIFETIME_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return reply

    async def history(self, request: Request) -> Response:
        given = request.query_params
        now = time.time()
        try:
            since, until = float(given.get("since", now - HISTORY_S)), float(given.get("until", now))
            points = int(given.get("points", HISTORY_POINTS))
        except ValueError:
            since = until = math.nan
            points = 0
        if not (0 <= since < until <= MAX_TIME_S and 1 <= points <= MAX_HISTORY_POINTS):
            return error_reply(
                400,
                "bad-span",
                "There is no such span of time.",
                f"Give since and until in Unix seconds, and points from 1 to {MAX_HISTORY_POINTS}.",
            )
        try:
            async with asyncio.timeout(self._command_timeout_s):
                return json_reply(await self._node.past(given.get("name"), since, until, points))
        except CommandError as error:
            return error_reply(409, error.code, error.message, error.fix)
        except TimeoutError:
            return error_reply(504, "history-timeout", "The disk does not answer.", "Try again later.")

    async def command(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not _COMMAND_NAME.fullmatch(name):
            raise HTTPException(404)
        try:
            arguments = await read_object(request)
            async with asyncio.timeout(self._command_timeout_s):
                return json_reply(await self._node.command(name, arguments))
        except BadBody as error:
            return error_reply(error.status, error.code, error.message, error.fix)
        except CommandError as error:
            status = 404 if error.code == "unknown-command" else 409
            return error_reply(status, error.code, error.message, error.fix)
        except TimeoutError:
            return error_reply(
                504,
                "command-timeout",
                f"The node did not finish {name} within {self._command_timeout_s:g} s.",
                "See its events for what holds it up.",
            )

    async def login_link(self, request: Request) -> Response:
        if not self._gate.bearer_valid(request.headers.get("authorization")):
            return error_reply(
                403,
                "token-needed",
                "A login link is made only for the holder of the token.",
                "Send the node's token as Authorization: Bearer.",
            )
        return json_reply({"url": self._login_url()})

    async def openapi(self, request: Request) -> Response:
        routes = (route for route in request.app.routes if isinstance(route, Route))
        return json_reply(document((route.path_format, route.methods or ()) for route in routes))

    async def readyz(self, _request: Request) -> Response:
        ready, reason = self._node.health()
        return json_reply({"ready": ready, "reason": reason}, 200 if ready else 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._node.metrics(), headers={"Content-Type": _PROMETHEUS})


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    match status:
        case 404:
            return error_reply(
                404, "not-found", "There is nothing at this path.", "See /api/v1/state.", headers
            )
        case 405:
            return error_reply(405, "wrong-method", "This path wants another method.", "See Allow.", headers)
        case _:
            return error_reply(
                status, "refused", "The request was refused.", "Check it and try again.", headers
            )


async def _internal_error(_request: Request, _error: Exception) -> Response:
    return error_reply(500, "internal", "The node failed to answer; this is a bug.", "See the node's log.")


REFUSALS: Mapping[Any, Any] = {HTTPException: _http_error, Exception: _internal_error}
"""What becomes of errors on the way to an answer."""
