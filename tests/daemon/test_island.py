"""The island: the trainer in the rhythm of the rounds, and what became of every token."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from atoll.daemon.events import Events
from atoll.daemon.island import Island
from atoll.daemon.left_out import Seen
from atoll.daemon.reading import Place
from atoll.daemon.rhythm import Rhythm, Terms
from atoll.daemon.trainers import Trainer
from atoll.daemon.training import channel as ch
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.ledger import Ledger
from atoll.protocol.modes.asynchronous import ROUND
from atoll.protocol.round import types as t
from atoll.protocol.schema import ChunkTable

ME = b"me"
CHUNKS = ChunkTable(1024, 256)
WELCOME = ch.Welcome(1, "/none", 1024, 256, "00", None, {}, {}, "00", 1, 1, None, "cpu", "keep")


class FakeDriver:
    """Notes the events; pseudo-gradients are finite unless told otherwise."""

    def __init__(self) -> None:
        self.events: list[t.Event] = []
        self.bad: str | None = None
        self.state = SimpleNamespace(head=Head(3, b"d" * 32, (ME,)))
        self.writing = False

    def feed(self, event: t.Event) -> None:
        self.events.append(event)

    async def first_non_finite(self) -> str | None:
        return self.bad

    async def roughness(self) -> float:
        return 0.0


class Rig:
    """An island whose trainer is the test itself, at the other end of a socket."""

    def __init__(
        self,
        folder: Path,
        may_restart: bool = False,
        last_version: int = 0,
        resets: bool = False,
        rhythm: Rhythm | None = None,
    ) -> None:
        self.driver = FakeDriver()
        self.starts = 0
        self.offers = 0
        self.saves = 0
        self.refuse = 0
        self.bugs: list[str] = []
        self.place = Place()
        self.island = Island(
            rhythm or Rhythm(10),
            Ledger(len(CHUNKS)),
            Events(folder / "events.jsonl", lambda: 0.0),
            ME,
            CHUNKS,
            lambda: self.place,
            lambda: None,
            self._save,
            lambda: None,
            lambda: WELCOME,
            self._launch,
            may_restart,
            resets,
            self.bugs.append,
            last_version,
            lambda head: Terms(1 if rhythm else 2),
        )
        self.island.driver = self.driver  # type: ignore[assignment]

    async def _save(self) -> bool:
        self.saves += 1
        self.refuse -= 1
        return self.refuse < 0

    async def _launch(self, trainer: Trainer) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.reader, self.writer = await asyncio.open_unix_connection(sock=theirs)
        await trainer.attach(ours)
        self.starts += 1

    async def hears(self) -> ch.FromDaemon:
        async with asyncio.timeout(10):
            return ch.decode_from_daemon(await self.reader.readline())

    def says(self, message: ch.FromTrainer) -> None:
        self.writer.write(ch.encode(message))

    async def fed(self, kind: type) -> t.Event:
        """The next event of this kind that the machine was given."""
        async with asyncio.timeout(10):
            while not (found := [e for e in self.driver.events if isinstance(e, kind)]):
                await asyncio.sleep(0)
        self.driver.events.clear()
        return found[-1]

    async def offered(self) -> t.LocalReady:
        """What the machine was told of the next offer, but for what is told of its phase."""
        event = await self.fed(t.LocalReady)
        assert isinstance(event, t.LocalReady)
        return replace(event, phase_s=0.0, rounds=0)

    async def begin(self, origin: int = 30) -> None:
        await self.island.start()
        assert isinstance(await self.hears(), ch.Welcome)
        self.says(ch.Hello(1, 1, "cpu", "00", 1000))
        begun = await self.hears()
        assert isinstance(begun, ch.Begin)
        assert replace(begun, evaluate=False) == ch.Begin(3, 10, (0, 1), origin=origin)
        self.says(ch.Merged(3, None))

    async def ready(self, tokens: int) -> None:
        self.says(ch.Progress(5, 10, 2.0, tokens // 2, 100.0))
        self.says(ch.Ready(10, tokens, 2.5))
        self.offers += 1
        assert await self.offered() == t.LocalReady(tokens, 10, self.offers)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.begin()
    yield rig
    rig.writer.close()
    await rig.island.stop()


def commit(version: int, offer: int, chunks: list[bool], parent: bytes = b"d" * 32) -> pb.Commit:
    return pb.Commit(
        session=pb.SessionId(parent=parent),
        version=version,
        contributors=[pb.Contributor(peer=ME, tokens=400, weight=400, offer=offer)],
        chunks=[pb.CommittedChunk(contributors=[0] if mine else []) for mine in chunks],
    )


async def test_a_node_is_expected_only_once_it_has_been_ready(rig: Rig) -> None:
    assert not rig.island.training and not any(isinstance(e, t.TrainingChanged) for e in rig.driver.events)
    await rig.ready(400)
    assert rig.island.training
    assert rig.island.phase.phase_loss == 2.5 and rig.island.phase.tokens_per_s == 100.0


async def test_accepted_tokens_are_booked_chunk_by_chunk(rig: Rig) -> None:
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True, True, False, True]), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    told = await rig.hears()
    assert told == ch.Committed(4, 10, (0, 1), ((512, 768),), contributed=True, evaluate=True, origin=40)
    account = rig.island.account
    assert (account.accepted, account.carried, account.pending) == (1200, 400, [0, 0, 400, 0])
    assert account.balanced()
    rig.says(ch.Merged(4, 1.25))
    async with asyncio.timeout(10):
        await rig.island.merged()
    assert rig.island.val_losses == {4: 1.25}


async def test_what_a_missed_chunk_carries_is_accepted_with_the_next_offer(rig: Rig) -> None:
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True, True, False, True]), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    assert isinstance(await rig.hears(), ch.Committed)
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.says(ch.Merged(4, None))
    rig.says(ch.Ready(10, 300, 2.5))
    assert await rig.offered() == t.LocalReady(700, 10, 2), "the oldest chunk carries 700"
    rig.island.committed([(commit(5, 2, [True] * 4, b"e" * 32), b"f" * 32)], Head(5, b"f" * 32, (ME,)))
    account = rig.island.account
    assert (account.accepted, account.carried) == (4 * 700, 0) and account.balanced()


async def test_where_missed_work_is_reset_its_tokens_expire(tmp_path: Path) -> None:
    rig = Rig(tmp_path, resets=True)
    await rig.begin()
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True, True, False, True]), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    assert isinstance(await rig.hears(), ch.Committed)
    account = rig.island.account
    assert (account.accepted, account.expired, account.carried) == (1200, 400, 0)
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.says(ch.Merged(4, None))
    await rig.ready(300)
    rig.driver.state.head = Head(5, b"f" * 32, (ME,))
    rig.island.committed([(commit(5, 0, [False] * 4, b"e" * 32), b"f" * 32)], Head(5, b"f" * 32, (ME,)))
    assert isinstance(await rig.hears(), ch.Begin), (
        "it takes the committed parameters, and a new phase begins"
    )
    assert (account.expired, account.carried) == (400 + 4 * 300, 0) and account.balanced()
    # In the middle of a phase it goes on: a node that is slower than the others would never be done.
    rig.says(ch.Merged(5, None))
    rig.says(ch.Progress(5, 10, 2.0, 200, 100.0))
    async with asyncio.timeout(10):
        while not account.carried:
            await asyncio.sleep(0)
    rig.island.committed([(commit(6, 0, [False] * 4, b"f" * 32), b"g" * 32)], Head(6, b"g" * 32, (ME,)))
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and not told.contributed and account.carried == 4 * 200
    rig.writer.close()
    await rig.island.stop()


async def test_a_phase_that_begins_in_the_middle_of_those_of_others_is_shorter(tmp_path):
    rig = Rig(tmp_path, resets=True, rhythm=Rhythm(10, left=lambda head: [0.5]))
    await rig.island.start()
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.says(ch.Hello(1, 4711, "cpu", "00", 1))
    begin = await rig.hears()
    assert isinstance(begin, ch.Begin) and begin.steps == rig.island.phase.steps == 3
    rig.says(ch.Merged(3, None))
    await rig.ready(100)
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.island.committed([(commit(4, 1, [True] * 4), b"e" * 32)], rig.driver.state.head)
    next_one = await rig.hears()
    assert isinstance(next_one, ch.Committed) and next_one.steps == 10
    rig.says(ch.Merged(4, None))
    await rig.ready(300)
    rig.driver.state.head = Head(5, b"f" * 32, (ME,))
    rig.island.committed([(commit(5, 0, [False] * 4, b"e" * 32), b"f" * 32)], rig.driver.state.head)
    begin = await rig.hears()
    assert isinstance(begin, ch.Begin) and begin.steps == 10, "it came late, and begins with all others"
    rig.says(ch.Merged(5, None))
    await rig.ready(500)
    rig.driver.state.head = Head(6, b"g" * 32, (ME,))
    missed = [(commit(6, 0, [False] * 4, b"f" * 32), b"g" * 32)]
    rig.island.committed(missed, rig.driver.state.head, replayed=True)
    begin = await rig.hears()
    assert isinstance(begin, ch.Begin) and begin.steps == 3, "it missed one, and the others are further"
    await rig.island.stop()


async def test_what_a_trainer_said_before_it_read_a_commit_is_void(rig: Rig) -> None:
    """Its snapshot is measured against another anchor, and before a Begin its tokens are of another life."""
    rig.island.committed([(commit(4, 0, [False] * 4), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.says(ch.Progress(5, 10, 2.0, 200, 100.0))
    rig.says(ch.Ready(10, 400, 2.5))
    rig.says(ch.Merged(4, None))
    async with asyncio.timeout(10):
        await rig.island.merged()
    assert rig.island.account.carried == 200 * len(CHUNKS)
    rig.island.begin()
    rig.says(ch.Progress(8, 10, 2.0, 300, 100.0))
    rig.says(ch.Merged(4, None))
    await rig.ready(100)
    account = rig.island.account
    assert (account.lost, account.carried) == (200 * len(CHUNKS), 100 * len(CHUNKS)) and account.balanced()


async def test_a_trainer_does_not_begin_while_the_parameters_are_on_the_move(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rhythm=Rhythm(10, left=lambda head: [0.5]))
    rig.driver.writing = True
    await rig.island.start()
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.says(ch.Hello(1, 1, "cpu", "00", 1000))
    await rig.fed(t.LocalWithdrawn)
    assert not rig.island.begun
    rig.driver.writing = False
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.island.committed([(commit(4, 0, [False] * 4), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    assert await rig.hears() == ch.Begin(4, 10, (0, 1), evaluate=True, origin=40)
    assert rig.island.begun
    rig.island.settled()
    rig.writer.close()
    await rig.island.stop()


async def test_it_reads_elsewhere_only_when_it_carries_nothing(rig: Rig) -> None:
    """What an offer holds was all read from the shard that it names."""
    rig.place = Place((1, 2), 5, "/texts/five")
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True, True, False, True]), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and (told.shard, told.text) == ((0, 1), None)
    rig.driver.state.head = Head(4, b"e" * 32, (ME,))
    rig.says(ch.Merged(4, None))
    rig.says(ch.Ready(10, 300, 2.5))
    assert (await rig.fed(t.LocalReady)).shard == 0
    rig.island.committed([(commit(5, 2, [True] * 4, b"e" * 32), b"f" * 32)], Head(5, b"f" * 32, (ME,)))
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and (told.shard, told.text) == ((1, 2), "/texts/five")
    rig.driver.state.head = Head(5, b"f" * 32, (ME,))
    rig.says(ch.Merged(5, None))
    rig.says(ch.Ready(10, 400, 2.5))
    assert await rig.offered() == t.LocalReady(400, 10, 3, 5)


async def test_an_offer_is_told_only_when_the_books_hold_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.daemon.island.BOOKS_RETRY_S", 0.0)
    rig.refuse = 3
    await rig.ready(400)
    assert rig.saves == 4


async def test_an_offer_that_is_withdrawn_while_the_books_are_written_is_not_told(rig: Rig) -> None:
    async def meanwhile() -> bool:
        rig.island.pause("you asked for it")
        return True

    rig.island.books_are_saved = meanwhile
    rig.driver.events.clear()
    rig.says(ch.Ready(10, 400, 2.5))
    await rig.fed(t.LocalWithdrawn)
    await asyncio.sleep(0)
    assert not any(isinstance(e, t.LocalReady) for e in rig.driver.events)


async def test_a_rule_holds_the_trainer_and_lets_go(rig: Rig) -> None:
    await rig.ready(400)
    rig.island.hold(True)
    assert await rig.hears() == ch.Pause()
    await rig.fed(t.LocalWithdrawn)
    assert rig.island.resting and rig.island.paused is None and not rig.island.training
    rig.island.hold(True)
    rig.island.hold(False)
    assert await rig.hears() == ch.Resume()
    assert (await rig.offered()).tokens == 400, "what was ready is offered again"
    assert not rig.island.resting


async def test_the_owners_pause_and_the_rules_do_not_end_each_other(rig: Rig) -> None:
    rig.island.hold(True)
    rig.island.pause("you asked for it")
    rig.island.resume()
    assert rig.island.resting, "a rule still holds it"
    rig.island.pause("you asked for it")
    rig.island.hold(False)
    assert rig.island.resting, "the owner still pauses it"
    rig.island.resume()
    assert not rig.island.resting
    told = [await rig.hears() for _ in range(4)]
    assert told == [ch.Pause(), ch.Pause(), ch.Pause(), ch.Resume()]


async def test_a_trainer_that_starts_while_a_rule_holds_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.island.hold(True)
    rig.island.use_threads(2)
    await rig.begin()
    assert await rig.hears() == ch.Pause(), "and the threads were in the welcome"
    rig.island.use_threads(3)
    assert await rig.hears() == ch.Threads(3)
    rig.writer.close()
    await rig.island.stop()


async def test_a_commit_of_others_is_taken_in_and_progress_stays(rig: Rig) -> None:
    rig.says(ch.Progress(5, 10, 2.0, 200, 100.0))
    others = pb.Commit(version=4, contributors=[pb.Contributor(peer=b"x", tokens=1, weight=1)])
    others.chunks.extend(pb.CommittedChunk(contributors=[0]) for _ in range(4))
    rig.island.committed([(others, b"e" * 32)], Head(4, b"e" * 32, (b"x",)))
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and not told.contributed and told.keep == ((0, 1024),)
    rig.says(ch.Merged(4, None))
    await rig.ready(400)
    assert rig.island.account.carried == 400 * 4
    rig.island.committed([], Head(5, b"f" * 32, (b"x",)))
    assert isinstance(await rig.hears(), ch.Committed)


async def test_a_replayed_commit_with_ones_own_contribution_counts_once(rig: Rig) -> None:
    await rig.ready(400)
    others = pb.Commit(version=5, contributors=[pb.Contributor(peer=b"x", tokens=1, weight=1)])
    others.chunks.extend(pb.CommittedChunk(contributors=[0]) for _ in range(4))
    rig.island.committed(
        [(commit(4, 1, [True] * 4), b"e" * 32), (others, b"f" * 32)], Head(5, b"e" * 32, (b"x",))
    )
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and told.contributed and told.keep == ()
    account = rig.island.account
    assert (account.accepted, account.carried) == (1600, 0) and account.balanced()


async def test_a_contribution_outlives_its_trainer(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    rig.island._restart_pause = 0.01
    await rig.begin()
    await rig.ready(400)
    rig.writer.close()
    async with asyncio.timeout(10):
        while rig.starts < 2:
            await asyncio.sleep(0)
    assert rig.island.account.lost == 1600
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.says(ch.Hello(1, 1, "cpu", "00", 1000))
    assert isinstance(await rig.hears(), ch.Begin)
    rig.says(ch.Merged(3, None))
    rig.island.committed([(commit(4, 1, [True] * 4), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    told = await rig.hears()
    assert isinstance(told, ch.Committed) and not told.contributed and told.keep == ((0, 1024),)
    assert rig.island.account.accepted == 1600 and rig.island.account.lost == 0
    assert rig.island.account.balanced() and not rig.bugs
    rig.writer.close()
    await rig.island.stop()


async def test_a_snapshot_of_a_trainer_that_died_meanwhile_is_not_offered(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    await rig.begin()

    async def while_looking() -> str | None:
        rig.island._trainer_ended("it was killed")
        return None

    rig.driver.first_non_finite = while_looking  # type: ignore[method-assign]
    rig.says(ch.Ready(10, 400, 2.5))
    async with asyncio.timeout(10):
        while rig.island.trouble is None:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not any(isinstance(e, t.LocalReady) for e in rig.driver.events) and not rig.island.training
    rig.writer.close()
    await rig.island.stop()


async def test_a_pseudo_gradient_that_is_not_finite_is_not_sent(rig: Rig) -> None:
    rig.driver.bad = "weight"
    rig.driver.events.clear()
    rig.says(ch.Ready(10, 400, 2.5))
    assert isinstance(await rig.hears(), ch.Begin)
    assert not any(isinstance(e, t.LocalReady) for e in rig.driver.events)
    assert rig.island.account.lost == 1600 and rig.island.account.balanced()


async def test_a_snapshot_that_a_commit_overtook_is_not_offered(rig: Rig) -> None:
    looked = asyncio.Event()

    async def while_looking() -> str | None:
        rig.driver.state.head = Head(4, b"e" * 32, (ME,))
        looked.set()
        return None

    rig.driver.first_non_finite = while_looking  # type: ignore[method-assign]
    rig.driver.events.clear()
    rig.says(ch.Ready(10, 400, 2.5))
    async with asyncio.timeout(10):
        await looked.wait()
    await asyncio.sleep(0)
    assert not any(isinstance(e, t.LocalReady) for e in rig.driver.events)


async def test_a_loss_that_is_not_finite_starts_over(rig: Rig) -> None:
    rig.says(ch.Failed("loss_not_finite", "The loss of step 3 is nan."))
    assert isinstance(await rig.hears(), ch.Begin)


async def test_pause_and_resume_offer_the_snapshot_again(rig: Rig) -> None:
    await rig.ready(400)
    rig.island.pause("you asked for it")
    assert isinstance(await rig.hears(), ch.Pause)
    assert not rig.island.training
    await rig.fed(t.LocalWithdrawn)
    rig.island.resume()
    assert isinstance(await rig.hears(), ch.Resume)
    assert await rig.offered() == t.LocalReady(400, 10, 2)


@pytest.mark.parametrize("resets", [True, False])
async def test_after_rounds_that_went_by_in_a_pause_it_begins_anew(tmp_path: Path, resets: bool) -> None:
    """Else it would contribute parameters of before the pause, and pull everyone back to them."""
    rig = Rig(tmp_path, resets=resets)
    await rig.begin()
    rig.says(ch.Progress(5, 10, 2.0, 200, 100.0))
    rig.island.pause("you asked for it")
    assert isinstance(await rig.hears(), ch.Pause)
    for version, name in ((4, b"e"), (5, b"f")):
        head = Head(version, name * 32, (b"o" * 38,))
        rig.driver.state.head = head
        rig.island.committed([(commit(version, 1, [False] * 4), name * 32)], head)
        assert isinstance(await rig.hears(), ch.Committed)
    rig.island.hold(True)
    rig.island.resume()
    rig.island.hold(False)
    begin = await rig.hears()
    assert isinstance(begin, ch.Begin) and begin.version == 5
    assert isinstance(await rig.hears(), ch.Resume)
    assert rig.island.account.expired == 4 * 200 and rig.island.account.carried == 0


async def test_a_pause_for_a_while_ends_by_itself(rig: Rig) -> None:
    rig.island.pause("you asked for it", for_s=0.01)
    assert isinstance(await rig.hears(), ch.Pause)
    assert isinstance(await rig.hears(), ch.Resume)
    assert rig.island.paused is None


async def test_finishing_pauses_after_the_contribution(rig: Rig) -> None:
    rig.island.finishing = True
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True] * 4), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    assert isinstance(await rig.hears(), ch.Committed)
    assert isinstance(await rig.hears(), ch.Pause)
    assert rig.island.paused is not None and "finished" in rig.island.paused


async def test_taking_over_a_state_gives_up_local_progress(rig: Rig) -> None:
    rig.says(ch.Progress(5, 10, 2.0, 200, 100.0))
    await rig.ready(400)
    rig.island.taken_over({9: b"t" * 32}, [])
    assert isinstance(await rig.hears(), ch.Begin)
    assert rig.island.account.expired == 1600 and rig.island.account.carried == 0


async def test_a_chain_that_was_left_gives_its_tokens_back_however_long_the_other_is(rig: Rig) -> None:
    """What was left lies before all that the other chain names: that it parted from ours is known."""
    await rig.ready(400)
    rig.island.committed([(commit(4, 1, [True] * 4), b"e" * 32)], Head(4, b"e" * 32, (ME,)))
    assert rig.island.account.accepted == 1600
    seen = {version: bytes([version]) * 32 for version in range(40, 104)}
    rig.island.left(seen, common=103)
    assert rig.island.account.accepted == 1600, "behind, not on another way"
    rig.island.left(seen, common=3)
    assert rig.island.account.accepted == 0 and rig.island.account.orphaned == 1600
    rig.island.left({4: b"e" * 32}, common=3)
    assert rig.island.account.accepted == 1600, "the first way after all"


async def test_a_trainer_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.daemon.island.FIRST_RESTART_S", 0.01)
    rig = Rig(tmp_path, may_restart=True)
    rig.island._restart_pause = 0.01
    await rig.begin()
    await rig.ready(400)
    rig.writer.close()
    async with asyncio.timeout(10):
        while rig.starts < 2:
            await asyncio.sleep(0)
    assert rig.island.account.lost == 1600 and not rig.island.training
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.writer.close()
    await rig.island.stop()


async def restarted_with(rig: Rig) -> int:
    """The trainer's connection ends, and another one starts: the micro-batch that it is given."""
    rig.island._restart_pause = 0.01
    starts = rig.starts
    rig.writer.close()
    async with asyncio.timeout(10):
        while rig.starts == starts:
            await asyncio.sleep(0)
    heard = await rig.hears()
    assert isinstance(heard, ch.Welcome)
    return int(heard.inner["micro_batch"])


