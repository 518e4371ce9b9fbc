"""Large files from several real hosts resumed in any order; holders that die, lie, stop or come late."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.peers import fetching
from atoll.peers import transfer as tr
from atoll.peers.disk import DiskRefused
from atoll.peers.fetching import Offer, Options, TransferFailed, Wanted, fetch_content, offers
from atoll.peers.files import PIECE_BYTES, FileRefused, FileServer, ServedFile
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

from .hosts import DEADLINE_S, Hosts, connect, until

SWARM = b"s" * 32
WANTED = Wanted(SWARM, "checkpoint", 7, 100 << 20)


def content(size: int, seed: int = 1) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


class Holder:
    """A host that serves one file, as version 7."""

    def __init__(self, host: Host, path: Path) -> None:
        self.host = host
        self.path = path
        self.server = FileServer(
            host, SWARM, lambda kind, version, chunk: ServedFile(path, 7) if version in (0, 7) else None
        )

    @property
    def peer(self) -> bytes:
        return self.host.peer_id


class Place:
    """Somebody who fetches, and holders that it is connected to."""

    def __init__(self, hosts: Hosts, asker: Host, folder: Path) -> None:
        self._hosts = hosts
        self.asker = asker
        self.folder = folder
        self.target = folder / "target"
        self.part = folder / "target.part"
        self.holders: list[Holder] = []

    async def holder(self, data: bytes, cap: RateCap | None = None) -> Holder:
        name = f"holder{len(self.holders)}"
        host, _ = await self._hosts.start(name)
        await connect(self.asker, host)
        path = self.folder / name / "file"
        path.write_bytes(data)
        holder = Holder(host, path)
        holder.server.cap = cap or RateCap()
        await holder.server.listen()
        self.holders.append(holder)
        return holder

    @property
    def peers(self) -> list[bytes]:
        return [h.peer for h in self.holders]

    async def offers(self, wanted: Wanted = WANTED) -> tuple[list[Offer], dict[bytes, Exception]]:
        async with asyncio.timeout(DEADLINE_S):
            return await offers(self.asker.p2p, self.peers, wanted)

    async def fetch(self, offer: Offer, **options: object) -> None:
        async with asyncio.timeout(DEADLINE_S):
            made = Options(**options)  # type: ignore[arg-type]
            await fetch_content(self.asker, WANTED, offer, self.target, made)


@pytest.fixture
async def place(hosts: Hosts, tmp_path: Path) -> Place:
    asker, _ = await hosts.start("asker")
    return Place(hosts, asker, tmp_path)


async def test_several_holders_at_once(place: Place):
    data = content(24 * PIECE_BYTES + 5)
    for _ in range(3):
        await place.holder(data)
    (offer,), failures = await place.offers()
    assert sorted(offer.holders) == sorted(place.peers) and not failures and offer.version == 7
    seen: list[tuple[int, int]] = []
    await place.fetch(offer, progress=lambda here, total: seen.append((here, total)))
    assert place.target.read_bytes() == data and not place.part.exists()
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)
    assert seen[-1] == (len(data), len(data))
    assert all(h.server.sent_bytes for h in place.holders)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES])
async def test_small_ones(place: Place, size: int):
    await place.holder(content(size))
    (offer,), _ = await place.offers()
    await place.fetch(offer)
    assert place.target.read_bytes() == content(size)


async def test_one_holder_is_killed_and_one_corrupts(place: Place):
    """The others finish without starting over; who did what is named."""
    data = content(40 * PIECE_BYTES)
    good, dies, lies = [await place.holder(data, RateCap(32 << 20)) for _ in range(3)]
    found, _ = await place.offers()
    # The digests are known by now: what this holder reads from its disk is not what it announced.
    shelf = lies.server._shelf._files
    (held,) = shelf.values()
    held.read = lambda piece, content: b"\0" * content.size(piece)  # type: ignore[method-assign]
    dropped: dict[bytes, str] = {}
    here: list[int] = []

    def progress(now: int, total: int) -> None:
        here.append(now)
        if len(here) == 5:
            dies.host.process.kill()

    await place.fetch(found[0], progress=progress, dropped=dropped.__setitem__)
    assert place.target.read_bytes() == data
    assert len(here) == 40, "a piece was written twice"
    assert dropped.pop(lies.peer) == tr.DAMAGED
    assert set(dropped) <= {dies.peer}
    assert good.server.sent_bytes < len(data) + (8 << 20)


async def test_nobody_is_left(place: Place):
    data = content(40 * PIECE_BYTES)
    for _ in range(2):
        await place.holder(data, RateCap(16 << 20))
    (offer,), _ = await place.offers()

    def progress(now: int, total: int) -> None:
        for holder in place.holders:
            if holder.host.process.returncode is None:
                holder.host.process.kill()

    with pytest.raises(TransferFailed) as caught:
        await place.fetch(offer, progress=progress)
    assert set(caught.value.reasons) == set(place.peers) and all(caught.value.reasons.values())
    # What came is kept, and the next attempt goes on from there, elsewhere.
    assert not place.target.exists() and place.part.exists()
    other = await place.holder(data)
    await place.fetch(Offer(offer.content, 7, (other.peer,)))
    assert place.target.read_bytes() == data
    assert 0 < other.server.sent_bytes < len(data)


async def test_pieces_that_are_here_in_any_order_are_not_fetched(place: Place):
    data = content(6 * PIECE_BYTES + 9)
    holder = await place.holder(data)
    left = bytearray(len(data) + 5000)  # longer than the file, too
    for piece in (1, 4, 6):
        span = slice(piece * PIECE_BYTES, min((piece + 1) * PIECE_BYTES, len(data)))
        left[span] = data[span]
    place.part.write_bytes(left)
    (offer,), _ = await place.offers()
    await place.fetch(offer)
    assert place.target.read_bytes() == data
    await until(lambda: holder.server.sent_bytes == 4 * PIECE_BYTES)


async def test_holders_come_late_and_go(place: Place):
    data = content(30 * PIECE_BYTES)
    first = await place.holder(data, RateCap(8 << 20))
    (offer,), _ = await place.offers()
    second = await place.holder(data)
    here: list[int] = []

    def candidates() -> list[bytes]:
        return [first.peer] if len(here) < 2 else [second.peer]

    await place.fetch(offer, candidates=candidates, progress=lambda now, total: here.append(now))
    assert place.target.read_bytes() == data
    assert second.server.sent_bytes > 10 * PIECE_BYTES


async def test_what_most_hold_comes_first(place: Place):
    for seed in (1, 2, 2):
        await place.holder(content(PIECE_BYTES, seed))
    (most, other), _ = await place.offers()
    assert sorted(most.holders) == sorted(place.peers[1:]) and other.holders == (place.peers[0],)
    # One who holds another content under this version refuses, and is dropped; nothing of it is taken.
    place.part.write_bytes(b"")
    dropped: dict[bytes, str] = {}
    mixed = Offer(most.content, 7, (place.peers[0], place.peers[1]))
    await place.fetch(mixed, dropped=dropped.__setitem__)
    assert place.target.read_bytes() == content(PIECE_BYTES, 2)
    assert dropped in ({}, {place.peers[0]: "other_content"})


async def test_those_who_have_nothing_are_named(place: Place, hosts: Hosts):
    holder = await place.holder(content(5))
    holder.path.unlink()
    found, failures = await place.offers()
    assert not found and isinstance(failures[holder.peer], FileRefused)
    assert (await offers(place.asker.p2p, [], WANTED)) == ([], {})
    stranger, _ = await hosts.start("stranger")
    _, failures = await offers(place.asker.p2p, [stranger.peer_id], WANTED)
    assert str(failures[stranger.peer_id]) == "the peer answered unreachable"


async def test_one_that_is_stopped_delays_neither_headers_nor_pieces(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    data = content(4 * PIECE_BYTES)
    stopped, good = [await place.holder(data) for _ in range(2)]
    monkeypatch.setattr(fetching, "HEADERS_S", 0.2)
    stopped.host.process.send_signal(signal.SIGSTOP)
    try:
        (offer,), failures = await place.offers()
        assert offer.holders == (good.peer,) and not failures
        await place.fetch(Offer(offer.content, 7, (stopped.peer, good.peer)))
    finally:
        stopped.host.process.send_signal(signal.SIGCONT)
    assert place.target.read_bytes() == data


async def test_a_full_disk_ends_it_and_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    await place.holder(content(4 * PIECE_BYTES))
    (offer,), _ = await place.offers()
    real = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= PIECE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(fetching.os, "pwrite", full)
    place.target.write_bytes(b"old")
    with pytest.raises(DiskRefused, match="No space") as caught:
        await place.fetch(offer)
    assert not isinstance(caught.value, fetching.ERRORS) and caught.value.path == place.part
    assert not place.part.exists() and place.target.read_bytes() == b"old"


async def test_the_cap_is_kept_when_asking(place: Place):
    """On a clock that the test advances: no more is asked for by then."""
    data = content(6 * PIECE_BYTES)
    holder = await place.holder(data)
    (offer,), _ = await place.offers()
    rate, now = 4096 * PIECE_BYTES, [0.0]
    work = asyncio.create_task(place.fetch(offer, cap=RateCap(rate), clock=lambda: now[0]))
    while not work.done():
        assert holder.server.sent_bytes <= rate * now[0] + PIECE_BYTES
        now[0] += 1e-5
        await asyncio.sleep(0)
    await work
    assert place.target.read_bytes() == data and now[0] >= 5 * PIECE_BYTES / rate


# ---- those who lie


Answer = Callable[[pb.FileRequest], list[bytes]]


@pytest.mark.parametrize(
    "says",
    [
        [wire.prefixed(b"\xff")],
        [b"\xff\xff\xff\xff"],
        [wire.prefixed(pb.FileHeader(size_bytes=9, piece_bytes=PIECE_BYTES).SerializeToString())],
        [wire.prefixed(pb.FileHeader(size_bytes=1, piece_digests=[b"x" * 32]).SerializeToString())],
        [],
    ],
)
async def test_answers_that_make_no_sense_drop_their_sender(place: Place, hosts: Hosts, says: list[bytes]):
    host, _ = await hosts.start("liar")
    await connect(place.asker, host)

    async def answer(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(wire.frame_length(await reader.readexactly(4)))
        writer.writelines(says)
        await writer.drain()
        writer.close()

    await host.p2p.add_binary_stream_handler(wire.FILES_PROTOCOL, answer)
    _, failures = await offers(place.asker.p2p, [host.peer_id], WANTED)
    assert isinstance(failures[host.peer_id], fetching.ERRORS)
    good = await place.holder(content(1))
    (offer,), _ = await place.offers()
    await place.fetch(Offer(offer.content, 7, (host.peer_id, good.peer)))
    assert place.target.read_bytes() == content(1)


async def test_a_fetch_that_is_cancelled_leaves_no_task(place: Place):
    await place.holder(content(20 * PIECE_BYTES), RateCap(8 << 20))
    (offer,), _ = await place.offers()
    before = asyncio.all_tasks()
    started = asyncio.Event()
    work: asyncio.Task[None] = asyncio.create_task(
        place.fetch(offer, progress=lambda here, total: started.set())
    )
    async with asyncio.timeout(DEADLINE_S):
        await started.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    left = {t for t in asyncio.all_tasks() - before if "fetching" in repr(t.get_coro())}
    assert not left


async def test_the_next_ones_are_asked_until_somebody_has_it(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "MAX_ASKED", 2)
    data = content(PIECE_BYTES)
    holders = [await place.holder(data) for _ in range(4)]
    for empty in holders[:3]:
        empty.path.unlink()
    (offer,), failures = await place.offers()
    assert offer.holders == (holders[3].peer,)
    assert set(failures) == {h.peer for h in holders[:3]} == offer.lacking


async def test_who_said_that_it_lacks_a_file_is_not_asked_for_its_pieces(place: Place):
    data = content(3 * PIECE_BYTES)
    good, empty, other = [await place.holder(d) for d in (data, data, content(PIECE_BYTES, 2))]
    empty.path.unlink()
    found, _ = await place.offers()
    offer = next(offer for offer in found if offer.holders == (good.peer,))
    assert offer.lacking == {empty.peer, other.peer}
    dropped: list[bytes] = []
    await place.fetch(offer, candidates=lambda: place.peers, dropped=lambda peer, why: dropped.append(peer))
    assert place.target.read_bytes() == data and dropped == []
