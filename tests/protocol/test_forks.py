"""Fork choice: by the first commit that differs, the same for everyone, and settled once seen."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.forks import (
    WINDOW,
    Chain,
    Choice,
    Link,
    as_known,
    best,
    certified_in,
    certify,
    common_version,
    compare,
    extend,
    last_common,
    link_of,
    parse_chain,
    parting,
    write_chain,
)


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def chain(names: str, certified: str = "", tokens: dict[str, int] | None = None, first: int = 0) -> Chain:
    """Commits named by letters, oldest first: two chains share those with the same prefix of letters."""
    links: Chain = ()
    total = 0
    for k, letter in enumerate(names):
        total += (tokens or {}).get(letter, 10)
        links = extend(links, Link(first + k, digest(names[: k + 1]), letter in certified, total))
    return links


def test_heads_of_one_chain_are_no_fork():
    short, long = chain("abc"), chain("abcde")
    assert compare(short, short) is Choice.SAME
    assert compare(short, long) is Choice.AHEAD and Choice.AHEAD.follow
    assert compare(long, short) is Choice.BEHIND and not Choice.BEHIND.follow
    assert not any(compare(a, b).fork for a in (short, long) for b in (short, long))


def test_what_a_chain_that_is_taken_over_may_have_of_ours():
    ours, theirs = chain("abcXYZ"), chain("abcdefghi")
    assert last_common(ours, theirs, 8) == 2, "all before the first commit that differs"
    assert last_common(ours, theirs, 1) == 1, "but no more than was taken over"
    assert last_common(chain("abc"), theirs, 8) == 8, "it goes on from ours"
    assert last_common(ours, chain("qrs", first=100), 101) == 101, (
        "nobody can say: they name nothing in common"
    )


def test_certified_beats_provisional_however_long_the_other_is():
    certified, longer = chain("abX", certified="abX"), chain("abyzzzzzz", certified="abz")
    assert compare(longer, certified) is Choice.WINS
    assert compare(certified, longer) is Choice.LOSES
    assert common_version(certified, longer) == 1


def test_tokens_at_the_first_differing_commit_decide_between_equals():
    more, fewer = chain("abX", tokens={"X": 11}), chain("abyzzz", tokens={"y": 10, "z": 1000})
    assert compare(fewer, more) is Choice.WINS
    assert compare(more, fewer) is Choice.LOSES


def test_the_smaller_digest_decides_in_the_end():
    one, other = chain("abx"), chain("aby")
    winner = min(one, other, key=lambda c: c[0].digest)
    loser = other if winner is one else one
    assert compare(loser, winner) is Choice.WINS and compare(winner, loser) is Choice.LOSES


def test_chains_that_share_no_version_are_followed_by_length():
    early, late = chain("ab"), chain("abc", first=40)
    assert compare(early, late) is Choice.AHEAD
    assert compare(late, early) is Choice.BEHIND
    assert common_version(early, late) is None


def test_a_fork_older_than_the_window_is_decided_at_its_oldest_commit():
    one, other = chain("x" * 40, certified="x"), chain("y" * 40)
    assert len(one) == WINDOW
    assert compare(other, one) is Choice.WINS


def test_extend_keeps_a_window_without_gaps():
    links = chain("abcdefghijklmnopqrst")
    assert [link.version for link in links] == list(range(19, 3, -1))
    head = Head(19, links[0].digest, (), True, links[0].cumulative_tokens)
    again = extend(links, link_of(head))
    assert again[0].certified and again[1:] == links[1:]
    assert extend(links, Link(40, digest("z"), True, 1)) == (Link(40, digest("z"), True, 1),)


def test_the_tail_of_a_chain_ends_at_a_commit():
    links = chain("abcd")
    assert forks.tail(links, 2, links[1].digest) == links[1:]
    assert forks.tail(links, 2, links[2].digest) == () == forks.tail((), 0, b"")


def test_what_is_known_to_be_certified_is_and_what_is_only_said_is_not():
    links = chain("abc", certified="a")
    known = {links[1].digest}
    assert [link.certified for link in certify(links, known)] == [False, True, True]
    assert [link.certified for link in as_known(links, known)] == [False, True, False]
    assert as_known(links, certified_in([links])) is links


def test_chains_part_in_the_first_commit_that_differs():
    one, other = chain("abcxx"), chain("abcyyy")
    assert parting(one, other) == (one[1], other[2])
    assert parting(one, chain("abcxxz")) is None is parting(one, chain("q", first=40))


chains = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=12), st.sampled_from(["", "a", "b", "ab"])),
    min_size=2,
    max_size=5,
)


@given(chains, st.integers(0, 9))
def test_everyone_ends_on_one_branch_whatever_the_order(drawn, seed):
    # What is certified is a property of the commit, once all know it.
    known = {
        link.digest for names, yes in drawn for link in chain("g" + names, certified=yes) if link.certified
    }
    everyone = [certify(chain("g" + names), known) for names, _ in drawn]
    ends = []
    for mine in everyone:
        others = random.Random(seed).sample(everyone, len(everyone))
        chosen = mine
        while (index := best(chosen, others)) is not None:
            chosen = others[index]
        ends.append(chosen)
    assert len({end[0].digest for end in ends}) == 1
    for one, other in itertools.permutations(everyone, 2):
        assert compare(one, other).fork == compare(other, one).fork
        assert not (compare(one, other).follow and compare(other, one).follow)


def test_a_chain_survives_the_wire():
    links = chain("abcdef", certified="ace")
    assert parse_chain(write_chain(links), links[0].version, links[0].digest) == links


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.clear(), "0 commits"),
        (lambda m: m.extend(m[:1] * WINDOW), "commits"),
        (lambda m: m.pop(0), "end at the head"),
        (lambda m: m.pop(1), "gap"),
        (lambda m: setattr(m[2], "digest", b"short"), "length"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(change, reason):
    links = chain("abcd")
    messages: list[pb.ChainLink] = write_chain(links)
    change(messages)
    with pytest.raises(ValueError, match=reason):
        parse_chain(messages, links[0].version, links[0].digest)