async def test_the_next_trainer_begins_with_a_micro_batch_that_fits(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    rig.island._make_welcome = lambda: replace(WELCOME, inner={"micro_batch": 8})

    async def killed() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        assert rig.island._trainer is not None
        rig.island._trainer._process = process
        process.kill()
        await process.wait()

    await rig.begin()
    rig.says(ch.Notice("micro_batch_halved", "Out of memory: 4 sequences at a time now."))
    assert await restarted_with(rig) == 4
    await killed()
    assert await restarted_with(rig) == 4, "once may have been anybody"
    await killed()
    assert await restarted_with(rig) == 2
    await killed()
    assert await restarted_with(rig) == 2
    assert await restarted_with(rig) == 2, "it ended by itself"
    await killed()
    assert await restarted_with(rig) == 2, "not twice in a row"
    rig.writer.close()
    await rig.island.stop()


async def test_a_trainer_that_ends_under_a_cap_on_its_memory_is_given_less_to_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    rig.island._make_welcome = lambda: replace(WELCOME, inner={"micro_batch": 2})

    async def fails() -> int:
        """A trainer begins, and ends as one that a library ended; the micro-batch of the next one."""
        process = await asyncio.create_subprocess_exec("sleep", "60")
        assert rig.island._trainer is not None
        rig.island._trainer._process = process
        rig.says(ch.Hello(1, process.pid, "cpu", "00", 1024))
        assert isinstance(await rig.hears(), ch.Begin)
        process.terminate()
        await process.wait()
        return await restarted_with(rig)

    await rig.begin()
    assert [await fails(), await fails()] == [2, 2], "it is not capped"
    rig.island.cap_memory(10 << 30)
    assert [await fails(), await fails()] == [2, 1]
    assert rig.island.trouble != rig.island._memory.too_small
    await fails()
    assert rig.island.trouble == rig.island._memory.too_small and "cap of 10.7 GB" in rig.island.trouble
    rig.island.cap_memory(20 << 30)
    assert await fails() == 2, "with more of it, all is tried again"
    rig.writer.close()
    await rig.island.stop()


async def test_a_script_of_ones_own_that_ends_ends_the_node(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=False)
    await rig.begin()
    rig.writer.close()
    async with asyncio.timeout(10):
        await rig.island.ended.wait()
    assert rig.starts == 1
    await rig.island.stop()


async def test_it_pauses_at_the_version_that_was_asked_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path, last_version=3)
    await rig.island.start()
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.says(ch.Hello(1, 1, "cpu", "00", 1000))
    assert isinstance(await rig.hears(), ch.Begin)
    assert isinstance(await rig.hears(), ch.Pause)
    rig.writer.close()
    await rig.island.stop()


