"""The roster: who is alive by what was heard and when."""

from __future__ import annotations

import hashlib

from atoll.peers.roster import EVICT_S, Roster
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb

A, B = b"a" * 38, b"b" * 38


def status(**fields: object) -> pb.NodeStatus:
    return pb.NodeStatus(**{"state": pb.TRAINING, "digest": b"d", **fields})


def with_peers(*peers: bytes, **fields: object) -> Roster:
    roster = Roster()
    for peer in peers:
        roster.up(peer, pb.Hello(status=status(**fields), software="s" * 100), 0.0)
    return roster


def test_peers_come_and_go():
    roster = with_peers(A, B)
    assert set(roster.entries) == {A, B}
    assert len(roster.entries[A].software) == 64
    assert roster.down(A) and not roster.down(A)
    assert set(roster.entries) == {B}


def test_only_what_rounds_depend_on_counts_as_a_change():
    roster = with_peers(A)
    assert not roster.heard(A, status(tokens_per_s=5.0), 1.0)
    assert roster.entries[A].status.tokens_per_s == 5.0
    assert roster.heard(A, status(digest=b"e"), 2.0)
    assert roster.heard(A, status(digest=b"e", state=pb.FOLLOWING), 3.0)
    assert not roster.heard(B, status(), 3.0), "a stranger is no news"


def test_a_peer_is_silent_when_nothing_at_all_came():
    roster = with_peers(A, B)
    roster.heard(A, status(), EVICT_S - 1)
    roster.seen(B, 1.0)
    roster.seen(b"stranger", 1.0)
    assert roster.silent(EVICT_S) == []
    assert roster.silent(EVICT_S + 1.5) == [B]
    assert set(roster.silent(3 * EVICT_S)) == {A, B}


def test_round_trips_are_smoothed():
    roster = with_peers(A)
    assert roster.entries[A].rtt_s is None
    roster.measured(A, 1.0)
    assert roster.entries[A].rtt_s == 1.0
    roster.measured(A, 2.0)
    assert roster.entries[A].rtt_s == 0.7 * 1.0 + 0.3 * 2.0
    roster.measured(b"stranger", 1.0)


def chained(names: str, certified: str = "", **fields: object) -> pb.NodeStatus:
    """A node whose commits are these letters."""
    links: forks.Chain = ()
    for k in range(len(names)):
        digest = hashlib.sha256(names[: k + 1].encode()).digest()
        links = forks.extend(links, forks.Link(k, digest, names[k] in certified, 10 * k))
    head = links[0]
    return status(version=head.version, digest=head.digest, chain=forks.write_chain(links), **fields)


def test_a_chain_is_read_anew_only_when_it_changes():
    roster = with_peers(A)
    assert roster.heard(A, chained("abcd"), 1.0)
    assert not roster.heard(A, chained("abcd"), 2.0)
    assert roster.heard(A, chained("abcd", state=pb.JOINING), 3.0)
    assert roster.entries[A].chain == (), "whoever fetches a state has none"
