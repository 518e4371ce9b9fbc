"""The books of a node: offers, commits, forks and lives in any order, against a model kept token by token."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.accounts import AccountError
from atoll.protocol.ledger import KEEP_OFFERS, Ledger

CHUNKS = 3
ME, OTHER = b"me", b"other"


def digest(parent: bytes, name: str) -> bytes:
    return hashlib.sha256(parent + name.encode()).digest()


def commit(parent: bytes, version: int, offer: int, chunks: set[int]) -> pb.Commit:
    """A commit with this node's offer in these chunks, and somebody else in all."""
    return pb.Commit(
        session=pb.SessionId(parent=parent),
        version=version,
        contributors=[pb.Contributor(peer=ME, offer=offer), pb.Contributor(peer=OTHER, offer=99)],
        chunks=[
            pb.CommittedChunk(contributors=[0, 1] if chunk in chunks else [1]) for chunk in range(CHUNKS)
        ],
    )


class Books(RuleBasedStateMachine):
    """One node on a tree of commits: it trains, offers, is killed, is committed, and changes its chain."""

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger(CHUNKS)
        self.ledger.begin_life()
        self.chain: list[bytes] = [b"genesis"]
        self.produced = 0
        self.in_commit: dict[bytes, int] = {}  # digest: tokens of ours in it, over all chunks
        self.forks = 0

    @rule(tokens=st.integers(1, 100))
    def train(self, tokens: int) -> None:
        self.ledger.account.produce(tokens)
        self.produced += tokens * CHUNKS

    @rule(kill=st.booleans(), chunks=st.sets(st.integers(0, CHUNKS - 1)), alive=st.booleans())
    def commit(self, kill: bool, chunks: set[int], alive: bool) -> None:
        """An offer, perhaps a crash, and the commit that holds some of it."""
        offer = self.ledger.offer(self.chain[-1])
        if kill:
            self.restart()
            self.ledger.begin_life()
        version = len(self.chain)
        self.chain.append(digest(self.chain[-1], f"{self.forks}"))
        made = commit(self.chain[-2], version, offer.number, chunks)
        self.in_commit[self.chain[-1]] = sum(offer.carried[chunk] for chunk in chunks)
        given = self.ledger.book(made, self.chain[-1], ME)
        assert set(given) == (set() if kill else chunks)
        assert self.ledger.book(made, self.chain[-1], ME) == [], "nothing counts twice"
        assert self.ledger.at == version

    @precondition(lambda self: len(self.chain) > 1)
    @rule(back=st.integers(1, 3), length=st.integers(0, 3))
    def fork(self, back: int, length: int) -> None:
        """Another chain is taken over, whole; this node gave nothing to its commits."""
        self.forks += 1
        self.chain = self.chain[: max(1, len(self.chain) - back)]
        for _ in range(length):
            self.chain.append(digest(self.chain[-1], f"fork {self.forks}"))
        self.ledger.account.drop("expired")
        self.ledger.reconcile(dict(enumerate(self.chain)), newest=len(self.chain) - 1)
        self.ledger.begin_life()

    @rule()
    def restart(self) -> None:
        self.ledger = Ledger.from_json(json.loads(json.dumps(self.ledger.to_json())))

    @invariant()
    def agrees_with_the_chain(self) -> None:
        if not hasattr(self, "ledger"):
            return
        account = self.ledger.account
        assert account.balanced() and account.produced == self.produced
        assert account.accepted == sum(self.in_commit.get(d, 0) for d in self.chain)


TestBooks = Books.TestCase