async def test_what_the_trainer_garbles_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    await rig.begin()
    rig.writer.write(b'{"type": "nonsense"}\n')
    async with asyncio.timeout(10):
        while rig.island.trouble is None:
            await asyncio.sleep(0)
    assert "unreadable" in rig.island.trouble
    rig.writer.close()
    await rig.island.stop()


async def test_a_device_that_was_there_before_may_come_back(rig: Rig) -> None:
    rig.says(ch.Failed("device_unusable", "Device 'cuda' can't be used."))
    async with asyncio.timeout(10):
        while rig.island.trouble is None:
            await asyncio.sleep(0)
    assert rig.island.unusable is None and not rig.island.ended.is_set()


async def test_a_device_that_is_not_there_ends_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, may_restart=True)
    await rig.island.start()
    assert isinstance(await rig.hears(), ch.Welcome)
    rig.says(ch.Failed("device_unusable", "Device 'cuda' can't be used."))
    rig.writer.close()
    async with asyncio.timeout(10):
        await rig.island.ended.wait()
    assert rig.island.unusable == "Device 'cuda' can't be used."
    await rig.island.stop()
    assert rig.starts == 1 and rig.island.restart_at is None


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Rig]:
    """With small commits, and others that are twice as fast."""
    rig = Rig(tmp_path, rhythm=Rhythm(10, True, lambda: [0.0, 200.0]))
    await rig.begin(origin=0)
    yield rig
    rig.writer.close()
    await rig.island.stop()


