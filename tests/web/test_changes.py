"""Changes of the snapshot: whoever applies them holds what a fresh one says."""

import json
from typing import Any

import httpx

from atoll.web_ui.changes import KEPT, Snapshots

from .fake_node import PEER_IDS, FakeNode, make_peer, make_rounds
from .test_events import read_until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def apply(state: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What the page does with a change."""
    assert change["base"] == state["number"]
    peers = {peer["id"]: peer for peer in state["peers"]}
    peers |= {peer["id"]: peer for peer in change["peers"]}
    for gone in change["gone"]:
        del peers[gone]
    news = {"number": change["number"], "time": change["time"], "peers": list(peers.values())}
    return {**state, **change["set"], **news}


def decode(encoded: bytes) -> dict[str, Any]:
    kind, data, *rest = encoded.decode().split("\n")
    assert (kind, rest) == ("event: change", ["", ""])
    found: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return found


def test_applied_changes_make_the_snapshot() -> None:
    node, clock = FakeNode(), Clock()
    snapshots = Snapshots(node, gap_s=0.5, clock=clock)
    held = json.loads(snapshots.whole())
    for turn in range(5):
        clock.now += 1
        node.advance()
        if turn == 2:
            node.snapshot["peers"] = node.snapshot["peers"][:2]
        if turn == 3:
            node.snapshot["peers"].append({**make_peer(2, 50), "name": "\ud800 hostile"})
        snapshots.whole()
        (encoded,) = snapshots.after(held["number"])
        change = decode(encoded)
        assert [r["version"] for r in change["rounds"]["rounds"]] == [node.snapshot["version"]]
        held = apply(held, change)
        fresh = json.loads(snapshots.whole())
        assert held == fresh
    assert len(held["peers"]) == 3


def test_only_what_is_different_is_told() -> None:
    node, clock = FakeNode(), Clock()
    snapshots = Snapshots(node, clock=clock)
    snapshots.whole()
    clock.now += 1
    node.snapshot["phase"]["step"] += 1  # the same object, changed in place
    node.snapshot["peers"][1]["version"] += 1
    snapshots.whole()
    change = decode(snapshots.after(1)[0])
    assert set(change["set"]) == {"phase"} and [p["id"] for p in change["peers"]] == [PEER_IDS[1]]
    assert change["gone"] == [] and "rounds" not in change


def test_many_ask_and_few_snapshots_are_taken() -> None:
    node, clock = FakeNode(), Clock()
    snapshots = Snapshots(node, gap_s=0.5, clock=clock)
    for _ in range(100):
        clock.now += 0.01
        snapshots.whole()
    assert node.state_reads == 2


def test_who_is_too_far_behind_has_to_fetch() -> None:
    node, clock = FakeNode(), Clock()
    snapshots = Snapshots(node, clock=clock)
    for _ in range(KEPT + 5):
        clock.now += 1
        snapshots.whole()
    assert snapshots.after(snapshots.number) == []
    assert len(snapshots.after(snapshots.number - KEPT)) == KEPT
    assert snapshots.after(snapshots.number - KEPT - 1) is None
    assert snapshots.after(snapshots.number + 1) is None, "of another life"


def test_many_new_reports_are_left_to_pages() -> None:
    node, clock = FakeNode(), Clock()
    snapshots = Snapshots(node, clock=clock)
    snapshots.whole()
    node.reports += [{**r, "revision": r["revision"] + 100} for r in make_rounds(150)]
    clock.now += 1
    snapshots.whole()
    assert "rounds" not in decode(snapshots.after(1)[0])


async def test_a_stream_pushes_changes_to_those_who_want_them(
    scripted: httpx.AsyncClient, node: FakeNode
) -> None:
    async with scripted.stream("GET", "/api/v1/events?changes=1") as reply:
        lines = reply.aiter_lines()
        await read_until(lines, ": beat")
        held = (await scripted.get("/api/v1/state")).json()
        node.advance()
        while held["version"] != node.snapshot["version"]:
            await read_until(lines, "event: change")
            change = json.loads((await read_until(lines, "data"))[-1].removeprefix("data: "))
            held = apply(held, change) if change["base"] == held["number"] else held
    async with scripted.stream("GET", "/api/v1/events") as reply:
        lines = reply.aiter_lines()
        await read_until(lines, ": beat")
        node.advance()
        seen = await read_until(lines, "data")
        assert not any("change" in line for line in seen)


async def test_reports_come_in_pages(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    first = (await scripted.get("/api/v1/rounds?limit=10")).json()
    assert [r["version"] for r in first["rounds"]] == list(range(1, 11)) and first["peers"] == list(PEER_IDS)
    rest = (await scripted.get(f"/api/v1/rounds?after={first['revision']}")).json()
    assert [r["version"] for r in rest["rounds"]] == list(range(11, 42))
    refused = await scripted.get("/api/v1/rounds?after=x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad-revision")


async def test_kept_events_come_at_once(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    found = (await scripted.get("/api/v1/log?after=6")).json()
    assert [event["sequence"] for event in found["events"]] == [7, 8] and not found["gap"]
    future = (await scripted.get("/api/v1/log?after=900")).json()
    assert len(future["events"]) == 8 and future["gap"] and future["last"] == 8
    assert (await scripted.get("/api/v1/log?after=-1")).status_code == 400
