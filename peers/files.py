"""Files from peers: manifest, checkpoint, commits, text. Pieces with digests, resumable, bounded.

One stream a file: FileRequest, FileHeader (size, and the SHA-256 of every piece), then the bytes from the
asked offset on. The receiver checks each piece before it writes it, so what is on its disk is always a good
prefix: after a broken connection it goes on from there, at another holder of the same file if need be.
What makes the whole trustworthy (a signature, a digest that peers agree on) is checked by whoever asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

PIECE_BYTES = 1 << 20
STALL_S = 20.0
MAX_STREAMS = 16
MAX_OPEN = 64
"""Streams that may be open at once, those that have asked for nothing yet included."""
KINDS = ("manifest", "checkpoint", "commit", "payload", "data")

log = logging.getLogger(__name__)


class FileRefused(ConnectionError):
    """The peer has no such file, or said no; `code` is its word."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the peer answered {code}")
        self.code = code


class FileDamaged(ConnectionError):
    """A piece does not have its digest, or the header makes no sense."""


@dataclass(frozen=True)
class ServedFile:
    """A file this node gives away; `version` for checkpoints and commits."""

    path: Path
    version: int = 0


Provider = Callable[[str, int], ServedFile | None]
"""(kind, version) to a file, None if there is none."""


def piece_digests(path: Path) -> tuple[int, list[bytes]]:
    """Size of a file and the SHA-256 of each of its pieces. Blocking."""
    digests = []
    size = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digests.append(hashlib.sha256(piece).digest())
            size += len(piece)
    return size, digests


class FileServer:
    """Answers file requests of peers of this swarm."""

    def __init__(self, p2p: P2P, swarm_id: bytes, provider: Provider) -> None:
        self._p2p = p2p
        self._swarm_id = swarm_id
        self._provider = provider
        self._places = asyncio.Semaphore(MAX_STREAMS)
        self._open = 0
        self.sent_bytes = 0

    async def listen(self) -> None:
        await self._p2p.add_binary_stream_handler(wire.FILES_PROTOCOL, self._accept)

    async def _accept(self, info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > MAX_OPEN:
                raise wire.WireError("too many file streams are open")
            async with asyncio.timeout(STALL_S):
                request = await _read_request(reader)
            if self._places.locked():
                await _send(writer, pb.FileHeader(error="busy"))
            else:
                async with self._places:
                    await self._answer(request, writer)
            # A stream's end closes both directions at once: wait until the other side has read it all.
            async with asyncio.timeout(STALL_S):
                await reader.read(1)
        except (OSError, EOFError, TimeoutError, wire.WireError) as error:
            log.debug("a file request ended early: %s", error)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, request: pb.FileRequest, writer: asyncio.StreamWriter) -> None:
        served = self._find(request)
        if served is None:
            await _send(writer, pb.FileHeader(error="not_found"))
            return
        size, digests = await asyncio.to_thread(piece_digests, served.path)
        header = pb.FileHeader(
            size_bytes=size, version=served.version, piece_bytes=PIECE_BYTES, piece_digests=digests
        )
        await _send(writer, header)
        with await asyncio.to_thread(served.path.open, "rb") as file:
            file.seek(request.offset)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                writer.write(piece)
                self.sent_bytes += len(piece)
                async with asyncio.timeout(STALL_S):
                    await writer.drain()

    def _find(self, request: pb.FileRequest) -> ServedFile | None:
        if request.swarm_id != self._swarm_id or request.kind not in KINDS:
            return None
        served = self._provider(request.kind, request.version)
        return served if served is not None and served.path.is_file() else None


async def _read_request(reader: asyncio.StreamReader) -> pb.FileRequest:
    size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), wire.MAX_FILE_REQUEST_BYTES)
    try:
        request = pb.FileRequest.FromString(await reader.readexactly(size))
    except DecodeError as error:
        raise wire.WireError("file request that is not readable") from error
    if request.offset % PIECE_BYTES:
        raise wire.WireError("file request that does not begin at a piece")
    return request


async def _send(writer: asyncio.StreamWriter, message: pb.FileHeader | pb.FileRequest) -> None:
    writer.write(wire.prefixed(message.SerializeToString()))
    await writer.drain()


Progress = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


async def fetch(
    p2p: P2P,
    peer: bytes,
    swarm_id: bytes,
    kind: str,
    target: Path,
    *,
    version: int = 0,
    max_bytes: int,
    progress: Progress | None = None,
) -> int:
    """Fetches a file from `peer` into `target` and returns its version.

    What an earlier, broken attempt left in `target`.part is used if its pieces are of the same file. Raises
    FileRefused, FileDamaged, or OSError/EOFError/TimeoutError when the connection broke or stalled.
    """
    part = target.with_name(target.name + ".part")
    try:
        async with asyncio.timeout(STALL_S):
            _, reader, writer = await p2p.call_binary_stream_handler(PeerID(peer), wire.FILES_PROTOCOL)
    except P2PDaemonError as error:
        raise FileRefused("unreachable") from error
    try:
        kept = part.stat().st_size // PIECE_BYTES * PIECE_BYTES if part.exists() else 0
        await _send(writer, pb.FileRequest(swarm_id=swarm_id, kind=kind, version=version, offset=kept))
        header = await _read_header(reader, max_bytes)
        if kept and not await asyncio.to_thread(_is_prefix, part, kept, header):
            await asyncio.to_thread(part.unlink)
            writer.close()
            return await fetch(
                p2p, peer, swarm_id, kind, target, version=version, max_bytes=max_bytes, progress=progress
            )
        await _receive(reader, header, part, kept, progress)
        writer.write(b"\0")
    finally:
        writer.close()
    await asyncio.to_thread(part.replace, target)
    return int(header.version)


async def _read_header(reader: asyncio.StreamReader, max_bytes: int) -> pb.FileHeader:
    async with asyncio.timeout(STALL_S):
        size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES), wire.MAX_FILE_HEADER_BYTES)
        body = await reader.readexactly(size)
    try:
        header = pb.FileHeader.FromString(body)
    except DecodeError as error:
        raise FileDamaged("file header that is not readable") from error
    if header.error:
        raise FileRefused(header.error[:64])
    pieces = -(-header.size_bytes // PIECE_BYTES)
    if (
        header.piece_bytes != PIECE_BYTES
        or header.size_bytes > max_bytes
        or len(header.piece_digests) != pieces
    ):
        raise FileDamaged(f"file of {header.size_bytes} bytes announced, at most {max_bytes} are expected")
    return header


def _is_prefix(part: Path, kept: int, header: pb.FileHeader) -> bool:
    """Whether the first `kept` bytes on disk are the first pieces of the announced file."""
    if kept > header.size_bytes:
        return False
    with part.open("r+b") as file:
        for digest in header.piece_digests[: kept // PIECE_BYTES]:
            if hashlib.sha256(file.read(PIECE_BYTES)).digest() != digest:
                return False
        file.truncate(kept)
    return True


async def _receive(
    reader: asyncio.StreamReader, header: pb.FileHeader, part: Path, kept: int, progress: Progress | None
) -> None:
    here = kept
    with await asyncio.to_thread(part.open, "ab") as file:
        while here < header.size_bytes:
            size = min(PIECE_BYTES, header.size_bytes - here)
            async with asyncio.timeout(STALL_S):
                piece = await reader.readexactly(size)
            if hashlib.sha256(piece).digest() != header.piece_digests[here // PIECE_BYTES]:
                raise FileDamaged("a piece of the file does not have its digest")
            await asyncio.to_thread(file.write, piece)
            here += size
            if progress is not None:
                progress(here, header.size_bytes)
