"""What a node reads: its place by cursor and roster, what is here if that is not, the owner's word first."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from atoll.daemon.data_store import DataStore
from atoll.daemon.reading import Place, Reader
from atoll.daemon.storage.shard_files import ShardFiles
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import shards

from .swarm import keyring, make_manifest

ME, OTHER = keyring(0).peer_id, keyring(1).peer_id
TEXTS = [bytes([65 + n]) * 1000 for n in range(4)] + [b"v" * 50]
TABLE = [pb.DataShard(digest=hashlib.sha256(t).digest(), size_bytes=len(t)) for t in TEXTS]
SIZES = [1000] * 4


class Rig:
    """A reader over files in a folder; the test says who trains and what was read."""

    def __init__(self, folder: Path, fixed: tuple[int, int] | None = None, own: bool = False) -> None:
        self.read = [0] * 4
        self.said: list[str] = []
        self.training = [OTHER]
        self.files = ShardFiles(folder, TABLE)
        events = SimpleNamespace(emit=lambda kind, text: self.said.append(text))
        self.store = DataStore(self.files, "lab", [], events, SimpleNamespace())  # type: ignore[arg-type]
        self.store.open()
        manifest = make_manifest(keyring(0), 1, () if own else [len(t) for t in TEXTS])
        self.reader = Reader(
            manifest,
            ME,
            self,  # type: ignore[arg-type]
            lambda: tuple(self.read),
            None if own else self.store,
            events,  # type: ignore[arg-type]
            fixed,
        )

    @property
    def entries(self) -> dict[bytes, SimpleNamespace]:
        states = {peer: pb.TRAINING for peer in self.training} | {b"follower": pb.FOLLOWING}
        return {peer: SimpleNamespace(status=SimpleNamespace(state=s)) for peer, s in states.items()}

    def have(self, *indices: int) -> None:
        for index in indices:
            self.files.put(index, [TEXTS[index]])

    def expected(self) -> shards.Reading:
        return shards.assign(self.read, SIZES, {ME, *self.training}, 0)[ME]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "shards")


def test_its_place_follows_from_cursor_and_roster(rig: Rig) -> None:
    rig.have(0, 1, 2, 3, 4)
    for read in ([0] * 4, [1500, 0, 0, 0], [5000, 4000, 4100, 5200]):
        for training in ([], [OTHER], [keyring(n).peer_id for n in range(1, 9)]):
            rig.read, rig.training = read, training
            expected, place = rig.expected(), rig.reader.place()
            path = str(rig.files.path(expected.shard))
            assert place == Place((expected.part, expected.parts), expected.shard, path)
    assert rig.reader.validation == rig.files.path(4)


def test_training_does_not_wait_for_a_shard(rig: Rig) -> None:
    assert rig.reader.place() == Place(), "nothing is here: the store fetches, the trainer says so"
    mine = rig.expected().shard
    others = [index for index in range(4) if index != mine]
    rig.read[others[0]] = 900
    rig.have(*others[:2])
    first = rig.reader.place()
    assert first.part == (0, 1) and first.shard in others[:2]
    rig.read[first.shard] += 1000
    second = rig.reader.place()
    assert second.shard in others[:2] and second.shard != first.shard, "the least read of what is here"
    assert rig.store._wishes[0] == rig.expected().shard and len(set(rig.store._wishes)) == 2
    rig.have(rig.expected().shard)
    assert rig.reader.place().shard == rig.expected().shard
    assert [text for text in rig.said if "reads shard" in text] == rig.said and len(rig.said) == 3


def test_the_owner_may_fix_its_place(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "shards", fixed=(1, 2))
    rig.have(0, 1, 2, 3)
    rig.training = [keyring(n).peer_id for n in range(1, 9)]
    seen = set()
    for _ in range(4):
        place = rig.reader.place()
        assert place.part == (0, 1)
        seen.add(place.shard)
        rig.read[place.shard] += 1000
    assert seen == {1, 3}


def test_without_a_text_it_is_the_order_of_the_nodes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "shards", own=True)
    rank = sorted([ME, OTHER]).index(ME)
    assert rig.reader.place() == Place((rank, 2)) and rig.reader.validation is None
    assert rig.reader.served(0) is None and rig.reader.fetched is None
    fixed = Rig(tmp_path / "shards", own=True, fixed=(3, 7))
    assert fixed.reader.place() == Place((3, 7))


async def test_without_a_text_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    reader = Rig(tmp_path / "shards", own=True).reader
    await reader.keep()
    await reader.ready(lambda state, reason: pytest.fail(reason))
