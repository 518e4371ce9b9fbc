"""What a newcomer waits for before it believes a state, and what taking one over leaves on its disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.daemon import recovery as module
from atoll.daemon.recovery import Recovery
from atoll.daemon.rounds import sync
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers.following import Choice, Following, Take
from atoll.peers.pacing import RateCap
from atoll.peers.roster import Roster, RosterEntry
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb

from .swarm import Member, Swarm
from .test_rounds import one_round
from .test_sync import peer, state

ME = b"me"


class Around:
    """A Recovery with a roster that the test fills, and no network."""

    def __init__(self, folder: Path, swarm: Swarm) -> None:
        self.entries: dict[bytes, RosterEntry] = {}
        self.said: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        data = DataDir(folder)
        data.create()
        self.roster = Roster(self.entries)
        self.following = Following(self.roster, 8, lambda peer, reason: self.said.append(("doubt", reason)))
        neighbours = SimpleNamespace(
            roster=self.roster,
            following=self.following,
            links=SimpleNamespace(peers=()),
            files=SimpleNamespace(cap=RateCap()),
        )
        events = SimpleNamespace(emit=lambda kind, text: self.said.append((kind, text)), changed=lambda: None)
        self.neighbours = neighbours
        self.recovery = Recovery(
            data,
            swarm.manifest,
            SimpleNamespace(peer_id=ME, p2p=None),  # type: ignore[arg-type]
            neighbours,  # type: ignore[arg-type]
            events,  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            lambda state, reason: self.reasons.append(reason),
        )

    def meet(self, *entries: RosterEntry) -> None:
        self.entries.update({entry.peer: entry for entry in entries})

    async def choice(self) -> Choice:
        async with asyncio.timeout(30):
            return await self.recovery._agreed_state()


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    made = Swarm(tmp_path / "swarm", 2)
    yield made
    await made.close()


@pytest.fixture
def around(tmp_path: Path, swarm: Swarm) -> Around:
    return Around(tmp_path / "node", swarm)


async def test_two_that_agree_are_believed_at_once(around: Around) -> None:
    around.meet(peer("A", v3="a"), peer("B", v3="a"))
    assert (await around.choice()).peers == (b"A", b"B")
    assert around.reasons == []


async def test_the_only_peer_of_a_swarm_is_believed_at_once(around: Around) -> None:
    one = peer("A", v3="a")
    one.status.linked.append(ME)
    around.meet(one)
    assert (await around.choice()).version == 3 and around.reasons == []


async def test_a_second_opinion_is_waited_for(around: Around) -> None:
    """The first peer that is met is linked to others, so there are others."""
    one = peer("A", v3="x")
    one.status.linked.extend([ME, b"B", b"C"])
    around.meet(one)
    work = asyncio.create_task(around.choice())
    while not around.reasons:
        await asyncio.sleep(0)
    assert "second peer" in around.reasons[-1]
    around.meet(peer("B", v3="a"), peer("C", v3="a"))
    assert (await work).state == state("a")


async def test_one_word_is_taken_in_the_end_and_that_is_said(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGREEMENT_S", 0.0)
    around.meet(peer("A", v3="a"), peer("B", v5="b"))
    assert (await around.choice()).state == state("b")
    assert around.said[-1][0] == "transfer" and "Only" in around.said[-1][1]


async def test_joiners_and_liars_have_no_say(around: Around) -> None:
    joiner = peer("J", v9="j")
    joiner.status.state = pb.JOINING
    around.meet(joiner, peer("L", v3="x"), peer("A", v3="a"), peer("B", v3="a"))
    around.following.distrust(b"L", "it lied", time.monotonic())
    choice = await around.choice()
    assert choice.peers == (b"A", b"B")
    # Those who named it keep what they deleted for a while; those who name it now count, too.
    around.entries[b"A"] = peer("A", v8="z")
    around.meet(peer("C", v3="a"))
    assert around.recovery._holding(choice) == [b"A", b"B", b"C"]
    del around.entries[b"B"]
    assert around.recovery._holding(choice) == [b"A", b"C"]


async def test_nobody_is_asked_while_the_network_is_to_be_left_alone(around: Around) -> None:
    opens = asyncio.Event()

    async def network() -> None:
        around.reasons.append("waits")
        await opens.wait()

    around.recovery._network = network
    work = asyncio.create_task(around.recovery._fetch_checkpoint())
    while not around.reasons:
        await asyncio.sleep(0)
    assert around.reasons == ["waits"]
    opens.set()
    while len(around.reasons) == 1:
        await asyncio.sleep(0)
    assert "no peer that is connected" in around.reasons[-1]
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_the_cap_is_for_both_ways(around: Around) -> None:
    around.recovery.limit(70_000)
    mine, theirs = around.recovery.cap, around.neighbours.files.cap
    assert (mine.bytes_per_s, theirs.bytes_per_s) == (70_000, 70_000) and mine is not theirs


async def test_catching_up_ends_when_the_network_closes_or_nothing_counts(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = peer("A", v3="a")
    best.status.version = 9
    around.meet(best)
    head, steps = SimpleNamespace(version=3), [2, 1, 0]
    is_open = True

    async def catch_up(*arguments: object) -> None:
        nonlocal is_open
        head.version += steps.pop(0)
        is_open = len(steps) > 1 or not closes

    monkeypatch.setattr(around.recovery, "_catch_up", catch_up)
    monkeypatch.setattr(around.recovery, "_network_is_open", lambda: is_open)
    outer: Any = SimpleNamespace(head=head)
    driver: Any = None
    for closes, version in ((True, 6), (False, 6)):
        assert not await around.recovery._replay(best, outer, driver, [])
        assert head.version == version
        assert steps == ([0] if closes else []), "it asks until nothing comes of it"
        is_open = True


async def test_a_state_that_is_taken_over_replaces_what_was_further(around: Around, swarm: Swarm) -> None:
    for seed in (1, 2, 3):
        await one_round(swarm, seed)
    loser, winner = swarm.members
    for member in swarm.members:
        await member.driver.on_disk(member.state.save_if_due, True)
    folder = around.recovery._folder
    data = DataDir(folder.root)
    mine = Member(folder.root, swarm._keys[0], swarm)
    # This node went on alone to version 3; the swarm's other chain is at version 2.
    for version in (2, 3):
        source = checkpoint.path_of(loser.folder / "checkpoints", version)
        checkpoint.path_of(data.checkpoints, version).write_bytes(source.read_bytes())
    incoming = sync.incoming(data.checkpoints, winner.state.held[1][1])
    incoming.write_bytes(checkpoint.path_of(winner.folder / "checkpoints", 2).read_bytes())
    await mine.driver.on_disk(around.recovery._take_over, mine.state, incoming, 2, winner.state.chain[1:])
    assert mine.state.head.version == 2 and mine.state.head.digest == winner.state.chain[1].digest
    assert checkpoint.versions(data.checkpoints) == [2, 0] and not incoming.exists()
    assert mine.state.held[0] == winner.state.held[1]
    again = Member(folder.root, swarm._keys[0], swarm)
    assert again.bits == mine.bits and again.state.head.version == 2
    for member in (mine, again):
        await member.driver.close()


async def test_the_log_is_not_forgotten_before_the_books_hold_what_it_says(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = peer("A", v3="a")
    best.chain = (forks.Link(3, bytes(32), True, 0),)
    around.meet(best, peer("B", v3="a"))
    steps: list[str] = []
    room = False

    async def books_are_saved() -> bool:
        steps.append("books")
        return room

    async def on_disk(work: Callable[..., object], *arguments: object) -> None:
        steps.append(work.__name__)

    async def catch_up(*arguments: object) -> None:
        steps.append("catch up")

    monkeypatch.setattr(sync, "catch_up", catch_up)

    def left(digests: object, common: int) -> None:
        steps.append(f"left after {common}")

    island: Any = SimpleNamespace(books_are_saved=books_are_saved, left=left)
    driver: Any = SimpleNamespace(on_disk=on_disk)
    around.recovery._alerts = SimpleNamespace(clear=lambda code: None)  # type: ignore[assignment]
    head = SimpleNamespace(version=3)
    outer: Any = SimpleNamespace(chain=best.chain, position=None, head=head, digests={})
    step = Take(best, Choice(3, state("a"), (b"A", b"B")), "behind")
    for room, expected in (
        (False, ["books"]),
        (True, ["books", "_take_over", "left after 3", "books", "catch up"]),
    ):
        steps.clear()
        taken = await around.recovery._switch(step, Path("state"), outer, driver, island, [])
        assert (taken, steps) == (room, expected)
