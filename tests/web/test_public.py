"""The public page: what nobody sees on it, whatever the node says, and that it only answers."""

import copy
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from atoll.web_ui.public import public_event, public_rounds, public_state
from atoll.web_ui.public_server import PublicLog, PublicServer
from atoll.web_ui.stream import catch_up

from .fake_node import NAMES, PEER_IDS, FakeNode, RingLog, make_joining_state, make_state
from .schema import problems

SECRETS = (
    "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWSecret",
    "203.0.113.7:31337",
    "203.0.113.7",
    "2001:db8::7",
    "/home/anna/.local/share/atoll",
    "C:\\Users\\anna",
    "https://boot.example/path",
    "boot.example",
    "<b>anna</b>",
)


def with_strings(value: Any, text: str) -> Any:
    """The same with every string, keys excepted, replaced."""
    match value:
        case str():
            return text
        case dict():
            return {key: with_strings(item, text) for key, item in value.items()}
        case list():
            return [with_strings(item, text) for item in value]
        case _:
            return value


def strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from strings(item)
        case list():
            for item in value:
                yield from strings(item)


def full_state() -> dict[str, Any]:
    """A snapshot in which no list is empty and every string may stand."""
    state: dict[str, Any] = dict(make_state(20))
    joining: dict[str, Any] = dict(make_joining_state())
    state.update({name: joining[name] for name in ("alerts", "bootstrap", "checklist")})
    state["session"] = {"leader": PEER_IDS[0], "view": 1, "phase": "commit"}
    for peer in state["peers"]:
        peer["label"] = peer["lane"] = "x"
    return copy.deepcopy(state)


def full_rounds() -> dict[str, Any]:
    """Reports in which no list is empty."""
    found = copy.deepcopy(dict(FakeNode().rounds(0, 100)))
    for entry in found["rounds"]:
        entry["rejected"] = [{"peer": 1, "reason": "late"}]
        entry["late"] = entry["missing"] = [0, 2]
    return found


@pytest.mark.parametrize("secret", SECRETS)
def test_no_address_and_no_path_survives_in_any_field(secret: str) -> None:
    known = public_state(with_strings(full_state(), secret))
    rounds = public_rounds(with_strings(full_rounds(), secret))
    assert problems(known, "State") == [] and problems(rounds, "Rounds") == []
    assert rounds["peers"] == [""] * 3  # places are kept
    for text in [*strings(known), *strings(rounds)]:
        assert secret not in text and "anna" not in text
        assert not set(text) & set("/\\.@<>") or text == known["sentence"]


def test_what_is_public_survives() -> None:
    state = full_state()
    known = public_state(state)
    assert known["public"] is True and problems(known, "State") == []
    same = (
        "version",
        "digest",
        "val_loss",
        "swarm_name",
        "swarm_tokens_per_s",
        "node_id",
        "time",
        "sequence",
    )
    assert {name: known[name] for name in same} == {name: state[name] for name in same}
    assert [peer["name"] for peer in known["peers"]] == list(NAMES)
    assert known["sentence"] == "Training: 3 nodes in the swarm at version 20."


def test_what_is_the_owners_does_not() -> None:
    known = public_state(full_state())
    for name in ("alerts", "bootstrap", "checklist"):
        assert known[name] == []
    for name in ("api", "device", "because", "next", "label", "memory_bytes", "session", "software"):
        assert not known[name]
    assert known["traffic"] == {**known["traffic"], "sent_bytes": 0, "classes": {}}
    for peer in known["peers"]:
        assert peer["label"] is peer["rtt_ms"] is peer["direct"] is peer["way"] is peer["lane"] is None


def test_reports_survive_without_reasons() -> None:
    before = full_rounds()
    known = public_rounds(before)
    assert known["peers"] == list(PEER_IDS) and len(known["rounds"]) == len(before["rounds"])
    for entry, was in zip(known["rounds"], before["rounds"], strict=True):
        assert entry["reason"] == entry["codec_reason"] == entry["rejected"][0]["reason"] == ""
        changed = {name for name in was if entry[name] != was[name]}
        assert changed <= {"reason", "rejected"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(SECRETS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*make_state(1), *make_state(1)["peers"][0], "x"]), inner, max_size=6
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(list(make_state(1))), anything, max_size=12))
def test_it_answers_whatever_the_node_says(state: dict[str, Any]) -> None:
    known = public_state(state)
    text = json.dumps(known, allow_nan=False)
    assert not any(json.dumps(secret)[1:-1] in text for secret in SECRETS)


