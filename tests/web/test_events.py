"""Server-sent events: ids, catching up, resets, bounds, and their end."""

import asyncio
from typing import Any

import httpx
import pytest

from atoll.web_ui.changes import Snapshots
from atoll.web_ui.stream import EventStreams, catch_up

from .fake_node import FakeNode, RingLog


async def read_until(lines, wanted: str) -> list[str]:
    """Return the lines of a stream up to the one that begins with `wanted`."""
    seen = []
    async for line in lines:
        seen.append(line)
        if line.startswith(wanted):
            return seen
    raise AssertionError(f"the stream ended before {wanted!r}: {seen}")


async def test_a_stream_catches_up_and_goes_on_live(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    async with scripted.stream("GET", "/api/v1/events?since=6") as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-store"
        lines = reply.aiter_lines()
        seen = await read_until(lines, "id: 8")
        assert [line for line in seen if line.startswith(("id", "retry"))] == [
            "retry: 2000",
            "id: 7",
            "id: 8",
        ]
        node.log.add("alert", "two\nlines")
        seen = await read_until(lines, 'data: {"sequence":9')
        assert '"text":"two\\nlines"' in seen[-1]


async def test_without_a_cursor_only_news_come(scripted: httpx.AsyncClient, node: FakeNode) -> None:
    async with scripted.stream("GET", "/api/v1/events") as reply:
        lines = reply.aiter_lines()
        await read_until(lines, ": beat")  # the stream stands
        node.log.add("note")
        seen = await read_until(lines, "id")
        assert seen[-1] == "id: 9"


async def test_the_header_wins_over_the_url(scripted: httpx.AsyncClient) -> None:
    headers = {"Last-Event-ID": "7"}
    async with scripted.stream("GET", "/api/v1/events?since=2", headers=headers) as reply:
        assert (await read_until(reply.aiter_lines(), "id"))[-1] == "id: 8"


@pytest.mark.parametrize("since", ["-1", "x", "", "9" * 19, "1.5"])
async def test_a_cursor_must_be_a_number(scripted: httpx.AsyncClient, since: str) -> None:
    reply = await scripted.get(f"/api/v1/events?since={since}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad-sequence")


async def test_a_silent_stream_has_a_heartbeat(scripted: httpx.AsyncClient) -> None:
    async with scripted.stream("GET", "/api/v1/events") as reply:
        lines = reply.aiter_lines()
        await read_until(lines, ": beat")
        await read_until(lines, ": beat")


async def test_streams_are_bounded_and_their_places_come_back(scripted: httpx.AsyncClient) -> None:
    async with scripted.stream("GET", "/api/v1/events"):
        async with scripted.stream("GET", "/api/v1/events"):
            refused = await scripted.get("/api/v1/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert (await scripted.get("/api/v1/state")).status_code == 200
        status = 503
        while status == 503:  # each request gives the server a turn to see the hang-up
            async with scripted.stream("GET", "/api/v1/events") as reply:
                status = reply.status_code
        assert status == 200


async def test_closing_the_server_ends_its_streams_cleanly(scripted: httpx.AsyncClient, server) -> None:
    async with scripted.stream("GET", "/api/v1/events") as reply:
        lines = reply.aiter_lines()
        await read_until(lines, "retry")
        closing = asyncio.create_task(server.close())
        async for _ in lines:  # ends without a protocol error: the last chunk came
            pass
        await closing
    with pytest.raises(httpx.ConnectError):
        await scripted.get("/healthz")


def make_log(count: int, size: int) -> RingLog:
    log = RingLog(size)
    for number in range(count):
        log.add("note", str(number))
    return log


def test_nothing_new_sends_nothing() -> None:
    assert catch_up(make_log(5, 10), 5) == ([], 5)
    assert catch_up(make_log(0, 10), 0) == ([], 0)


def test_a_gap_resets_and_then_goes_on() -> None:
    chunks, cursor = catch_up(make_log(20, 4), 3)
    assert chunks[0] == b'id: 16\nevent: reset\ndata: {"sequence":16}\n\n'
    assert [chunk.split(b"\n")[0] for chunk in chunks[1:]] == [b"id: 17", b"id: 18", b"id: 19", b"id: 20"]
    assert cursor == 20


def test_an_edge_of_the_ring_is_no_gap() -> None:
    chunks, _ = catch_up(make_log(20, 4), 16)
    assert len(chunks) == 4 and not any(b"reset" in chunk for chunk in chunks)


def test_a_cursor_of_an_earlier_life_resets() -> None:
    chunks, cursor = catch_up(make_log(2, 4), 900)
    assert b"event: reset" in chunks[0] and len(chunks) == 3
    assert cursor == 2
    chunks, cursor = catch_up(make_log(0, 4), 900)
    assert (len(chunks), cursor) == (1, 0)


async def test_a_reader_that_takes_nothing_is_dropped() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_message: Any) -> None:
        await asyncio.Event().wait()

    streams = EventStreams(make_log(3, 4), stall_s=0.0)
    await streams.open(0)({"type": "http"}, receive, send)
    assert streams.count == 0


async def test_a_log_that_fails_ends_the_stream() -> None:
    class BrokenLog(RingLog):
        async def wait(self, sequence: int) -> None:
            raise OSError("the log is gone")

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_message: Any) -> None:
        pass

    streams = EventStreams(BrokenLog())
    with pytest.raises(OSError, match="the log is gone"):
        await streams.open(0)({"type": "http"}, receive, send)
    assert streams.count == 0


async def test_one_client_holds_a_share_of_the_streams() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    sent = asyncio.Queue[Any]()
    streams = EventStreams(make_log(1, 4), limit=8)

    async def follow(address: str) -> int:
        """The status for one more from this address, which stays."""
        standing.append(
            asyncio.create_task(streams.open(0, address=address)({"type": "http"}, receive, sent.put))
        )
        async with asyncio.timeout(10):
            while (message := await sent.get())["type"] != "http.response.start":
                pass
        return int(message["status"])

    standing: list[asyncio.Task[None]] = []
    assert [await follow("203.0.113.7") for _ in range(3)] == [200, 200, 503]
    assert [await follow("2001:db8::7") for _ in range(3)] == [200, 200, 503]
    assert [await follow("127.0.0.1") for _ in range(5)] == [200] * 4 + [503]
    streams.close()
    await asyncio.gather(*standing)
    assert streams.count == 0 and not streams._of


async def test_a_state_that_can_not_be_had_costs_no_place() -> None:
    node = FakeNode()
    snapshots = Snapshots(node, idle_s=0.01, gap_s=0.0)
    streams = EventStreams(node.events(), snapshots)
    broken: list[int] = [1]

    async def receive() -> Any:
        await asyncio.Event().wait()

    def state() -> Any:
        if broken:
            broken.pop()
            raise OSError("the state is gone")
        return FakeNode.state(node)

    node.state = state  # type: ignore[method-assign]
    sent = asyncio.Queue[Any]()
    with pytest.raises(OSError, match="the state is gone"):
        await streams.open(0, True)({"type": "http"}, receive, sent.put)
    assert streams.count == 0 and snapshots._watchers == 0
    stream = asyncio.create_task(streams.open(0, True)({"type": "http"}, receive, sent.put))

    async def told() -> None:
        async with asyncio.timeout(10):
            while b"event: change" not in (await sent.get()).get("body", b""):
                pass

    node.advance()
    await told()
    broken.append(1)  # while it is watched
    node.advance()
    async with asyncio.timeout(10):
        while broken:
            await asyncio.sleep(0)
    await told()
    streams.close()
    await stream
