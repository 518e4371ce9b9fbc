"""Files from peers: whole, resumed after a cut, refused, and checked piece by piece."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hivemind.p2p import PeerID

from atoll.peers import files
from atoll.peers.files import PIECE_BYTES, FileDamaged, FileRefused, FileServer, ServedFile, fetch
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

from .hosts import DEADLINE_S, Hosts, connect, until

SWARM = b"s" * 32


def content(size: int, seed: int = 1) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


class Pair:
    """A host that serves `served` and one that asks."""

    def __init__(self, holder: Host, asker: Host, server: FileServer, folder: Path) -> None:
        self.holder = holder
        self.asker = asker
        self.server = server
        self.served = folder / "served"
        self.target = folder / "target"

    async def fetch(self, swarm_id: bytes = SWARM, kind: str = "checkpoint", **options: object) -> int:
        options = {"max_bytes": 100 << 20, **options}
        async with asyncio.timeout(DEADLINE_S):
            return await fetch(
                self.asker.p2p,
                self.holder.peer_id,
                swarm_id,
                kind,
                self.target,
                **options,  # type: ignore[arg-type]
            )


@pytest.fixture
async def two(hosts: Hosts, tmp_path: Path) -> Pair:
    (holder, _), (asker, _) = await hosts.start("holder"), await hosts.start("asker")
    await connect(asker, holder)

    def provide(kind: str, version: int) -> ServedFile | None:
        return ServedFile(pair.served, 7) if version in (0, 7) else None

    server = FileServer(holder.p2p, SWARM, provide)
    await server.listen()
    pair = Pair(holder, asker, server, tmp_path)
    return pair


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
async def test_a_file_comes_whole(two: Pair, size: int):
    two.served.write_bytes(content(size))
    seen: list[tuple[int, int]] = []
    assert await two.fetch(progress=lambda here, total: seen.append((here, total))) == 7
    assert two.target.read_bytes() == two.served.read_bytes()
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)
    assert not seen or seen[-1] == (size, size)
    await until(lambda: two.server.sent_bytes == size)
    assert not two.target.with_name("target.part").exists()


@pytest.mark.parametrize(
    "options",
    [{"swarm_id": b"o" * 32}, {"kind": "secrets"}, {"version": 8}, {"kind": "../identity.key"}],
)
async def test_what_is_not_served_is_refused(two: Pair, options: dict[str, object]):
    two.served.write_bytes(b"x")
    with pytest.raises(FileRefused) as caught:
        await two.fetch(**options)  # type: ignore[arg-type]
    assert caught.value.code == "not_found"


async def test_a_missing_file_and_a_missing_peer_are_refused(two: Pair):
    with pytest.raises(FileRefused):
        await two.fetch()
    with pytest.raises(FileRefused) as caught:
        await fetch(two.asker.p2p, two.asker.peer_id, SWARM, "data", two.target, max_bytes=1)
    assert caught.value.code == "unreachable"


async def test_a_file_that_is_too_long_is_not_taken(two: Pair):
    two.served.write_bytes(content(11))
    with pytest.raises(FileDamaged, match="at most 10"):
        await two.fetch(max_bytes=10)
    assert not two.target.exists()


async def test_a_broken_transfer_goes_on_where_it_was(two: Pair):
    data = content(5 * PIECE_BYTES + 9)
    two.served.write_bytes(data)
    part = two.target.with_name("target.part")
    part.write_bytes(data[: 2 * PIECE_BYTES + 100])  # a cut in the middle of a piece
    before = two.server.sent_bytes
    await two.fetch()
    assert two.target.read_bytes() == data
    await until(lambda: two.server.sent_bytes - before == len(data) - 2 * PIECE_BYTES)


async def test_what_an_earlier_attempt_left_of_another_file_is_not_used(two: Pair):
    two.served.write_bytes(content(3 * PIECE_BYTES))
    part = two.target.with_name("target.part")
    for left in (content(2 * PIECE_BYTES, seed=2), content(9 * PIECE_BYTES)):
        part.write_bytes(left)
        await two.fetch()
        assert two.target.read_bytes() == two.served.read_bytes()


async def test_the_peer_dies_in_the_middle_and_another_one_finishes(two: Pair, hosts: Hosts):
    data = content(40 * PIECE_BYTES)
    two.served.write_bytes(data)
    progress: list[int] = []

    def dies(here: int, total: int) -> None:
        progress.append(here)
        if len(progress) == 2:
            two.holder.process.kill()

    with pytest.raises((OSError, EOFError)):
        await two.fetch(progress=dies)
    kept = two.target.with_name("target.part").stat().st_size
    assert 2 * PIECE_BYTES <= kept < len(data)
    other, _ = await hosts.start("other")
    await connect(two.asker, other)
    server = FileServer(other.p2p, SWARM, lambda kind, version: ServedFile(two.served, 7))
    await server.listen()
    two.holder = other
    await two.fetch()
    assert two.target.read_bytes() == data
    await until(lambda: server.sent_bytes == len(data) - kept)


# ---- those who lie


Answer = Callable[[pb.FileRequest, asyncio.StreamReader, asyncio.StreamWriter], object]


@pytest.fixture
async def liar(hosts: Hosts, tmp_path: Path) -> tuple[Pair, list[bytes]]:
    """A holder that answers whatever bytes are in the list."""
    (holder, _), (asker, _) = await hosts.start("holder"), await hosts.start("asker")
    await connect(asker, holder)
    says: list[bytes] = []

    async def answer(info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(wire.frame_length(await reader.readexactly(4)))
        writer.writelines(says)
        await writer.drain()
        await reader.read(1)
        writer.close()

    await holder.p2p.add_binary_stream_handler(wire.FILES_PROTOCOL, answer)
    return Pair(holder, asker, FileServer(holder.p2p, SWARM, lambda k, v: None), tmp_path), says


def header(**fields: object) -> bytes:
    return wire.prefixed(pb.FileHeader(**{"piece_bytes": PIECE_BYTES, **fields}).SerializeToString())


async def test_a_damaged_piece_is_not_written(liar: tuple[Pair, list[bytes]]):
    pair, says = liar
    good, bad = content(PIECE_BYTES), content(PIECE_BYTES, seed=2)
    digests = [hashlib.sha256(good).digest()] * 2
    says += [header(size_bytes=2 * PIECE_BYTES, piece_digests=digests), good, bad]
    with pytest.raises(FileDamaged, match="does not have its digest"):
        await pair.fetch()
    assert pair.target.with_name("target.part").read_bytes() == good
    assert not pair.target.exists()


@pytest.mark.parametrize(
    "says",
    [
        wire.prefixed(b"\xff"),
        header(size_bytes=5),
        header(size_bytes=5, piece_digests=[b"x" * 32] * 2),
        header(size_bytes=2**62, piece_digests=[b"x" * 32]),
        header(size_bytes=5, piece_digests=[b"x" * 32], piece_bytes=1),
    ],
)
async def test_headers_that_make_no_sense_are_refused(liar: tuple[Pair, list[bytes]], says: bytes):
    pair, answer = liar
    answer.append(says)
    with pytest.raises(FileDamaged):
        await pair.fetch()


async def test_a_header_that_is_too_long_is_not_read(liar: tuple[Pair, list[bytes]]):
    pair, says = liar
    says.append(b"\xff\xff\xff\xff")
    with pytest.raises(wire.WireError):
        await pair.fetch()


async def test_a_holder_that_stops_is_given_up(
    liar: tuple[Pair, list[bytes]], monkeypatch: pytest.MonkeyPatch
):
    pair, says = liar
    says.append(header(size_bytes=5, piece_digests=[b"x" * 32]))
    monkeypatch.setattr(files, "STALL_S", 0.05)
    with pytest.raises(TimeoutError):
        await pair.fetch()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\xff\xff\xff\xff",
        wire.prefixed(b"\xff"),
        wire.prefixed(pb.FileRequest(offset=7).SerializeToString()),
    ],
)
async def test_requests_that_make_no_sense_only_end_their_stream(two: Pair, request_bytes: bytes):
    two.served.write_bytes(b"x")
    _, reader, writer = await two.asker.p2p.call_binary_stream_handler(
        PeerID(two.holder.peer_id), wire.FILES_PROTOCOL
    )
    writer.write(request_bytes)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    writer.close()
    assert await two.fetch() == 7


async def test_a_server_with_no_place_left_says_so(two: Pair):
    two.served.write_bytes(b"x")
    two.server._places = asyncio.Semaphore(0)
    with pytest.raises(FileRefused) as caught:
        await two.fetch()
    assert caught.value.code == "busy"
