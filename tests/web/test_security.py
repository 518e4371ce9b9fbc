"""Who gets in: tokens, login links, sessions, Host, Origin, and the headers that every answer carries."""

import httpx
import pytest

from atoll.web_ui.security import (
    LOGIN_KEY_LIFETIME_S,
    MAX_LOGIN_KEYS,
    SESSION_LIFETIME_S,
    Gate,
    is_loopback,
)
from atoll.web_ui.server import WebServer

from .conftest import BEARER, TOKEN
from .fake_node import FakeNode

LOCKED = ["/api/v1/state", "/api/v1/events", "/metrics", "/static/js/main.js", "/api/v1/none", "/none"]


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_760_000_000.0

    def __call__(self) -> float:
        return self.now


def make_gate(clock: Clock, token: str = TOKEN) -> Gate:
    return Gate(token, allowed_hosts=["Node.Example"], clock=clock)


@pytest.mark.parametrize("path", LOCKED)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}],
)
async def test_strangers_stay_outside(
    stranger: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    reply = await stranger.get(path, headers=headers)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert reply.json()["error"]["code"] == "not-signed-in"


async def test_a_stranger_cannot_command(stranger: httpx.AsyncClient, node: FakeNode) -> None:
    assert (await stranger.post("/api/v1/commands/pause")).status_code == 401
    assert (await stranger.post("/api/v1/login-link")).status_code == 401
    assert node.commands == []


async def test_a_browser_without_a_session_is_told_how_to_get_one(stranger: httpx.AsyncClient) -> None:
    reply = await stranger.get("/")
    assert reply.status_code == 401
    assert "Open the link that the node printed, or run <code>atoll status</code>" in reply.text
    assert "style-src 'sha256-" in reply.headers["content-security-policy"]


async def test_a_login_link_opens_the_page_once(server: WebServer, stranger: httpx.AsyncClient) -> None:
    link = server.login_url()
    assert (await stranger.head(link)).status_code == 204  # a preview does not use it up
    reply = await stranger.get(link)
    assert reply.status_code == 200
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert TOKEN not in cookie
    assert "<title>" in (await stranger.get("/")).text
    assert (await stranger.get("/api/v1/state")).status_code == 200
    assert (await stranger.get(link)).status_code == 200  # signed in already

    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as another:
        reply = await another.get(link)
        assert reply.status_code == 401 and "set-cookie" not in reply.headers
        assert (await another.get("/login")).status_code == 401


async def test_only_the_token_mints_links(
    server: WebServer, scripted: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    link = (await scripted.post("/api/v1/login-link")).json()["url"]
    assert link.startswith(server.url + "/login?key=")
    await stranger.get(link)
    reply = await stranger.post("/api/v1/login-link", headers={"Origin": server.url})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "token-needed")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "a@localhost", ""]
)
async def test_foreign_host_names_are_refused(
    scripted: httpx.AsyncClient, stranger: httpx.AsyncClient, host: str
) -> None:
    for path in ("/", "/login?key=x", "/api/v1/state"):
        reply = await scripted.get(path, headers={"Host": host})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "host-not-allowed")
    # A probe by address learns that the node lives, and nothing else.
    assert (await stranger.get("/healthz", headers={"Host": host})).status_code == 200


async def test_a_page_of_another_origin_cannot_command(
    server: WebServer, stranger: httpx.AsyncClient, node: FakeNode
) -> None:
    await stranger.get(server.login_url())
    other_port = "http://127.0.0.1:1"  # cookies do not tell ports apart, the origin does
    for origin in ("https://evil.example", "null", other_port, "", None):
        headers = {} if origin is None else {"Origin": origin}
        reply = await stranger.post("/api/v1/commands/pause", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin-not-allowed")
    assert node.commands == []
    assert (await stranger.post("/api/v1/commands/pause", headers={"Origin": server.url})).status_code == 200


async def test_a_token_in_a_foreign_page_does_not_command(scripted: httpx.AsyncClient) -> None:
    reply = await scripted.post("/api/v1/commands/pause", headers={"Origin": "https://evil.example"})
    assert reply.status_code == 403


@pytest.mark.parametrize("path", ["/", "/healthz", "/login", "/api/v1/state", "/api/v1/nothing", "/static/x"])
async def test_every_answer_carries_the_headers(
    scripted: httpx.AsyncClient, stranger: httpx.AsyncClient, path: str
) -> None:
    for client in (scripted, stranger):
        headers = (await client.get(path)).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


async def test_without_a_token_the_machine_may_in_but_no_site(node: FakeNode) -> None:
    server = WebServer(node, port=0, token="")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert server.login_url() == server.url + "/"
            assert (await client.get("/api/v1/state")).status_code == 200
            assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403
            evil = {"Origin": "https://evil.example"}
            assert (await client.post("/api/v1/commands/pause", headers=evil)).status_code == 403
            assert (await client.post("/api/v1/login-link", headers=BEARER)).status_code == 403
            bearer = {"Authorization": "Bearer"}
            assert (await client.post("/api/v1/login-link", headers=bearer)).status_code == 403
    finally:
        await server.close()


def test_login_keys_expire_and_are_bounded() -> None:
    clock = Clock()
    gate = make_gate(clock)
    late = gate.new_login_key()
    clock.now += LOGIN_KEY_LIFETIME_S
    assert not gate.redeem_login_key(late)
    first, *others = [gate.new_login_key() for _ in range(MAX_LOGIN_KEYS + 1)]
    assert not gate.redeem_login_key(first)
    assert all(gate.redeem_login_key(key) for key in others)
    assert not any(gate.redeem_login_key(key) for key in others)


def test_sessions_survive_a_restart_and_end_with_time_or_token() -> None:
    clock = Clock()
    cookie = make_gate(clock).new_session()
    assert make_gate(clock).session_valid(cookie)
    assert not make_gate(clock, "another token").session_valid(cookie)
    clock.now += SESSION_LIFETIME_S
    assert not make_gate(clock).session_valid(cookie)


@pytest.mark.parametrize("cookie", [None, "", ".", "a.b.c", "9999999999.x.", "9999999999.x.é"])
def test_forged_sessions_are_refused(cookie: str | None) -> None:
    assert not make_gate(Clock()).session_valid(cookie)


def test_a_session_cannot_be_prolonged() -> None:
    expiry, nonce, signature = make_gate(Clock()).new_session().split(".")
    assert not make_gate(Clock()).session_valid(f"{int(expiry) + 1}.{nonce}.{signature}")


def test_nodes_of_one_machine_use_different_cookies() -> None:
    assert make_gate(Clock()).cookie_name != make_gate(Clock(), "another token").cookie_name


@pytest.mark.parametrize(
    "host", ["localhost:8787", "LOCALHOST", "127.0.0.1:9", "[::1]:80", "node.example:8787"]
)
def test_allowed_hosts(host: str) -> None:
    assert make_gate(Clock()).host_allowed(host)


@pytest.mark.parametrize("host", ["[::1", "localhost/x", "localhost?x", "a b", "10.0.0.1", "[::2]:80"])
def test_hosts_that_are_not_ours(host: str) -> None:
    assert not make_gate(Clock()).host_allowed(host)


def test_what_counts_as_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "localhost.example", ""))
