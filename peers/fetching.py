"""Fetching a large file from several holders at once: the sockets, clock and disk of the transfer machine.

First `offers` asks holders for their headers, and groups them by content: what most of them name is most
likely the truth, and whoever asked checks the whole afterwards. Then `fetch_content` fetches one of them into
`target`.part, piece by piece in any order, and renames it when all are there. What an earlier attempt left in
`target`.part is used: pieces with the right digest are good, whatever came between. Holders may come and go.

Fails with TransferFailed, a reason for every holder, when none is left; and with DiskRefused when this disk
refuses (a full one is not kept full: the part is then removed).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from hivemind.p2p import P2P

from atoll.peers import transfer as tr
from atoll.peers.disk import DiskRefused, this_disk
from atoll.peers.files import (
    STALL_S,
    FileDamaged,
    FileRefused,
    announced,
    asked,
    read_header,
    read_paced,
    replace_durably,
)
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

MAX_ASKED = 16
HEADERS_S = 2.0
"""Holders that need longer to answer are not waited for, if another one has."""
LOOK_S = 0.5
_NOT_NOW = ("busy", "unreachable")
ERRORS = (FileRefused, FileDamaged, wire.WireError, OSError, EOFError, TimeoutError)
"""How a request to a peer can fail; this disk's refusals are none of them."""

Progress = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


class TransferFailed(ConnectionError):
    """No holder is left; `reasons` says why, for each."""

    def __init__(self, reasons: Mapping[bytes, str]) -> None:
        text = "; ".join(f"{readable_name(peer)}: {reason}" for peer, reason in reasons.items())
        super().__init__(text or "nobody holds it")
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class Wanted:
    """A file that peers hold; version 0: their newest."""

    swarm_id: bytes
    kind: str
    version: int
    max_bytes: int


@dataclass(frozen=True)
class Offer:
    """One content of a wanted file, who named it, and who has said that it lacks it."""

    content: tr.Content
    version: int
    holders: tuple[bytes, ...]
    lacking: frozenset[bytes] = frozenset()


async def offers(
    p2p: P2P, peers: Sequence[bytes], wanted: Wanted
) -> tuple[list[Offer], dict[bytes, Exception]]:
    """What the peers have of a file, named by most first; and why the others have nothing.

    Some are asked at a time, until one of them has it.
    """
    found: list[Offer] = []
    failures: dict[bytes, Exception] = {}
    for start in range(0, len(peers), MAX_ASKED):
        found, failed = await _offers_of(p2p, peers[start : start + MAX_ASKED], wanted)
        failures |= failed
        if found:
            break
    refused = {peer for peer, error in failures.items() if _is_for_good(error)}
    named = {peer for offer in found for peer in offer.holders}
    return [replace(o, lacking=frozenset(refused | (named - {*o.holders}))) for o in found], failures


def _is_for_good(error: Exception) -> bool:
    return isinstance(error, FileRefused) and error.code not in _NOT_NOW


async def _offers_of(
    p2p: P2P, peers: Sequence[bytes], wanted: Wanted
) -> tuple[list[Offer], dict[bytes, Exception]]:
    tasks = {asyncio.create_task(_header(p2p, peer, wanted)): peer for peer in peers}
    found: dict[tuple[bytes, int], Offer] = {}
    failures: dict[bytes, Exception] = {}
    late = set(tasks)
    # All of them, if they answer soon; else whoever answers first.
    timeout, when = HEADERS_S, asyncio.ALL_COMPLETED
    try:
        while late and not found:
            done, late = await asyncio.wait(late, timeout=timeout, return_when=when)
            timeout, when = STALL_S, asyncio.FIRST_COMPLETED
            for task in sorted(done, key=lambda task: tasks[task]):
                peer = tasks[task]
                try:
                    content, version = task.result()
                except ERRORS as error:
                    failures[peer] = error
                    continue
                offer = found.get((content.id, version), Offer(content, version, ()))
                found[content.id, version] = replace(offer, holders=(*offer.holders, peer))
    finally:
        await _cancelled(late)
    return sorted(found.values(), key=lambda offer: -len(offer.holders)), failures


