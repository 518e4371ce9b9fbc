"""A whole state from several holders at once: the shipping transfer machine on simulated streams.

The twin of peers/fetching.py. A header comes first, from whichever holder answers; then pieces, in any order,
into a file on the node's disk: what an earlier attempt left there is used where it has the right digest. The
whole is believed only if it is the state that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from atoll.daemon.errors import AtollError
from atoll.daemon.simulate import facts
from atoll.daemon.simulate.engine import Violation
from atoll.peers import transfer as tr
from atoll.protocol import messages_pb2 as pb

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

PIECE_BYTES = 1024
LIMITS = tr.Limits(in_flight_bytes=6 * PIECE_BYTES, per_holder_bytes=3 * PIECE_BYTES)
INCOMING = Path("incoming.part")
HEADER_S = 3.0


def header_of(content: bytes) -> pb.FileHeader:
    """Size and piece digests."""
    pieces = range(0, len(content), PIECE_BYTES)
    digests = [facts.digest(content[at : at + PIECE_BYTES]) for at in pieces]
    return pb.FileHeader(size_bytes=len(content), piece_bytes=PIECE_BYTES, piece_digests=digests)


class Download:
    """Fetches the state with a digest; `done` hears once: its bytes, None where nobody could give it.

    Or what this node's own disk said: then the holders did nothing wrong.
    """

    def __init__(
        self,
        node: SimNode,
        version: int,
        state: bytes,
        holders: Sequence[bytes],
        done: Callable[[bytes | AtollError | None], None],
    ) -> None:
        self._node = node
        self._version = version
        self._state = state
        self._holders = list(holders)
        self._done = done
        self._asked = 0
        self._transfer: tr.Transfer | None = None
        self._cancelled: set[int] = set()
        self._tick_at = float("inf")

    def start(self) -> None:
        """Asks the next holder for the header."""
        if self._asked == len(self._holders):
            self._done(None)
            return
        holder = self._node.others[self._holders[self._asked]]
        self._asked += 1
        self._node.network.ask(self._node, holder, "header", self._version, self._header, HEADER_S)

    def _header(self, data: bytes | None) -> None:
        try:
            header = pb.FileHeader.FromString(data or b"")
            content = tr.Content(header.size_bytes, tuple(header.piece_digests), int(header.piece_bytes or 1))
        except (DecodeError, ValueError):
            self.start()
            return
        if not content.digests:
            self.start()
            return
        self._transfer = tr.Transfer(content, self._holders, self._good(content), limits=LIMITS)
        self._carry_out(self._transfer.start(self._node.engine.now), b"")

    def _good(self, content: tr.Content) -> list[int]:
        """Pieces that an earlier attempt brought."""
        try:
            here = self._node.disk.read(INCOMING)
        except FileNotFoundError:
            return []
        pieces = (here[n * PIECE_BYTES : (n + 1) * PIECE_BYTES] for n in range(len(content.digests)))
        sized = ((n, data[: content.size(n)]) for n, data in enumerate(pieces))
        return [n for n, data in sized if facts.digest(data) == content.digests[n]]

    # ---- the machine

    def _feed(self, event: tr.Event, data: bytes = b"") -> None:
        assert self._transfer is not None
        self._carry_out(self._transfer.handle(event, self._node.engine.now), data)

    def _carry_out(self, effects: list[tr.Effect], data: bytes) -> None:
        assert self._transfer is not None
        transfer, node = self._transfer, self._node
        for effect in effects:
            match effect:
                case tr.Ask():
                    self._ask(effect)
                case tr.Cancel():
                    self._cancelled.add(effect.request)
                case tr.Keep():
                    if not self._keep(effect.piece, data):
                        return
                case tr.Dropped():
                    node.engine.say(
                        "{} asks {} no more: {}", node.name, node.others[effect.holder].name, effect.reason
                    )
                case tr.Done():
                    self._finish(transfer.content)
                case tr.Failed():
                    self._done(None)
        if transfer.in_flight > LIMITS.in_flight_bytes:
            raise Violation("bounded memory", f"{node.name} has {transfer.in_flight} bytes in flight")
        self._schedule(transfer)

    def _schedule(self, transfer: tr.Transfer) -> None:
        due, now = transfer.deadline(), self._node.engine.now
        if transfer.over is None and due < self._tick_at:
            self._tick_at = due
            self._node.later(max(0.0, due - now), self._tick, due)

    def _tick(self, due: float) -> None:
        assert self._transfer is not None
        if due != self._tick_at or self._transfer.over is not None:
            return
        self._tick_at = float("inf")
        now = self._node.engine.now
        self._carry_out(self._transfer.tick(now), b"")
        if self._transfer.over is None and self._transfer.deadline() <= now:
            raise Violation("no busy loop", f"{self._node.name}: a transfer stays due after a tick")

    def _ask(self, ask: tr.Ask) -> None:
        node = self._node

        def came(data: bytes | None) -> None:
            if ask.request in self._cancelled or self._transfer is None or self._transfer.over is not None:
                return
            if data is None:
                self._feed(tr.Ended(ask.request, "it broke off"))
            elif not data:
                self._feed(tr.Ended(ask.request, "it does not have it", refused=True))
            else:
                self._feed(tr.Received(ask.request, len(data)))
                self._feed(tr.PieceCame(ask.request, facts.digest(data)), data)

        first, end = ask.first * PIECE_BYTES, (ask.first + ask.count) * PIECE_BYTES
        spans = [slice(at, at + PIECE_BYTES) for at in range(first, end, PIECE_BYTES)]
        node.network.stream(node, node.others[ask.holder], "checkpoint", self._version, spans, came)

    def _keep(self, piece: int, data: bytes) -> bool:
        """Whether the disk took it; a full one ends the attempt."""
        assert self._transfer is not None
        try:
            self._node.disk.pwrite(INCOMING, data, piece * PIECE_BYTES)
        except AtollError as error:
            self._transfer.over = tr.Failed({})
            self._node.disk.unlink(INCOMING)
            self._done(error)
            return False
        return True

    def _finish(self, content: tr.Content) -> None:
        whole = self._node.disk.read(INCOMING)[: content.size_bytes]
        self._node.disk.unlink(INCOMING)
        self._done(whole if facts.digest(whole) == self._state else None)
