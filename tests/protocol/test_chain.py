"""The chain: domains of its hashes, who leads, what a majority is."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import chain

DIGEST = st.binary(min_size=32, max_size=32)


def test_digests_are_what_the_specification_says():
    assert (
        chain.genesis_digest(b"s" * 32, b"g" * 32)
        == hashlib.sha256(b"atoll/1/genesis\0" + b"s" * 32 + b"g" * 32).digest()
    )
    commit = hashlib.sha256(b"atoll/1/commit\0" + b"c").digest()
    assert chain.commit_digest(b"c") == commit
    assert chain.next_digest(b"p" * 32, b"c") == hashlib.sha256(b"p" * 32 + commit).digest()
    assert chain.leader_rank(b"p" * 32, 258, b"n") == hashlib.sha256(b"p" * 32 + b"\0\0\1\2n").digest()


@given(DIGEST, st.sets(st.binary(min_size=38, max_size=38), min_size=1, max_size=10))
def test_everyone_finds_the_same_leader_and_the_same_next_one(parent: bytes, nodes: set[bytes]):
    leader = chain.leader_of(parent, 0, sorted(nodes))
    assert leader == chain.leader_of(parent, 0, sorted(nodes, reverse=True))
    assert leader in nodes
    rest = nodes - {leader}
    next_leader = chain.leader_of(parent, 0, rest)
    assert next_leader in rest if rest else next_leader is None


def test_leadership_rotates():
    nodes = [bytes([k]) * 38 for k in range(5)]
    leaders = [chain.leader_of(hashlib.sha256(bytes([k])).digest(), 0, nodes) for k in range(200)]
    assert min(leaders.count(node) for node in nodes) > 20


@given(st.integers(0, 100), st.integers(0, 100))
def test_two_majorities_always_share_a_voter(votes: int, others: int):
    electorate = 100
    if chain.is_majority(votes, electorate) and chain.is_majority(others, electorate):
        assert votes + others > electorate


def test_nobody_is_no_majority():
    assert not chain.is_majority(0, 0)
    assert not chain.is_majority(1, 2)
    assert chain.is_majority(1, 1)
