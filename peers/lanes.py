"""The direct lanes of this node: where it listens, whom it lets in, and how it reaches others.

Each Hello offers a lane with a token of its own: the port, and the certificate of the identity key. The side
that dialled the link dials the lane, too, at the address that worked and at those that the peer announced;
the other one dials if nothing has come after a while. Both are proven by TLS 1.3 (lane_tls.py) before a byte
of a frame is sent: the server's name in the handshake is the token, so the listener knows which certificate
to ask for; a name that it did not give out ends the handshake before this node says who it is. A token is
good as long as its link. When the accepting side has seen the proof it sends GREETING, and the dialling side
waits for that.

What can fail: the port is taken (OSError at the start), a peer can't be reached or is somebody else (its link
stays on libp2p with the reason, and is tried again ever more rarely). Handshakes under way, connections and
their time are bounded, for strangers and for peers alike.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from atoll.peers.lane import MAX_CONNECTIONS
from atoll.peers.lane_tls import Credentials, NotTheirs, check_certificate
from atoll.peers.link import Link
from atoll.protocol import messages_pb2 as pb

TOKEN_BYTES = 16
GREETING = b"atoll/1\n"
HANDSHAKE_S = 10.0
CONNECT_S = 5.0
PATIENCE_S = 5.0
"""The side that was dialled waits so long before it dials the lane itself."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
STEADY_S = 60.0
"""Pauses between dials; what held for so long begins with the first one again."""
MAX_HANDSHAKES = 32
MAX_DIALS = 8
"""Under way at once: of those who connect, and of this node's own."""
MAX_CONNECTIONS_IN_ALL = 256
MAX_ADDRESSES = 8
NOTSENT_LOWAT_BYTES = 64 * 1024
"""So little waits in the kernel unsent: what has room takes the next stripe, and no late one is queued up."""
USER_TIMEOUT_MS = 6_000
"""A connection whose bytes nobody takes for so long breaks, and its stripes take another one: rounds wait."""
KEEPALIVE_S = 20
WITH_BBR, WITHOUT_BBR = 2, 8
"""Connections that a lossy long line needs: bbr does not take a lost packet for a full line."""
BROKE_RULES = "it broke the rules"
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; Python 3.11 has no name for it

log = logging.getLogger(__name__)


class LaneRefused(ConnectionError):
    """The other end is not the peer, or does not want the connection."""


def is_offer(offer: pb.LaneOffer) -> bool:
    """Whether a Hello holds an offer: both sides number their frames then."""
    return len(offer.token) == TOKEN_BYTES


@dataclass(frozen=True, eq=False)
class _Kept:
    """A link whose lane is kept up."""

    link: Link
    certificate: bytes
    server: ssl.SSLContext
    client: ssl.SSLContext
    addresses: tuple[str, ...]


