"""Standings: fall fast, rise slowly, and outlast a restart."""

from __future__ import annotations

import pytest

from atoll.protocol.standing import (
    DISAGREES,
    FACTORS,
    LIED,
    MALFORMED,
    QUARANTINE,
    RECOVERY,
    RELEASE,
    WORDS,
    Standings,
)

A, B = b"a", b"b"


def test_every_wrong_has_a_factor_and_words() -> None:
    assert FACTORS.keys() == WORDS.keys()
    assert all(0 <= factor < 1 for factor in FACTORS.values())


def test_one_proof_is_enough_and_lasts() -> None:
    them = Standings()
    assert them.strike(A, LIED) and not them.strike(A, MALFORMED)
    assert them.quarantined(A) == LIED and them.proven(A), "a lesser wrong does not hide it"
    commits = 0
    while them.quarantined(A):
        assert them.commit() == ([A] if them.score(A) >= RELEASE else [])
        commits += 1
    assert commits == pytest.approx(RELEASE / RECOVERY, abs=1)


def test_small_wrongs_add_up_only_where_they_come_often() -> None:
    them = Standings()
    strikes = 1
    while not them.strike(A, DISAGREES):
        strikes += 1
        them.commit()
    assert 4 <= strikes <= 8 and them.score(A) < QUARANTINE and not them.proven(A)
    for _ in range(200):
        them.strike(B, DISAGREES)
        for _ in range(20):
            them.commit()
    assert them.quarantined(B) is None and them.all_quarantined.keys() <= {A}


def test_what_was_saved_is_what_is_loaded() -> None:
    them, others = Standings(), Standings()
    them.strike(A, LIED)
    them.strike(B, MALFORMED)
    others.load(them.saved())
    assert others.saved() == them.saved() and others.quarantined(A) == LIED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"standings": 3}',
        '{"standings": [["00", 2.0, true, "lied"]]}',
        '{"standings": [["00", 0.5, true, "<b>"]]}',
        '{"standings": [["zz", 0.5, true, "lied"]]}',
        '{"standings": [["00", NaN, true, "lied"]]}',
        '{"standings": [[]]}',
    ],
)
def test_what_was_never_saved_changes_nothing(text: str) -> None:
    them = Standings()
    them.strike(A, LIED)
    with pytest.raises(ValueError):
        them.load(text)
    assert them.quarantined(A) == LIED
