"""Small files from one peer, and the server: whole, refused, checked piece by piece, paced, kept open."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hivemind.p2p import PeerID

from atoll.peers import fetching, files
from atoll.peers.disk import DiskRefused
from atoll.peers.files import PIECE_BYTES, FileDamaged, FileRefused, FileServer, ServedFile, fetch
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
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
        self.revoked: set[bytes] = set()
        self.served = folder / "served"
        self.target = folder / "target"

    async def fetch(self, swarm_id: bytes = SWARM, kind: str = "checkpoint", **options: object) -> int:
        options = {"max_bytes": 100 << 20, **options}
        async with asyncio.timeout(DEADLINE_S):
            return await fetch(
                self.asker,
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

    def provide(kind: str, version: int, chunk: int) -> ServedFile | None:
        return ServedFile(pair.served, 7) if version in (0, 7) else None

    server = FileServer(holder, SWARM, provide, lets_in=lambda peer: peer not in pair.revoked)
    await server.listen()
    pair = Pair(holder, asker, server, tmp_path)
    return pair


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
async def test_a_file_comes_whole(two: Pair, size: int):
    two.served.write_bytes(content(size))
    assert await two.fetch() == 7
    assert two.target.read_bytes() == two.served.read_bytes()
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
        await fetch(two.asker, two.asker.peer_id, SWARM, "data", two.target, max_bytes=1)
    assert caught.value.code == "unreachable"


async def test_a_file_that_is_too_long_is_not_taken(two: Pair):
    two.served.write_bytes(content(11))
    with pytest.raises(FileDamaged, match="at most 10"):
        await two.fetch(max_bytes=10)
    assert not two.target.exists()


async def test_the_peer_dies_in_the_middle(two: Pair):
    """A small file is not worth resuming: nothing is left of it."""
    two.served.write_bytes(content(40 * PIECE_BYTES))
    two.server.cap = RateCap(8 << 20)
    two.target.write_bytes(b"old")
    work = asyncio.create_task(two.fetch())
    await until(lambda: two.server.sent_bytes > PIECE_BYTES)
    two.holder.process.kill()
    with pytest.raises((OSError, EOFError)):
        await work
    assert two.target.read_bytes() == b"old"
    assert not two.target.with_name("target.part").exists()


# ---- the server


async def ask(pair: Pair, **fields: object) -> tuple[pb.FileHeader, bytes]:
    """What the server answers to one request: header, and what follows."""
    request = pb.FileRequest(**{"swarm_id": SWARM, "kind": "checkpoint", **fields})
    async with asyncio.timeout(DEADLINE_S), files.asked(pair.asker.p2p, pair.holder.peer_id, request) as s:
        reader, writer = s
        size = wire.frame_length(await reader.readexactly(wire.LENGTH_BYTES))
        header = pb.FileHeader.FromString(await reader.readexactly(size))
        if header.error or fields.get("header_only"):
            return header, b""
        pieces = fields.get("pieces")
        left = max(0, header.size_bytes - int(fields.get("offset", 0)))  # type: ignore[call-overload]
        body = await reader.readexactly(min(left, pieces * PIECE_BYTES) if isinstance(pieces, int) else left)
        writer.write(b"\0")
        return header, body


async def test_runs_of_pieces(two: Pair):
    data = content(3 * PIECE_BYTES + 5)
    two.served.write_bytes(data)
    header, _ = await ask(two, header_only=True)
    digests = [
        hashlib.sha256(data[at : at + PIECE_BYTES]).digest() for at in range(0, len(data), PIECE_BYTES)
    ]
    assert (header.size_bytes, header.version, list(header.piece_digests)) == (len(data), 7, digests)
    known = files.announced(header, len(data)).id
    header, body = await ask(two, content=known, offset=PIECE_BYTES, pieces=2)
    assert body == data[PIECE_BYTES : 3 * PIECE_BYTES] and not header.piece_digests
    assert (await ask(two, content=known, offset=3 * PIECE_BYTES, pieces=9))[1] == data[3 * PIECE_BYTES :]
    assert (await ask(two, content=known, offset=2**64 - PIECE_BYTES, pieces=2**32 - 1))[1] == b""
    assert (await ask(two, content=b"x" * 32, pieces=1))[0].error == "other_content"


async def test_digests_are_computed_once(two: Pair, monkeypatch: pytest.MonkeyPatch):
    two.served.write_bytes(content(2 * PIECE_BYTES))
    computed: list[object] = []

    def counted(file: object) -> object:
        computed.append(file)
        return real(file)  # type: ignore[arg-type]

    real = files.content_of
    monkeypatch.setattr(files, "content_of", counted)
    await asyncio.gather(*[ask(two, header_only=True) for _ in range(4)])
    assert len(computed) == 1
    two.served.with_name("new").write_bytes(content(2 * PIECE_BYTES, seed=2))
    two.served.with_name("new").replace(two.served)
    header, _ = await ask(two, header_only=True)
    assert header.piece_digests[0] == hashlib.sha256(two.served.read_bytes()[:PIECE_BYTES]).digest()


async def test_a_file_that_is_deleted_can_still_be_had_for_a_while(
    two: Pair, monkeypatch: pytest.MonkeyPatch
):
    data = content(2 * PIECE_BYTES)
    two.served.write_bytes(data)
    header, _ = await ask(two, header_only=True)
    known = files.announced(header, len(data)).id
    two.served.unlink()
    assert (await ask(two, header_only=True))[0].error == "not_found"
    assert (await ask(two, content=known, pieces=2))[1] == data
    assert (await ask(two, content=known, kind="data", pieces=2))[0].error == "not_found"
    monkeypatch.setattr(files, "KEEP_OPEN_S", -1.0)
    assert (await ask(two, content=known, pieces=2))[1] == data  # its end closes the file
    await until(lambda: not two.server._shelf._files)
    assert (await ask(two, content=known, pieces=2))[0].error == "not_found"


async def test_not_more_than_a_few_files_are_kept_open(two: Pair, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MAX_SHELF", 2)
    for seed in range(4):
        two.served.unlink(missing_ok=True)
        two.served.write_bytes(content(100, seed=seed))
        await ask(two, header_only=True)
    await until(lambda: len(two.server._shelf._files) <= 2)


async def test_states_are_paced_and_commits_are_not(two: Pair):
    """On a clock that the test advances: so many bytes by then, and no more."""
    two.served.write_bytes(content(PIECE_BYTES))
    rate, now = 64 << 20, [0.0]
    two.server.cap, two.server._clock = RateCap(rate), lambda: now[0]
    work = asyncio.create_task(ask(two))
    await until(lambda: two.server.sent_bytes == 64 * 1024)
    assert (await ask(two, kind="commit"))[1] == two.served.read_bytes()
    others = PIECE_BYTES + 64 * 1024
    while not work.done():
        assert two.server.sent_bytes - others <= rate * now[0]
        now[0] += 1e-4
        await asyncio.sleep(0)
    assert (await work)[1] == two.served.read_bytes()
    assert now[0] >= (PIECE_BYTES - 64 * 1024) / rate


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
    return Pair(holder, asker, FileServer(holder, SWARM, lambda k, v, c: None), tmp_path), says


def header(**fields: object) -> bytes:
    return wire.prefixed(pb.FileHeader(**{"piece_bytes": PIECE_BYTES, **fields}).SerializeToString())


async def test_a_round_goes_first_and_bytes_keep_coming(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "YIELD_S", 0.01)
    (holder, _), (asker, _) = await hosts.start("holder"), await hosts.start("asker")
    path = tmp_path / "state"
    path.write_bytes(content(PIECE_BYTES))
    waits = 0

    async def a_round_without_end() -> None:
        nonlocal waits
        waits += 1
        await asyncio.Event().wait()

    served = ServedFile(path)
    server = FileServer(holder, SWARM, lambda k, v, c: served, between_rounds=a_round_without_end)
    await server.listen()
    await connect(asker, holder)
    target = tmp_path / "copy"
    await fetch(asker, holder.peer_id, SWARM, "checkpoint", target, max_bytes=2 * PIECE_BYTES)
    assert target.read_bytes() == path.read_bytes()
    assert waits == 4, "once for each slice"


async def test_a_damaged_piece_is_not_written(liar: tuple[Pair, list[bytes]]):
    pair, says = liar
    good, bad = content(PIECE_BYTES), content(PIECE_BYTES, seed=2)
    digests = [hashlib.sha256(good).digest()] * 2
    says += [header(size_bytes=2 * PIECE_BYTES, piece_digests=digests), good, bad]
    with pytest.raises(FileDamaged, match="does not have its digest"):
        await pair.fetch()
    assert not pair.target.with_name("target.part").exists()
    assert not pair.target.exists()


@pytest.mark.parametrize(
    "says",
    [
        wire.prefixed(b"\xff"),
        header(size_bytes=5),
        header(size_bytes=5, piece_digests=[b"x" * 32] * 2),
        header(size_bytes=2**62, piece_digests=[b"x" * 32]),
        header(size_bytes=5, piece_digests=[b"x" * 32], piece_bytes=1),
        header(size_bytes=5, piece_digests=[b"short"]),
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


async def test_who_is_revoked_while_it_fetches_gets_no_piece_more(two: Pair):
    two.served.write_bytes(content(40 * PIECE_BYTES))
    two.server.cap = RateCap(8 << 20)
    work = asyncio.create_task(two.fetch())
    await until(lambda: two.server.sent_bytes > PIECE_BYTES)
    two.revoked.add(two.asker.peer_id)
    with pytest.raises(EOFError):
        await work
    assert two.server.turned_away == 1 and two.server.sent_bytes <= 3 * PIECE_BYTES
    with pytest.raises((EOFError, OSError)):
        await two.fetch()
    assert two.server.turned_away == 2


async def test_what_this_disk_refuses_is_no_fault_of_the_peer(two: Pair, monkeypatch: pytest.MonkeyPatch):
    two.served.write_bytes(content(PIECE_BYTES + 1))
    target, two.target = two.target, two.target / "no" / "where"
    with pytest.raises(DiskRefused) as no_folder:
        await two.fetch()
    two.target = target

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "replace_durably", full)
    with pytest.raises(DiskRefused, match="No space") as no_space:
        await two.fetch()
    for caught in (no_folder, no_space):
        assert not isinstance(caught.value, fetching.ERRORS)
    assert no_space.value.path == target and not list(target.parent.glob("target*"))


async def test_one_peer_has_not_all_places(two: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch):
    two.served.write_bytes(content(40 * PIECE_BYTES))
    other, _ = await hosts.start("other")
    await connect(other, two.holder)
    request = wire.prefixed(pb.FileRequest(swarm_id=SWARM, kind="checkpoint").SerializeToString())
    streams = []
    for _ in range(files.MAX_STREAMS_OF_ONE):
        _, reader, writer = await two.asker.p2p.call_binary_stream_handler(
            PeerID(two.holder.peer_id), wire.FILES_PROTOCOL
        )
        streams.append(writer)
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            await files.read_header(reader)  # and takes nothing more
    with pytest.raises(FileRefused) as caught:
        await two.fetch()
    assert caught.value.code == "busy"
    two.asker = other
    assert await two.fetch() == 7
    for writer in streams:
        writer.close()
    await until(lambda: not two.server._open)
