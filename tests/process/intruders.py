"""Who is not to get in, and how they try: against a node of a private swarm of real daemons.

Each attack is one coroutine on an `Intruder`, which has a libp2p process and a key of its own. They are told
what an attacker may know: the manifest, an address, and (where it says so) what a member once showed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer

from atoll.daemon.storage.data_dir import DataDir
from atoll.dht.records import make_record, swarm_key
from atoll.peers import identity, relays
from atoll.peers.link import read_frame
from atoll.peers.p2pd import GONE, Host
from atoll.protocol import membership as m
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.signing import Ed25519Keyring, peer_bytes, peer_text

from .harness import Daemon, must, totals

CONNECTIONS = 1000
STREAMS = 100
"""Of one intruder at a time."""
RECORDS = 2000
DAY = 86_400.0
DEADLINE_S = 60.0


def refused_of(node: Daemon) -> dict[str, float]:
    """`atoll_refused`, by reason."""
    return totals(node, "atoll_refused")


def insiders(node: Daemon) -> list[str]:
    """Who is a member, as the node's own data dir says."""
    told = json.loads(must("members", "--json", "--data-dir", str(node.folder)))
    return sorted(one["node"] for one in told)


@dataclass
class Intruder:
    """A stranger's machine. `victim`: the organiser's node, whose key some attacks have to use."""

    victim: Daemon
    host: Host
    keyring: Ed25519Keyring
    manifest: SwarmManifest
    target: bytes
    overheard: list[pb.Membership] = field(default_factory=list)
    """What a member showed when this node was one as well."""

    @property
    def organiser(self) -> Ed25519Keyring:
        folder = DataDir(self.victim.folder)
        return folder.keyring(folder.organiser)

    def hello(self, *membership: pb.Membership, swarm_id: bytes = b"") -> pb.Hello:
        body = self.manifest.body
        return pb.Hello(
            swarm_id=swarm_id or self.manifest.swarm_id,
            protocol=wire.spoken(),
            software="intruder",
            schema_digest=body.schema_digest,
            data_digest=body.data.digest,
            membership=membership,
        )

    def certificate(self, signer: Ed25519Keyring, swarm: m.Swarm, expires_s: float = 0.0) -> pb.Membership:
        issued = time.time() - 2 * DAY
        return m.new_certificate(
            signer, swarm, self.keyring.peer_id, role=pb.MEMBER, issued_s=issued, expires_s=expires_s
        )

    async def stream(self, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        _, reader, writer = await self.host.p2p.call_binary_stream_handler(PeerID(self.target), protocol)
        return reader, writer

    async def answer(self, hello: pb.Hello) -> pb.Frame:
        """What the victim says to a Hello: its own, or a goodbye with the reason."""
        reader, writer = await self.stream(wire.LINK_PROTOCOL)
        try:
            writer.write(wire.encode_frame(pb.Frame(hello=hello)))
            async with asyncio.timeout(DEADLINE_S):
                frame, _ = await read_frame(reader)
            return frame
        finally:
            writer.close()

    async def is_refused(self, hello: pb.Hello) -> None:
        said = await self.answer(hello)
        assert said.WhichOneof("message") == "goodbye", "it was let in"


@asynccontextmanager
async def a_machine(folder: Path) -> AsyncIterator[tuple[Ed25519Keyring, Host]]:
    """A key and a libp2p process of its own, which has dialled nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    keyring = identity.create(folder / "identity.key")
    host = await Host.start(folder / "identity.key", ["/ip4/127.0.0.1/tcp/0"], folder / "run")
    try:
        yield keyring, host
    finally:
        await host.close()


@asynccontextmanager
async def intruder(victim: Daemon, folder: Path) -> AsyncIterator[Intruder]:
    async with a_machine(folder) as (keyring, host):
        data_dir = DataDir(victim.folder)
        facts = data_dir.node_facts()
        target = peer_bytes(facts["node_id"])
        await host.connect(target, facts["addresses"])
        yield Intruder(victim, host, keyring, data_dir.load_manifest(), target)


# ---- with what they show


async def no_certificate(who: Intruder) -> None:
    await who.is_refused(who.hello())


async def expired(who: Intruder) -> None:
    shown = who.certificate(who.organiser, who.manifest.swarm, time.time() - DAY)
    await who.is_refused(who.hello(shown))


async def forged(who: Intruder) -> None:
    """Signed by a key of its own, with the swarm's id."""
    private = Ed25519PrivateKey.generate()
    own = m.Swarm(who.manifest.swarm_id, private.public_key().public_bytes_raw())
    await who.is_refused(who.hello(who.certificate(Ed25519Keyring(private), own)))


async def of_another_swarm(who: Intruder) -> None:
    """A good certificate, of a swarm that this one is not; and then with this one's id in the Hello."""
    private = Ed25519PrivateKey.generate()
    other = m.Swarm(bytes(32), private.public_key().public_bytes_raw())
    shown = who.certificate(Ed25519Keyring(private), other)
    await who.is_refused(who.hello(shown, swarm_id=other.swarm_id))
    await who.is_refused(who.hello(shown))


async def revoked(who: Intruder) -> None:
    """It was a member, heard what members show each other, and was revoked."""
    shown = who.certificate(who.organiser, who.manifest.swarm)
    said = await who.answer(who.hello(shown))
    assert said.WhichOneof("message") == "hello", "it is still a member"
    who.overheard = list(said.hello.membership)
    node = peer_text(who.keyring.peer_id)
    must("members", "revoke", node, "--data-dir", str(who.victim.folder))
    async with asyncio.timeout(DEADLINE_S):
        # The node looks at what commands left every second or so.
        while (await who.answer(who.hello(shown))).WhichOneof("message") != "goodbye":
            await asyncio.sleep(0.2)


async def replayed(who: Intruder) -> None:
    """What a member showed, shown again by somebody else."""
    await revoked(who)
    await who.is_refused(who.hello(*who.overheard))


# ---- with what they send


async def oversized(who: Intruder) -> None:
    """Lengths of 2 GiB where a handshake, an enrolment and a request for a file are expected."""
    for protocol in (wire.LINK_PROTOCOL, wire.ENROL_PROTOCOL):
        reader, writer = await who.stream(protocol)
        writer.write(b"\x7f\xff\xff\xff" + b"x" * 65536)
        async with asyncio.timeout(DEADLINE_S):
            with suppress(OSError):  # closed without an answer, or reset
                assert not await reader.read()
        writer.close()


async def slow_loris(who: Intruder) -> None:
    """As many streams as it gets, on each a byte now and then, until the victim has had enough."""
    streams = []
    for _ in range(STREAMS):
        try:
            streams.append(await who.stream(wire.LINK_PROTOCOL))
        except GONE:
            break
    # All of them: which ones are taken up, and which are turned away at once, is the victim's to choose.
    ends = [asyncio.create_task(_closed(reader)) for reader, _ in streams]
    async with asyncio.timeout(DEADLINE_S):
        while not all(end.done() for end in ends):
            for _, writer in streams:
                if not writer.is_closing():
                    writer.write(b"\x00")
            await asyncio.wait(ends, timeout=1.0)
    for _, writer in streams:
        writer.close()


async def _closed(reader: asyncio.StreamReader) -> None:
    try:
        await reader.read()
    except OSError:
        return


async def many_connections(who: Intruder) -> None:
    """A thousand TCP connections to the victim's port, which say nothing, for ten seconds."""
    (address, *_) = DataDir(who.victim.folder).node_facts()["addresses"]
    _, _, ip, _, port, *_ = address.split("/")
    sockets = []
    try:
        for _ in range(CONNECTIONS):
            one = socket.socket()
            one.setblocking(False)
            sockets.append(one)
            one.connect_ex((ip, int(port)))
        await asyncio.sleep(10.0)
        # Whoever is a member gets through meanwhile: the swarm goes on, which the caller looks at.
    finally:
        for one in sockets:
            one.close()


async def place_at_the_relay(who: Intruder) -> None:
    """Where others could meet it through the victim."""
    try:
        await relays.reserve(who.host, who.target)
    except relays.NoPlace:
        return
    raise AssertionError("a stranger has a place at the relay")


async def flood_of_records(who: Intruder) -> None:
    """Records of others and of itself, which is no member, under the swarm's key; rubbish elsewhere.

    First a few, each of which has to be refused; then as much as goes.
    """
    dht = await DHTNode.create(p2p=who.host.p2p, ensure_bootstrap_success=False, strict=False)
    try:
        peer, end = PeerID(who.target), time.time() + 80.0
        own = MSGPackSerializer.dumps(
            make_record(who.keyring, who.manifest.swarm_id, ["/ip4/127.0.0.1/tcp/1"], time.time())
        )
        key = DHTID.generate(source=swarm_key(who.manifest.swarm_id))
        store: Callable[..., Coroutine[Any, Any, list[bool] | None]] = dht.protocol.call_store

        async def forged() -> list[bool] | None:
            names = [Ed25519PrivateKey.generate() for _ in range(100)]
            ids = [Ed25519Keyring(name).peer_id for name in names]
            return await store(peer, [key] * 100, [own] * 100, end, subkeys=ids)

        async def more(start: int) -> None:
            assert not any(await forged() or ()), "a forged record was taken"
            rubbish = [DHTID.generate(source=f"{start} {k}") for k in range(100)]
            await store(peer, rubbish, [b"x" * 20_000] * 100, end + 1e6)

        async with asyncio.timeout(DEADLINE_S):
            assert await forged() == [False] * 100, "a forged record was taken"
            taken = await store(peer, [key], [own], end, subkeys=[who.keyring.peer_id])
            assert taken == [False], "it is no member"
            await asyncio.gather(*(more(start) for start in range(0, RECORDS, 100)))
    finally:
        await dht.shutdown()


ATTACKS: dict[str, tuple[Callable[[Intruder], Coroutine[Any, Any, None]], tuple[str, ...]]] = {
    "no certificate": (no_certificate, ("no_certificate",)),
    "expired": (expired, ("expired",)),
    "forged": (forged, ("forged",)),
    "another swarm's": (of_another_swarm, ("handshake_hello", "other_swarm")),
    "revoked": (revoked, ("revoked",)),
    "replayed": (replayed, ("revoked",)),
    "oversized": (oversized, ("handshake_malformed", "enrolment_dropped")),
    "slow loris": (slow_loris, ("handshakes", "handshake_malformed")),
    "connections": (many_connections, ()),
    "relay": (place_at_the_relay, ("relay_denied",)),
    "records": (flood_of_records, ("dht_record", "dht_request")),
}
"""By name: the attack, and the reasons by which the victim counts it."""
