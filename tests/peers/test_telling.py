"""A status goes whole at first, and then without what the link has carried; who hears it misses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll.peers.telling import LISTS, WHOLE_EVERY_S, Telling, completed
from atoll.protocol import messages_pb2 as pb

A, B = b"\1" * 38, b"\2" * 38


def status(version: int = 1, links: int = 40, held: int = 2, step: int = 0) -> pb.NodeStatus:
    made = pb.NodeStatus(state=pb.TRAINING, version=version, digest=bytes([version]) * 32, step=step)
    for k in range(16):
        made.chain.add(version=max(version - k, 0), digest=bytes([k]) * 32)
    made.linked.extend(bytes([k]) * 38 for k in range(links))
    for k in range(held):
        made.held.add(version=k, state=bytes([k]) * 32)
    return made


def test_what_a_link_has_carried_is_not_sent_again():
    telling = Telling()
    whole = status()
    assert telling.statuses([A], whole, 0.0) == {A: whole}
    brief = telling.statuses([A], status(step=7), 1.0)[A]
    assert brief.ByteSize() < 60 < 2000 < whole.ByteSize()
    assert brief.step == 7 and brief.version == 1 and not any(getattr(brief, name) for name in LISTS)
    assert completed(brief, whole) == status(step=7)


def test_only_what_has_changed_is_sent():
    telling = Telling()
    before = status()
    telling.statuses([A, B], before, 0.0)
    now = status(links=41)
    told = telling.statuses([A, B], now, 1.0)
    assert told[A] is told[B], "made once for all who know the same"
    assert len(told[A].linked) == 41 and not told[A].chain and not told[A].held
    assert completed(told[A], before) == now
    emptied = status(links=0)
    told = telling.statuses([A], emptied, 2.0)
    assert completed(told[A], now) == emptied, "a list that is empty now is not one that was left out"


def test_a_new_link_knows_nothing_and_all_is_told_again_in_time():
    telling = Telling()
    for peer in (A, B):
        telling.statuses([peer], status(), 0.0)
    telling.forget(A)
    told = telling.statuses([A, B], status(), 1.0)
    assert told[A] == status() and told[B].unchanged == 7
    assert telling.statuses([B], status(), WHOLE_EVERY_S - 0.1)[B].unchanged == 7
    assert telling.statuses([B], status(), WHOLE_EVERY_S)[B] == status()
    assert telling.statuses([B], status(), WHOLE_EVERY_S + 1)[B].unchanged == 7


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.floats(0, 40), st.booleans()),
        min_size=1,
    )
)
def test_whoever_hears_all_of_it_knows_what_was_meant(steps: list[tuple[int, int, int, float, bool]]):
    telling, now, heard = Telling(), 0.0, pb.NodeStatus()
    for version, links, held, later, new_link in steps:
        now += later
        if new_link:
            telling.forget(A)
            heard = pb.NodeStatus()
        meant = status(version, links, held)
        heard = completed(telling.statuses([A], meant, now)[A], heard)
        assert heard == meant


def test_bits_that_mean_nothing_do_nothing():
    told = pb.NodeStatus(version=3, unchanged=0xFFFFFFF8)
    assert completed(told, status()) == pb.NodeStatus(version=3)
