"""Files from peers: manifest, checkpoints, commits, text. Pieces with digests, bounded, paced.

One stream a request: FileRequest, FileHeader (size, and the SHA-256 of every piece), then the pieces that
were asked for. The receiver checks each piece before it keeps it. What makes the whole trustworthy (a
signature, a digest that peers agree on) is checked by whoever asked. Here are the server and `fetch`, which
gets a small file from one peer in one stream; fetching.py gets large ones from several.

The server keeps what it serves open for a while: a file that is deleted meanwhile can still be had by those
who began to fetch it, and its digests are computed once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.peers.disk import this_disk
from atoll.peers.line import Line
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.peers.transfer_types import PIECE_BYTES, Content
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.counting import counted

STALL_S = 20.0
MAX_STREAMS = 16
MAX_OPEN = 64
"""Streams that may be open at once, those that have asked for nothing yet included."""
MAX_STREAMS_OF_ONE, MAX_OPEN_OF_ONE = 8, 16
"""Of those, what one peer may have: more than its transfers ask for at once, and never all."""
KINDS = ("manifest", "checkpoint", "commit", "payload", "data", "audit", "proof")
PACED = ("checkpoint", "data")
"""What a rate cap holds for: the rest is small, and keeps the swarm together."""
MAX_SHELF = 16
KEEP_OPEN_S = 60.0
_SLICE = 64 * 1024
_LARGE_SLICE = 256 * 1024
_READ_BYTES = 128 * 1024
YIELD_S = 1.5
"""A large file waits so long with each slice for a round to end: rounds go first, and bytes keep coming."""

log = logging.getLogger(__name__)


class FileRefused(ConnectionError):
    """The peer has no such file, or said no; `code` is its word."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the peer answered {code}")
        self.code = code


class FileDamaged(ConnectionError):
    """A piece does not have its digest, or the header makes no sense."""


# ---------------------------------------------------------------------------------------------------
# Giving files away


@dataclass(frozen=True)
class ServedFile:
    """A file this node gives away; `version` for checkpoints and commits."""

    path: Path
    version: int = 0


Provider = Callable[[str, int, int], ServedFile | None]
"""(kind, version, chunk) to a file, None if there is none."""


def content_of(file: BinaryIO) -> Content:
    """Size and digests of an open file. Blocking."""
    digests = []
    size = 0
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        digests.append(hashlib.sha256(piece).digest())
        size += len(piece)
    return Content(size, tuple(digests))


@dataclass
class _Open:
    """A file on the shelf. Whoever reads it is counted in `users`."""

    kind: str
    version: int
    file: BinaryIO
    content: asyncio.Future[Content]
    users: int = 0
    used_at: float = 0.0

    def read(self, piece: int, content: Content) -> bytes:
        """A piece, as long as it was when the digests were computed. Blocking. Raises OSError."""
        data = os.pread(self.file.fileno(), content.size(piece), piece * PIECE_BYTES)
        if len(data) != content.size(piece):
            raise OSError("the file has become shorter")
        return data


_Key = tuple[int, int, int, int]


@dataclass
class _Shelf:
    """Open files with their digests: at most MAX_SHELF that nobody reads, each for KEEP_OPEN_S."""

    clock: Callable[[], float]
    _files: dict[_Key, _Open] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def take(
        self, request: pb.FileRequest, served: ServedFile | None
    ) -> AsyncIterator[tuple[_Open, Content] | None]:
        """The file that was asked for, None if it is not here. Raises OSError."""
        held = self._by_content(request) if request.content else None
        if held is None and served is not None:
            held = await self._opened(request.kind, served)
        if held is None:
            yield None
            return
        held.users += 1
        try:
            yield held, await asyncio.shield(held.content)
        finally:
            held.users -= 1
            held.used_at = self.clock()
            self.tidy()

    def _by_content(self, request: pb.FileRequest) -> _Open | None:
        for held in self._files.values():
            here = held.kind == request.kind and held.content.done() and held.content.exception() is None
            if here and held.content.result().id == request.content:
                return held
        return None

    async def _opened(self, kind: str, served: ServedFile) -> _Open | None:
        try:
            file = await asyncio.to_thread(served.path.open, "rb")
        except FileNotFoundError:
            return None
        facts = os.fstat(file.fileno())
        key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if (held := self._files.get(key)) is not None:
            file.close()
            return held
        content = asyncio.ensure_future(asyncio.to_thread(content_of, file))
        held = self._files[key] = _Open(kind, served.version, file, content, used_at=self.clock())
        return held

    def tidy(self) -> None:
        """Closes what nobody reads: what failed or is old, then the longest unused of too many."""
        idle = [(key, held) for key, held in self._files.items() if not held.users and held.content.done()]
        idle.sort(key=lambda item: item[1].used_at)
        surplus = max(0, len(idle) - MAX_SHELF)
        old = self.clock() - KEEP_OPEN_S
        for place, (key, held) in enumerate(idle):
            if place < surplus or held.used_at <= old or held.content.exception() is not None:
                del self._files[key]
                held.file.close()
        if self._timer is not None:
            self._timer.cancel()
        later = asyncio.get_running_loop().call_later
        self._timer = later(KEEP_OPEN_S, self.tidy) if self._files else None


