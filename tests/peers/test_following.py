"""Whose word counts, and what follows from it."""

from __future__ import annotations

import hashlib

import pytest

from atoll.peers.following import Choice, Following, Prove, Replay, Take, Timing
from atoll.peers.roster import Roster
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb

from .test_roster import A, B, chained

C, L = b"c" * 38, b"l" * 38
TIMING = Timing(patience=1.0, distrust=10.0, again=5.0, fresh=4.0)


def state(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def chain_of(status: pb.NodeStatus) -> forks.Chain:
    return forks.parse_chain(status.chain, status.version, status.digest)


class Around:
    """Peers with what they say, and whom we came to doubt."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.doubts: list[bytes] = []
        self.following = Following(self.roster, 3, lambda peer, why: self.doubts.append(peer), TIMING)

    def meet(self, peer: bytes, status: pb.NodeStatus, **held: str) -> None:
        for version, name in held.items():
            status.held.add(version=int(version[1:]), state=state(name))
        if not self.roster.heard(peer, status, 0.0):
            self.roster.up(peer, pb.Hello(status=status), 0.0)

    def best(self, mine: forks.Chain) -> bytes | None:
        found = self.following.best(mine, 0.0)
        return found.peer if found is not None else None


@pytest.fixture
def around() -> Around:
    return Around()


MINE = chain_of(chained("abc"))


def test_the_chain_to_follow_is_the_winner_of_forks_and_then_the_longest(around: Around):
    assert around.best(MINE) is None and around.following.ahead(MINE, 0.0) == set()
    for number, names in enumerate(["ab", "abcd", "abcde"]):
        around.meet(bytes([number]) * 38, chained(names))
    assert around.best(MINE) == b"\2" * 38
    assert around.following.ahead(MINE, 0.0) == {b"\1" * 38, b"\2" * 38}
    around.meet(A, chained("abT", certified="T"))
    assert around.best(MINE) == b"\2" * 38, "it only says that it is certified"
    around.following.proven(chained("abT").digest)
    assert around.best(MINE) == A, "certified beats provisional, however long"
    around.following.distrust(A, "it lied", 0.0)
    assert around.best(MINE) == b"\2" * 38 and around.doubts == [A]
    assert around.following.best(MINE, 10.0) is not None, "not for ever"
    assert around.best(forks.certify(MINE, {MINE[0].digest})) == b"\2" * 38


def test_whoever_fetches_a_state_or_tells_nonsense_is_not_followed(around: Around):
    around.meet(A, chained("abcd"))
    assert around.following.ahead(MINE, 0.0) == {A}
    around.meet(A, chained("abcd", state=pb.JOINING))
    nonsense = chained("abcdef")
    del nonsense.chain[1]
    around.meet(B, nonsense)
    assert around.following.ahead(MINE, 0.0) == set() and around.best(MINE) is None


def test_a_claim_that_would_win_a_fork_has_to_be_proven(around: Around):
    around.meet(L, chained("abT", certified="aT"))
    step = around.following.next(MINE, (), 0.0)
    assert step == Prove(L, chain_of(chained("abT", certified="T"))[0])
    around.meet(B, chained("abc"))
    around.following.met(0.0)
    around.following.unshown(L, step.link.digest, 0.0)
    assert around.following.next(MINE, (), 0.0) is None and around.best(MINE) is None
    assert around.following.next(MINE, (), 5.0) == step, "it is asked again after a while"
    around.following.proven(step.link.digest)
    assert around.best(MINE) == L


def test_where_votes_can_not_be_shown_one_peers_word_counts_for_who_is_alone(around: Around):
    around.meet(A, chained("abT", certified="T"))
    around.meet(B, chained("abc"))
    around.following.unshown(A, chained("abT").digest, 0.0)
    assert around.best(MINE) == A


def test_where_votes_can_not_be_shown_two_peers_have_to_say_so(around: Around):
    around.following.met(0.0)
    around.meet(A, chained("abT", certified="T"))
    around.meet(B, chained("abT", certified="T"))
    around.following.unshown(A, chained("abT").digest, 0.0)
    assert around.best(MINE) in (A, B)


def test_that_our_own_commit_is_certified_is_asked_for(around: Around):
    around.meet(A, chained("abc", certified="c"))
    assert around.following.next(MINE, (), 0.0) == Prove(A, chain_of(chained("abc", certified="c"))[0])
    around.following.proven(MINE[0].digest)
    assert around.following.next(MINE, (), 0.0) is None
    assert MINE[0].digest in around.following.known(MINE)


def test_near_heads_are_replayed_and_others_taken_whole(around: Around):
    around.meet(A, chained("abcdef"), v4="x")
    around.meet(B, chained("abcdef"), v4="x")
    assert around.following.next(MINE, (), 0.0) is None, "a round may bring it"
    step = around.following.next(MINE, (), 1.0)
    assert isinstance(step, Replay) and step.entry.peer == A
    around.following.stuck(MINE[0].digest)
    step = around.following.next(MINE, (), 1.0)
    assert isinstance(step, Take) and step.choice == Choice(4, state("x"), (A, B)) and step.why == "behind"
    assert around.following.still(step, MINE)
    assert not around.following.still(step, chain_of(chained("abcde")))
    assert not around.following.still(step, chain_of(chained("abcX", certified="X"))), "it parted meanwhile"
    around.meet(A, chained("abcdefg"), v6="y")
    around.following.stuck(b"")
    assert isinstance(around.following.next(MINE, (), 2.0), Take), "further than logs go"
    assert isinstance(around.following.next(MINE, (), 2.0, prefetched=True), Replay)


def far(name: str) -> pb.NodeStatus:
    """A head that shares no version with ours."""
    links: forks.Chain = ()
    for k in range(4):
        links = forks.extend(links, forks.Link(60 + k, state(f"{name}{k}"), True, 9000 + k))
    chain = forks.write_chain(links)
    return pb.NodeStatus(state=pb.TRAINING, version=63, digest=links[0].digest, chain=chain)


def test_one_peer_alone_does_not_move_a_node_that_knows_where_the_swarm_is(around: Around):
    around.meet(L, far("lie"), v63="lie")
    around.following.next(MINE, (), 0.0)
    assert isinstance(around.following.next(MINE, (), 1.0), Take), "alone, its word is all there is"
    around.following.met(0.5)
    assert around.following.next(MINE, (), 1.0) is None and around.doubts == [L]
    assert around.following.ahead(MINE, 1.0) == set(), "rounds don't wait for it"


def test_one_peer_alone_does_not_outweigh_two_that_train_with_us(around: Around):
    around.meet(L, far("lie"), v63="lie")
    around.meet(A, chained("abc"))
    around.following.next(MINE, (), 0.0)
    assert isinstance(around.following.next(MINE, (), 1.0), Take)
    around.meet(B, chained("ab"))
    assert around.following.next(MINE, (), 1.0) is None and around.doubts == [L]
    around.following.next(MINE, (), 5.0)
    assert isinstance(around.following.next(MINE, (), 6.0), Take), "they all may have lost the way"
    around.following.met(6.0)
    assert around.following.next(MINE, (), 6.0) is None
    around.meet(C, far("lie"), v63="lie")
    around.following.next(MINE, (), 7.0)
    step = around.following.next(MINE, (), 8.0)
    assert isinstance(step, Take) and step.choice.peers == (C, L), "now two say so"


def test_one_peer_alone_does_not_outweigh_two_that_train_on_a_fork_of_ours(around: Around):
    around.meet(L, far("lie"), v63="lie")
    around.meet(A, chained("ax"))
    around.meet(B, chained("axy"))
    around.following.next(chain_of(chained("abcd")), (), 0.0)
    assert around.following.next(chain_of(chained("abcd")), (), 1.0) is None and L in around.doubts


def test_whoever_has_nothing_to_show_is_doubted(around: Around):
    around.meet(A, far("x"))
    around.following.next(MINE, (), 0.0)
    assert around.following.next(MINE, (), 1.0) is None and around.doubts == [A]


def test_a_fork_that_wins_is_taken_from_one(around: Around):
    around.meet(A, chained("abT"), v1="b", v2="X")
    around.following.met(0.0)
    around.following.proven(chained("abT").digest)
    around.following.next(MINE, (), 0.0)
    step = around.following.next(MINE, (), 1.0)
    assert isinstance(step, Take) and step.why == "forked" and step.choice.version == 2
    assert around.following.still(step, MINE)
    assert not around.following.still(step, chain_of(chained("abT")))


def test_the_minority_takes_the_bits_of_the_majority(around: Around):
    held = ((2, state("mine")), (1, state("b")))
    around.meet(A, chained("abc"), v2="c", v1="b")
    around.meet(B, chained("abcd"), v2="mine")
    assert around.following._repair(MINE, held, 0.0) is None
    around.meet(C, chained("abc"), v2="c")
    assert around.following._repair(MINE, held, 0.0) is None, "two against two"
    around.meet(L, chained("abT"), v2="c")
    assert around.following._repair(MINE, held, 0.0) is None, "another chain has other bits"
    around.meet(B, chained("abcd"), v2="c")
    step = around.following._repair(MINE, held, 0.0)
    assert isinstance(step, Take) and step.why == "bits"
    assert step.choice == Choice(2, state("c"), (A, B, C)) and around.following.still(step, MINE)


def test_two_alone_agree_on_the_smaller_digest(around: Around):
    one, other = sorted((state("one"), state("other")))
    status = chained("abc")
    status.held.add(version=2, state=one)
    around.meet(A, status)
    assert around.following.next(MINE, ((2, one),), 0.0) is None
    step = around.following.next(MINE, ((2, other),), 0.0)
    assert isinstance(step, Take) and step.choice.state == one
    status.held[0].state = other
    assert around.following.next(MINE, ((2, one),), 0.0) is None


def test_commits_that_nobody_can_give_are_not_made_up_for_by_one_state(around: Around):
    around.following.met(0.0)
    around.meet(L, chained("abcde"), v4="lie")
    around.following.next(MINE, (), 0.0)
    assert isinstance(around.following.next(MINE, (), 1.0), Replay)
    around.following.stuck(MINE[0].digest)
    assert around.following.next(MINE, (), 1.0) is None and around.doubts == [L]


def test_whoever_goes_on_alone_gives_way_to_two_that_go_on_together(around: Around):
    """Two histories that share no version: the ones who are together don't believe the one who is alone."""
    mine = chain_of(far("alone"))
    around.meet(A, chained("abcd"), v3="x")
    around.meet(B, chained("abcd"), v3="x")
    assert around.following.next(mine, (), 0.0) is None
    around.meet(A, chained("abcde"), v3="x")
    assert around.following.next(mine, (), 1.0) is None, "one alone may be as lost"
    around.meet(B, chained("abcde"), v3="x")
    around.following.next(mine, (), 2.0)
    assert around.following.ahead(mine, 2.0) == {A, B}
    step = around.following.next(mine, (), 3.0)
    assert isinstance(step, Take) and (step.why, step.choice) == ("forked", Choice(3, state("x"), (A, B)))
    assert around.following.still(step, mine)
    around.following.met(3.0)
    assert around.following.next(mine, (), 3.0) is None, "not while it is in rounds with others itself"


def test_where_commits_come_fast_there_is_always_a_claim_and_yet_it_goes_forward(around: Around):
    """With a commit in each second a node that looked at claims first never caught up."""
    around.meet(A, chained("abcde", certified="abcde"))
    steps = [type(around.following.next(MINE, (), now)) for now in (0.0, 0.5, 2.0, 4.0, 6.0)]
    assert steps == [Prove, Prove, Replay, Prove, Replay], "after a second of patience"


def test_no_chain_is_left_while_there_are_claims(around: Around):
    """One of them may be what keeps this node where it is."""
    around.meet(A, chained("abc", certified="abc"), v3="abc")
    for peer in (L, B):
        around.meet(peer, chained("abTU", certified="T"), v3="U")
    around.following.proven(chained("abT").digest)
    assert around.best(MINE) in (L, B)
    steps = [around.following.next(MINE, (), now) for now in (0.0, 2.0, 4.0, 6.0)]
    assert all(isinstance(step, Prove) for step in steps)


# ---- where members may lie


@pytest.fixture
def wary(around: Around) -> Around:
    around.following = Following(
        around.roster, 3, lambda peer, why: around.doubts.append(peer), TIMING, wary=True
    )
    return around


def test_what_a_few_made_alone_is_not_followed_where_members_may_lie(wary: Around):
    for peer in (b"1" * 38, b"2" * 38, b"3" * 38):
        wary.meet(peer, chained("abc"))
    for liar in (A, B):
        wary.meet(liar, chained("abcL"))
    wary.following.met(0.0)
    assert wary.following.ahead(MINE, 0.0) == set() and wary.best(MINE) is None, "two have it, four have not"
    wary.meet(b"1" * 38, chained("abcL"))
    assert wary.following.ahead(MINE, 0.0) == {A, B, b"1" * 38}, "as many have it as have not"
    wary.meet(b"2" * 38, chained("abcd"))
    assert b"2" * 38 not in wary.following.ahead(MINE, 0.0), (
        "one that goes on elsewhere counts for nobody else"
    )


def test_who_may_not_train_counts_for_nothing_whatever_it_says(around: Around):
    observers = {A, B}
    around.following = Following(
        around.roster,
        3,
        lambda peer, why: around.doubts.append(peer),
        TIMING,
        wary=True,
        trains=lambda peer: peer not in observers,
    )
    around.meet(C, chained("abc"))
    for liar in observers:
        around.meet(liar, chained("abcL"))
    around.following.met(0.0)
    assert around.following.ahead(MINE, 0.0) == set()
    observers.clear()
    assert around.following.ahead(MINE, 0.0) == {A, B}


def test_of_a_chain_that_leads_on_what_a_few_made_alone_at_its_end_does_not_count(wary: Around):
    for peer in (A, B, C):
        wary.meet(peer, chained("abcd"))
    wary.meet(L, chained("abcdL"))
    liar, longer = wary.roster.entries[L], chain_of(chained("abcd"))
    assert L in wary.following.ahead(MINE, 0.0), "up to d all have it"
    assert wary.following.leads(MINE, liar) and not wary.following.leads(longer, liar)
    wary.following.proven(liar.chain[0].digest)
    assert wary.following.leads(longer, liar), "its votes were seen"
    nonsense = chained("abcdef")
    del nonsense.chain[1]
    wary.meet(L, nonsense)
    assert not wary.following.leads(MINE, wary.roster.entries[L])


def test_of_two_commits_without_votes_the_one_counts_that_more_have_whatever_tokens_it_claims(wary: Around):
    for peer in (A, B, C):
        wary.meet(peer, chained("abc"))
    lie = chained("abL")
    lie.chain[0].cumulative_tokens = 10**12
    wary.meet(L, lie, v2="L")
    assert wary.best(MINE) is None and wary.following.ahead(MINE, 0.0) == set()
    assert wary.following.next(MINE, (), 0.0) is None and wary.following.next(MINE, (), 2.0) is None

    theirs = chain_of(lie)
    wary.roster.down(L)
    wary.meet(b"1" * 38, chained("abc"), v2="c")
    assert wary.best(theirs) == b"1" * 38, "and whoever is on it alone comes back"
    wary.following.next(theirs, (), 3.0)
    step = wary.following.next(theirs, (), 4.0)
    assert isinstance(step, Take) and step.why == "forked" and wary.following.still(step, theirs)


def test_of_two_commits_that_as_many_have_the_one_with_more_tokens_counts(wary: Around):
    wary.meet(A, chained("abc"))
    more = chained("abT")
    more.chain[0].cumulative_tokens = 10**12
    wary.meet(B, more)
    assert wary.best(MINE) is None
    wary.meet(C, more)
    assert wary.best(MINE) in (B, C), "two on each"
    wary.following.proven(MINE[0].digest)
    assert wary.best(MINE) is None, "but not where the votes for ours were seen"


def test_of_more_forks_that_win_the_one_is_followed_that_most_have(wary: Around):
    lie = chained("abL")
    lie.chain[0].cumulative_tokens = 10**12
    for peer in (b"1" * 38, b"2" * 38):
        wary.meet(peer, lie)
    for peer in (A, B, C):
        wary.meet(peer, chained("abT"))
    assert wary.best(MINE) in (A, B, C)


def test_the_votes_for_a_fork_that_few_have_are_asked_for(wary: Around):
    wary.meet(A, chained("abc"))
    said = chained("abT", certified="T")
    said.chain[0].cumulative_tokens = 10**12
    wary.meet(B, said)
    step = wary.following.next(MINE, (), 0.0)
    assert isinstance(step, Prove) and step.peer == B
    wary.following.proven(step.link.digest)
    assert wary.best(MINE) == B


def test_who_is_further_does_not_go_back_to_more_that_are_behind_on_its_own_chain(wary: Around):
    past: set[bytes] = set()
    wary.following._past = lambda: past
    mine = chain_of(far("mine"))
    for peer in (A, B, C):
        wary.meet(peer, chained("abc"))
    assert wary.following.ahead(mine, 0.0) == {A, B, C}, "as far as it knows they went another way"
    past.add(MINE[0].digest)
    assert wary.following.ahead(mine, 0.0) == set() and wary.best(mine) is None


def test_whoever_catches_up_on_our_own_chain_is_no_other_company(around: Around):
    mine, past = chain_of(far("mine")), {chain_of(chained(names))[0].digest for names in ("abcd", "abcde")}
    around.following._past = lambda: past
    for names in ("abcd", "abcde"):
        for peer in (A, B):
            around.meet(peer, chained(names), v3="x")
        assert around.following.next(mine, (), 0.0) is None
    assert around.following.ahead(mine, 1.0) == set()


def test_what_is_certified_is_followed_however_few_have_it_yet(wary: Around):
    for peer in (b"1" * 38, b"2" * 38):
        wary.meet(peer, chained("abc"))
    wary.meet(A, chained("abcd", certified="d"))
    step = wary.following.next(MINE, (), 0.0)
    assert isinstance(step, Prove) and step.peer == A and step.link.version == 3
    wary.following.unshown(A, step.link.digest, 0.0)
    assert wary.best(MINE) is None, "its word is one of three"
    wary.following.proven(step.link.digest)
    assert wary.best(MINE) == A


def test_where_votes_can_not_be_shown_most_have_to_say_so_if_members_may_lie(wary: Around):
    wary.meet(C, chained("abc"))
    wary.meet(L, chained("abc"))
    wary.meet(A, chained("abT", certified="T"))
    wary.meet(B, chained("abT", certified="T"))
    wary.following.unshown(A, chained("abT").digest, 0.0)
    assert wary.best(MINE) is None
    wary.meet(C, chained("abT", certified="T"))
    wary.following.unshown(A, chained("abT").digest, 0.0)
    assert wary.best(MINE) in (A, B, C)


def test_a_long_way_that_a_few_went_alone_is_not_followed_either(wary: Around):
    for peer in (b"1" * 38, b"2" * 38, b"3" * 38):
        wary.meet(peer, chained("abc"))
    far = "".join(chr(ord("a") + k) for k in range(24))
    for liar in (A, B):
        wary.meet(liar, chained(far), v24="far")
    assert wary.best(MINE) is None and wary.following.ahead(MINE, 0.0) == set()


def test_of_two_each_follows_the_other(wary: Around):
    wary.meet(A, chained("abcd"))
    assert wary.best(MINE) == A
    wary.meet(A, chained("abcd", state=pb.FOLLOWING))
    assert wary.best(MINE) == A, "nobody else trains"
