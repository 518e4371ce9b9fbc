"""Handlers of whole streams and records, driven with what a stranger sends: nothing may come out of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atoll.daemon.rounds.outer_state import check_record, genesis_head
from atoll.daemon.storage.round_log import RoundLogError, parse_record
from atoll.peers.files import (
    FileDamaged,
    FileRefused,
    FileServer,
    ServedFile,
    _read_request,
    announced,
    read_header,
)
from atoll.peers.lanes import TOKEN_BYTES
from atoll.peers.line import Line
from atoll.peers.links import Callbacks, Link, Links
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.amendments import Amendments

from ..daemon.swarm import Swarm, keyring, make_manifest

SWARM = b"s" * 32
KEYS, OTHER = keyring(0), keyring(1)
MANIFEST = make_manifest(KEYS, 1)
INFO: Any = SimpleNamespace(peer_id=SimpleNamespace(to_bytes=lambda: OTHER.peer_id), addr="/ip4/1.2.3.4")
DEADLINE_S = 10.0


class Sink:
    """A writer whose other side takes everything."""

    def __init__(self) -> None:
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: 0)

    def write(self, data: bytes | memoryview) -> None:
        pass

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class Offers:
    """Lanes that are offered, so that frames are numbered, and never come up."""

    def offer(self) -> pb.LaneOffer:
        return pb.LaneOffer(token=bytes(TOKEN_BYTES))

    def keep(self, link: Link, mine: pb.LaneOffer, address: str) -> None:
        assert link.bulk is not None


def _run(data: bytes, work: Callable[[asyncio.StreamReader], Awaitable[None]]) -> None:
    """`work` on a stream of these bytes, which then ends."""

    async def run() -> None:
        reader = asyncio.StreamReader(limit=1 << 16)
        reader.feed_data(data)
        reader.feed_eof()
        async with asyncio.timeout(DEADLINE_S):
            await work(reader)

    asyncio.run(run())


def file_request(data: bytes) -> None:
    async def read(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(wire.WireError, EOFError):
            await _read_request(reader)

    _run(data, read)


def file_header(data: bytes) -> None:
    """The header of an answer, and the content that it announces."""

    async def read(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(wire.WireError, EOFError, FileRefused, FileDamaged):
            announced(await read_header(reader), 1 << 20)

    _run(data, read)


def file_server(data: bytes) -> None:
    """A whole request to the server, which answers from a real file."""
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(b"x" * 1000)
        ticks = itertools.count(0.0, 100.0)  # what it keeps open for a while is closed at once
        host: Any = SimpleNamespace(line=Line())
        server = FileServer(host, SWARM, lambda *_: ServedFile(path), clock=lambda: next(ticks))
        writer: Any = Sink()
        _run(data, lambda reader: server._accept(INFO, reader, writer))
        assert not server._open and not server._answering


def handshake(data: bytes) -> None:
    """A stranger's stream from its first byte on: Hello, then whatever it says."""

    async def shake(reader: asyncio.StreamReader) -> None:
        async def frame(peer: bytes, message: pb.Frame, payload: bytes) -> None:
            assert peer == OTHER.peer_id

        host: Any = SimpleNamespace(line=Line())
        writer: Any = Sink()
        on = Callbacks(
            hello=lambda: pb.Hello(swarm_id=SWARM, protocol=pb.ProtocolRange(lowest=1, highest=1)),
            refuse=lambda peer, hello: None if hello.swarm_id == SWARM else "another swarm",
            up=lambda link: None,
            down=lambda peer, reason: None,
            frame=frame,
        )
        lanes: Any = Offers()
        links = Links(host, KEYS.peer_id, on, lanes)
        await links._accept(INFO, reader, writer)
        link = links.get(OTHER.peer_id)
        if link is not None:
            await link.closed.wait()
        tasks = list(links._tasks)
        await links.close("bye")
        assert not [task for task in tasks if not task.cancelled() and task.exception() is not None]

    _run(data, shake)


def replayed(data: bytes) -> None:
    """A fetched record of the commit after genesis. Signatures are good: a member may sign nonsense."""
    with contextlib.suppress(RoundLogError):
        record = parse_record(data)
        record.commit.CopyFrom(KEYS.sign("commit", record.commit.body))
        for vote in record.votes:
            vote.CopyFrom(KEYS.sign("vote", vote.body))
        check_record(Amendments(MANIFEST), genesis_head(MANIFEST), record)


