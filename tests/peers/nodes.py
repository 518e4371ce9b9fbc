"""Nodes with links, with lanes or without, that write down what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.peers.lanes import Lanes
from atoll.peers.links import Callbacks, Link, Links
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.signing import Ed25519Keyring

from .hosts import DEADLINE_S, Hosts, connect, until

SWARM = b"s" * 32


@dataclass
class Node:
    """A host with links, and what they told."""

    host: Host
    links: Links
    hello: pb.Hello
    keyring: Ed25519Keyring
    lanes: Lanes | None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ups: list[bytes] = field(default_factory=list)
    downs: list[tuple[bytes, str]] = field(default_factory=list)
    frames: list[tuple[bytes, pb.Frame, bytes]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> bytes:
        return self.host.peer_id

    async def when(self, condition: Callable[[], object]) -> None:
        await until(condition, self.changed)


async def make(hosts: Hosts, name: str, lanes: bool = False, **hello: object) -> Node:
    host, keyring = await hosts.start(name)
    fields = {"swarm_id": SWARM, "protocol": pb.ProtocolRange(lowest=1, highest=1), "software": name}
    message = pb.Hello(**(fields | hello))

    def refuse(peer: bytes, theirs: pb.Hello) -> str | None:
        return None if theirs.swarm_id == message.swarm_id else "it is of another swarm"

    async def frame(peer: bytes, received: pb.Frame, payload: bytes) -> None:
        await node.gate.wait()
        node.frames.append((peer, received, payload))
        node.changed.set()

    def up(link: Link) -> None:
        node.ups.append(link.peer)
        node.changed.set()

    def down(peer: bytes, reason: str) -> None:
        node.downs.append((peer, reason))
        node.changed.set()

    def greeting() -> pb.Hello:
        said = pb.Hello()
        said.CopyFrom(message)
        return said

    started = await Lanes.start(keyring.private_key, "127.0.0.1") if lanes else None
    if started is not None:
        hosts.at_the_end(started.close)
    links = Links(host, keyring.peer_id, Callbacks(greeting, refuse, up, down, frame), started)
    node = Node(host, links, message, keyring, started)
    node.gate.set()
    await links.listen()
    hosts.at_the_end(lambda: links.close("the test is over"))
    return node


async def pair(hosts: Hosts, lanes: bool = False) -> tuple[Node, Node]:
    """Two nodes with a link, dialled by the first."""
    a, b = await make(hosts, "a", lanes), await make(hosts, "b", lanes)
    await connect(a.host, b.host)
    await dial(a, b)
    await b.when(lambda: b.ups)
    return a, b


async def dial(a: Node, b: Node) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await a.links.dial(b.id)


def ready(tokens: int) -> pb.Frame:
    return pb.Frame(ready=pb.Ready(tokens=tokens))


def contribution(chunk: int) -> pb.Frame:
    return pb.Frame(contribution=pb.Contribution(chunk=chunk))
