"""Who is here: the peers as the roster knows them, whether this node trains, and who is passed over.

From these follow, for one head, who may lead, who is expected, and whether this node is behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from atoll.protocol.chain import Head, is_majority, leader_of
from atoll.protocol.round.types import PeerView, RoundConfig, TrainingChanged

PAST_HEADS = 64
MAX_LIVES = 4096


class Company:
    """Peers and standing of node `me`; at the genesis only `genesis_node` leads."""

    def __init__(self, me: bytes, config: RoundConfig) -> None:
        self.me = me
        self._config = config
        self.peers: Mapping[bytes, PeerView] = {}
        self.me_trains = TrainingChanged(False)
        self.suspects: set[bytes] = set()
        """Leaders that left, stayed silent or were refused at this head."""
        self.no_owners: set[bytes] = set()
        """Owners that left, were too slow or were refused at this head."""
        self._refusals: dict[bytes, dict[bytes, bytes]] = {}
        """By leader: which commit of it each voter was against last."""
        self.past: deque[bytes] = deque(maxlen=PAST_HEADS)
        self._lives: dict[bytes, int] = {}

    def leader(self, head: Head) -> bytes | None:
        """Who leads the next session: training nodes at this head; suspects where nobody else is left."""
        nodes = self._training_at({head.digest})
        candidates = (
            nodes & {self._config.genesis_node} if head.version == 0 else nodes - self.suspects or nodes
        )
        return leader_of(head.digest, self._config.fragment(head.version), candidates)

    def expected(self, head: Head) -> set[bytes]:
        """Training nodes at this head or one commit behind: those are about to apply it."""
        return self._training_at({head.digest, *list(self.past)[-1:]})

    def _training_at(self, digests: set[bytes]) -> set[bytes]:
        nodes = {peer for peer, view in self.peers.items() if view.training and view.digest in digests}
        return nodes | {self.me} if self.me_trains.training else nodes

    def here(self, head: Head) -> set[bytes]:
        """Everyone who holds this head, training or not."""
        return {self.me} | {peer for peer, view in self.peers.items() if view.digest == head.digest}

    def renewed(self, peers: Mapping[bytes, PeerView]) -> set[bytes]:
        """Those of `peers` that came back, or are reached another way than before."""
        known = self.peers
        return {p for p, view in peers.items() if p not in known or known[p].since != view.since}

    def reborn(self, peers: Mapping[bytes, PeerView]) -> set[bytes]:
        """Those of `peers` that have started again since they were seen last: they know no session."""
        lives = {peer: view.life for peer, view in peers.items() if view.life}
        reborn = {peer for peer, life in lives.items() if self._lives.get(peer, life) != life}
        self._lives = dict([*{**self._lives, **lives}.items()][-MAX_LIVES:])
        return reborn

    def unreachable(self) -> list[bytes]:
        """Peers that others have to forward to."""
        return sorted(peer for peer, view in self.peers.items() if not view.direct)

    def is_ahead(self) -> bool:
        """Whether a peer's chain is to be followed instead of this node's."""
        return any(view.ahead for view in self.peers.values())

    def refused(self, head: Head, leader: bytes, voter: bytes, commit: bytes) -> bool:
        """A voter is against a commit of a session that this node is not in.

        Whether that can't be certified any more: this node does not vote for it either.
        """
        refusals = self._refusals.setdefault(leader, {})
        refusals[voter] = commit
        against = {self.me} | {peer for peer, digest in refusals.items() if digest == commit}
        voters = set(head.electorate)
        return not is_majority(len(voters - against), len(voters))

    def left(self, head: Head) -> None:
        """This head was left for another one."""
        self.past.append(head.digest)
        self.suspects, self.no_owners, self._refusals = set(), set(), {}
        # Who is ahead was said of the old head; the roster is asked anew.
        self.peers = {peer: replace(view, ahead=False) for peer, view in self.peers.items()}