async def test_with_small_commits_an_offer_is_made_again_for_the_next(small: Rig) -> None:
    await small.ready(400)
    head = Head(4, b"e" * 32, (ME,), progress=ROUND // 2)
    small.driver.state.head = head
    small.island.committed([(commit(4, 9, [False] * 4), head.digest)], head)
    told = await small.hears()
    assert isinstance(told, ch.Committed) and not told.contributed and (told.steps, told.origin) == (10, 0)
    small.says(ch.Merged(4, None))
    small.says(ch.Ready(10, 400, 2.5))  # it has not gone on
    again = await small.fed(t.LocalReady)
    assert isinstance(again, t.LocalReady) and (again.tokens, again.offer, again.rounds) == (400, 2, 2)
    assert again.phase_s == pytest.approx(4.0)
    after = Head(5, b"f" * 32, (ME,), progress=ROUND)
    small.driver.state.head = after
    small.island.committed([(commit(5, 2, [True] * 4, b"e" * 32), after.digest)], after)
    told = await small.hears()
    assert isinstance(told, ch.Committed) and told.contributed and told.version == 5
    assert (told.steps, told.origin) == (5, 10), "it is half as fast: half a phase, after one round"
    assert told.evaluate
    small.says(ch.Merged(5, None))


async def test_with_small_commits_no_step_is_taken_twice(small: Rig) -> None:
    """A node that contributes more often than others is further than the rounds of the chain."""
    steps, at = [], 0
    for version in (4, 5, 6):
        await small.ready(400)
        at += ROUND // 8
        head = Head(version, bytes([version]) * 32, (ME,), progress=at)
        parent, small.driver.state.head = small.driver.state.head.digest, head
        small.island.committed([(commit(version, small.offers, [True] * 4, parent), head.digest)], head)
        told = await small.hears()
        assert isinstance(told, ch.Committed) and told.contributed
        steps.append((told.origin, told.steps))
        small.says(ch.Merged(version, None))
    assert steps == [(10, 5), (15, 5), (20, 5)]


async def test_with_small_commits_those_of_others_leave_a_phase_alone(small: Rig) -> None:
    head = Head(4, b"e" * 32, (ME,), progress=ROUND)
    small.driver.state.head = head
    small.island.committed([(commit(4, 9, [False] * 4), head.digest)], head)
    told = await small.hears()
    assert isinstance(told, ch.Committed) and not told.contributed
    assert (told.steps, told.origin) == (10, 0)
    small.says(ch.Merged(4, None))


async def test_who_is_left_out_of_a_round_is_told(rig: Rig) -> None:
    def said() -> list[str]:
        return [e["text"] for e in rig.island._events.since(0)[0] if e["kind"] == "left-out"]

    # Still training: nothing was offered when the others committed.
    rig.says(ch.Progress(4, 10, 2.0, 200, 100.0))
    while rig.island.phase.step != 4:
        await asyncio.sleep(0)
    rig.island.seen = Seen(4, 0.0, planned=False)
    rig.driver.state.head = Head(4, b"e" * 32, (b"other",))
    rig.island.committed([(commit(4, 77, [False] * 4), b"e" * 32)], rig.driver.state.head)
    assert said() == [
        "Your update is not in round 4, because this node was still training (inner step 4 of 10); "
        "it goes into the next."
    ]
    # Contributed: nothing is said.
    await rig.hears()
    rig.says(ch.Merged(4, None))
    rig.says(ch.Ready(10, 400, 2.5))
    await rig.offered()
    rig.island.committed([(commit(5, 1, [True] * 4, b"e" * 32), b"f" * 32)], Head(5, b"f" * 32, (ME,)))
    assert len(said()) == 1
    # Paused: the owner knows.
    rig.island.pause("you asked for it")
    rig.island.committed([(commit(6, 9, [False] * 4, b"f" * 32), b"g" * 32)], Head(6, b"g" * 32, (b"other",)))
    assert len(said()) == 1
