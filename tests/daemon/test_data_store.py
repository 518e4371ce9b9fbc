"""Shards on disk and where they come from: checked, by order of sources, under a cap; told when they lack."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from atoll.daemon import data_store
from atoll.daemon.data_sources import LocalSource, PeerSource, Unavailable
from atoll.daemon.data_store import UNAVAILABLE, DataStore, Source
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.status import State
from atoll.daemon.storage import shard_files
from atoll.daemon.storage.shard_files import ShardFiles, WrongShard
from atoll.peers.fetching import Progress
from atoll.peers.pacing import RateCap
from atoll.protocol import messages_pb2 as pb

TEXTS = [bytes([65 + n]) * (1000 + n) for n in range(4)] + [b"validation" * 10]
TABLE = [pb.DataShard(digest=hashlib.sha256(t).digest(), size_bytes=len(t)) for t in TEXTS]
HELD_OUT = len(TEXTS) - 1


@pytest.fixture
def files(tmp_path: Path) -> ShardFiles:
    made = ShardFiles(tmp_path / "shards", TABLE)
    made.create()
    return made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(data_store, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(data_store, "LONGEST_RETRY_S", 0.01)


class Memory:
    """A source that has some shards."""

    def __init__(self, files: ShardFiles, has: Iterable[int], name: str = "memory") -> None:
        self.name = name
        self.has = set(has)
        self.asked: list[int] = []
        self._files = files

    async def fetch(self, index: int, progress: Progress) -> None:
        self.asked.append(index)
        if index not in self.has:
            raise Unavailable(f"no {index} here")
        progress(1, 2)
        self._files.put(index, [TEXTS[index]])


class Told:
    """Alerts and events."""

    def __init__(self) -> None:
        self.on: dict[str, str] = {}
        self.events: list[str] = []
        self.news = asyncio.Event()

    def raise_(self, code: str, text: str, fix: str) -> None:
        assert text and fix
        self.on[code] = text
        self.news.set()

    def clear(self, code: str) -> None:
        self.on.pop(code, None)
        self.news.set()

    def emit(self, kind: str, text: str) -> None:
        self.events.append(text)

    def changed(self) -> None:
        pass


@asynccontextmanager
async def running(
    files: ShardFiles, sources: Sequence[Source], cap: int = 0
) -> AsyncIterator[tuple[DataStore, Told]]:
    told = Told()
    store = DataStore(files, "lab", sources, told, told, cap)  # type: ignore[arg-type]
    store.open()
    work = asyncio.create_task(store.run())
    try:
        async with asyncio.timeout(30):
            yield store, told
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def silent(state: State, reason: str) -> None:
    assert reason


# ---- files


def test_only_what_was_checked_is_here(files: ShardFiles) -> None:
    files.path(0).write_bytes(TEXTS[0])
    assert not files.has(0) and files.training() == []
    assert files.check(0) and files.training() == [0]
    files.path(1).write_bytes(TEXTS[0])
    assert not files.check(1) and not files.path(1).exists(), "what is something else is removed"
    assert not files.check(2)
    files.path(0).unlink()
    assert not files.has(0)


@pytest.mark.parametrize("wrong", [b"", TEXTS[0][:-1], TEXTS[0] + b"A", TEXTS[0][:-1] + b"B"])
def test_other_bytes_are_not_written(files: ShardFiles, wrong: bytes) -> None:
    with pytest.raises(WrongShard):
        files.put(0, [wrong[:500], wrong[500:]])
    assert list(files.folder.iterdir()) == []


def test_a_full_disk_leaves_nothing_half(files: ShardFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.put(1, [TEXTS[1]])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AtollError, match="No space"):
        files.put(0, [TEXTS[0]])
    with pytest.raises(AtollError, match="No space"):
        shard_files.add(files.folder, [b"new"])
    assert [path.name for path in files.folder.iterdir()] == [files.path(1).name]


def test_new_shards_are_named_by_their_digest(files: ShardFiles) -> None:
    made = shard_files.add(files.folder, [TEXTS[0][:10], TEXTS[0][10:]])
    assert made == TABLE[0] and files.check(0)


def test_what_is_no_shard_is_swept_away(files: ShardFiles) -> None:
    files.path(0).write_bytes(TEXTS[0])
    keep = [files.path(0), files.path(1).with_suffix(".part"), files.path(1).with_suffix(".https")]
    gone = [files.folder / name for name in ("new", f".{'0' * 64}.tmp", "0" * 64, "0" * 64 + ".part")]
    for path in (*keep[1:], *gone):
        path.write_bytes(b"x")
    files.tidy()
    assert sorted(files.folder.iterdir()) == sorted(keep)


def test_room_is_made_by_what_was_used_longest_ago(files: ShardFiles) -> None:
    cap = len(TEXTS[HELD_OUT]) + 2 * 1003
    files.put(HELD_OUT, [TEXTS[HELD_OUT]])
    for index in (0, 1):
        files.put(index, [TEXTS[index]])
        os.utime(files.path(index), ns=(index, 5))
    files.used(0)
    assert files.path(0).stat().st_mtime_ns == 5, "the file server takes it for the same file"
    (files.folder / f"{TABLE[3].digest.hex()}.part").write_bytes(b"begun")
    assert files.make_room(2, cap, keep=())
    assert files.training() == [0], "shard 1 was used before shard 0"
    assert not list(files.folder.glob("*.part"))
    files.put(2, [TEXTS[2]])
    assert not files.make_room(3, cap, keep=(0, 2)) and files.training() == [0, 2]
    assert files.make_room(3, 0, keep=(0, 2)) and files.make_room(2, 1, keep=()), "no cap; it is here already"
    assert files.make_room(3, cap, keep=(2,)) and files.training() == [2] and files.has(HELD_OUT)


# ---- the store


async def test_what_is_wanted_comes_in_order(files: ShardFiles) -> None:
    source = Memory(files, range(5))
    async with running(files, [source]) as (store, told):
        store.want([2, 0])
        await store.ready(silent)
        await until(lambda: files.training() == [0, 2])
        assert source.asked == [HELD_OUT, 2, 0]
        assert any("from memory" in text for text in told.events) and told.on == {}


async def test_a_shard_that_is_here_is_checked_and_not_fetched(files: ShardFiles) -> None:
    for index in (0, 1, HELD_OUT):
        files.path(index).write_bytes(TEXTS[index])
    files.path(1).write_bytes(b"rotten")
    source = Memory(files, range(5))
    async with running(files, [source]) as (store, _):
        store.want([0, 1])
        await until(lambda: files.training() == [0, 1])
        assert source.asked == [1]


async def test_the_next_source_is_asked_when_one_fails_or_lies(files: ShardFiles) -> None:
    class Liar(Memory):
        async def fetch(self, index: int, progress: Progress) -> None:
            self._files.path(index).write_bytes(b"something else")

    poor, liar, rich = Memory(files, [0], "poor"), Liar(files, [], "liar"), Memory(files, range(5), "rich")
    async with running(files, [poor, liar, rich]) as (store, told):
        store.want([0, 1])
        await until(lambda: files.training() == [0, 1])
        assert (poor.asked, rich.asked, told.on) == ([HELD_OUT, 0, 1], [HELD_OUT, 1], {})


async def test_one_alert_names_all_reasons_and_ends_when_the_shard_comes(files: ShardFiles) -> None:
    one, two = Memory(files, [0, HELD_OUT], "one"), Memory(files, [], "two")
    async with running(files, [one, two]) as (store, told):
        store.want([1, 0])
        await store.ready(silent)
        await until(lambda: UNAVAILABLE in told.on)
        text = told.on[UNAVAILABLE]
        assert list(told.on) == [UNAVAILABLE] and "shard 1" in text
        assert "one: no 1 here" in text and "two: no 1 here" in text
        assert files.training() == [0], "the others come all the same"
        two.has.add(1)
        await until(lambda: files.training() == [0, 1] and not told.on)


async def test_it_says_what_is_lacking_before_training_can_begin(files: ShardFiles) -> None:
    source, said = Memory(files, []), []
    async with running(files, [source]) as (store, _):
        store.want([0])
        waiting = asyncio.create_task(store.ready(lambda state, reason: said.append((state, reason))))
        await until(lambda: said and said[-1][0] is State.CONNECTING)
        assert said[0] == (State.FETCHING, "the text lab is on its way") and "no 0 here" in said[-1][1]
        source.has.update((0, HELD_OUT))
        await waiting
        assert said[-1][0] is State.FETCHING or files.has(0)


async def test_a_full_disk_is_an_alert_of_its_own(files: ShardFiles) -> None:
    class Full(Memory):
        full = True

        async def fetch(self, index: int, progress: Progress) -> None:
            if self.full:
                raise AtollError(Exit.TEMPORARY, "disk_full", "No space left.", "Free some.")
            await super().fetch(index, progress)

    source = Full(files, range(5))
    async with running(files, [source]) as (store, told):
        store.want([0])
        await until(lambda: "disk_full" in told.on)
        source.full = False
        await until(lambda: files.has(0) and not told.on)


async def test_the_cap_holds_and_what_is_read_stays(files: ShardFiles) -> None:
    cap = len(TEXTS[HELD_OUT]) + 1002 + 1003
    source = Memory(files, range(5))
    async with running(files, [source], cap) as (store, told):
        for index in range(4):
            store.want([index, (index + 1) % 4])
            await until(lambda index=index: files.has(index))
            store.read(index)
            store.want([index, (index + 1) % 4, index])  # another wish, so that the next one is tried again
            await until(lambda index=index: files.has((index + 1) % 4))
            assert sum(path.stat().st_size for path in files.folder.iterdir()) <= cap
            assert files.has(index) and files.has(HELD_OUT)
        assert told.on == {}


async def test_another_cap_holds_soon_and_one_that_is_too_small_is_refused(files: ShardFiles) -> None:
    cap = len(TEXTS[HELD_OUT]) + 1002 + 1003
    for index, text in enumerate(TEXTS):
        files.put(index, [text])
        os.utime(files.path(index), ns=(index, 5))
    async with running(files, []) as (store, told):
        store.want([0])
        store.read(0)
        with pytest.raises(AtollError, match="no room"):
            store.check_cap(1000)
        store.check_cap(0)
        store.limit(cap)
        await until(lambda: len(files.training()) == 2)
        assert files.has(0) and files.has(HELD_OUT) and told.on == {}


async def test_a_lower_cap_holds_at_once_while_a_fetch_waits_for_the_network(files: ShardFiles) -> None:
    cap = len(TEXTS[HELD_OUT]) + 1002 + 1003
    for index in (0, 1, 2, HELD_OUT):
        files.put(index, [TEXTS[index]])
    asked, is_open = asyncio.Event(), asyncio.Event()

    class Closed(Memory):
        async def fetch(self, index: int, progress: Progress) -> None:
            asked.set()
            await is_open.wait()
            await super().fetch(index, progress)

    async with running(files, [Closed(files, range(5))]) as (store, told):
        store.want([0, 3])
        store.read(0)
        await asked.wait()
        store.limit(cap)
        await until(lambda: len(files.training()) == 2)
        is_open.set()
        await until(lambda: files.has(3) and len(files.training()) == 2)
        assert files.has(0) and told.on == {}


async def test_a_disk_that_removes_nothing_is_tried_again(
    files: ShardFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    cap = len(TEXTS[HELD_OUT]) + 1002 + 1003
    for index, text in enumerate(TEXTS):
        files.put(index, [text])
    shrink, fail = files.shrink, True

    def refuses(cap_bytes: int, keep: set[int]) -> None:
        if fail:
            raise AtollError(Exit.TEMPORARY, "disk", "It refuses.", "Look at it.")
        shrink(cap_bytes, keep)

    monkeypatch.setattr(files, "shrink", refuses)
    async with running(files, []) as (store, told):
        store.limit(cap)
        await until(lambda: "disk" in told.on)
        fail = False
        await until(lambda: len(files.training()) == 2 and not told.on)


async def test_a_saved_cap_that_nothing_fits_under_gives_way_to_the_least(files: ShardFiles) -> None:
    async with running(files, [Memory(files, range(5))], cap=1) as (store, told):
        await until(lambda: "data_cap_too_small" in told.on)
        assert "2105" in told.on["data_cap_too_small"] and store.least_cap == 2105
        for index in (0, 1, 2):
            store.want([index])
            await until(lambda index=index: files.has(index))
            store.read(index)
        assert sum(path.stat().st_size for path in files.folder.iterdir()) <= 2105
        with pytest.raises(AtollError, match="no room") as caught:
            store.check_cap(1000)
        assert caught.value.exit_status is Exit.PREFLIGHT and "2105" in caught.value.fix
        store.limit(0)
        assert told.on == {}


async def test_peers_are_given_what_was_checked(files: ShardFiles) -> None:
    files.path(3).write_bytes(TEXTS[3])
    files.path(2).write_bytes(b"rotten")
    async with running(files, [Memory(files, range(5))]) as (store, _):
        store.want([0])
        await store.ready(silent)
        served = store.served(0)
        assert served is not None and served.path == files.path(0)
        assert store.served(1) is None and store.served(99) is None
        assert store.served(3) is None, "not yet"
        await until(lambda: store.served(3) is not None)
        assert store.served(2) is None
        await until(lambda: not files.path(2).exists())


# ---- sources


async def test_a_text_or_a_folder_of_shards_on_this_machine(files: ShardFiles, tmp_path: Path) -> None:
    text, named, empty = tmp_path / "text.txt", tmp_path / "named", tmp_path / "empty"
    text.write_bytes(b"".join(TEXTS))
    for folder in (named, empty):
        folder.mkdir()
    (named / TABLE[1].digest.hex()).write_bytes(TEXTS[1])
    for place, index in ((text, 0), (text, HELD_OUT), (named, 1)):
        await LocalSource(files, str(place)).fetch(index, lambda *_: None)
        assert files.has(index) and files.path(index).read_bytes() == TEXTS[index]
    (named / TABLE[0].digest.hex()).write_bytes(TEXTS[1])
    for place, reason in (
        (named, "bytes, the swarm's text has"),
        (empty, "is empty"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(Unavailable, match=reason):
            await LocalSource(files, str(place)).fetch(2, lambda *_: None)
    with pytest.raises(Unavailable, match="bytes"):
        await LocalSource(files, str(named)).fetch(0, lambda *_: None)
    text.write_bytes(b"".join(reversed(TEXTS)))
    with pytest.raises(Unavailable, match="not those that the manifest names"):
        await LocalSource(files, str(text)).fetch(2, lambda *_: None)
    assert sorted(files.training()) == [0, 1]


async def test_peers_put_it_in_its_place(files: ShardFiles) -> None:
    calls = []

    async def shard(index: int, target: Path, progress: Progress) -> None:
        calls.append((index, target))

    await PeerSource(files, SimpleNamespace(shard=shard, cap=RateCap())).fetch(2, lambda *_: None)
    assert calls == [(2, files.path(2))]