def test_a_contribution_that_both_chains_hold_counts_in_the_one_that_stays():
    ledger = Ledger(CHUNKS)
    ledger.begin_life()
    ledger.account.produce(10)
    offer = ledger.offer(b"g")
    ledger.book(commit(b"g", 1, offer.number, {0, 1, 2}), b"loses", ME)
    ledger.account.drop("expired")
    assert ledger.reconcile({1: b"wins"}, newest=1) == 10
    ledger.begin_life()
    assert ledger.book(commit(b"g", 1, offer.number, {0, 1, 2}), b"wins", ME) == []
    assert ledger.account.summary() == dict(
        produced=10, accepted=10, orphaned=0, expired=0, lost=0, carried=0
    )
    assert ledger.reconcile({1: b"loses"}) == 10, "and the first one wins after all"
    assert ledger.account.accepted == 30 and ledger.account.balanced()


def test_what_was_never_offered_is_not_booked():
    ledger = Ledger(CHUNKS)
    ledger.begin_life()
    ledger.account.produce(10)
    offer = ledger.offer(b"g")
    for wrong in (commit(b"g", 1, offer.number + 1, {0}), commit(b"h", 1, offer.number, {0})):
        with pytest.raises(AccountError, match="not in the books"):
            ledger.book(wrong, b"d", ME)
    ledger.book(commit(b"g", 1, offer.number, {0}), b"d", ME)
    ledger.begin_life()
    with pytest.raises(AccountError, match="never given up"):
        ledger.book(commit(b"g", 1, offer.number, {0, 1, 2}), b"e", ME)


def test_offers_are_bounded():
    ledger = Ledger(CHUNKS)
    for _ in range(2 * KEEP_OFFERS):
        last = ledger.offer(b"g")
    assert last.number == 2 * KEEP_OFFERS
    assert len(ledger.to_json()["offers"]) == KEEP_OFFERS  # type: ignore[arg-type]


def good() -> dict[str, object]:
    ledger = Ledger(CHUNKS)
    ledger.begin_life()
    ledger.account.produce(10)
    offer = ledger.offer(b"g")
    ledger.book(commit(b"g", 1, offer.number, {0}), b"d", ME)
    return json.loads(json.dumps(ledger.to_json()))  # type: ignore[no-any-return]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["number", "tokens"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(good())), ANYTHING))
def test_any_json_makes_books_that_balance_or_an_error(damage: dict[str, object]):
    try:
        ledger = Ledger.from_json(good() | damage)
    except AccountError:
        return
    assert ledger.account.balanced()


@pytest.mark.parametrize(
    "damage",
    [
        {"account": 3},
        {"life": True},
        {"at": -1},
        {"number": "x"},
        {"offers": [{}] * (KEEP_OFFERS + 1)},
        {"offers": [[]]},
        {"offers": [{"number": 1, "tokens": 1, "life": 1, "parent": "x" * 65, "carried": [0, 0, 0]}]},
        {"offers": [{"number": 1, "tokens": 1, "life": 1, "parent": "x", "carried": [0, 0]}]},
        {"offers": [{"number": 1, "tokens": 1, "life": 1, "parent": "x", "carried": 7}]},
        {"booked": {}},
        {"orphaned": None},
    ],
)
def test_damaged_books_are_refused(damage: dict[str, object]):
    with pytest.raises(AccountError):
        Ledger.from_json(good() | damage)
    with pytest.raises(AccountError):
        Ledger.from_json([])


def test_a_branch_of_many_rounds_gives_its_tokens_back():
    ledger, digests = Ledger(CHUNKS), {0: b"genesis"}
    ledger.begin_life()
    for version in range(1, 201):
        ledger.account.produce(10)
        offer = ledger.offer(digests[version - 1])
        digests[version] = digest(digests[version - 1], "alone")
        ledger.book(
            commit(digests[version - 1], version, offer.number, set(range(CHUNKS))), digests[version], ME
        )
    assert ledger.account.accepted == 2000 * CHUNKS
    ledger = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    others = {
        version: digests[version] if version <= 3 else digest(b"", str(version)) for version in range(250)
    }
    ledger.leave(others, 3)
    assert ledger.account.accepted == 30 * CHUNKS and ledger.account.orphaned == 1970 * CHUNKS
    assert ledger.account.balanced()
