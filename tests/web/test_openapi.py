"""The description of the API agrees with its paths, with real answers, and with whatever is asked of it."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from atoll.web_ui.openapi import OPERATIONS, document

from .asked import NoNews, ask, make_app, routes_of, schema_of
from .fake_node import FakeNode, RingLog, make_joining_state
from .schema import problems


class LoopLog(NoNews, RingLog):
    """That of the fake node."""


NODE = FakeNode()
NODE.log = LoopLog()
APP = make_app(NODE)
ROUTES = routes_of(APP)
DOCUMENT = document((route.path_format, route.methods or ()) for route in ROUTES)
schema = schema_of(APP)
BY_DESIGN = ("hang", "explode")
"""Commands at which the fake node does what no node should."""


async def test_every_path_is_described_and_no_other(scripted: httpx.AsyncClient) -> None:
    told = (await scripted.get("/api/v1/openapi.json")).json()
    assert told == DOCUMENT
    assert {(p, m) for p, methods in told["paths"].items() for m in methods} == {
        (route.path_format, method.lower()) for route in ROUTES for method in route.methods - {"HEAD"}
    }
    assert set(told["paths"]) == set(OPERATIONS), "describe it in web_ui/openapi.py"


async def test_the_description_is_for_those_who_may_in(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.get("/api/v1/openapi.json")).status_code == 401
    for path, operation in OPERATIONS.items():
        if "get" in DOCUMENT["paths"][path] and "{" not in path and path != "/login":
            reply = await stranger.get(path)
            assert (reply.status_code == 200) is operation.open, path


def test_fields_carry_the_sentences_under_them() -> None:
    state = DOCUMENT["components"]["schemas"]["State"]["properties"]
    assert state["memory_bytes"]["description"] == "Memory of daemon and trainer together."
    assert {"type": "null"} in state["memory_bytes"]["anyOf"]
    assert state["peers"]["items"] == {"$ref": "#/components/schemas/Peer"}


def test_the_fake_node_answers_as_described() -> None:
    for state in (FakeNode().state(), make_joining_state()):
        assert problems(state, "State") == []
    for event in FakeNode().events().since(0)[0]:
        assert problems(event, "Event") == []


async def test_history_and_rounds_answer_as_described(scripted: httpx.AsyncClient) -> None:
    assert problems(await FakeNode().past("loss", 0, 100, 10), "History") == []
    assert problems(FakeNode().rounds(0, 100), "Rounds") == []
    for path, name in (("state", "State"), ("rounds", "Rounds"), ("log", "Events")):
        assert problems((await scripted.get(f"/api/v1/{path}")).json(), name) == []


def test_the_schema_tells_what_does_not_agree() -> None:
    state = dict(FakeNode().state())
    del state["version"]
    assert len(problems({**state, "loss": "low", "secret": 1}, "State")) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@schema.parametrize()
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_is_answered_as_described(case: schemathesis.Case) -> None:
    if case.path_parameters and case.path_parameters.get("name") in BY_DESIGN:
        return
    ask(case, APP)
