"""The books on disk: one writer at a time, saved means saved, and damaged ones are told and kept."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from atoll.daemon.account_book import AccountBook
from atoll.daemon.alerts import Alerts
from atoll.daemon.errors import AtollError
from atoll.daemon.events import Events
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.ledger import Ledger

CHUNKS = 4
DEADLINE_S = 30


class Desk:
    """A book in a folder, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.folder = DataDir(folder)
        self.folder.create()
        self.said: list[str] = []
        self.alerts = Alerts(SimpleNamespace(emit=lambda *a, **k: None, changed=lambda: None))  # type: ignore[arg-type]

    def open(self) -> AccountBook:
        events: Events = SimpleNamespace(emit=lambda kind, text, **fields: self.said.append(text))  # type: ignore[assignment]
        return AccountBook(self.folder, CHUNKS, events, self.alerts)

    @property
    def number(self) -> int:
        """Number of the last offer on disk."""
        return int(json.loads(self.folder.account.read_bytes())["number"])


class SlowDisk:
    """Every fsync waits until `go` is set; `begun` is set when the first one waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.writers, self.most = 0, 0
        fsync, lock = os.fsync, threading.Lock()

        def slow(descriptor: int) -> None:
            with lock:
                self.writers += 1
                self.most = max(self.most, self.writers)
            self.begun.set()
            assert self.go.wait(DEADLINE_S)
            fsync(descriptor)
            with lock:
                self.writers -= 1

        monkeypatch.setattr(os, "fsync", slow)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_there_is_one_writer_and_saved_means_saved(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    book, disk = desk.open(), SlowDisk(monkeypatch)
    book.note()
    watch = asyncio.create_task(book.save())
    await asyncio.to_thread(disk.begun.wait, DEADLINE_S)
    # Nothing has changed since that write began, and it is not on disk yet.
    early = asyncio.create_task(book.save())
    await asyncio.sleep(0)
    book.ledger.account.produce(1000)
    book.ledger.offer(b"\x01" * 32)
    book.note()
    offer = asyncio.create_task(book.save())
    done, _ = await asyncio.wait([early, offer], timeout=0)
    assert not done
    disk.go.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(watch, early, offer) == [True, True, True]
    assert disk.most == 1 and desk.number == 1
    assert not desk.alerts.all()


async def test_a_write_outlives_whoever_asked_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    book, disk = desk.open(), SlowDisk(monkeypatch)
    book.note()
    watch = asyncio.create_task(book.save())
    await asyncio.to_thread(disk.begun.wait, DEADLINE_S)
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    book.ledger.offer(b"\x01" * 32)
    book.note()
    last = asyncio.create_task(book.save())
    await asyncio.sleep(0)
    assert disk.writers == 1
    disk.go.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await last
    assert disk.most == 1 and desk.number == 1


@pytest.mark.parametrize(
    "content", [b'{"account": {"chun', b"\xff\xfe\xfd", b"[" * 100_000, b"[]", b'{"account": {}}', b"null"]
)
async def test_damaged_books_are_told_and_set_aside(desk: Desk, content: bytes) -> None:
    desk.folder.account.write_bytes(content)
    book = desk.open()
    aside = desk.folder.root / "account.damaged.json"
    assert len(desk.said) == 1 and str(aside) in desk.said[0]
    assert aside.read_bytes() == content and not desk.folder.account.exists()
    book.note()
    assert await book.save() and desk.number == 0


async def test_books_of_another_table_are_kept_too(desk: Desk) -> None:
    desk.folder.account.write_text(json.dumps(Ledger(CHUNKS + 1).to_json()))
    desk.open()
    assert "another table" in desk.said[0] and (desk.folder.root / "account.damaged.json").exists()


async def test_a_first_start_and_a_restart_are_told_nothing(desk: Desk) -> None:
    book = desk.open()
    book.ledger.offer(b"\x01" * 32)
    book.note()
    assert await book.save()
    again = desk.open()
    assert again.ledger.offer(b"\x02" * 32).number == 2 and desk.said == []


async def test_a_start_in_a_shorter_chain_than_the_books_know_gives_its_tokens_back(desk: Desk) -> None:
    """A node took over a state, was killed before its books said so, and starts from that state."""
    me, genesis, longer = b"\x07" * 32, b"\x01" * 32, b"\x02" * 32
    book = desk.open()
    book.ledger.account.produce(10)
    number = book.ledger.offer(genesis).number
    told = pb.Contributor(peer=me, offer=number)
    chunk = pb.CommittedChunk(contributors=[0])
    commit = pb.Commit(version=9, session=pb.SessionId(parent=genesis), contributors=[told])
    commit.chunks.extend([chunk] * CHUNKS)
    assert book.ledger.book(commit, longer, me)
    book.note()
    assert await book.save()
    again = desk.open()
    shorter = SimpleNamespace(
        head=SimpleNamespace(version=3), digests={3: b"\x03" * 32}, kept_commits=lambda: []
    )
    again.catch_up(shorter, me)  # type: ignore[arg-type]
    assert again.ledger.account.summary() == dict(
        produced=10, accepted=0, orphaned=10, expired=0, lost=0, carried=0
    )
    assert again.ledger.at == 3
    longer_again = SimpleNamespace(
        head=SimpleNamespace(version=9), digests={9: longer}, kept_commits=lambda: [(commit, longer)]
    )
    again.catch_up(longer_again, me)  # type: ignore[arg-type]
    assert again.ledger.account.accepted == 10 * CHUNKS and again.ledger.account.balanced()


async def test_books_that_can_not_be_read_are_not_begun_anew(desk: Desk) -> None:
    desk.folder.account.mkdir()
    with pytest.raises(AtollError, match="can't be read"):
        desk.open()
    assert desk.folder.account.is_dir() and desk.said == []
