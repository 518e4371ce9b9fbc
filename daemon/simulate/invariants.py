"""What must hold after every event: the oracle sees all honest nodes at once, and raises Violation.

The checks are incremental: each looks at what has just happened, and costs little. The oracle never tells a
node anything.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from atoll.daemon.simulate import facts
from atoll.daemon.simulate.engine import Violation
from atoll.daemon.simulate.island import Island
from atoll.daemon.storage.round_log import KEEP
from atoll.protocol import chain, forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.ledger import Offer
from atoll.protocol.outer import Float32
from atoll.protocol.round import types as t
from atoll.protocol.round.commit import accepted_tokens

if TYPE_CHECKING:
    from atoll.daemon.simulate.node import SimNode

OUTCOMES = ("certified", "provisional", "aborted", "missed")
NEVER = frozenset(
    (
        "contribution to a chunk that is not owned here",
        "result that is not by the owner of the chunk",
        "result with impossible contributors",
        "plan with weights that do not follow from the tokens",
        "plan with another learning rate than the manifest's",
    )
)
"""What an honest node gives another no cause to say, in a swarm without faults."""
ONE_SESSION_S = 3.0
"""A session from before the last fault may still end badly; the next one must not."""
SPARE_VERSIONS = 8
"""Versions are forgotten at the next commit: those that a late checkpoint covers are still here."""


@dataclass
class Known:
    """One commit of any chain: what it adds to each honest node's accepted tokens."""

    parent: bytes
    version: int
    accepted: dict[bytes, list[int]]
    parameters: Float32


