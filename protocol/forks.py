"""Fork choice: which of two chains a node follows. Pure functions.

Two heads either lie on one chain, and the shorter one catches up, or their chains differ from some commit on.
That commit decides, whatever came after it: certified beats provisional, then more cumulative accepted
tokens, then the smaller digest. So the choice does not change while both sides go on, and nodes that know the
same commits choose the same. Where members may lie tokens are no more than a claim, and of two provisional
commits the one counts that more of those who train have: then the choice is the same once all see the same
peers. That a commit is certified is known to some nodes earlier than to others, and
never taken back: callers compare chains by what they know (peers/following.py), not by what each chain says.

Nodes tell each other the last WINDOW commits. Chains that differ by more are compared at the oldest commit
that both name; where no version is in both, the longer one is followed.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import DIGEST_BYTES, Head

WINDOW = 16


@dataclass(frozen=True)
class Link:
    """One commit of a chain: the version it makes, its digest, and what fork choice compares."""

    version: int
    digest: bytes
    certified: bool
    cumulative_tokens: int


Chain = tuple[Link, ...]
"""Newest first, versions without a gap, at most WINDOW of them, at least one."""


class Choice(enum.Enum):
    """What another chain is to the one in hand."""

    SAME = "same"
    BEHIND = "behind"  # a part of ours
    AHEAD = "ahead"  # it continues ours
    LOSES = "loses"  # a fork, and ours stays
    WINS = "wins"  # a fork, and it is to be followed

    @property
    def follow(self) -> bool:
        """Whether the other chain is to be taken over."""
        return self in (Choice.AHEAD, Choice.WINS)

    @property
    def fork(self) -> bool:
        """Whether the two chains differ in a commit."""
        return self in (Choice.LOSES, Choice.WINS)


def link_of(head: Head) -> Link:
    """The commit that made a head."""
    return Link(head.version, head.digest, head.certified, head.cumulative_tokens)


def has_weight(mine: Chain, theirs: Chain, training: Iterable[Chain]) -> bool:
    """Whether more of those who train are on `theirs` than are not, or as many, where it is the longer one.

    `theirs` goes on from our head, or has no version in common with our chain. `training`: chains of all
    others who do; this node counts with those who are not. Where nobody else trains, the longer one will do.
    """
    chains, longer = list(training), theirs[0].version > mine[0].version
    apart = not share(mine, theirs)
    there = [c for c in chains if on_one_chain(theirs, c) and (apart or c[0].version > mine[0].version)]
    return 2 * len(there) > len(chains) + (not longer) or (longer and not chains)


def on_one_chain(one: Chain, other: Chain) -> bool:
    """Whether both name some version, and none differently."""
    return share(one, other) and parting(one, other) is None


def share(one: Chain, other: Chain) -> bool:
    """Whether both chains name some version."""
    return max(one[-1].version, other[-1].version) <= min(one[0].version, other[0].version)


def extend(chain: Chain, link: Link) -> Chain:
    """A chain with one more commit, or one that was certified since."""
    kept = chain[1:] if chain and chain[0].version == link.version else chain
    if kept and kept[0].version != link.version - 1:
        kept = ()  # a state was taken over: what was before it is not known
    return (link, *kept)[:WINDOW]


def certify(chain: Chain, known: Collection[bytes]) -> Chain:
    """The chain with what is known to be certified besides."""
    if all(link.certified or link.digest not in known for link in chain):
        return chain
    return tuple(replace(link, certified=link.certified or link.digest in known) for link in chain)


def as_known(chain: Chain, known: Collection[bytes]) -> Chain:
    """A peer's chain with only that certified which is known to be: its word for the rest does not count."""
    if all(link.certified == (link.digest in known) for link in chain):
        return chain
    return tuple(replace(link, certified=link.digest in known) for link in chain)


