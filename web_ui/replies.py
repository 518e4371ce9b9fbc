"""Answers of the API: JSON, refusals, request bodies, and the two small pages shown outside a session.

A refusal is `{"error": {"code", "message", "fix"}}` with a status. No stack trace leaves here. A body is read
under a size cap and a deadline; what is wrong with it becomes `BadBody`, a refusal with its status.
"""

import asyncio
import base64
import hashlib
import html
import json
import math
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:17px/1.55 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1.5rem}"
    "h1{font-size:1.35rem;letter-spacing:-.01em}code{font-size:.95em}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# These pages stand outside the session and cannot load the style sheet, so their one style is named by its
# hash.
_PAGE_CSP = (
    f"default-src 'self'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class BadBody(Exception):
    """A request body that is too large, too slow, or not a JSON object."""

    def __init__(self, status: int, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fix = fix


def encode_json(value: Any) -> str:
    """Return compact JSON in one line. A float that is not finite becomes null: JSON has no word for it."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


def json_reply(value: Any, status: int = 200) -> Response:
    # A lone surrogate from a hostile name has no UTF-8 form; it is replaced, not allowed to fail the request.
    return Response(encode_json(value).encode("utf-8", "replace"), status, media_type="application/json")


def error_reply(
    status: int, code: str, message: str, fix: str, headers: dict[str, str] | None = None
) -> Response:
    reply = json_reply({"error": {"code": code, "message": message, "fix": fix}}, status)
    reply.headers.update(headers or {})
    return reply


async def read_object(
    request: Request, *, limit_bytes: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
) -> dict[str, Any]:
    """Return the request's JSON object; an empty body is the empty object. Raises `BadBody`."""
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read_capped(request, limit_bytes)
    except TimeoutError:
        raise BadBody(408, "body-too-slow", "The request body came too slowly.", "Send it again.") from None
    except ClientDisconnect:
        raise BadBody(400, "body-cut-off", "The request ended before its body.", "Send it again.") from None
    if not body:
        return {}
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise BadBody(
            415, "not-json", "The body is not declared as JSON.", "Say Content-Type: application/json."
        )
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadBody(400, "bad-json", "The body is not valid JSON.", "Send one JSON object.") from None
    if not isinstance(value, dict):
        raise BadBody(400, "bad-json", "The body is not a JSON object.", "Send one JSON object.")
    return value


async def _read_capped(request: Request, limit_bytes: int) -> bytes:
    too_large = BadBody(
        413, "body-too-large", f"The body is larger than {limit_bytes} bytes.", "Send a smaller one."
    )
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:12]) > limit_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit_bytes:
            raise too_large
        body += chunk
    return bytes(body)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def help_page(explanation: str, status: int = 401) -> Response:
    """The page for a browser without a session: how to get one. It names no fact about the node."""
    return _small_page(
        status,
        "Atoll",
        f"<h1>This is an Atoll node</h1><p>{html.escape(explanation)}</p>"
        "<p>Open the link that the node printed, or run <code>atoll status</code> (with the node's "
        "--data-dir) for a fresh one.</p>",
    )


def welcome_page() -> Response:
    """The page after a login link was redeemed; it moves on to the dashboard by itself.

    A page and not a redirect: a link that was clicked on another site would carry that site as the initiator
    through a redirect, and the SameSite=Strict cookie would stay behind.
    """
    return _small_page(
        200,
        "Atoll",
        '<h1>Signed in</h1><p><a href="/">Open the dashboard</a></p>',
        '<meta http-equiv="refresh" content="0;url=/">',
    )


def _small_page(status: int, title: str, body: str, head: str = "") -> Response:
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"{head}<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )
    headers = {"Content-Security-Policy": _PAGE_CSP, "Cache-Control": "no-store"}
    return HTMLResponse(page, status, headers)