@dataclass
class Oracle:
    """Everything that was ever committed, voted and offered."""

    genesis: bytes
    honest: dict[bytes, int] = field(default_factory=dict)  # peer id -> slot
    commits: dict[bytes, Known] = field(default_factory=dict)
    bits: dict[bytes, bytes] = field(default_factory=dict)
    certified: dict[bytes, bytes] = field(default_factory=dict)
    vouched: set[bytes] = field(default_factory=set)  # certified as any node has seen it, a liar among them
    votes: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    offers: dict[tuple[bytes, bytes, int], tuple[int, ...]] = field(default_factory=dict)
    ended: set[tuple[bytes, int, bytes]] = field(default_factory=set)
    applied: dict[bytes, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    refused: dict[str, float] = field(default_factory=dict)  # reason -> when it was first given
    quiet: bool = False
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    # ---- contributions

    def offered(self, peer: bytes, offer: Offer) -> None:
        self.offers[peer, bytes.fromhex(offer.parent), offer.number] = offer.carried

    def reducing(self, effect: t.Reduce, values: list[Float32]) -> None:
        """Contributions are about to be averaged: all measured against the session's parent?"""
        parent = facts.mark(effect.plan.session.parent)
        for part, value in zip(effect.parts, values, strict=True):
            peers = {bytes(effect.plan.contributors[index].peer) for index in part.members}
            if peers <= self.honest.keys() and value[facts.PARENT] != parent * value[facts.TAG]:
                raise Violation("another parent", "a pseudo-gradient of another parent is averaged")

    # ---- votes and commits

    def voted(self, node: SimNode, signed: pb.Signed) -> None:
        """A vote is sent: is what it promises on the platter, and is it the only one?"""
        vote = pb.Vote.FromString(signed.body)
        parent, commit = bytes(vote.session.parent), bytes(vote.commit)
        known = self.votes.setdefault((node.id, parent), commit)
        if known != commit:
            raise Violation("one vote", f"{node.name} votes twice for one parent")
        version = node.machine.head.version + 1
        disk, log = node.disk, node.store.log
        records = [disk.durable(log.path(version, kind)) for kind in ("vote", "commit")]
        found = [pb.RoundRecord.FromString(r).commit.body for r in records if r is not None]
        body = next((b for b in found if chain.commit_digest(b) == commit), None)
        if body is None:
            raise Violation("durable votes", f"{node.name} votes for a commit that it may lose")
        payload = disk.durable(log.path(version, "payload")) or b""
        for chunk, committed in enumerate(pb.Commit.FromString(body).chunks):
            count = len(committed.contributors)
            at = chunk * node.payloads.results.room(facts.VALUES)
            data = payload[at : at + log.size(chunk, count)] if count else b""
            if facts.digest(data) != committed.payload_digest:
                raise Violation("durable votes", f"{node.name} votes for results that it may lose")

    def decided(self, node: SimNode, effect: t.Apply) -> None:
        """A commit is about to be applied."""
        body, parent = effect.commit.body, effect.parent
        digest = chain.commit_digest(body)
        votes = {v.signer for v in effect.votes if pb.Vote.FromString(v.body).commit == digest}
        counted = len(votes & set(parent.electorate))
        if chain.is_majority(counted, len(parent.electorate)) != effect.certified:
            raise Violation("certified", "the votes do not say what the machine says")
        if effect.certified and node.id in self.honest:
            self.certify(parent.digest, chain.next_digest(parent.digest, body))
        elif effect.certified:
            self.vouched.add(chain.next_digest(parent.digest, body))

    def certify(self, parent: bytes, digest: bytes) -> None:
        """Some node holds this commit for certified."""
        self.vouched.add(digest)
        if self.certified.setdefault(parent, digest) != digest:
            raise Violation("one certified commit", "two different certified commits have one parent")

    def moved(self, node: SimNode, commit: pb.Commit | None) -> None:
        """A node has another head: by a commit, or by taking a state over (None)."""
        store = node.store
        head, bits = store.head, store.bits()
        if self.bits.setdefault(head.digest, bits) != bits:
            raise Violation("equal bits", f"{node.name} has other bits of version {head.version}")
        if commit is None:
            return
        self.applied[node.id].add(head.digest)
        if head.digest not in self.commits:
            self.commits[head.digest] = self._check(commit, store.parameters)

    def _check(self, commit: pb.Commit, parameters: Float32) -> Known:
        """The first time that a commit is applied: is every token in it once, and nothing else?"""
        parent = bytes(commit.session.parent)
        known = self.commits.get(parent)
        before = known.parameters if known else np.zeros_like(parameters)
        if commit.outer_lr != facts.lr_of(commit):
            raise Violation("learning rate", f"version {commit.version} was made for another world size")
        accepted: dict[bytes, list[int]] = {}
        for index, contributor in enumerate(commit.contributors):
            peer = bytes(contributor.peer)
            slot = self.honest.get(peer)
            if slot is None:
                continue
            carried = self.offers.get((peer, parent, contributor.offer))
            if carried is None or max(carried) != contributor.tokens:
                raise Violation("tokens", f"version {commit.version} has tokens that nobody offered")
            given = [n if index in c.contributors else 0 for n, c in zip(carried, commit.chunks, strict=True)]
            moved = (facts.own(before, slot) - facts.own(parameters, slot)) / commit.outer_lr
            if moved.tolist() != given:
                raise Violation(
                    "conservation",
                    f"version {commit.version} moves slot {slot} by {moved.tolist()}, not by {given}",
                )
            accepted[peer] = given
        self._check_marks(commit, parent, before, parameters)
        base = known.version if known else 0
        if commit.version != base + 1 or (commit.cumulative_tokens < accepted_tokens(commit)):
            raise Violation("tokens", f"version {commit.version} has an impossible sum of tokens")
        return Known(parent, int(commit.version), accepted, parameters.copy())

    def _check_marks(self, commit: pb.Commit, parent: bytes, before: Float32, after: Float32) -> None:
        count = np.array([len(chunk.contributors) for chunk in commit.chunks], np.float32)
        for slot, each in ((facts.TAG, 1), (facts.PARENT, facts.mark(parent))):
            moved = (facts.own(before, slot) - facts.own(after, slot)) / commit.outer_lr
            if not np.array_equal(moved, count * each):
                raise Violation(
                    "conservation", f"version {commit.version} is not the sum of its contributors"
                )

    def left(self, node: SimNode, mine: forks.Chain, theirs: forks.Chain) -> None:
        """A node takes over another chain: never one that was uncertified where its own was certified."""
        ours = {link.version: link for link in mine}
        for link in reversed(theirs):
            own = ours.get(link.version)
            if own is not None and own.digest != link.digest:
                if own.certified and not (link.certified or link.digest in self.vouched):
                    raise Violation("fork choice", f"{node.name} leaves a certified commit for another")
                return

    def dropped(self, node: SimNode, effect: t.Dropped) -> None:
        """Once the faults are over, honest nodes don't go on finding fault with each other."""
        if self.quiet and effect.reason in NEVER and {node.id, effect.sender} <= self.honest.keys():
            now = node.engine.now
            if now - self.refused.setdefault(effect.reason, now) > ONE_SESSION_S:
                raise Violation("mutual understanding", f"{node.name} drops: {effect.reason}")

    # ---- sessions and memory

    def session_ended(self, node: SimNode, report: t.SessionReport) -> None:
        key = (node.id, node.life, report.session.SerializeToString(deterministic=True))
        if key in self.ended:
            raise Violation("sessions", f"{node.name}: a session ends twice")
        self.ended.add(key)
        self.outcomes[report.outcome] += 1
        if report.outcome not in OUTCOMES or not report.reason:
            raise Violation(
                "sessions", f"{node.name}: a session ends as {report.outcome!r}, {report.reason!r}"
            )

    def look(self, node: SimNode, now: float) -> None:
        """Now and then: deadlines, bounds, the identity of the account."""
        machine = node.machine
        session = machine.session
        if session is not None:
            plan = session.plan
            # Whoever follows a leader that left or proposed nothing has its time once more.
            leaders = 1 + len(plan.contributors)
            longest = leaders * (plan.scatter_s + plan.reduce_s + plan.vote_s)
            if now - node.session_since > longest and now - node.resumed_at > longest:
                raise Violation("sessions", f"{node.name}: a session outlives its deadlines")
        if not node.island.account.balanced():
            raise Violation("account", f"{node.name}: the token account does not balance")
        lag = node.store.head.version - max(node.store.saved, default=0)
        versions = {name.split(".")[0] for name in node.disk.names(node.store.log.folder)} - {"promises"}
        if len(versions) > KEEP + max(lag, 0) + SPARE_VERSIONS:
            raise Violation("bounded memory", f"{node.name} keeps {len(versions)} versions")

    # ---- at the end

    def reconcile(self, node: SimNode) -> None:
        """What a node's account calls accepted is what its chain says, for all commits that it applied."""
        total, digest = 0, node.store.head.digest
        while digest in self.commits:
            known = self.commits[digest]
            if digest in self.applied[node.id]:
                total += sum(known.accepted.get(node.id, ()))
            digest = known.parent
        account: Island = node.island
        if digest != self.genesis or account.account.accepted != total:
            raise Violation(
                "account", f"{node.name} has {account.account.accepted} accepted, the chain {total} of it"
            )
