"""Before a round's contributions go out: this node's pledge to everyone, and everyone's to this node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping

from atoll.peers.identity import readable_name
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import pledge as pledges
from atoll.protocol.pledge import Pledges
from atoll.protocol.round.plan import members_of
from atoll.protocol.signing import Keyring

log = logging.getLogger(__name__)

WAIT_PART = 0.25
"""Of the time for contributions, what is waited for pledges."""
BEHIND_S = 2.0
"""So long a contribution waits for the pledge that was sent before it on another way."""


class Pledging:
    """Sends, awaits and refuses pledges of the session under way; `present`: contributors that are alive."""

    def __init__(
        self,
        keyring: Keyring,
        held: Pledges,
        send: Callable[[bytes, pb.Frame], None],
        present: Callable[[], Collection[bytes]],
    ) -> None:
        self._keyring = keyring
        self.held = held
        self._send = send
        self._present = present
        self._came = asyncio.Event()
        self._closed: tuple[bytes, int] | None = None
        """Head and fragment of which this node has begun to show what it sends: no more pledges are taken."""
        self._late: dict[bytes, tuple[pb.Signed, pb.Pledge]] = {}
        """Pledges that came then: those of another attempt at this head, which reached others first."""

    def due(self, plan: pb.Plan) -> bool:
        """Whether pledges are to be exchanged before contributions of this plan go out."""
        return not plan.HasField("continues") or self.mine(plan) is None

    def mine(self, plan: pb.Plan) -> pb.Signed | None:
        """What this node pledged for its offer in a plan."""
        return self.of(plan, self._keyring.peer_id)

    def of(self, plan: pb.Plan, peer: bytes) -> pb.Signed | None:
        """What a contributor pledged for its offer in a plan."""
        return self.held.signed(peer, pledges.key_in(plan, peer))

    def pledge(self, plan: pb.Plan, digests: Mapping[int, bytes]) -> None:
        """Binds this node to payloads with these digests; nobody is told yet."""
        signed = pledges.make(self._keyring, plan, digests)
        self.held.take(signed, self.held.read(signed))

    async def exchange(self, plan: pb.Plan) -> None:
        """Tells everyone what this node pledged; returns when the others have, or were waited for."""
        self._closed = None
        late, self._late = self._late, {}
        for another, pledge in late.values():
            with contextlib.suppress(pledges.PledgeError):  # it is missed, and that is told
                self.held.take(another, pledge)
        signed = self.mine(plan)
        for peer in sorted(members_of(plan) - {self._keyring.peer_id}):
            self._send(peer, pb.Frame(pledge=signed))
        try:
            async with asyncio.timeout(WAIT_PART * plan.scatter_s):
                while missing := self._missing(plan):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            log.info("no pledge came of %s", ", ".join(readable_name(peer) for peer in sorted(missing)))
        self._closed = (bytes(plan.session.parent), plan.session.fragment)

    def _missing(self, plan: pb.Plan) -> set[bytes]:
        """Contributors who are here and pledged nothing yet."""
        contributors = {bytes(c.peer) for c in plan.contributors} & set(self._present())
        return {peer for peer in contributors if self.of(plan, peer) is None}

    def changed(self) -> None:
        """Who is alive has changed, or who takes part."""
        self._came.set()

    def take(self, sender: bytes, signed: pb.Signed) -> None:
        """A pledge came. Raises PledgeError, or DecodeError."""
        if signed.signer != sender:
            raise pledges.PledgeError("pledge of somebody else")
        pledge = self.held.read(signed)
        late = self._closed == (bytes(pledge.parent), pledge.fragment)
        if late and not self.held.holds(sender, pledge):
            if len(self._late) < pledges.MAX_NODES:
                self._late[sender] = signed, pledge
            raise pledges.PledgeError("pledge after contributions were shown")
        self.held.take(signed, pledge)
        self._came.set()

    async def fits(self, sender: bytes, session: pb.SessionId, chunk: int, digest: bytes) -> bool:
        """Whether a contribution is what its sender pledged; the pledge may still be on its way."""
        try:
            async with asyncio.timeout(BEHIND_S):
                while (fits := self.held.fits(sender, session, chunk, digest)) is None:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            return False
        return fits
