"""A small synchronous client of a node's API, for commands such as `atoll status`.

Standard library only, and cheap to import: those commands must answer at once. It owns one connection per
call. What can fail: nobody answers (`ApiUnreachable`), or the node says no (`ApiRefused`, with the node's
own code, sentence and fix). Answers are capped in size; nothing is retried here.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from atoll.web_ui.rounds import with_ids

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_EVENT_LINE_BYTES = 1024 * 1024
# Three heartbeats of the server: a stream that is silent for longer has lost its other end.
STREAM_TIMEOUT_S = 45.0
KEPT_ROUNDS = 500


class ApiError(Exception):
    """The node gave no usable answer."""


class ApiUnreachable(ApiError):
    """Nobody answered at this address, or not in time, or not in this protocol."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"No node answers at {url}: {cause}.")
        self.url = url
        self.cause = cause


class ApiRefused(ApiError):
    """The node refused. `code` is for machines, `message` and `fix` are its sentences."""

    def __init__(self, code: str, message: str, fix: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.status = status


class ApiClient:
    """Talks to the node at `url` (`http://HOST:PORT`). `timeout_s` holds for connecting and for each read."""

    def __init__(self, url: str, token: str, timeout_s: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not the address of a node: {url}")
        self.url = url
        self._host = parts.hostname
        self._port = parts.port or 80
        self._token = token
        self._timeout_s = timeout_s

    def state(self) -> dict[str, Any]:
        """Return the node's snapshot, see `state_types.State`."""
        return self._call("GET", "/api/v1/state")

    def rounds(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the reports that changed after a revision, oldest round first, with ids for numbers."""
        found: dict[tuple[int, float], dict[str, Any]] = {}
        while True:
            page = self._call("GET", f"/api/v1/rounds?after={after}")
            if not page["rounds"]:
                return [found[key] for key in sorted(found, key=lambda key: key[1])]
            found |= {(r["version"], r["time"]): with_ids(r, page["peers"]) for r in page["rounds"]}
            after = page["revision"]

    def picture(self, newest: int = KEPT_ROUNDS) -> dict[str, Any]:
        """Return the snapshot and, as `rounds`, the newest reports of rounds."""
        state = self.state()
        # A round is told of three times at most: its end, its digest, its validation loss.
        return {**state, "rounds": self.rounds(max(0, state["rounds_revision"] - 3 * newest))[-newest:]}

    def past(self, name: str | None, since: float, until: float, points: int) -> dict[str, Any]:
        """Return one figure's history, see `interface.History`; without a name which figures there are."""
        of = f"name={quote(name, safe='')}&" if name is not None else ""
        return self._call("GET", f"/api/v1/history?{of}since={since:.3f}&until={until:.3f}&points={points}")

    def metrics(self) -> str:
        """Return the node's metrics, Prometheus text."""
        with self._request("GET", "/metrics", b"", self._timeout_s) as response:
            body = response.read(MAX_ANSWER_BYTES + 1)
            if response.status != 200 or len(body) > MAX_ANSWER_BYTES:
                raise ApiUnreachable(self.url, "it gives no metrics")
            return body.decode("utf-8", "replace")

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have the node carry out a command and return its answer."""
        return self._call("POST", f"/api/v1/commands/{quote(name, safe='')}", json.dumps(arguments).encode())

    def login_link(self) -> str:
        """Return a fresh one-time link for a browser."""
        return str(self._call("POST", "/api/v1/login-link")["url"])

    def ready(self) -> tuple[bool, str]:
        """Return whether the node has joined and averages, and its reason code."""
        answer = self._call("GET", "/readyz", refused_is_answer=True)
        return answer.get("ready") is True, str(answer.get("reason", ""))

    def events(self, since: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield events after `since` as they come (None: only new ones), until the node ends the stream.

        A gap shows as an event of kind `reset`. To go on after an end, call again with the last sequence.
        """
        path = "/api/v1/events" if since is None else f"/api/v1/events?since={since}"
        with self._request("GET", path, b"", max(self._timeout_s, STREAM_TIMEOUT_S)) as response:
            if response.status != 200:
                self._parse(response, refused_is_answer=False)
            kind = ""
            while line := response.readline(MAX_EVENT_LINE_BYTES):
                if not line.endswith(b"\n"):
                    break  # cut off in the middle, or larger than any event
                field, _, value = line.rstrip(b"\r\n").partition(b": ")
                if field == b"event":
                    kind = value.decode("utf-8", "replace")
                elif field == b"data":
                    event = self._decode(value)
                    yield {**event, "kind": kind} if kind else event
                    kind = ""

    def _call(
        self, method: str, path: str, body: bytes = b"", *, refused_is_answer: bool = False
    ) -> dict[str, Any]:
        with self._request(method, path, body, self._timeout_s) as response:
            return self._parse(response, refused_is_answer)

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {"Accept": "application/json, text/event-stream"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, body or None, headers)
            yield connection.getresponse()
        except TimeoutError:
            raise ApiUnreachable(self.url, f"no answer within {timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "strerror", None) or type(error).__name__
            raise ApiUnreachable(self.url, cause) from error
        finally:
            connection.close()

    def _parse(self, response: http.client.HTTPResponse, refused_is_answer: bool) -> dict[str, Any]:
        body = response.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise ApiUnreachable(self.url, "its answer is larger than any node's")
        answer = self._decode(body)
        if response.status == 200 or (refused_is_answer and "error" not in answer):
            return answer
        error = answer.get("error")
        error = error if isinstance(error, dict) else {}
        raise ApiRefused(
            str(error.get("code", "refused")),
            str(error.get("message", f"The node answered {response.status}.")),
            str(error.get("fix", "")),
            response.status,
        )

    def _decode(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ApiUnreachable(self.url, "what answers there is not a node")
        return answer
