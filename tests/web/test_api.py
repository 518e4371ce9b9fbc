"""The REST paths: what they answer, and how they refuse."""

import json
import logging

import httpx
import pytest

from atoll.web_ui.interface import CommandError
from atoll.web_ui.replies import MAX_BODY_BYTES, encode_json
from atoll.web_ui.state_types import State

from .fake_node import FakeNode


async def test_state_is_the_snapshot(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    reply = await scripted.get("/api/v1/state")
    assert reply.status_code == 200
    state = reply.json()
    assert state.pop("number") == 1
    assert state == json.loads(json.dumps(node.snapshot))
    assert set(state) == State.__required_keys__
    assert reply.headers["cache-control"] == "no-store"


async def test_what_is_not_finite_leaves_as_null(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    node.snapshot["loss"] = float("nan")
    node.reports[0]["val_loss"] = float("inf")
    state = (await scripted.get("/api/v1/state")).json()
    assert state["loss"] is None
    assert (await scripted.get("/api/v1/rounds")).json()["rounds"][0]["val_loss"] is None


async def test_a_lone_surrogate_in_a_name_does_not_fail_the_request(
    scripted: httpx.AsyncClient, node: FakeNode
) -> None:
    node.snapshot["peers"][1]["name"] = "\ud800"
    assert (await scripted.get("/api/v1/state")).json()["peers"][1]["name"] == "?"


def test_json_is_one_line() -> None:
    assert encode_json({"a": "b\r\nc", "d": (1.5, None)}) == '{"a":"b\\r\\nc","d":[1.5,null]}'


async def test_commands_reach_the_node_with_their_arguments(
    scripted: httpx.AsyncClient, node: FakeNode
) -> None:
    reply = await scripted.post("/api/v1/commands/pause", json={"for_s": 7200})
    assert (reply.status_code, reply.json()) == (200, {"ok": True, "command": "pause"})
    assert (await scripted.post("/api/v1/commands/resume")).status_code == 200
    assert node.commands == [("pause", {"for_s": 7200}), ("resume", {})]


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("no-such-thing", 404, "unknown-command"),
        ("Bad%20Name", 404, "not-found"),
        ("hang", 504, "command-timeout"),
    ],
)
async def test_commands_that_cannot_be_carried_out(
    scripted: httpx.AsyncClient, name: str, status: int, code: str
) -> None:
    reply = await scripted.post(f"/api/v1/commands/{name}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_refusal_carries_the_nodes_own_words(scripted: httpx.AsyncClient) -> None:
    await scripted.post("/api/v1/commands/pause")
    reply = await scripted.post("/api/v1/commands/pause")
    assert reply.status_code == 409
    assert reply.json()["error"] == {
        "code": "already-paused",
        "message": "The node is paused already.",
        "fix": "Resume it first.",
    }


async def test_an_unexpected_error_shows_nothing_of_the_inside(
    scripted: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        reply = await scripted.post("/api/v1/commands/explode")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in reply.text and "Traceback" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "secret insides" in caplog.text  # the log has it


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "bad-json"),
        (b"[1]", "application/json", 400, "bad-json"),
        (b'{"a":NaN}', "application/json", 400, "bad-json"),
        (b'{"a":"\xff"}', "application/json", 400, "bad-json"),
        (b'{"a":' + b"[" * 30_000, "application/json", 400, "bad-json"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "not-json"),
        (b" " * (MAX_BODY_BYTES + 1), "application/json", 413, "body-too-large"),
    ],
)
async def test_bad_bodies(
    scripted: httpx.AsyncClient, node: FakeNode, body: bytes, content_type: str, status: int, code: str
) -> None:
    reply = await scripted.post(
        "/api/v1/commands/pause", content=body, headers={"Content-Type": content_type}
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert node.commands == []


async def test_a_body_without_a_length_is_capped_as_it_arrives(
    scripted: httpx.AsyncClient, node: FakeNode
) -> None:
    async def chunks():
        for _ in range(80):
            yield b" " * 1024

    reply = await scripted.post(
        "/api/v1/commands/pause", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 413
    assert node.commands == []


async def test_a_body_of_exactly_the_limit_is_taken(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    body = b"{}".ljust(MAX_BODY_BYTES)
    reply = await scripted.post(
        "/api/v1/commands/pause", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 200
    assert node.commands == [("pause", {})]


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api", "/static/nothing.js", "/static/../server.py", "/x"]
)
async def test_unknown_paths_are_refused_in_json(scripted: httpx.AsyncClient, path: str) -> None:
    reply = await scripted.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not-found")


async def test_a_wrong_method_names_the_right_one(scripted: httpx.AsyncClient) -> None:
    reply = await scripted.get("/api/v1/commands/pause")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert (await scripted.delete("/api/v1/state")).status_code == 405


async def test_health_readiness_and_metrics(scripted: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    assert (await stranger.get("/healthz")).json() == {"ok": True}
    assert (await stranger.get("/readyz")).json() == {"ready": True, "reason": "ready"}
    await scripted.post("/api/v1/commands/pause")
    reply = await stranger.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"ready": False, "reason": "paused"})
    metrics = await scripted.get("/metrics")
    assert metrics.text.endswith("atoll_version 41\n")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_history_is_one_figure_in_buckets(
    scripted: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    assert (await scripted.get("/api/v1/history")).json() == {"names": ["loss", "peers"]}
    reply = await scripted.get("/api/v1/history?name=loss&since=1000&until=2000&points=10")
    found = reply.json()
    assert (found["name"], found["bucket_s"], len(found["buckets"])) == ("loss", 100, 10)
    assert found["buckets"][0] == {"start": 1000, "count": 2, "min": 1.0, "max": 3.0, "mean": 2.0}
    assert (await scripted.get("/api/v1/history?name=locked")).status_code == 409
    assert (await stranger.get("/api/v1/history")).status_code == 401


@pytest.mark.parametrize(
    "query", ["since=x", "since=2&until=1", "since=-1", "until=1e20", "since=nan", "points=0", "points=9999"]
)
async def test_history_of_no_span_is_refused(scripted: httpx.AsyncClient, query: str) -> None:
    reply = await scripted.get(f"/api/v1/history?name=loss&{query}")
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "bad-span"


async def test_static_files_are_asked_for_again_but_sent_once(scripted: httpx.AsyncClient) -> None:
    first = await scripted.get("/static/js/main.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = await scripted.get("/static/js/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_command_error_reads_as_its_message() -> None:
    assert str(CommandError("code", "A sentence.", "A fix.")) == "A sentence."
