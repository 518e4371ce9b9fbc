"""What strangers can send, as functions of bytes: each handles them and lets only typed errors out.

A target returns nothing and raises nothing: whatever it does not catch by name is a bug. TARGETS has valid
inputs to begin from. All of it is deterministic, so an input that breaks something is a test by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from google.protobuf.message import DecodeError

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.checkpoint import CheckpointError
from atoll.daemon.storage.round_log import RoundLogError, parse_record
from atoll.daemon.training import channel
from atoll.daemon.training.errors import ChannelError
from atoll.dht.records import RecordError, check_record, make_record
from atoll.peers import packing
from atoll.peers.following import Following
from atoll.peers.lane_tls import Credentials, NotTheirs, check_certificate
from atoll.peers.link import read_frame
from atoll.peers.roster import Roster
from atoll.peers.routing import PATIENCE_S, Router, RoutingError
from atoll.protocol import forks, stripes, wire
from atoll.protocol import manifest as manifests
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import receipt as receipts
from atoll.protocol import ticket as tickets
from atoll.protocol.accounts import AccountError
from atoll.protocol.chain import commit_digest
from atoll.protocol.codecs import CODECS, CodecError
from atoll.protocol.ledger import Ledger
from atoll.protocol.round import inbox
from atoll.protocol.round import types as t

from ..daemon.swarm import keyring, make_manifest
from ..protocol.bench import FIRST, HEAD, SECOND, THIRD, Bench, commit_event, result
from .handlers import HANDLERS
from .reaching import REACHING

Target = Callable[[bytes], None]
SWARM = b"s" * 32
KEYS = keyring(1)
TICKET = pb.Ticket(version=1, swarm_id=SWARM, organiser=b"o" * 32, addresses=["/ip4/1.2.3.4/tcp/1"])


# ---- frames and streams


def frame(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode_frame(data)


def stream(data: bytes) -> None:
    """A link's byte stream: lengths, frames, payloads."""

    async def read() -> None:
        reader = asyncio.StreamReader(limit=1 << 16)
        reader.feed_data(data)
        reader.feed_eof()
        with contextlib.suppress(wire.WireError, EOFError):
            while True:
                await read_frame(reader)

    asyncio.run(read())


def lane(data: bytes) -> None:
    """A connection of a direct lane: heads and stripes until a rule is broken or the bytes end."""
    inbox = stripes.Inbox()
    at = 0
    with contextlib.suppress(wire.WireError):
        while at + stripes.HEAD_BYTES <= len(data):
            slot = inbox.begin(data[at : at + stripes.HEAD_BYTES])
            at += stripes.HEAD_BYTES
            part = data[at : at + len(slot.view)]
            slot.view[: len(part)] = part
            if len(part) < len(slot.view):
                inbox.abandon(slot)
                break
            at += len(part)
            inbox.finish(slot)
    assert inbox.open_bytes <= stripes.MAX_OPEN_BYTES


def certificate(data: bytes) -> None:
    """The certificate in an offer of a lane."""
    with contextlib.suppress(NotTheirs):
        check_certificate(data, KEYS.peer_id)


def receipt(data: bytes) -> None:
    """A receipt that somebody shows."""
    with contextlib.suppress(receipts.ReceiptError):
        receipts.check(data, KEYS.peer_id)


def _receipt() -> bytes:
    session = pb.SessionId(parent=bytes(32), leader=KEYS.peer_id)
    mine = pb.Contributor(peer=KEYS.peer_id, tokens=5, weight=1)
    chunk = pb.CommittedChunk(contributors=[0], payload_digest=bytes(32))
    commit = pb.Commit(swarm_id=SWARM, session=session, version=1, contributors=[mine], chunks=[chunk])
    signed = KEYS.sign("commit", commit.SerializeToString())
    vote = pb.Vote(session=session, commit=commit_digest(signed.body)).SerializeToString()
    return receipts.make(pb.RoundRecord(commit=signed, votes=[KEYS.sign("vote", vote)]), (KEYS.peer_id,))


# ---- the round machine, in the middle of a session