class FileServer:
    """Answers file requests of peers of this swarm. `cap` bounds what states and texts may take."""

    def __init__(
        self,
        host: Host,
        swarm_id: bytes,
        provider: Provider,
        cap: RateCap | None = None,
        clock: Callable[[], float] = time.monotonic,
        between_rounds: Callable[[], Awaitable[None]] | None = None,
        lets_in: Callable[[bytes], bool] = lambda peer: True,
    ) -> None:
        """`lets_in`: whether a peer may have anything at all."""
        self._lets_in = lets_in
        self.turned_away = 0
        self._between_rounds = between_rounds
        self.cap = cap or RateCap()
        self.sent_bytes = 0
        self._host = host
        self._swarm_id = swarm_id
        self._provider = provider
        self._clock = clock
        self._shelf = _Shelf(clock)
        self._places = asyncio.Semaphore(MAX_STREAMS)
        self._open = Counter[bytes]()
        self._answering = Counter[bytes]()

    async def listen(self) -> None:
        """Answers from now on; to be called again when the host was started again."""
        await self._host.p2p.add_binary_stream_handler(wire.FILES_PROTOCOL, self._accept)

    async def _accept(
        self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = bytes(info.peer_id.to_bytes())
        if not self._lets_in(peer):
            self.turned_away += 1
            writer.close()
            return
        try:
            with counted(self._open, peer):
                await self._serve(peer, reader, writer)
        except (OSError, EOFError, TimeoutError, wire.WireError) as error:
            log.debug("a file request ended early: %s", error)
        finally:
            writer.close()

    async def _serve(self, peer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open.total() > MAX_OPEN or self._open[peer] > MAX_OPEN_OF_ONE:
            raise wire.WireError("too many file streams are open")
        async with asyncio.timeout(STALL_S):
            request = await _read_request(reader)
        if self._places.locked() or self._answering[peer] >= MAX_STREAMS_OF_ONE:
            await send_message(writer, pb.FileHeader(error="busy"))
        else:
            async with self._places:
                with counted(self._answering, peer):
                    await self._answer(peer, request, writer)
        # A stream's end closes both directions at once: wait until the other side has read it all.
        async with asyncio.timeout(STALL_S):
            await reader.read(1)

    async def _answer(self, peer: bytes, request: pb.FileRequest, writer: asyncio.StreamWriter) -> None:
        ours = request.swarm_id == self._swarm_id and request.kind in KINDS
        served = self._provider(request.kind, request.version, request.chunk) if ours else None
        async with self._shelf.take(request, served) as taken:
            if taken is None or not ours:
                await send_message(writer, pb.FileHeader(error="not_found"))
                return
            held, content = taken
            if request.content and request.content != content.id:
                await send_message(writer, pb.FileHeader(error="other_content"))
                return
            header = pb.FileHeader(
                size_bytes=content.size_bytes,
                version=held.version,
                piece_bytes=PIECE_BYTES,
                piece_digests=() if request.content else content.digests,
            )
            await send_message(writer, header)
            if not request.header_only:
                await self._stream(peer, request, held, content, writer)

    async def _stream(
        self,
        peer: bytes,
        request: pb.FileRequest,
        held: _Open,
        content: Content,
        writer: asyncio.StreamWriter,
    ) -> None:
        """The pieces that were asked for, in slices where they are paced: so bytes keep coming.

        They end with the piece in which `peer` was revoked. Raises WireError then.
        """
        first, end = request.offset // PIECE_BYTES, len(content.digests)
        large = request.kind in PACED
        for piece in range(first, min(end, first + request.pieces) if request.pieces else end):
            if not self._lets_in(peer):
                self.turned_away += 1
                raise wire.WireError("the peer may have files no more")
            data = memoryview(await asyncio.to_thread(held.read, piece, content))
            paced = large and bool(self.cap.bytes_per_s)  # which may change meanwhile
            step = self._host.line.up.slice_bytes(_SLICE if paced else _LARGE_SLICE)
            for start in range(0, len(data), step):
                part = data[start : start + step]
                if paced:
                    await self._pace(len(part))
                if large:
                    await self._let_rounds_go_first()
                await self._host.line.send_state(len(part))
                writer.write(part)
                self.sent_bytes += len(part)
                async with asyncio.timeout(STALL_S):
                    await writer.drain()

    async def _let_rounds_go_first(self) -> None:
        """Returns between two rounds; in a long one, often enough for the receiver to see that it goes on."""
        if self._between_rounds is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(YIELD_S):
                await self._between_rounds()

    async def _pace(self, size_bytes: int) -> None:
        """Returns when so many bytes may go."""
        while (wait := self.cap.ready_at() - self._clock()) > 0:  # noqa: ASYNC110 - others may come first
            await asyncio.sleep(wait)
        self.cap.spend(size_bytes, self._clock())


async def _read_request(reader: asyncio.StreamReader) -> pb.FileRequest:
    size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), wire.MAX_FILE_REQUEST_BYTES)
    try:
        request = pb.FileRequest.FromString(await reader.readexactly(size))
    except DecodeError as error:
        raise wire.WireError("file request that is not readable") from error
    if request.offset % PIECE_BYTES:
        raise wire.WireError("file request that does not begin at a piece")
    return request