@pytest.mark.parametrize("secret", SECRETS)
def test_events_say_nothing_of_their_own(secret: str) -> None:
    ended = {
        "sequence": 7,
        "time": 2.0,
        "kind": "round",
        "text": f"Round 3 ended aborted: {secret}",
        "where": secret,
    }
    said = {"sequence": 7, "time": 2.0, "kind": "round", "text": "Round 3 ended aborted."}
    assert public_event(ended) == said
    for kind in ("page", "start", "round", secret, None):
        assert public_event({"sequence": 8, "time": 2.0, "kind": kind, "text": secret}) is None
    assert public_event({**ended, "text": f"Round 3 ended {secret}"}) is None


# ---- served


@pytest_asyncio.fixture
async def public(node: FakeNode) -> AsyncIterator[httpx.AsyncClient]:
    server = PublicServer(node, host="127.0.0.1", port=0, heartbeat_s=0.05, max_streams=2)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client
    await server.close()


async def test_it_answers_under_any_name_and_without_a_token(public: httpx.AsyncClient) -> None:
    reply = await public.get("/api/v1/state", headers={"Host": "swarm.example"})
    assert reply.status_code == 200 and reply.json()["public"] is True
    page = await public.get("/")
    assert page.status_code == 200 and "set-cookie" not in page.headers
    for answer in (reply, page, await public.get("/nothing")):
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        "/login?key=x",
        "/metrics",
        "/api/v1/history",
        "/api/v1/commands/pause",
        "/api/v1/openapi.json",
        "/readyz",
    ],
)
async def test_there_is_nothing_else(public: httpx.AsyncClient, path: str) -> None:
    assert (await public.get(path)).status_code == 404


async def test_it_only_answers(public: httpx.AsyncClient, node: FakeNode) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for path in ("/", "/api/v1/state", "/api/v1/commands/pause", "/api/v1/login-link"):
            reply = await public.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")
    assert node.commands == []


async def test_many_who_look_cost_one_snapshot(public: httpx.AsyncClient, node: FakeNode) -> None:
    for _ in range(5):
        assert (await public.get("/api/v1/state")).json()["public"] is True
    assert node.state_reads == 1


async def test_rounds_and_the_log_are_reduced(public: httpx.AsyncClient, node: FakeNode) -> None:
    node.reports[-1]["reason"] = SECRETS[0]
    node.log.add("page", SECRETS[0])
    node.log.add("round", f"Round 42 ended provisional: {SECRETS[0]}; missing: {SECRETS[1]}.")
    rounds = (await public.get("/api/v1/rounds")).json()
    assert len(rounds["rounds"]) == 41 and problems(rounds, "Rounds") == []
    log = (await public.get("/api/v1/log")).json()
    assert [(event["sequence"], event["text"]) for event in log["events"]] == [
        (10, "Round 42 ended provisional.")
    ]


async def test_streams_are_reduced_and_wait_for_what_is_public(
    public: httpx.AsyncClient, node: FakeNode
) -> None:
    async with public.stream("GET", "/api/v1/events?since=8&changes=1") as reply:
        lines = reply.aiter_lines()
        seen = []
        async for line in lines:
            if line == ": beat" and len(seen) < 2:
                seen.append(line)
                node.log.add("page", SECRETS[0])  # is not for everybody: beats go on, and nothing else
            elif line == ": beat" and len(seen) == 2:
                node.log.add("round", f"Round 42 ended certified: {SECRETS[0]}")
            elif line.startswith(("id", 'data: {"sequence')):
                seen.append(line)
                if line.startswith("data"):
                    break
    assert seen[-2:] == [
        "id: 11",
        'data: {"sequence":11,"time":1760000000.0,"kind":"round","text":"Round 42 ended certified."}',
    ]


def test_what_is_not_public_is_no_gap_for_who_followed_it() -> None:
    log = RingLog(4)
    public, cursor = PublicLog(log), 0
    for number in range(20):
        log.add("page", f"{number}")
        chunks, cursor = catch_up(public, cursor)
        assert chunks == []
    log.add("round", "Round 42 ended certified.")
    assert [chunk.split(b"\n")[0] for chunk in catch_up(public, cursor)[0]] == [b"id: 21"]