def machine(data: bytes) -> None:
    """Any sequence of frames with any content, from a member, an owner and the leader.

    Signatures are taken as good: what a member of the swarm signs may still be nonsense.
    """
    bench = Bench(SECOND)
    bench.local()
    bench.planned()
    at = 0
    while at + 2 < len(data):
        size = data[at] << 8 | data[at + 1]
        body, at = data[at + 2 : at + 2 + size], at + 2 + max(size, 1)
        event = _event(body)
        if event is not None:
            bench.feed(event)
            bench.now += 0.5
            bench.machine.tick(bench.now)
            assert bench.machine.deadline() > bench.now, "a clock that stays due"


def _event(body: bytes) -> t.Event | None:
    try:
        message = wire.decode_frame(body)
        sender = (FIRST, THIRD)[len(body) % 2]
        match message.WhichOneof("message"):
            case "plan":
                return t.PlanReceived(sender, pb.Plan.FromString(message.plan.body), sender)
            case "contribution":
                c = message.contribution
                return t.ContributionArrived(sender, c.session, c.chunk, b"payload", inbox.members_of(c))
            case "result":
                got = pb.ChunkResult.FromString(message.result.body)
                # The driver lets none through that names a chunk which does not exist.
                return t.ResultArrived(sender, got, message.result, b"payload") if got.chunk < 3 else None
            case _:
                return inbox.event_of(sender, message, lambda kind, signed: signed.body)
    except (ValueError, DecodeError):
        return None


def _frames() -> bytes:
    """A session's own messages, one after the other."""
    bench = Bench(SECOND)
    bench.local()
    plan = bench.plan()
    bench.planned(plan)
    key = FakeKeyring("rule-0")
    commit = commit_event(plan, FIRST, FIRST)
    vote = pb.Vote(session=plan.session, commit=b"c" * 32)
    messages = [
        pb.Frame(ready=pb.Ready(parent=HEAD.digest, version=1, tokens=100)),
        pb.Frame(contribution=pb.Contribution(session=plan.session, chunk=1)),
        pb.Frame(contribution=pb.Contribution(session=plan.session, chunk=1, partial=True, members=[0, 2])),
        *(result(plan, chunk, b"mean", (0, 1, 2))[0] for chunk in range(3)),
        pb.Frame(commit=commit.signed),
        pb.Frame(vote=key.sign("vote", vote.SerializeToString())),
        pb.Frame(want=pb.Want(session=plan.session, chunks=[0, 1])),
        pb.Frame(inquiry=pb.Inquiry(session=plan.session)),
        pb.Frame(holding=pb.Holding(session=plan.session, chunks=[1])),
        pb.Frame(plan=key.sign("plan", bench.plan(view=1).SerializeToString())),
        pb.Frame(abort=pb.Abort(session=plan.session, reason="no")),
    ]
    bodies = [message.SerializeToString() for message in messages]
    return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)


# ---- who peers say they are


def heartbeat(data: bytes) -> None:
    """What a peer says of itself, and what this node makes of it."""
    roster = Roster()
    roster.up(FIRST, pb.Hello(), 0.0)
    following = Following(roster, 8, lambda peer, reason: None)
    mine = (forks.Link(2, b"2" * 32, False, 20), forks.Link(1, b"1" * 32, True, 10))
    with contextlib.suppress(DecodeError):
        status = pb.NodeStatus.FromString(data)
        for now in (1.0, 100.0):
            roster.heard(FIRST, status, now)
            following.next(mine, ((2, b"s" * 32), (1, b"t" * 32)), now)
            following.ahead(mine, now)


def envelope(data: bytes) -> None:
    router = Router(KEYS, 1)
    router.heard(SECOND, [FIRST])
    router.indirect([SECOND], 0.0)
    router.indirect([SECOND], PATIENCE_S)
    with contextlib.suppress(DecodeError, RoutingError):
        router.unwrap(pb.Forward.FromString(data), b"")


