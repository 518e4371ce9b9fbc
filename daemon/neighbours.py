"""The neighbours of this node: links to them, what they said last, and what they may fetch from here.

Owns links, roster and file server. Answers handshakes, sends heartbeats, notices who is gone; passes frames
of rounds on. What it needs to know of the node comes in as callables, so it can be driven without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from atoll.daemon.amending import Amending
from atoll.daemon.events import Events
from atoll.daemon.storage.round_log import KEEP
from atoll.peers.admission import Admission
from atoll.peers.files import FileServer, Provider
from atoll.peers.following import Following
from atoll.peers.identity import readable_name
from atoll.peers.lanes import Lanes
from atoll.peers.links import Callbacks, Link, LinkLost, Links
from atoll.peers.p2pd import Host
from atoll.peers.roster import EVICT_S, HEARTBEAT_S, Roster
from atoll.peers.routing import MAX_LINKED, Router, RoutingError
from atoll.peers.telling import Telling, completed
from atoll.protocol import forks, wire
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.manifest import SwarmManifest
from atoll.protocol.round import types as t
from atoll.protocol.signing import Keyring

MAX_ANNOUNCED = 16
MAX_LEARNED_PER_PEER = 4
MAX_FORWARDING = 8
OF_CONTRIBUTORS = ("ready", "plan", "contribution", "result", "commit", "vote", "pledge", "accusation")
MAX_FORWARDING_OF_ONE = 4
"""Envelopes with a payload that are on their way at once, of all and of one origin; more are dropped."""


@dataclass(frozen=True)
class Hooks:
    """What the neighbours ask of the node, and tell it."""

    status: Callable[[], pb.NodeStatus]
    chain: Callable[[], forks.Chain]
    addresses: Callable[[], list[str]]
    provide: Provider
    changed: Callable[[], None]
    lost: Callable[[], None]
    learned: Callable[[str], None]
    frame: Callable[[bytes, pb.Frame, wire.Payload], Awaitable[None]]
    between_rounds: Callable[[], Awaitable[None]] | None = None
    carries: Callable[[], bool] = lambda: True
    """Whether payloads of others may be passed on."""
    weighs: Callable[[bytes], bool] = lambda peer: True
    """Whether a peer's contributions count here."""
    past: Callable[[], Collection[bytes]] = tuple
    """Digests of the versions before this node's, as far as they are known."""


