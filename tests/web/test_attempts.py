"""Wrong tokens and login keys: how many, for how long, and who is never held up by them."""

from collections.abc import AsyncIterator

import httpx
import pytest

from atoll.web_ui.attempts import MAX_CLIENTS, SECONDS_PER_TRY, TRIES, Attempts, client_of
from atoll.web_ui.server import WebServer

from .conftest import BEARER, TOKEN
from .fake_node import FakeNode

WRONG = {"Authorization": "Bearer wrong"}


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(node: FakeNode, clock: Clock) -> AsyncIterator[WebServer]:
    """One whose clock for attempts stands still until a test moves it."""
    server = WebServer(node, port=0, token=TOKEN, ticks=clock)
    await server.start()
    yield server
    await server.close()


async def test_wrong_tokens_have_to_wait_and_right_ones_with_them(
    stranger: httpx.AsyncClient, clock: Clock
) -> None:
    for _ in range(TRIES):
        assert (await stranger.get("/api/v1/state", headers=WRONG)).status_code == 401
    for headers in (WRONG, BEARER):  # what is shown is not looked at: an answer would be a guess
        reply = await stranger.get("/api/v1/state", headers=headers)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "6")
        assert reply.json()["error"]["code"] == "too-many-attempts"
    clock.now += SECONDS_PER_TRY
    assert (await stranger.get("/api/v1/state", headers=BEARER)).status_code == 200


async def test_wrong_links_have_to_wait(server: WebServer, stranger: httpx.AsyncClient, clock: Clock) -> None:
    for number in range(TRIES):
        assert (await stranger.get(f"/login?key=guess{number}")).status_code == 401
    link = server.login_url()
    reply = await stranger.get(link)
    assert (reply.status_code, reply.headers["retry-after"]) == (
        429,
        "6",
    ) and "Try again in 6 s" in reply.text
    clock.now += SECONDS_PER_TRY
    assert (await stranger.get(link)).status_code == 200  # it was not used up meanwhile


async def test_sessions_are_never_held_up(server: WebServer, stranger: httpx.AsyncClient) -> None:
    await stranger.get(server.login_url())
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as attacker:
        for _ in range(3 * TRIES):
            await attacker.get("/api/v1/state", headers=WRONG)
            await attacker.get("/login?key=guess")
        assert (await attacker.get("/login?key=guess")).status_code == 429
    for path in ("/", "/api/v1/state", "/login?key=old"):
        assert (await stranger.get(path)).status_code == 200
    assert (await stranger.get("/api/v1/state", headers=WRONG)).status_code == 200  # by its cookie


async def test_who_shows_nothing_is_no_attempt(stranger: httpx.AsyncClient) -> None:
    for _ in range(2 * TRIES):
        assert (await stranger.get("/api/v1/state")).status_code == 401  # a page whose session has ended
        assert (await stranger.get("/login")).status_code == 401
        assert (await stranger.get("/healthz", headers=WRONG)).status_code == 200
    assert (await stranger.get("/api/v1/state", headers=BEARER)).status_code == 200


async def test_what_comes_through_a_proxy_holds_nobody_else_up(stranger: httpx.AsyncClient) -> None:
    for number in range(2 * TRIES):
        headers = {
            **WRONG,
            "X-Forwarded-For": f"198.51.100.{number}",
        }  # anybody may write what it likes there
        reply = await stranger.get("/api/v1/state", headers=headers)
    assert reply.status_code == 429
    assert (await stranger.get("/api/v1/state", headers=BEARER)).status_code == 200


def test_tries_come_back_one_by_one(clock: Clock) -> None:
    attempts = Attempts(clock)
    for _ in range(5 * TRIES):
        attempts.failed("a")
    assert attempts.wait_s("a") == 6 and attempts.wait_s("b") == 0
    clock.now += SECONDS_PER_TRY / 2
    assert attempts.wait_s("a") == 3
    clock.now += SECONDS_PER_TRY / 2
    assert attempts.wait_s("a") == 0
    attempts.failed("a")
    assert attempts.wait_s("a") == 6
    clock.now += TRIES * SECONDS_PER_TRY
    for _ in range(TRIES - 1):
        attempts.failed("a")
    assert attempts.wait_s("a") == 0


def test_few_clients_are_remembered(clock: Clock) -> None:
    attempts = Attempts(clock)
    for _ in range(TRIES):
        attempts.failed("first")
    for number in range(MAX_CLIENTS - 1):
        attempts.failed(str(number))
    assert attempts.wait_s("first") == 6
    attempts.failed("first")  # still insisting, so it is no longer the oldest
    attempts.failed("one more")
    assert attempts.wait_s("first") == 6 and len(attempts._used) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_a_line(address: str, client: str) -> None:
    assert client_of(address, False) == client
    assert client_of(address, True) != client