class Node:
    """A member of a swarm of two that is in the middle of a session, until `close_node`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="atoll-fuzz-")
        self._runner = asyncio.Runner()
        self._runner.run(self._begin())

    async def _begin(self) -> None:
        self._swarm = Swarm(Path(self._folder.name), 2)
        self.me, self.other = self._swarm.members

    async def _told(self, frame: pb.Frame, payload: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.me.driver.received(self.other.me, frame, payload)
            await asyncio.sleep(0)

    def told(self, frame: pb.Frame, payload: bytes) -> None:
        self._runner.run(self._told(frame, payload))
        assert not self.me.trouble, self.me.trouble

    def close(self) -> None:
        self._runner.run(self._swarm.close())
        self._runner.close()
        self._folder.cleanup()


@cache
def node() -> Node:
    return Node()


def close_node() -> None:
    """Before the interpreter ends: its threads can't be given back any more then."""
    if node.cache_info().currsize:
        node().close()
        node.cache_clear()


def round_driver(data: bytes) -> None:
    """A frame from another member, and what it carries; what is signed is signed by that member."""
    size = int.from_bytes(data[:2])
    with contextlib.suppress(wire.WireError):
        frame = wire.decode_frame(data[2 : 2 + size])
        kind = frame.WhichOneof("message")
        if kind in ("plan", "result", "commit", "vote"):
            signed = getattr(frame, kind)
            signed.CopyFrom(OTHER.sign(kind, signed.body))
        node().told(frame, data[2 + size :])


def kept_record(data: bytes) -> None:
    """A commit in the log of this node's own disk, damaged in any way."""
    state = node().me.state
    state.rounds.path(1, "commit").write_bytes(data)
    state._kept(1)
    with contextlib.suppress(RoundLogError):
        record = parse_record(data)
        state.judge(record, state.chain[0])
        if record.commit.body:
            record.commit.CopyFrom(KEYS.sign("commit", record.commit.body))
            state.judge(record, state.chain[0])


def _frames() -> list[bytes]:
    session = pb.SessionId(parent=genesis_head(MANIFEST).digest, leader=OTHER.peer_id)
    commit = pb.RoundRecord.FromString(_record()).commit
    frames = [
        pb.Frame(ready=pb.Ready(parent=session.parent, tokens=1)),
        pb.Frame(contribution=pb.Contribution(session=session)),
        pb.Frame(result=OTHER.sign("result", pb.ChunkResult(session=session).SerializeToString())),
        pb.Frame(plan=OTHER.sign("plan", pb.Plan(session=session).SerializeToString())),
        pb.Frame(commit=commit),
        pb.Frame(vote=OTHER.sign("vote", pb.Vote(session=session).SerializeToString())),
        pb.Frame(inquiry=pb.Inquiry(session=session)),
    ]
    bodies = [frame.SerializeToString() for frame in frames]
    return [len(body).to_bytes(2) + body + b"payload" for body in bodies]


def _hello() -> bytes:
    hello = pb.Hello(swarm_id=SWARM, protocol=pb.ProtocolRange(lowest=1, highest=1), software="x")
    hello.lane.token = bytes(TOKEN_BYTES)
    numbered = wire.encode_frame(pb.Frame(contribution=pb.Contribution(chunk=1)), 7, 1) + b"payload"
    frames = [
        pb.Frame(hello=hello),
        pb.Frame(ready=pb.Ready(tokens=1)),
        pb.Frame(bulk_ack=pb.BulkAck(numbers=[1, 2])),
        pb.Frame(goodbye=pb.Goodbye()),
    ]
    first, *others = [wire.encode_frame(frame) for frame in frames]
    return b"".join([first, numbered, numbered, *others])


def _record() -> bytes:
    head = genesis_head(MANIFEST)
    commit = pb.Commit(
        swarm_id=MANIFEST.swarm_id,
        version=1,
        session=pb.SessionId(parent=head.digest, leader=KEYS.peer_id),
        contributors=[pb.Contributor(peer=KEYS.peer_id, tokens=1, weight=1)],
        chunks=[pb.CommittedChunk(contributors=[0]) for _ in range(len(MANIFEST.chunks))],
    )
    signed = KEYS.sign("commit", commit.SerializeToString())
    vote = KEYS.sign("vote", pb.Vote(session=commit.session, commit=b"c" * 32).SerializeToString())
    return pb.RoundRecord(commit=signed, votes=[vote]).SerializeToString()


_REQUEST = pb.FileRequest(swarm_id=SWARM, kind="data", pieces=1)
_HEADER = pb.FileHeader(size_bytes=1000, piece_bytes=1 << 20, piece_digests=[b"d" * 32])

HANDLERS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "file_request": (file_request, [wire.prefixed(_REQUEST.SerializeToString())]),
    "file_header": (file_header, [wire.prefixed(_HEADER.SerializeToString())]),
    "file_server": (file_server, [wire.prefixed(_REQUEST.SerializeToString())]),
    "handshake": (handshake, [_hello()]),
    "replayed": (replayed, [_record()]),
    "round_driver": (round_driver, _frames()),
    "kept_record": (kept_record, [_record()]),
}