def dht_record(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        check_record(data, SWARM, KEYS.peer_id, 1e9)


# ---- what is fetched, kept or pasted


def ticket(data: bytes) -> None:
    with contextlib.suppress(tickets.TicketError):
        tickets.decode(data.decode("latin-1"))


def manifest(data: bytes) -> None:
    with contextlib.suppress(manifests.ManifestError):
        manifests.load(data)


def record(data: bytes) -> None:
    with contextlib.suppress(RoundLogError):
        parse_record(data)


def checkpoint_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            checkpoint.verify(path, SWARM)


def books(data: bytes) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        decoded = json.loads(data)
        with contextlib.suppress(AccountError):
            Ledger.from_json(decoded)


def trainer_line(data: bytes) -> None:
    for decode in (channel.decode_from_trainer, channel.decode_from_daemon):
        with contextlib.suppress(ChannelError):
            decode(data)


def payload(data: bytes) -> None:
    """An encoded chunk: what is not refused decodes to finite values."""
    if not data:
        return
    for codec in (kind() for kind in CODECS.values()):
        into = torch.zeros(2 * codec.block)
        try:
            codec.check(torch.frombuffer(bytearray(data), dtype=torch.uint8), into.numel())
        except CodecError:
            continue
        codec.decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), into)
        assert bool(torch.isfinite(into).all())


def _payload(name: str) -> bytes:
    codec = CODECS[name]()
    n = 2 * codec.block
    out = torch.empty(codec.bound(n), dtype=torch.uint8)
    codec.encode(torch.linspace(-1, 1, n), out)
    return out.numpy().tobytes()


def packed(data: bytes) -> None:
    """A packed payload behind the size that was announced: exactly that many bytes, or an error."""
    size = int.from_bytes(data[:4], "big")
    try:
        assert len(packing.unpack(data[4:], size)) == size
    except wire.WireError:
        return


def _packed() -> bytes:
    payload = bytes(8192)
    made = packing.pack(payload)
    assert made is not None
    return len(payload).to_bytes(4, "big") + made


def _stripes() -> bytes:
    """Frames in one stripe, and one in two."""
    frames = []
    for number, size in ((1, 100), (2, 0), (3, stripes.STRIPE_BYTES)):
        head = wire.encode_frame(pb.Frame(contribution=pb.Contribution(chunk=number)), size, number)
        frames.append(head + bytes(size))
    return b"".join(
        stripes.encode_head(number, len(run), at) + run[at : at + stripes.STRIPE_BYTES]
        for number, run in enumerate(frames, 1)
        for at in range(0, len(run), stripes.STRIPE_BYTES)
    )


_HELLO = pb.Frame(hello=pb.Hello(swarm_id=SWARM, software="x", addresses=["/ip4/1.2.3.4/tcp/1"]))
_STATUS = pb.NodeStatus(
    state=pb.TRAINING,
    version=1,
    digest=b"d" * 32,
    chain=[pb.ChainLink(version=1, digest=b"d" * 32), pb.ChainLink(version=0, digest=b"c" * 32)],
)

TARGETS: dict[str, tuple[Target, list[bytes]]] = {
    "frame": (frame, [_HELLO.SerializeToString()]),
    "stream": (stream, [wire.encode_frame(_HELLO) * 2]),
    "lane": (lane, [_stripes()]),
    "certificate": (certificate, [Credentials.of(KEYS.private_key).certificate]),
    "machine": (machine, [_frames()]),
    "heartbeat": (heartbeat, [_STATUS.SerializeToString()]),
    "envelope": (envelope, [Router(keyring(2), 1).wrap(KEYS.peer_id, _HELLO).forward.SerializeToString()]),
    "dht_record": (dht_record, [make_record(KEYS, SWARM, ["/ip4/1.2.3.4/tcp/1"], 1e9)]),
    "ticket": (ticket, [tickets.encode(TICKET).encode()]),
    "manifest": (manifest, [make_manifest(KEYS, 1).signed.SerializeToString()]),
    "record": (record, [pb.RoundRecord(commit=KEYS.sign("commit", b"x")).SerializeToString()]),
    "receipt": (receipt, [_receipt()]),
    "checkpoint_file": (checkpoint_file, [b"\x02\0\0\0\0\0\0\0{}"]),
    "books": (books, [json.dumps(Ledger(3).to_json()).encode()]),
    "trainer_line": (
        trainer_line,
        [channel.encode(channel.Ready(1, 2, 3.0)), channel.encode(channel.Pause())],
    ),
    "packed": (packed, [_packed()]),
    "payload": (payload, [_payload(name) for name in CODECS]),
    **HANDLERS,
    **REACHING,
}