# ---------------------------------------------------------------------------------------------------
# Asking


async def send_message(writer: asyncio.StreamWriter, message: pb.FileHeader | pb.FileRequest) -> None:
    """Writes a request or a header after its length."""
    writer.write(wire.prefixed(message.SerializeToString()))
    await writer.drain()


@asynccontextmanager
async def asked(
    p2p: P2P, peer: bytes, request: pb.FileRequest
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A stream on which `request` has been sent. Raises FileRefused("unreachable"), OSError, TimeoutError."""
    try:
        async with asyncio.timeout(STALL_S):
            _, reader, writer = await p2p.call_binary_stream_handler(PeerID(peer), wire.FILES_PROTOCOL)
    except P2PDaemonError as error:
        raise FileRefused("unreachable") from error
    try:
        await send_message(writer, request)
        yield reader, writer
    finally:
        writer.close()


async def read_header(reader: asyncio.StreamReader) -> pb.FileHeader:
    """The header of an answer. Raises FileRefused, FileDamaged, WireError, and as streams do."""
    async with asyncio.timeout(STALL_S):
        size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), wire.MAX_FILE_HEADER_BYTES)
        body = await reader.readexactly(size)
    try:
        header = pb.FileHeader.FromString(body)
    except DecodeError as error:
        raise FileDamaged("file header that is not readable") from error
    if header.error:
        raise FileRefused(header.error[:64])
    return header


def announced(header: pb.FileHeader, max_bytes: int) -> Content:
    """The content that a header describes. Raises FileDamaged."""
    digests = tuple(header.piece_digests)
    fits = header.piece_bytes == PIECE_BYTES and header.size_bytes <= max_bytes
    if not fits or any(len(digest) != hashlib.sha256().digest_size for digest in digests):
        raise FileDamaged(f"file of {header.size_bytes} bytes announced, at most {max_bytes} are expected")
    try:
        return Content(int(header.size_bytes), digests)
    except ValueError as error:
        raise FileDamaged(f"file header with {error}") from error


async def read_paced(
    reader: asyncio.StreamReader, size: int, line: Line, came: Callable[[int], None] = lambda size: None
) -> bytearray:
    """`size` bytes of a file, as fast as the line may be taken. Raises EOFError, TimeoutError, OSError."""
    data = bytearray()
    step = line.down.slice_bytes(_READ_BYTES)
    while len(data) < size:
        async with asyncio.timeout(STALL_S):
            part = await reader.read(min(step, size - len(data)))
        if not part:
            raise asyncio.IncompleteReadError(bytes(data), size)
        data += part
        came(len(part))
        await line.read_state(len(part))
    return data


async def fetch(
    host: Host,
    peer: bytes,
    swarm_id: bytes,
    kind: str,
    target: Path,
    *,
    version: int = 0,
    chunk: int = 0,
    max_bytes: int,
) -> int:
    """Fetches a small file from `peer` into `target` in one stream and returns its version.

    Raises FileRefused, FileDamaged, WireError, or OSError/EOFError/TimeoutError when the connection broke or
    stalled, and DiskRefused; `target` is then as it was.
    """
    part = target.with_name(target.name + ".part")
    request = pb.FileRequest(swarm_id=swarm_id, kind=kind, version=version, chunk=chunk)
    try:
        async with asked(host.p2p, peer, request) as (reader, writer):
            header = await read_header(reader)
            content = announced(header, max_bytes)
            with this_disk(part):
                file = await asyncio.to_thread(part.open, "wb")
            try:
                for piece, digest in enumerate(content.digests):
                    data = await read_paced(reader, content.size(piece), host.line)
                    if hashlib.sha256(data).digest() != digest:
                        raise FileDamaged("a piece of the file does not have its digest")
                    with this_disk(part):
                        await asyncio.to_thread(file.write, data)
                writer.write(b"\0")
                with this_disk(target):
                    await asyncio.to_thread(replace_durably, file, part, target)
            finally:
                # What counts was flushed before: that a full disk refuses the rest again must not hide why.
                with suppress(OSError):
                    file.close()
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return int(header.version)


def replace_durably(file: BinaryIO, part: Path, target: Path) -> None:
    """Makes a whole .part file the target: fsync, rename, fsync the folder. Blocking. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
