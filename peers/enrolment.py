"""Enrolling: a stream on which a newcomer shows its ticket and is told manifest, certificate, revocations.

One request, one reply. Whoever is no member can open nothing else; so it is small, has a deadline, and is
answered to few at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from atoll.peers import asking
from atoll.peers.p2pd import Host
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire

TIMEOUT_S = 10.0
MAX_OPEN = 16
MAX_OPEN_OF_ONE = 2

Answer = Callable[[bytes, pb.EnrolRequest], pb.EnrolReply]
"""The reply to a peer's request."""


class EnrolServer(asking.AnswerServer):
    """Answers those who want to become members."""

    def __init__(self, host: Host, answer: Answer) -> None:
        super().__init__(
            host,
            wire.ENROL_PROTOCOL,
            most_bytes=wire.MAX_ENROL_BYTES,
            most_open=MAX_OPEN,
            most_of_one=MAX_OPEN_OF_ONE,
            timeout_s=TIMEOUT_S,
        )
        self._answer = answer

    @property
    def dropped(self) -> int:
        """Streams that were closed because too many were open, or because nothing sensible came."""
        return self.refused.total()

    async def _reply(self, peer: bytes, remote: str, question: bytes) -> Message:
        return self._answer(peer, pb.EnrolRequest.FromString(question))


async def ask(host: Host, peer: bytes, request: pb.EnrolRequest) -> pb.EnrolReply:
    """Asks a connected peer. Raises OSError, EOFError, TimeoutError, WireError, P2PDaemonError."""
    return await asking.ask(
        host, peer, wire.ENROL_PROTOCOL, request, pb.EnrolReply, wire.MAX_ENROL_REPLY_BYTES, TIMEOUT_S
    )
