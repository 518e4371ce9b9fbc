"""An application that schemathesis asks: each of its requests has a loop of its own."""

import asyncio

import schemathesis
from schemathesis import checks
from starlette.routing import Route

from atoll.web_ui.assets import load_assets
from atoll.web_ui.changes import Snapshots
from atoll.web_ui.interface import Node
from atoll.web_ui.openapi import document
from atoll.web_ui.reading import Reading
from atoll.web_ui.routes import build_app
from atoll.web_ui.security import Gate, Guard
from atoll.web_ui.stream import EventStreams

from .conftest import BEARER, TOKEN

checks.load_all_checks()
CHECKS = checks.CHECKS.get_by_names(
    ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)


class NoNews:
    """For a log: nothing in it waits for news."""

    async def wait(self, sequence: int) -> None:
        await asyncio.sleep(3600)

    async def wait_change(self, seen: int) -> None:
        await asyncio.sleep(3600)


class LoopSnapshots(Snapshots):
    """The same for snapshots."""

    async def wait(self, number: int) -> None:
        await asyncio.sleep(3600)


def make_app(node: Node) -> Guard:
    """The application as the server has it; streams end as soon as they are told everything."""
    snapshots = LoopSnapshots(node)
    streams = EventStreams(node.events(), snapshots, heartbeat_s=0.01)
    streams.close()
    gate = Gate(TOKEN, allowed_hosts=["testserver"], clock=lambda: 1_760_000_000.0)
    reading = Reading(node, load_assets(), streams, snapshots)
    app = build_app(node, gate, reading, lambda: "http://testserver/login?key=x")
    assert isinstance(app, Guard)
    return app


def routes_of(app: Guard) -> list[Route]:
    return [route for route in app._app.routes if isinstance(route, Route)]


def schema_of(app: Guard) -> schemathesis.BaseSchema:
    """What the application says of itself, to be held against its answers."""
    found = document((route.path_format, route.methods or ()) for route in routes_of(app))
    schema = schemathesis.openapi.from_dict(found)
    schema.app = app
    return schema


def ask(case: schemathesis.Case, app: Guard) -> None:
    """Has one request answered by an application, and compares."""
    reply = case.call(headers=BEARER, app=app)
    not_ready = case.path == "/readyz" and reply.status_code == 503
    case.validate_response(reply, checks=CHECKS if not_ready else [checks.not_a_server_error, *CHECKS])