class Lanes:
    """Made by `start`, ended by `close`."""

    def __init__(self, credentials: Credentials, listener: socket.socket) -> None:
        self._credentials = credentials
        self._listener = listener
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking = 0
        self._dials = asyncio.Semaphore(MAX_DIALS)
        self._nobody = credentials.server(None)
        self._nobody.sni_callback = self._chosen
        self.refused = Counter[str]()
        """Connections that were not let in, by reason; and lanes whose peer broke the rules."""
        self._spawn(self._accept(), "lane-listener")

    @classmethod
    async def start(cls, key: Ed25519PrivateKey, host: str = "0.0.0.0", port: int = 0) -> Lanes:
        """Listens on a TCP port, 0: any. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=MAX_HANDSHAKES)
        listener.setblocking(False)
        return cls(Credentials.of(key), listener)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def offer(self) -> pb.LaneOffer:
        """What a Hello says of this node's lanes."""
        return pb.LaneOffer(
            token=secrets.token_bytes(TOKEN_BYTES),
            certificate=self._credentials.certificate,
            port=self.port,
            connections=WITH_BBR if _tuned(self._listener) else WITHOUT_BBR,
        )

    def keep(self, link: Link, mine: pb.LaneOffer, address: str) -> None:
        """Brings up a lane beside a link, and again. `address`: the multiaddr of the peer's connection."""
        theirs = link.hello.lane
        if link.relayed:
            link.lane_reason = "the link runs over a relay"
            return
        try:
            check_certificate(theirs.certificate, link.peer)
            server = self._credentials.server(theirs.certificate)
            client = self._credentials.client(theirs.certificate)
        except (NotTheirs, ssl.SSLError) as error:
            link.lane_reason = f"it shows {error}" if isinstance(error, NotTheirs) else f"TLS: {error.reason}"
            return
        addresses = candidates(address, link.hello.addresses)
        kept = _Kept(link, bytes(theirs.certificate), server, client, addresses)
        self._spawn(self._keep_up(mine.token.hex(), kept), "lane")

    async def close(self) -> None:
        """Lets nobody in any more. Lanes end with their links."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _connections(self) -> int:
        return sum(len(k.link.bulk.lane.connections) for k in self._kept.values() if k.link.bulk is not None)

    # ---- who connects

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # Too many files are open, or the stranger has left already.
                log.info("a connection was not accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if self._shaking >= MAX_HANDSHAKES or self._connections >= MAX_CONNECTIONS_IN_ALL:
                self.refused["too many at once"] += 1
                sock.close()
                continue
            self._shaking += 1
            self._spawn(self._let_in(sock), "lane-handshake")

    def _chosen(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """The client names the offer that it means (RFC 6066, 3)."""
        kept = self._kept.get(name or "")
        if kept is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        sock.context = kept.server
        return None

    async def _let_in(self, sock: socket.socket) -> None:
        tls: ssl.SSLSocket | None = None
        try:
            _tuned(sock)
            async with asyncio.timeout(HANDSHAKE_S):
                sock.setblocking(False)
                tls = self._nobody.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                await _handshake(tls)
            kept = next((k for k in self._kept.values() if k.server is tls.context), None)
            if kept is None or tls.getpeercert(binary_form=True) != kept.certificate:
                raise LaneRefused("it is not whom the offer was made to")
            if tls.send(GREETING) != len(GREETING):
                raise LaneRefused("it takes nothing")
            self._add(kept, tls)
        except (OSError, TimeoutError) as error:
            self.refused[_why(error)] += 1
            (tls or sock).close()
        except BaseException:
            (tls or sock).close()
            raise
        finally:
            self._shaking -= 1

    def _add(self, kept: _Kept, tls: ssl.SSLSocket) -> None:
        if kept.link.closed.is_set() or kept.link.bulk is None:
            raise LaneRefused("its link has ended")
        if not kept.link.bulk.lane.add(tls):
            raise LaneRefused("it has enough connections")

    # ---- whom this node dials

    async def _keep_up(self, name: str, kept: _Kept) -> None:
        link, bulk = kept.link, kept.link.bulk
        assert bulk is not None
        theirs = link.hello.lane
        mine = WITH_BBR if _tuned(self._listener) else WITHOUT_BBR
        wanted = min(MAX_CONNECTIONS, max(mine, theirs.connections))
        loop = asyncio.get_running_loop()
        pause, tried_at = FIRST_PAUSE_S, -math.inf
        self._kept[name] = kept
        try:
            while not link.closed.is_set() and not bulk.lane.refused:
                bulk.lane_changed.clear()
                if not link.dialled and not bulk.lane.open:
                    await _event(bulk.lane_changed, PATIENCE_S)
                missing = wanted - len(bulk.lane.connections)
                if missing <= 0 or (bulk.lane.open and not link.dialled):
                    await bulk.lane_changed.wait()
                    continue
                reason = await self._dial(kept, missing)
                if not bulk.lane.open and not bulk.lane.refused:
                    bulk.lane.reason = reason or bulk.lane.reason
                # Not at once again, even if it worked: a peer that hangs up would keep this node dialling.
                now = loop.time()
                steady = now - tried_at > STEADY_S + pause
                pause = FIRST_PAUSE_S if steady else min(2 * pause, LONGEST_PAUSE_S)
                tried_at = now
                await _event(link.closed, pause)
            if bulk.lane.refused:
                self.refused[BROKE_RULES] += 1
        finally:
            del self._kept[name]

    async def _dial(self, kept: _Kept, missing: int) -> str:
        """Opens connections, one after the other; why not, or "" if all are there."""
        port = kept.link.hello.lane.port
        if not 0 < port < 65536:
            return "it does not listen"
        reason = "it has announced no address that can be tried"
        addresses = list(kept.addresses)
        while missing and addresses:
            if self._connections >= MAX_CONNECTIONS_IN_ALL:
                return f"this node has {MAX_CONNECTIONS_IN_ALL} of them already"
            try:
                async with self._dials, asyncio.timeout(HANDSHAKE_S):
                    await self._dial_one(kept, addresses[0], port)
                missing -= 1
            except (OSError, TimeoutError) as error:
                reason = f"{addresses.pop(0)} port {port}: {_why(error)}"
        return reason if missing else ""

    async def _dial_one(self, kept: _Kept, address: str, port: int) -> None:
        """Raises OSError (LaneRefused and SSLError are ones)."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        tls: ssl.SSLSocket | None = None
        try:
            sock.setblocking(False)
            _tuned(sock)
            async with asyncio.timeout(CONNECT_S):
                await loop.sock_connect(sock, (address, port))
            tls = kept.client.wrap_socket(
                sock, server_hostname=kept.link.hello.lane.token.hex(), do_handshake_on_connect=False
            )
            await _handshake(tls)
            if tls.getpeercert(binary_form=True) != kept.certificate:
                raise LaneRefused("it is somebody else")
            if await _exactly(tls, len(GREETING)) != GREETING:
                raise LaneRefused("it does not speak Atoll's lane")
            self._add(kept, tls)
        except BaseException:
            (tls or sock).close()
            raise