async def _header(p2p: P2P, peer: bytes, wanted: Wanted) -> tuple[tr.Content, int]:
    request = pb.FileRequest(
        swarm_id=wanted.swarm_id, kind=wanted.kind, version=wanted.version, header_only=True
    )
    async with asked(p2p, peer, request) as (reader, writer):
        header = await read_header(reader)
        writer.write(b"\0")
    return announced(header, wanted.max_bytes), int(header.version)


async def _cancelled(tasks: set[asyncio.Task[tuple[tr.Content, int]]] | set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unheard(peer: bytes, reason: str) -> None:
    pass


@dataclass(frozen=True)
class Options:
    """`candidates`: who may hold the content now, looked at again and again; None: those of the offer.
    `dropped` hears of a holder that is not asked any more."""

    candidates: Callable[[], Sequence[bytes]] | None = None
    progress: Progress | None = None
    dropped: Callable[[bytes, str], None] = _unheard
    cap: RateCap | None = None
    clock: Callable[[], float] = time.monotonic


async def fetch_content(
    host: Host, wanted: Wanted, offer: Offer, target: Path, options: Options | None = None
) -> None:
    """Fetches the offered content into `target`. Raises TransferFailed, DiskRefused."""
    part = target.with_name(target.name + ".part")
    with this_disk(part):
        file, good = await asyncio.to_thread(_open_part, part, offer.content)
    try:
        with file:
            await _Fetch(host, wanted, offer, part, file, good, options or Options()).run()
            with this_disk(target):
                await asyncio.to_thread(replace_durably, file, part, target)
    except DiskRefused as refused:
        if refused.error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
        raise


def _open_part(part: Path, content: tr.Content) -> tuple[BinaryIO, list[int]]:
    """The file to write to, as long as the content, and the pieces that are in it already. Blocking."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    file = os.fdopen(descriptor, "r+b")
    try:
        here = min(os.fstat(descriptor).st_size, content.size_bytes)
        os.ftruncate(descriptor, content.size_bytes)
        good = []
        for piece in range(-(-here // content.piece_bytes)):
            data = os.pread(descriptor, content.size(piece), piece * content.piece_bytes)
            if hashlib.sha256(data).digest() == content.digests[piece]:
                good.append(piece)
    except OSError:
        file.close()
        raise
    return file, good


def _sha256(data: bytearray) -> bytes:
    return hashlib.sha256(data).digest()


class _Fetch:
    """One transfer: carries out what the machine asks for."""

    def __init__(
        self,
        host: Host,
        wanted: Wanted,
        offer: Offer,
        part: Path,
        file: BinaryIO,
        good: Sequence[int],
        options: Options,
    ) -> None:
        self._host = host
        self._wanted = wanted
        self._content = offer.content
        self._known = {*offer.holders, *offer.lacking}
        self._part = part
        self._file = file
        self._options = options
        self._machine = tr.Transfer(offer.content, offer.holders, good, options.cap)
        self._here = sum(offer.content.size(piece) for piece in good)
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._disk_error: DiskRefused | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Returns when every piece is written. Raises TransferFailed, DiskRefused."""
        self._carry_out(self._machine.start(self._options.clock()))
        try:
            while self._machine.over is None and self._disk_error is None:
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()
                self._look_who_is_there()
                if self._machine.deadline() <= (now := self._options.clock()):
                    self._carry_out(self._machine.tick(now))
            await asyncio.gather(*self._writes)
        finally:
            await _cancelled(set(self._requests.values()))
            await asyncio.gather(*self._writes, return_exceptions=True)
        if self._disk_error is not None:
            raise self._disk_error
        if isinstance(self._machine.over, tr.Failed):
            raise TransferFailed(self._machine.over.reasons)

    def _pause_s(self) -> float:
        return min(LOOK_S, max(0.0, self._machine.deadline() - self._options.clock()))

    def _look_who_is_there(self) -> None:
        """Tells the machine who has come and who has gone."""
        if self._options.candidates is None:
            return
        present = set(self._options.candidates())
        for peer in sorted(present - self._known):
            self._feed(tr.HolderCame(peer))
        for peer in sorted(self._known - present):
            self._feed(tr.HolderLeft(peer, "it is gone"))
        self._known = present

    def _feed(self, event: tr.Event) -> list[tr.Effect]:
        effects = self._machine.handle(event, self._options.clock())
        self._carry_out(effects)
        return effects

    def _carry_out(self, effects: list[tr.Effect]) -> None:
        for effect in effects:
            match effect:
                case tr.Ask():
                    self._requests[effect.request] = asyncio.create_task(self._ask(effect))
                case tr.Cancel():
                    if (task := self._requests.pop(effect.request, None)) is not None:
                        task.cancel()
                case tr.Dropped():
                    self._options.dropped(effect.holder, effect.reason)
                case tr.Keep() | tr.Done() | tr.Failed():
                    pass
        self._changed.set()

    async def _ask(self, ask: tr.Ask) -> None:
        """One request to one holder; however it ends, the machine is told."""
        try:
            await self._receive(ask)
        except FileRefused as error:
            self._ended(ask, error.code, refused=error.code not in _NOT_NOW)
        except (FileDamaged, wire.WireError) as error:
            self._ended(ask, str(error), refused=True)
        except EOFError:
            self._ended(ask, "the connection broke")
        except TimeoutError:
            self._ended(ask, "it did not answer in time")
        except OSError as error:
            self._ended(ask, f"the connection broke ({error})")
        finally:
            self._requests.pop(ask.request, None)

    def _ended(self, ask: tr.Ask, reason: str, refused: bool = False) -> None:
        self._feed(tr.Ended(ask.request, reason, refused))

    async def _receive(self, ask: tr.Ask) -> None:
        content = self._content
        request = pb.FileRequest(
            swarm_id=self._wanted.swarm_id,
            kind=self._wanted.kind,
            version=self._wanted.version,
            offset=ask.first * content.piece_bytes,
            pieces=ask.count,
            content=content.id,
        )
        async with asked(self._host.p2p, ask.holder, request) as (reader, writer):
            header = await read_header(reader)
            if header.size_bytes != content.size_bytes or header.piece_digests:
                raise FileDamaged("it answered with another content")
            self._feed(tr.Received(ask.request, 0))
            for piece in range(ask.first, ask.first + ask.count):
                data = await read_paced(
                    reader, content.size(piece), self._host.line, partial(self._came, ask.request)
                )
                digest = await asyncio.to_thread(_sha256, data)
                effects = self._feed(tr.PieceCame(ask.request, digest))
                if tr.Keep(piece) in effects:
                    await self._write(piece, data)
            writer.write(b"\0")

    def _came(self, request: int, size_bytes: int) -> None:
        self._feed(tr.Received(request, size_bytes))

    async def _write(self, piece: int, data: bytearray) -> None:
        """Writes a good piece; a request that is cancelled meanwhile does not stop it."""
        write = asyncio.create_task(self._written(piece, data))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def _written(self, piece: int, data: bytearray) -> None:
        try:
            with this_disk(self._part):
                await asyncio.to_thread(self._put, piece, data)
        except DiskRefused as refused:
            self._disk_error = refused
            self._changed.set()
            return
        self._here += len(data)
        if self._options.progress is not None:
            self._options.progress(self._here, self._content.size_bytes)

    def _put(self, piece: int, data: bytearray) -> None:
        view, offset = memoryview(data), piece * self._content.piece_bytes
        while view:
            count = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[count:], offset + count
