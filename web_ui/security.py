"""Who may talk to the node's page and API.

Three doors: a bearer token (scripts), a cookie that a one-time login link sets (browsers), and a few paths
open to all (`/healthz`, `/readyz`, `/login`). `Gate` decides, without I/O; `Guard` is the ASGI layer around
the whole application that asks it, and that puts the security headers on every answer, errors included.

The cookie is signed with a key derived from the token and carries its own expiry: nothing is kept per
session, a restarted node still knows its browsers, and a new token ends every session. Its name is derived
from the token too, because cookies do not tell ports apart and several nodes may share one machine. Login
keys live in memory, at most `MAX_LOGIN_KEYS`, each good for one use within `LOGIN_KEY_LIFETIME_S`. Wrong
tokens and wrong keys are counted for each client, and too many make it wait (`attempts`); a session never
waits.

Host is checked against DNS rebinding, Origin against other sites. Without a token (loopback only; the server
refuses otherwise) every process of this machine may in, and Host and Origin still keep other sites out.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atoll.web_ui.attempts import Attempts, client_of
from atoll.web_ui.replies import error_reply, help_page

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_LOGIN_KEYS = 32
LOGIN_KEY_LIFETIME_S = 24 * 3600.0
SESSION_LIFETIME_S = 30 * 24 * 3600.0

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/login"})
# Health probes come by address (an orchestrator's, a container's) and learn nothing but a reason code.
_ANY_HOST_PATHS = frozenset({"/healthz", "/readyz"})


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine only. Of names, only localhost is trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Decides about hosts, origins, tokens, login keys and sessions.

    `clock` gives Unix seconds, `ticks` seconds that only grow.
    """

    def __init__(
        self,
        token: str,
        *,
        allowed_hosts: Iterable[str],
        clock: Callable[[], float],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token.encode()
        self._hosts = LOOPBACK_NAMES | {host.lower() for host in allowed_hosts}
        self._clock = clock
        self._session_key = hmac.digest(self._token, b"atoll web session v1", "sha256")
        self.attempts = Attempts(ticks)
        self._login_keys: dict[str, float] = {}  # SHA-256 of the key -> expiry, oldest first
        self.cookie_name = "atoll_" + hmac.new(self._token, b"cookie name", "sha256").hexdigest()[:8]

    @property
    def open(self) -> bool:
        """Whether there is no token to show."""
        return not self._token

    def host_allowed(self, header: str) -> bool:
        """Whether the Host header names this node: a loopback name or one of the allowed hosts, any port."""
        if any(char in header for char in "@/?#\\ "):
            return False
        try:
            return urlsplit("//" + header).hostname in self._hosts
        except ValueError:
            return False

    def origin_allowed(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from our own page, or from no page at all."""
        return origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")

    def bearer_valid(self, authorization: str | None) -> bool:
        scheme, _, credential = (authorization or "").partition(" ")
        return (
            scheme.lower() == "bearer"
            and not self.open
            and hmac.compare_digest(credential.strip().encode("utf-8", "replace"), self._token)
        )

    def session_valid(self, cookie: str | None) -> bool:
        """Whether the cookie `EXPIRY.NONCE.SIGNATURE` is ours and not expired."""
        payload, _, signature = (cookie or "").rpartition(".")
        if not hmac.compare_digest(self._sign(payload).encode(), signature.encode("utf-8", "replace")):
            return False
        return int(payload.partition(".")[0]) > self._clock()

    def new_session(self) -> str:
        payload = f"{int(self._clock() + SESSION_LIFETIME_S)}.{secrets.token_urlsafe(12)}"
        return f"{payload}.{self._sign(payload)}"

    def _sign(self, payload: str) -> str:
        return hmac.new(self._session_key, payload.encode("utf-8", "replace"), "sha256").hexdigest()

    def new_login_key(self) -> str:
        """Return a key for one login. The oldest unused one is forgotten when there are too many."""
        key = secrets.token_urlsafe(24)
        while len(self._login_keys) >= MAX_LOGIN_KEYS:
            del self._login_keys[next(iter(self._login_keys))]
        self._login_keys[_hash(key)] = self._clock() + LOGIN_KEY_LIFETIME_S
        return key

    def redeem_login_key(self, key: str) -> bool:
        """Use up a login key. False for one that is unknown, used or expired."""
        # Looked up by hash: the time that the look-up takes says nothing about the keys themselves.
        return self._login_keys.pop(_hash(key), 0.0) > self._clock()


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def sender_of(request: Request) -> str:
    """The client whose attempts are counted together."""
    proxied = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "via"))
    return client_of(request.client.host if request.client else "", proxied)


def too_many_attempts(gate: Gate, request: Request) -> Response | None:
    """The refusal for a client that has to wait before what it shows is looked at; None: it need not."""
    wait_s = gate.attempts.wait_s(sender_of(request))
    if wait_s == 0:
        return None
    text = "There were too many wrong tokens or links from where you are."
    fix = f"Try again in {wait_s} s. Whoever is signed in already is not held up."
    if request.url.path == "/login":
        reply = help_page(f"{text} {fix}", 429)
        reply.headers["Retry-After"] = str(wait_s)
        return reply
    return error_reply(429, "too-many-attempts", text, fix, {"Retry-After": str(wait_s)})


def with_headers(send: Send) -> Send:
    """`send`, such that every answer carries the security headers that it does not set itself."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


class Guard:
    """The outermost ASGI layer: refuses what the gate does not let in, adds the headers to every answer."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        handler = self._refusal(Request(scope)) or self._app
        await handler(scope, receive, with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        path, host = request.url.path, request.headers.get("host", "")
        if path not in _ANY_HOST_PATHS and not self._gate.host_allowed(host):
            return error_reply(
                403,
                "host-not-allowed",
                "This node does not answer under that host name.",
                "Use 127.0.0.1 or localhost, or add the name to the setting api_names.",
            )
        if path in _PUBLIC_PATHS or self._gate.open:
            return self._wrong_origin(request, host)
        session = self._gate.session_valid(request.cookies.get(self._gate.cookie_name))
        shown = request.headers.get("authorization")
        if shown is not None and not session and (refusal := too_many_attempts(self._gate, request)):
            return refusal
        bearer = self._gate.bearer_valid(shown)
        if not bearer and not session:
            if shown is not None:
                self._gate.attempts.failed(sender_of(request))
            if path == "/" and request.method in ("GET", "HEAD"):
                return help_page("Its dashboard is open to those who have its link.")
            return error_reply(
                401,
                "not-signed-in",
                "This node wants a token or a session.",
                "Open the link that the node printed, or send its token as Authorization: Bearer.",
                {"WWW-Authenticate": "Bearer"},
            )
        return self._wrong_origin(request, host, required=not bearer)

    def _wrong_origin(self, request: Request, host: str, *, required: bool = False) -> Response | None:
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin")
        # A browser always names the origin of a POST: a cookie without one is no browser of ours.
        if self._gate.origin_allowed(origin, host) and not (required and origin is None):
            return None
        return error_reply(
            403, "origin-not-allowed", "This request comes from another site.", "Use the node's own page."
        )
