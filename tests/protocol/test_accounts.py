"""The token account balances whatever happens to it, and refuses what would unbalance it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atoll.protocol.accounts import CATEGORIES, AccountError, TokenAccount

CHUNKS = 3


class Account(RuleBasedStateMachine):
    """Any order of entries; `model` is kept by hand, token by token."""

    def __init__(self) -> None:
        super().__init__()
        self.account = TokenAccount(CHUNKS)
        self.trained = 0
        self.pending = [0] * CHUNKS

    @rule(tokens=st.integers(0, 1000))
    def produce(self, tokens: int) -> None:
        self.account.produce(tokens)
        self.trained += tokens
        self.pending = [p + tokens for p in self.pending]

    @rule(tokens=st.integers(0, 1500), chunks=st.lists(st.integers(0, CHUNKS - 1), max_size=5))
    def accept(self, tokens: int, chunks: list[int]) -> None:
        # What is not carried any more may have been given up while it was on its way: it comes back.
        back = sum(max(0, tokens - self.pending[c]) for c in set(chunks))
        if back > self.account.lost + self.account.expired:
            with pytest.raises(AccountError):
                self.account.accept(tokens, chunks)
            return
        before = self.account.accepted
        self.account.accept(tokens, chunks)
        assert self.account.accepted == before + tokens * len(set(chunks))
        for chunk in set(chunks):
            self.pending[chunk] -= min(tokens, self.pending[chunk])

    @precondition(lambda self: self.account.accepted)
    @rule(tokens=st.integers(1, 1500), chunks=st.integers(1, CHUNKS))
    def orphan(self, tokens: int, chunks: int) -> None:
        if tokens * chunks > self.account.accepted:
            with pytest.raises(AccountError):
                self.account.orphan(tokens, chunks)
        else:
            self.account.orphan(tokens, chunks)

    @rule(category=st.sampled_from(["expired", "lost", "accepted", "nonsense"]))
    def drop(self, category: str) -> None:
        if category not in ("expired", "lost"):
            with pytest.raises(AccountError):
                self.account.drop(category)
            return
        self.account.drop(category)
        self.pending = [0] * CHUNKS

    @rule()
    def restart(self) -> None:
        self.account = TokenAccount.from_json(json.loads(json.dumps(self.account.to_json())))

    @invariant()
    def balances(self) -> None:
        assert self.account.balanced()
        assert self.account.produced == self.trained * CHUNKS
        assert self.account.pending == self.pending
        assert all(getattr(self.account, name) >= 0 for name in CATEGORIES)


TestAccount = Account.TestCase


def test_people_see_whole_tokens():
    account = TokenAccount(CHUNKS)
    account.produce(10)
    account.accept(10, [0, 1])
    assert account.summary() == {
        "produced": 10,
        "accepted": 6,
        "orphaned": 0,
        "expired": 0,
        "lost": 0,
        "carried": 3,
    }


def test_nothing_is_produced_below_zero():
    with pytest.raises(AccountError):
        TokenAccount(CHUNKS).produce(-1)


GOOD = TokenAccount(CHUNKS).to_json()


@pytest.mark.parametrize(
    "damage",
    [
        {"produced": 1},
        {"produced": "1"},
        {"orphaned": "x"},
        {"lost": None},
        {"produced": -3, "lost": -3},
        {"produced": 0.5, "lost": 0.5},
        {"pending": [0]},
        {"pending": 7},
        {"pending": [0, "a", 0]},
        {"pending": [-1, 1, 0]},
        {"chunks": "three"},
        {"chunks": -1, "pending": []},
        {"surprise": 1},
    ],
)
def test_a_damaged_account_is_refused(damage: dict[str, object]):
    with pytest.raises(AccountError):
        TokenAccount.from_json(GOOD | damage)


ANYTHING = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=4)


@given(st.dictionaries(st.sampled_from([*GOOD]), ANYTHING))
def test_any_json_is_an_account_that_balances_or_an_error(damage: dict[str, object]):
    with contextlib.suppress(AccountError):
        assert TokenAccount.from_json(GOOD | damage).balanced()