def candidates(address: str, announced: Iterable[str]) -> tuple[str, ...]:
    """IP addresses to try, best first: that of the peer's connection, then those in its Hello.

    Loopback is tried only where the link itself runs over it: elsewhere it is another machine's.
    """
    own = _ip(address)
    found = [own] if own is not None else []
    for text in announced:
        ip = _ip(text)
        if ip is None or ip.is_unspecified or ip.is_multicast or ip in found:
            continue
        if not ip.is_loopback or (own is not None and own.is_loopback):
            found.append(ip)
    return tuple(str(ip) for ip in found[:MAX_ADDRESSES])


def _ip(multiaddr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    parts = multiaddr.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6") or "p2p-circuit" in parts:
        return None
    try:
        return ipaddress.ip_address(parts[2])
    except ValueError:
        return None


def _tuned(sock: socket.socket) -> bool:
    """Sets what a lane's socket needs; whether it runs bbr. The peer's may differ."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S // 2)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    except OSError:
        return False  # not in this kernel, or not for this user (tcp_allowed_congestion_control)
    return True


async def _handshake(tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
            return
        except ssl.SSLWantReadError:
            await _ready(tls, writes=False)
        except ssl.SSLWantWriteError:
            await _ready(tls, writes=True)


async def _exactly(tls: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = tls.recv(size - len(data))
        except ssl.SSLWantReadError:
            await _ready(tls, writes=False)
            continue
        if not part:
            raise LaneRefused("it closed the connection")
        data += part
    return data


async def _ready(sock: ssl.SSLSocket, writes: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    number = sock.fileno()
    (loop.add_writer if writes else loop.add_reader)(number, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if writes else loop.remove_reader)(number)


async def _event(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def _why(error: BaseException) -> str:
    """In few words, and never a peer's."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "another certificate"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
