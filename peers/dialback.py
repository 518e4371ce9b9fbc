"""Dial-back: a node asks another one, "can you dial me?", and is told at which of its addresses it answers.

Whoever is asked dials by itself, over a connection of its own (prober.py), and only at the IP address from
which the asker is connected: so nobody can be made to dial anybody else. Over a relay that address is not
known, and nothing is dialled. A request is small, answered once in a while to each asker and seldom in all.

What an answer proves: at that moment the node that answers could dial the asker. A router that lets in
whatever comes from an IP address that was dialled before makes it look better than it is; so more than one
is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.message import Message

from atoll.peers import addresses as a
from atoll.peers import asking, prober
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

TIMEOUT_S = 20.0
MAX_DIALLED = 6
"""Addresses of one request; the others are left out."""
MAX_OPEN = 4
AGAIN_S = 20.0
"""One asker is answered so often."""
PER_S, BURST = 0.5, 8.0
"""All askers together."""
MAX_KNOWN = 1024
"""Askers of the last AGAIN_S; more are told to come later."""

Dial = Callable[[str, int, bytes], Awaitable[str]]
"""Dials a TCP port of an IP address, where a node should be: why it is not, or an empty text."""


def may_dial(address: str, seen: str) -> bool:
    """Whether an address of an asker may be dialled that is connected from the IP address `seen`."""
    ip = a.ip_of(address)
    return ip is not None and a.parts(address) is not None and str(ip) == seen


def seen_from(remote: str) -> str:
    """The IP address at the other end of a connection; empty where a relay is between."""
    ip = a.ip_of(remote)
    return "" if ip is None or a.scope(remote) == a.RELAY else str(ip)


class DialBackServer(asking.AnswerServer):
    """Answers those who ask to be dialled. `refuses`: why a peer may not ask, or None if it may."""

    def __init__(
        self,
        host: Host,
        refuses: Callable[[bytes], str | None],
        clock: Callable[[], float] = time.monotonic,
        dial: Dial = prober.probe,
    ) -> None:
        super().__init__(
            host,
            wire.DIAL_BACK_PROTOCOL,
            most_bytes=wire.MAX_DIAL_BACK_BYTES,
            most_open=MAX_OPEN,
            most_of_one=1,
            timeout_s=TIMEOUT_S,
        )
        self._refuses = refuses
        self._clock = clock
        self._dial = dial
        self._asked: dict[bytes, float] = {}
        self._pace = RateCap(PER_S, BURST)

    async def _reply(self, peer: bytes, remote: str, question: bytes) -> Message:
        return await self.answer(peer, remote, pb.DialBackRequest.FromString(question))

    async def answer(self, peer: bytes, remote: str, request: pb.DialBackRequest) -> pb.DialBackReply:
        """Dials, if it may. `remote`: where the asker is connected from."""
        seen = seen_from(remote)
        code, reason = self._refusal(peer, seen)
        if code:
            self.refused[code] += 1
            return pb.DialBackReply(code=code, reason=reason, seen=seen)
        wanted = [a.bare(address) for address in request.addresses if may_dial(address, seen)]
        if 0 < request.port < 65536:
            wanted.append(a.tcp(seen, request.port))
        chosen = list(dict.fromkeys(wanted))[:MAX_DIALLED]
        causes = await asyncio.gather(*(self._dialled(address, peer) for address in chosen))
        results = [pb.DialBackResult(address=w, cause=c) for w, c in zip(chosen, causes, strict=True)]
        return pb.DialBackReply(seen=seen, results=results)

    def _refusal(self, peer: bytes, seen: str) -> tuple[str, str]:
        """Code and words; empty where the peer is to be dialled, which is counted then."""
        why = self._refuses(peer)
        if why is not None:
            return "not_welcome", why
        if not seen:
            return "relayed", "the connection runs over a relay, so the address behind it is not known"
        now = self._clock()
        self._asked = {p: at for p, at in self._asked.items() if now - at < AGAIN_S}
        if peer in self._asked or len(self._asked) >= MAX_KNOWN or self._pace.ready_at() > now:
            return "too_often", "ask again later"
        self._asked[peer] = now
        self._pace.spend(1, now)
        return "", ""

    async def _dialled(self, address: str, peer: bytes) -> str:
        found = a.parts(address)
        assert found is not None  # may_dial has looked
        return await self._dial(found[1], found[2], peer)


async def ask(host: Host, peer: bytes, addresses: Sequence[str], port: int) -> pb.DialBackReply:
    """Asks a connected peer. Raises OSError, EOFError, TimeoutError, WireError, P2PDaemonError."""
    request = pb.DialBackRequest(addresses=addresses, port=port)
    return await asking.ask(
        host, peer, wire.DIAL_BACK_PROTOCOL, request, pb.DialBackReply, wire.MAX_DIAL_BACK_BYTES, TIMEOUT_S
    )
