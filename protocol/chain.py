"""The chain of commits: digests that name a head, and the leader and voters that follow from it.

D(0) names the swarm and its genesis parameters; D(s+1) = SHA-256(D(s) ‖ commit). Equal digests mean equal
histories, hence equal bits. All functions are pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

DIGEST_BYTES = 32


def genesis_digest(swarm_id: bytes, genesis_parameters: bytes) -> bytes:
    """D(0)."""
    return hashlib.sha256(b"atoll/1/genesis\0" + swarm_id + genesis_parameters).digest()


def commit_digest(commit: bytes) -> bytes:
    """SHA-256 of a commit's bytes: what a vote names."""
    return hashlib.sha256(b"atoll/1/commit\0" + commit).digest()


def next_digest(parent: bytes, commit: bytes) -> bytes:
    """D(s+1) from D(s) and the commit's bytes."""
    return hashlib.sha256(parent + commit_digest(commit)).digest()


def leader_rank(parent: bytes, fragment: int, peer: bytes) -> bytes:
    """Nodes are ordered by this; the highest leads the session."""
    return hashlib.sha256(parent + fragment.to_bytes(4, "big") + peer).digest()


def leader_of(parent: bytes, fragment: int, candidates: Iterable[bytes]) -> bytes | None:
    """The candidate with the highest rank; None where there is none."""
    return max(candidates, key=lambda peer: leader_rank(parent, fragment, peer), default=None)


def is_majority(votes: int, electorate: int) -> bool:
    """More than half of the electorate."""
    return 2 * votes > electorate


@dataclass(frozen=True)
class Head:
    """Where a node stands: `version` outer steps applied, chain `digest`, and what fork choice needs.

    `electorate`: who may certify the next commit, sorted; fixed by the commit that made this head.
    `progress`: rounds in 65536ths, where small commits follow each other (modes/asynchronous.py), else 0.
    `amendment`: digest of the one that the last commit went by (amendments.py); empty: of none.
    """

    version: int
    digest: bytes
    electorate: tuple[bytes, ...]
    certified: bool = True
    cumulative_tokens: int = 0
    progress: int = 0
    amendment: bytes = b""