class Neighbours:
    """Everyone this node has a link to."""

    def __init__(
        self,
        host: Host,
        keyring: Keyring,
        manifest: SwarmManifest,
        software: str,
        events: Events,
        hooks: Hooks,
        lanes: Lanes | None = None,
        packs: bool = True,
        admission: Admission | None = None,
        amending: Amending | None = None,
    ) -> None:
        self._admission = admission or Admission(None, keyring, time.time)
        self._amending = amending
        if amending is not None:
            amending.tell = self.spread
        self._manifest = manifest
        self._software = software
        self._events = events
        self._hooks = hooks
        self._due = asyncio.Event()
        self._echoes: dict[int, tuple[bytes, float]] = {}
        self._forwarding: dict[asyncio.Task[None], bytes] = {}
        self.unwanted = Counter[str]()
        """Frames of rounds that observers sent, by kind; they are dropped."""
        self.punch: Callable[[bytes, pb.Punch], None] = lambda peer, said: None
        """Told what peers say of punching a hole."""
        self.forwarded = Counter[str]()
        """Envelopes of others: passed on, or why not."""
        self.roster = Roster()
        self.following = Following(
            self.roster,
            KEEP,
            self._doubted,
            wary=manifest.holds,
            past=hooks.past,
            trains=self._contributes,
        )
        self._telling = Telling()
        self._router = Router(keyring, time.time_ns())
        callbacks = Callbacks(self._hello, self._refuse, self._up, self._down, self._frame)
        self.links = Links(host, keyring.peer_id, callbacks, lanes, packs)
        self.files = FileServer(
            host,
            manifest.swarm_id,
            hooks.provide,
            between_rounds=hooks.between_rounds,
            lets_in=self._admission.lets_in,
        )

    async def listen(self) -> None:
        """Accepts links and file requests from now on."""
        await self.links.listen()
        await self.files.listen()

    async def close(self, reason: str) -> None:
        """Says goodbye to everyone."""
        await self.links.close(reason)

    # ---- handshake

    def _hello(self) -> pb.Hello:
        hello = pb.Hello(
            swarm_id=self._manifest.swarm_id,
            protocol=wire.spoken(),
            software=self._software,
            schema_digest=self._manifest.body.schema_digest,
            data_digest=self._manifest.body.data.digest,
            status=self._status(),
            addresses=self._hooks.addresses()[:MAX_ANNOUNCED],
        )
        self._admission.introduce(hello)
        return hello

    def _refuse(self, peer: bytes, hello: pb.Hello) -> str | None:
        """Why a peer's Hello does not fit, both sides named; None if it does."""
        body = self._manifest.body
        for what, mine, theirs in (
            ("swarm", self._manifest.swarm_id, hello.swarm_id),
            ("parameter schema", body.schema_digest, hello.schema_digest),
            ("data", body.data.digest, hello.data_digest),
        ):
            if mine != theirs:
                return f"its {what} {theirs.hex()[:16] or 'none'} is not {mine.hex()[:16] or 'none'}"
        return self._admission.refuse(peer, hello)

    def _status(self) -> pb.NodeStatus:
        status = self._hooks.status()
        status.linked.extend(self.links.peers[:MAX_LINKED])
        return status

    # ---- who is there

    def _up(self, link: Link) -> None:
        if not self._admission.lets_in(link.peer):
            # It was revoked while the handshake was under way.
            self.links.cut(link.peer, self._admission.standing(link.peer).reason)
            return
        self._telling.forget(link.peer)
        self.roster.up(link.peer, link.hello, time.monotonic())
        self._events.emit("peer-up", f"{readable_name(link.peer)} is connected.")
        for address in list(link.hello.addresses)[:MAX_LEARNED_PER_PEER]:
            self._hooks.learned(address)
        greeting = self._admission.greeting()
        if greeting is not None:
            link.send(greeting)
        for frame in self._amending.greeting() if self._amending is not None else ():
            link.send(frame)
        self._hooks.changed()

    def _down(self, peer: bytes, reason: str) -> None:
        self._router.lost(peer)
        self._telling.forget(peer)
        if self.roster.down(peer):
            self._events.emit("peer-down", f"{readable_name(peer)} is gone: {reason}.")
            self._hooks.changed()
        self._hooks.lost()

    def _doubted(self, peer: bytes, reason: str) -> None:
        self._events.emit("transfer", f"{readable_name(peer)} is not believed for now: {reason}.")

    def apart(self) -> list[bytes]:
        """Live peers that are reached through others, or over a relay."""
        return [peer for peer in self.roster.entries if not self.links.is_direct(peer)]

    def _contributes(self, peer: bytes) -> bool:
        """Whether what a peer contributes counts here: not an observer's, not that of one in quarantine."""
        return self._admission.contributes(peer) and self._hooks.weighs(peer)

    def views(self) -> dict[bytes, t.PeerView]:
        """The roster as the round machine wants it."""
        ahead = self.following.ahead(self._hooks.chain(), time.monotonic())
        return {
            peer: t.PeerView(
                bytes(entry.status.digest),
                entry.status.state == pb.TRAINING and self._contributes(peer),
                int(entry.status.upload_bps),
                ahead=peer in ahead,
                direct=entry.direct,
                since=entry.since,
                life=int(entry.status.life),
            )
            for peer, entry in self.roster.entries.items()
        }

    # ---- frames and heartbeats

    async def _frame(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        now = time.monotonic()
        self.roster.seen(peer, now)
        match frame.WhichOneof("message"):
            case "heartbeat":
                self._heartbeat(peer, frame.heartbeat, now)
            case "forward":
                await self._forward(peer, frame.forward, payload, now)
            case "roll":
                self._heard_of_members(peer, frame.roll)
            case "amendment" if self._amending is not None:
                self._amending.heard(peer, frame.amendment)
            case "punch":
                self.punch(peer, frame.punch)
            case "hello":
                self._events.emit("protocol", f"{readable_name(peer)} said hello twice.")
            case _:
                await self._hand_on(peer, frame, payload)

    async def _hand_on(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        """A frame of rounds; of an observer only what asks."""
        kind = frame.WhichOneof("message")
        if kind in OF_CONTRIBUTORS and not self._admission.contributes(peer):
            self.unwanted[str(kind)] += 1
            return
        await self._hooks.frame(peer, frame, payload)

    # ---- members

    def _heard_of_members(self, peer: bytes, said: pb.Roll) -> None:
        answers, news = self._admission.heard(peer, said)
        for frame in answers:
            self.links.send(peer, frame)
        if news is not None:
            self.spread(news, but=peer)

    def spread(self, news: pb.Frame, but: bytes = b"") -> None:
        """Tells all neighbours something of members, or of the manifest."""
        for peer in self.links.peers:
            if peer != but:
                self.links.send(peer, news)

    def look_at_members(self) -> None:
        """The roll has changed: parts with whoever is a member no more."""
        for peer in self.links.peers:
            standing = self._admission.standing(peer)
            if not standing.is_in:
                self.links.cut(peer, standing.reason)
        for peer in list(self.roster.entries):
            if not self._admission.lets_in(peer):
                self._down(peer, "it is no member any more")

    # ---- to and from everyone, with a link or through others

    def send(self, peer: bytes, frame: pb.Frame) -> None:
        """Sends a control frame; it goes nowhere where no way is known, and the roster has said so."""
        if self.links.send(peer, frame):
            return
        via = self._router.via(peer)
        if via is not None:
            self.links.send(via, self._router.wrap(peer, frame))

    async def send_bulk(self, peer: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        """Sends a frame with its payload. Raises LinkLost."""
        via = self._router.via(peer) if self.links.get(peer) is None else None
        if via is None:
            await self.links.send_bulk(peer, frame, payload)
        else:
            await self.links.send_bulk(via, self._router.wrap(peer, frame, payload), payload)

    async def _forward(self, sender: bytes, message: pb.Forward, payload: wire.Payload, now: float) -> None:
        """An envelope: for this node, or to be passed on."""
        me = self.links.me
        try:
            if message.target == me:
                origin, frame = self._router.unwrap(message, payload)
                await self._unwrapped(origin, frame, payload, now)
                return
            target = self._router.pass_on(sender, message, self.links.peers)
        except RoutingError as error:
            self.forwarded[str(error)] += 1
            return
        frame = pb.Frame(forward=message)
        if payload and not self._hooks.carries():
            self.forwarded["the network is to be left alone"] += 1
            return
        if payload:
            of_sender = sum(origin == sender for origin in self._forwarding.values())
            fits = len(self._forwarding) < MAX_FORWARDING and of_sender < MAX_FORWARDING_OF_ONE
        else:
            fits = self.links.pass_on(target, frame, sender)
        self.forwarded["passed on" if fits else "too many at once"] += 1
        if fits and payload:
            task = asyncio.create_task(self._pass_on(target, frame, payload))
            self._forwarding[task] = sender
            task.add_done_callback(self._forwarding.pop)

    async def _pass_on(self, target: bytes, frame: pb.Frame, payload: wire.Payload) -> None:
        try:
            await self.links.send_bulk(target, frame, payload)
        except LinkLost:
            self.forwarded["the target's link ended"] += 1

    async def _unwrapped(self, origin: bytes, frame: pb.Frame, payload: wire.Payload, now: float) -> None:
        if not self._admission.lets_in(origin):
            self.forwarded["its origin is no member"] += 1
            return
        if frame.WhichOneof("message") == "heartbeat":
            told = frame.heartbeat.HasField("status")
            if told and self.roster.up_through_others(origin, frame.heartbeat.status, now):
                self._events.emit("peer-up", f"{readable_name(origin)} is reached through others.")
                self._hooks.changed()
            self._heartbeat(origin, frame.heartbeat, now)
        elif origin in self.roster.entries:
            self.roster.seen(origin, now)
            if frame.HasField("punch"):
                self.punch(origin, frame.punch)
                return
            await self._hand_on(origin, frame, payload)

    def _heartbeat(self, peer: bytes, beat: pb.Heartbeat, now: float) -> None:
        sent = self._echoes.pop(beat.echo, None) if beat.echo else None
        if sent is not None and sent[0] == peer:
            self.roster.measured(peer, now - sent[1])
        if beat.nonce:
            self.send(peer, pb.Frame(heartbeat=pb.Heartbeat(echo=beat.nonce)))
        entry = self.roster.entries.get(peer)
        if entry is None or not beat.HasField("status"):
            return
        if beat.unix_ms:
            self.roster.told_time(peer, beat.unix_ms / 1000 - time.time())
        status = completed(beat.status, entry.status)
        if self.links.get(peer) is not None:
            self._router.heard(peer, status.linked)
        if self.roster.heard(peer, status, now):
            self._hooks.changed()

    def tell_soon(self) -> None:
        """The next heartbeat goes out without waiting for its time."""
        self._due.set()

    def tell_everyone(self) -> None:
        """Sends the status at once: rounds wait for it."""
        for peer, status in self._statuses(time.monotonic()).items():
            self.send(peer, pb.Frame(heartbeat=pb.Heartbeat(status=status)))

    def _statuses(self, now: float) -> dict[bytes, pb.NodeStatus]:
        """What everyone is to be told; through others, where a frame may be lost, all of it."""
        status, peers = self._status(), self._reached(now)
        direct = [peer for peer in peers if self.links.get(peer) is not None]
        return {**dict.fromkeys(peers, status), **self._telling.statuses(direct, status, now)}

    def _reached(self, now: float) -> list[bytes]:
        return [*self.links.peers, *self._router.indirect(self.links.peers, now)]

    async def heartbeats(self) -> None:
        """Tells everyone how this node is, every HEARTBEAT_S and when it matters; evicts the silent."""
        while True:
            now = time.monotonic()
            for peer, status in self._statuses(now).items():
                nonce = secrets.randbits(63) | 1
                self._echoes[nonce] = (peer, now)
                beat = pb.Heartbeat(status=status, nonce=nonce, unix_ms=round(1000 * time.time()))
                self.send(peer, pb.Frame(heartbeat=beat))
            self._echoes = {n: (p, at) for n, (p, at) in self._echoes.items() if now - at < EVICT_S}
            self.evict(now)
            self._due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._due.wait()

    def evict(self, now: float) -> None:
        """Parts with the silent. One whose bytes move is not: heartbeats wait behind a large frame."""
        for peer in self.roster.silent(now):
            if not self.roster.entries[peer].direct:
                self._down(peer, "it is no longer reached through others")
            elif now - self.links.alive_at(peer) > EVICT_S:
                self.links.cut(peer, f"it was silent for {EVICT_S:.0f} s")