def parting(mine: Chain, theirs: Chain) -> tuple[Link, Link] | None:
    """The first commit in which two chains differ, in each; None where they don't, or share no version."""
    newest = min(mine[0].version, theirs[0].version)
    oldest = max(mine[-1].version, theirs[-1].version)
    if oldest > newest or _at(mine, newest).digest == _at(theirs, newest).digest:
        return None
    # Chains have no gaps; below the first differing commit all digests agree.
    for version in range(oldest, newest + 1):
        own, other = _at(mine, version), _at(theirs, version)
        if own.digest != other.digest:
            return own, other
    return None


def _at(chain: Chain, version: int) -> Link:
    return chain[chain[0].version - version]


def compare(
    mine: Chain,
    theirs: Chain,
    known: Collection[bytes] | None = None,
    training: Collection[Chain] = (),
) -> Choice:
    """What `theirs` is to `mine`. Both at least one commit (or the genesis) long.

    `known`: the commits that are certified; without it the chains are believed. `training`: where members may
    lie, the chains of all who train and this node's: how many have a commit goes before its tokens.
    """
    pair = parting(mine, theirs)
    if pair is not None:
        own, other = (_rank(link, known, training) for link in pair)
        return Choice.WINS if other > own else Choice.LOSES
    if theirs[0].version == mine[0].version:
        return Choice.SAME
    return Choice.AHEAD if theirs[0].version > mine[0].version else Choice.BEHIND


def _rank(
    link: Link, known: Collection[bytes] | None, training: Collection[Chain]
) -> tuple[bool, int, int, bytes]:
    certified = link.certified if known is None else link.digest in known
    holders = sum(any(link.digest == other.digest for other in chain) for chain in training)
    return certified, holders, link.cumulative_tokens, bytes(255 - b for b in link.digest)


def common_version(mine: Chain, theirs: Chain) -> int | None:
    """The newest version at which two chains agree; None where none is known."""
    digests = {(link.version, link.digest) for link in mine}
    return next((link.version for link in theirs if (link.version, link.digest) in digests), None)


def last_common(mine: Chain, theirs: Chain, taken: int) -> int:
    """The newest version of our chain that may be in theirs, of which `taken` is the version taken over."""
    pair = parting(mine, theirs)
    return taken if pair is None else min(taken, pair[0].version - 1)


def tail(chain: Chain, version: int, digest: bytes) -> Chain:
    """The part of a chain that ends at this commit; empty if it is not in it."""
    return next((chain[k:] for k, x in enumerate(chain) if (x.version, x.digest) == (version, digest)), ())


def certified_in(chains: Iterable[Chain]) -> set[bytes]:
    """Commits that any of these chains says to be certified."""
    return {link.digest for chain in chains for link in chain if link.certified}


def best(
    mine: Chain,
    others: Sequence[Chain],
    known: Collection[bytes] | None = None,
    training: Collection[Chain] = (),
) -> int | None:
    """Which of `others` to follow: the winner of every fork, the longest of its like. None: stay."""
    chosen, found = mine, None
    for index, chain in enumerate(others):
        # Through a third chain, which names less of the past, one that loses against ours could seem to win.
        wins = compare(chosen, chain, known, training).follow
        if wins and compare(mine, chain, known, training).follow:
            chosen, found = chain, index
    return found


def parse_chain(links: Sequence[pb.ChainLink], version: int, digest: bytes) -> Chain:
    """A peer's chain as it says in its status. Raises ValueError where it makes no sense."""
    if not 1 <= len(links) <= WINDOW:
        raise ValueError(f"chain of {len(links)} commits")
    chain = tuple(Link(m.version, bytes(m.digest), m.certified, m.cumulative_tokens) for m in links)
    if (chain[0].version, chain[0].digest) != (version, digest):
        raise ValueError("chain that does not end at the head")
    if any(link.version != version - back for back, link in enumerate(chain)):
        raise ValueError("chain with a gap")
    if any(len(link.digest) != DIGEST_BYTES for link in chain):
        raise ValueError("chain with a digest of another length")
    return chain


def write_chain(chain: Chain) -> list[pb.ChainLink]:
    """The chain as a message."""
    return [
        pb.ChainLink(
            version=link.version,
            digest=link.digest,
            certified=link.certified,
            cumulative_tokens=link.cumulative_tokens,
        )
        for link in chain
    ]
