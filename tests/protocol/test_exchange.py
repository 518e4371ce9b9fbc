"""The order in which members send, and what the books say that they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round.exchange import Exchange, in_turns

from .test_two_levels import PEERS, exchange


@given(chunks=st.integers(0, 60), peers=st.integers(1, 9), place=st.integers(0, 8))
def test_all_members_go_through_the_chunks_together(chunks: int, peers: int, place: int):
    targets = tuple((chunk, bytes([chunk % peers])) for chunk in range(chunks))
    ordered = in_turns(targets, place)
    assert sorted(ordered) == sorted(targets)
    for at, (chunk, _) in enumerate(ordered):
        assert chunk // peers == at // peers, "nobody is a whole turn ahead"
    if chunks >= peers:
        first = {in_turns(targets, k)[0][1] for k in range(peers)}
        assert len(first) == peers, "not all begin at the same owner"


def held(ex: Exchange) -> int:
    """Counted anew."""
    books = [*ex.owned.values(), *ex.collected.values()]
    arrived = [part for one in books for part in one.arrived.values()]
    return sum(len(part.payload) for part in [*arrived, *ex._partials.values()])


def result(chunk: int) -> tuple[pb.ChunkResult, pb.Signed]:
    message = pb.ChunkResult(session=exchange(0).plan.session, chunk=chunk, contributors=[1, 4])
    return message, pb.Signed(signer=exchange(0).owner(chunk))


def test_what_is_held_counts_while_it_waits():
    ex = exchange(1)
    for k, size in ((1, 10), (4, 200), (4, 3000)):
        ex.contribute(PEERS[k], 0, bytes(size))
    assert ex.held_bytes == held(ex) == 210, "the second of a member changes nothing"
    ex.contribute(PEERS[7], 0, bytes(4000))
    assert ex.held_bytes == held(ex) == 4210
    assert len(ex.due()) == 1 and ex.held_bytes == held(ex) == 0, "the reduction has them"
    ex.averaged(0, (1, 4, 7), bytes(50))
    assert ex.held_bytes == held(ex) == 50, "until there is a result, another owner may need it"
    again = exchange(1, ex, owners=(2, 4, 8))
    assert again.held_bytes == held(again) == 50
    owner = exchange(1, ex, owners=(1, 4, 8))
    assert owner.held_bytes == held(owner) == 50
    assert ex.add_result(*result(0)) is None and ex.held_bytes == held(ex) == 0
    assert not ex.due_partials()
    ex.averaged(0, (1, 4, 7), bytes(50))
    assert ex.held_bytes == held(ex) == 0, "it came too late"


def test_the_mean_of_a_group_takes_the_place_of_its_members():
    ex = exchange(0)
    ex.contribute(PEERS[4], 0, bytes(100))
    ex.contribute(PEERS[1], 0, bytes(7), (1, 4))
    assert ex.held_bytes == held(ex) == 7
    goes_on = exchange(0, ex, owners=(0, 4, 4))
    assert goes_on.held_bytes == held(goes_on) == 7
    goes_on.expire()
    goes_on.due()
    assert goes_on.held_bytes == held(goes_on) == 0
