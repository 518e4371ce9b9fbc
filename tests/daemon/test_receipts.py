"""Receipts: what a swarm of real drivers accepted, kept by each node and checked by anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.daemon.errors import AtollError
from atoll.daemon.storage import receipts as stored
from atoll.daemon.storage.receipts import SUFFIX, Receipts
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import receipt
from atoll.protocol.receipt import Receipt, ReceiptError
from atoll.protocol.round.commit import accepted_tokens
from atoll.protocol.signing import Ed25519Keyring

from ..protocol.test_membership import ring
from .swarm import Member, Swarm
from .test_rounds import one_round


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    swarm = Swarm(tmp_path / "swarm", 3)
    for member in swarm.members:
        member.state.receipts = Receipts(tmp_path / member.me.hex(), member.me)
    yield swarm
    await swarm.close()


def kept(member: Member) -> list[Receipt]:
    assert member.state.receipts is not None
    found = [each for _, each in member.state.receipts.all()]
    assert None not in found
    return found  # type: ignore[return-value]


def files(member: Member) -> list[Path]:
    assert member.state.receipts is not None
    return [path for path, _ in member.state.receipts.all()]


async def test_each_keeps_what_was_accepted_of_it_and_all_add_up(swarm: Swarm) -> None:
    for seed in range(2):
        await one_round(swarm, seed)
    for commit in swarm.members[0].commits:
        found = [r for m in swarm.members for r in kept(m) if r.version == commit.version]
        assert {r.node for r in found} == {m.me for m in swarm.members}
        assert all(r.certified and r.voters == (1 if r.version == 1 else 3) for r in found)
        assert sum(r.tokens for r in found) == accepted_tokens(commit)
        assert len({(r.digest, r.swarm_id) for r in found}) == 1


async def test_who_is_not_in_it_has_no_receipt_by_it(swarm: Swarm) -> None:
    await one_round(swarm, 1)
    data = files(swarm.members[0])[-1].read_bytes()
    assert receipt.check(data, swarm.members[1].me).node == swarm.members[1].me, "it names all of them"
    with pytest.raises(ReceiptError, match="nothing of this node"):
        receipt.check(data, ring("stranger").peer_id)


async def test_what_was_tampered_with_is_no_receipt(swarm: Swarm) -> None:
    await one_round(swarm, 1)
    await one_round(swarm, 2)
    member = swarm.members[0]
    good = pb.Receipt.FromString(files(member)[-1].read_bytes())

    def changed(**what: object) -> bytes:
        made = pb.Receipt()
        made.CopyFrom(good)
        for change in what.values():
            change(made)  # type: ignore[operator]
        return made.SerializeToString()

    def more_tokens(made: pb.Receipt) -> None:
        commit = pb.Commit.FromString(made.record.commit.body)
        commit.contributors[0].tokens += 1
        made.record.commit.body = commit.SerializeToString()

    def by_another(made: pb.Receipt) -> None:
        other: Ed25519Keyring = ring("stranger")
        made.record.commit.CopyFrom(other.sign("commit", made.record.commit.body))

    for bad in (
        changed(tokens=more_tokens),
        changed(signer=by_another),
        changed(twice=lambda m: m.voters.append(m.voters[0])),
    ):
        with pytest.raises(ReceiptError):
            receipt.check(bad, member.me)
    with pytest.raises(ReceiptError, match="readable"):
        receipt.check(b"\xff" * 40, member.me)
    with pytest.raises(ReceiptError, match="long"):
        receipt.check(bytes(receipt.MAX_BYTES + 1), member.me)
    fewer = receipt.check(changed(votes=lambda m: m.record.votes.__delitem__(slice(1, None))), member.me)
    assert fewer.votes <= 1 and not fewer.certified, "one of three is no majority"

    def stuffed(made: pb.Receipt) -> None:
        first = made.record.votes[0]
        del made.record.votes[:]
        made.record.votes.extend([first] * 3 + [ring("stranger").sign("vote", first.body)])

    assert receipt.check(changed(votes=stuffed), member.me).votes == 1, "each elector once, and nobody else"


async def test_more_votes_take_the_place_of_fewer_and_fewer_do_not(swarm: Swarm, tmp_path: Path) -> None:
    await one_round(swarm, 1)
    await one_round(swarm, 2)
    member = swarm.members[0]
    good = pb.Receipt.FromString(files(member)[-1].read_bytes())
    book = Receipts(tmp_path / "book", member.me)
    few = pb.RoundRecord(commit=good.record.commit, votes=good.record.votes[:1])
    for record, votes in ((few, 1), (good.record, len(good.record.votes)), (few, len(good.record.votes))):
        book.keep(record, tuple(good.voters))
        ((_, found),) = book.all()
        assert found is not None and found.votes == votes
    assert (
        Receipts(tmp_path / "other", ring("stranger").peer_id).keep(good.record, tuple(good.voters)) is None
    )
    assert not (tmp_path / "other").exists()


async def test_the_oldest_make_room_and_damaged_ones_are_named(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_round(swarm, 1)
    member = swarm.members[0]
    monkeypatch.setattr(stored, "KEEP_BYTES", int(2.5 * files(member)[0].stat().st_size))
    for seed in range(2, 5):
        await one_round(swarm, seed)
    versions = [r.version for r in kept(member)]
    assert versions[-1] == 4 and 1 not in versions and len(versions) <= 2
    (path, *_) = files(member)
    path.write_bytes(b"x")
    assert member.state.receipts is not None
    assert [each for at, each in member.state.receipts.all() if at == path] == [None]
    assert path.suffix == SUFFIX


async def test_more_votes_for_one_take_no_more_room(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    await one_round(swarm, 1)
    await one_round(swarm, 2)
    member = swarm.members[0]
    book = member.state.receipts
    assert book is not None
    good = pb.Receipt.FromString(files(member)[-1].read_bytes())
    files(member)[-1].unlink()
    monkeypatch.setattr(stored, "KEEP_BYTES", sum(path.stat().st_size for path in files(member)) + 100_000)
    for many in range(1, len(good.record.votes) + 1):
        record = pb.RoundRecord(commit=good.record.commit, votes=good.record.votes[:many])
        book.keep(record, tuple(good.voters))
    assert sum(book._sizes.values()) == sum(path.stat().st_size for path in files(member))
    assert [r.version for r in kept(member)] == [1, 2]


async def test_a_disk_that_refuses_is_said_in_its_own_words(swarm: Swarm, tmp_path: Path) -> None:
    await one_round(swarm, 1)
    good = pb.Receipt.FromString(files(swarm.members[0])[-1].read_bytes())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AtollError):
        Receipts(tmp_path / "file", swarm.members[0].me).keep(good.record, tuple(good.voters))
