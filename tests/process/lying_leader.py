"""An `atoll` that leaves out whom it can, owns all chunks and turns results about where it leads.

    python -m tests.process.lying_leader run …

It votes for that, whatever the others say, and goes on with it alone.
"""

import hashlib
import sys

from atoll.daemon.cli import main
from atoll.daemon.rounds.driver import RoundDriver
from atoll.daemon.rounds.guard import Guard
from atoll.protocol.round import plan as plans
from atoll.protocol.round.ballot import Ballot

_make_plan = plans.make_plan
_reduced = RoundDriver._reduced


def of_few(config, head, me, ready, here, view, durations, no_owners, *more):
    """The plan with no more honest members than a majority takes, and no owner but this node."""
    if head.version and len(head.electorate) > 2:
        honest = [peer for peer in sorted(ready) if peer != me and peer in head.electorate]
        few = {me, *honest[: len(head.electorate) // 2]}
        ready = {peer: said for peer, said in ready.items() if peer in few}
        here, no_owners = few, few - {me}
    return _make_plan(config, head, me, ready, here, view, durations, no_owners, *more)


def turned_about(self, effect):
    payload, digest, left_out = _reduced(self, effect)
    leads = effect.plan.session.leader == self._keyring.peer_id
    if not (leads and len(set(effect.plan.owners)) == 1):
        return payload, digest, left_out
    size = self._chunks.size(effect.chunk)
    lie = bytes(payload[:-size]) + bytes((256 - level) % 256 for level in payload[-size:])
    return lie, hashlib.sha256(lie).digest(), left_out


async def for_all(self, commit, results):
    return "", ()


if __name__ == "__main__":
    plans.make_plan = of_few
    RoundDriver._reduced = turned_about
    Guard.refuses = for_all
    Ballot.outvoted = lambda self, commit, members=(), live=(): False
    sys.exit(main())
