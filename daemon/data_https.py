"""Shards from the organiser's web server: `url/digest in hex`, by HTTPS, resumed where it broke off.

Owns the .https files beside the shards, each the beginning of one. What came is believed only if it has the
digest; a server that gave something else is not asked for that shard again for a while. Plain http, also by a
redirect, and certificates that this machine does not trust are refused. Every failure is Unavailable with its
reason, but for a disk that refuses (AtollError).
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from atoll.daemon.data_sources import Unavailable
from atoll.daemon.storage.files import disk_error
from atoll.daemon.storage.shard_files import ShardFiles, WrongShard
from atoll.peers.fetching import Progress
from atoll.peers.pacing import RateCap

CONNECT_S = 10.0
SILENCE_S = 20.0
DISTRUST_S = 600.0
MAX_REDIRECTS = 5
MAX_BREAKS = 5
"""So often a connection that brought something may break until another source is tried."""
SLOW_S = 60.0
SLOW_BYTES_PER_S = 8 * 1024
"""A server that is slower than this after so long is left."""
_READ_BYTES = 128 * 1024


class _Broken(Exception):
    """The connection ended early; `got` bytes had come over it."""

    def __init__(self, reason: str, got: int) -> None:
        super().__init__(reason)
        self.got = got


class HttpsSource:
    """One base URL of the manifest. `cap` bounds what it may take; `trust` is for tests."""

    def __init__(
        self,
        files: ShardFiles,
        url: str,
        cap: RateCap,
        clock: Callable[[], float] = time.monotonic,
        trust: ssl.SSLContext | bool = True,
    ) -> None:
        self.name = url
        self._files = files
        self._cap = cap
        self._clock = clock
        self._trust = trust
        self._distrusted: dict[int, float] = {}

    async def fetch(self, index: int, progress: Progress) -> None:
        """Fetches a shard. Raises Unavailable, AtollError."""
        if self._distrusted.get(index, 0.0) > self._clock():
            raise Unavailable("what it gave was not the shard")
        part = self._files.path(index).with_suffix(".https")
        resumed = await asyncio.to_thread(_size_of, part)
        await self._fetched(index, part, progress)
        try:
            await asyncio.to_thread(self._files.adopt, index, part)
        except WrongShard as error:
            if not resumed:
                self._distrusted[index] = self._clock() + DISTRUST_S
            # The beginning was of an earlier time: the next attempt is without it.
            raise Unavailable(str(error)) from error

    async def _fetched(self, index: int, part: Path, progress: Progress) -> None:
        """Brings the part to its whole length, over as many connections as it takes."""
        for left in reversed(range(MAX_BREAKS)):
            try:
                await self._connection(index, part, progress)
                return
            except _Broken as error:
                if not left or not error.got:
                    raise Unavailable(str(error)) from error

    async def _connection(self, index: int, part: Path, progress: Progress) -> None:
        size, here = self._files.sizes[index], await asyncio.to_thread(_size_of, part)
        if here > size:
            part.unlink()
            here = 0
        if here == size:
            return
        url = f"{self.name.rstrip('/')}/{self._files.digests[index].hex()}"
        headers = {"User-Agent": "atoll", "Accept-Encoding": "identity"}
        if here:
            headers["Range"] = f"bytes={here}-"
        came = _Count()
        try:
            async with (
                self._client() as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                here = _start(response, here, size)
                await self._receive(response, part, here, size, came, progress)
        except httpx.TransportError as error:
            raise _Broken(_reason(error), came.bytes) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(_reason(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
            raise disk_error(part, error) from error

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._trust,
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            event_hooks={"request": [_only_https]},
        )

    async def _receive(
        self,
        response: httpx.Response,
        part: Path,
        here: int,
        size: int,
        came: _Count,
        progress: Progress,
    ) -> None:
        began = self._clock()
        with await asyncio.to_thread(part.open, "ab" if here else "wb") as file:
            async for piece in response.aiter_raw(_READ_BYTES):
                here, came.bytes = here + len(piece), came.bytes + len(piece)
                if here > size:
                    raise Unavailable(f"it sends more than the {size} bytes of the shard")
                await asyncio.to_thread(_written, file, piece)
                progress(here, size)
                self._cap.spend(len(piece), self._clock())
                if (wait := self._cap.ready_at() - self._clock()) > 0:
                    await asyncio.sleep(wait)
                elapsed = self._clock() - began
                if elapsed > SLOW_S and came.bytes < SLOW_BYTES_PER_S * elapsed:
                    raise Unavailable("it sends too slowly")
        if here < size:
            raise _Broken(f"it ended after {here} of {size} bytes", came.bytes)


class _Count:
    """Bytes that came over a connection, known also when it breaks."""

    def __init__(self) -> None:
        self.bytes = 0


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _written(file: BinaryIO, piece: bytes) -> None:
    file.write(piece)
    file.flush()


def _start(response: httpx.Response, here: int, size: int) -> int:
    """From where on the answer is. Raises Unavailable if it can't be a shard, or the rest of one."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        if not here or not response.headers.get("content-range", "").startswith(f"bytes {here}-"):
            raise Unavailable("it sent another part than was asked for")
    elif response.status_code == httpx.codes.OK:
        here = 0
    else:
        raise Unavailable(f"it answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Unavailable("it sent an encoded file, though that was not asked for")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and here + int(length) != size:
        raise Unavailable(f"its file has {here + int(length)} bytes, the shard {size}")
    return here


async def _only_https(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise Unavailable(f"it leads to {request.url.host} by {request.url.scheme}, which is not secure")


def _reason(error: BaseException) -> str:
    """What went wrong, for people."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate can't be trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    return str(error) or type(error).__name__
