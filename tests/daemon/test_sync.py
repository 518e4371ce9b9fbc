"""Which state a newcomer takes, from whom, and what it believes: with real libp2p hosts where it fetches."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from atoll.daemon import recovery
from atoll.daemon.errors import AtollError
from atoll.daemon.rounds import sync
from atoll.daemon.rounds.ahead import Ahead
from atoll.daemon.rounds.outer_state import served_file
from atoll.daemon.rounds.sync import SyncFailed
from atoll.daemon.storage import checkpoint
from atoll.daemon.storage.data_dir import DataDir
from atoll.peers import fetching, files, transfer
from atoll.peers.fetching import Options
from atoll.peers.files import FileServer
from atoll.peers.following import MAX_HELD, Choice, Timing, choose_state
from atoll.peers.identity import readable_name
from atoll.peers.p2pd import Host
from atoll.peers.pacing import RateCap
from atoll.peers.roster import RosterEntry
from atoll.protocol import messages_pb2 as pb
from atoll.protocol import wire
from atoll.protocol.chain import Head
from atoll.protocol.schema import ParameterSchema

from ..peers.hosts import DEADLINE_S, Hosts, connect
from .swarm import Member, Swarm
from .test_rounds import one_round

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text()


def test_the_specification_says_what_the_code_does(tmp_path: Path) -> None:
    assert transfer.Content(1_048_577, (b"p" * 32, b"q" * 32)).id.hex() in SPEC
    layout = ParameterSchema.of([("weight", (2, 3)), ("bias", (3,))])
    head = Head(2, b"d" * 32, (b"v" * 38,), True, 600)
    zeros, ones = np.zeros(512, np.float32), np.ones(512, np.float32)
    saved = checkpoint.save(
        tmp_path, b"s" * 32, head, layout, zeros, ones, 200, (600, 0), (b"e" * 32, b"g" * 32)
    )
    file = checkpoint.path_of(tmp_path, 2).read_bytes()
    assert saved.state.hex() in SPEC and hashlib.sha256(file).hexdigest() in SPEC
    assert f"of {len(file)} bytes" in SPEC and f"`{checkpoint.FORMAT}`" in SPEC
    assert (checkpoint.KEEP, MAX_HELD, recovery.AGREEMENT_S, Timing().distrust) == (3, 8, 3, 60)
    limits = transfer.Limits()
    assert (limits.in_flight_bytes, limits.per_holder_bytes) == (8 << 20, 4 << 20)
    assert (files.MAX_STREAMS, files.KEEP_OPEN_S, wire.MAX_FILE_HEADER_BYTES) == (16, 60, 4 << 20)


# ---- which state


def state(letter: str) -> bytes:
    return letter.encode() * 32


def peer(name: str, **held: str) -> RosterEntry:
    """A peer that holds versions in some states: v3="a"."""
    states = [pb.HeldState(version=int(v[1:]), state=state(s)) for v, s in held.items()]
    status = pb.NodeStatus(state=pb.TRAINING, held=states)
    return RosterEntry(name.encode(), status, 0.0, 0.0)


def chosen(entries: list[RosterEntry], **options: object) -> tuple[int, bytes, str] | None:
    choice = choose_state(entries, **options)  # type: ignore[arg-type]
    return choice and (choice.version, choice.state[:1], b"".join(choice.peers).decode())


def test_what_most_name_is_taken_and_of_those_the_newest() -> None:
    assert chosen([]) is None and chosen([peer("A")]) is None
    assert chosen([peer("A", v1="a", v2="b")]) == (2, b"b", "A")
    both = [peer("A", v1="a", v2="b", v3="c"), peer("B", v2="b", v3="c", v4="d")]
    assert chosen(both) == (3, b"c", "AB")
    # The newest that one peer names is not taken where several agree on an older one.
    assert chosen([peer("A", v9="x"), *both]) == (3, b"c", "AB")
    # Three against two, although the two are further.
    split = [peer("A", v5="a"), peer("B", v5="a"), peer("C", v5="a"), peer("D", v6="b"), peer("E", v6="b")]
    assert chosen(split) == (5, b"a", "ABC")
    # Nobody agrees: the newest.
    assert chosen([peer("A", v5="a"), peer("B", v7="b")]) == (7, b"b", "B")


def test_the_order_of_peers_and_idle_talk_do_not_matter() -> None:
    entries = [peer("A", v5="a", v4="c"), peer("B", v5="b"), peer("C", v5="b", v4="c")]
    assert chosen(entries) == chosen(entries[::-1]) == (5, b"b", "BC")
    # One vote for a version, whatever a peer repeats; digests of another length are none.
    twice = peer("A", v5="a")
    twice.status.held.extend([pb.HeldState(version=5, state=state("a"))] * 3)
    twice.status.held.add(version=9, state=b"short")
    assert chosen([twice, peer("B", v4="c"), peer("C", v4="c")]) == (4, b"c", "BC")
    flood = peer("A")
    flood.status.held.extend([pb.HeldState(version=n, state=state("f")) for n in range(1000)])
    assert chosen([flood]) == (MAX_HELD - 1, b"f", "A")


def test_what_was_begun_goes_on_if_it_is_still_agreed_on() -> None:
    entries = [peer("A", v3="c", v4="d"), peer("B", v3="c", v4="d"), peer("C", v4="d", v5="e")]
    assert chosen(entries) == (4, b"d", "ABC")
    assert chosen(entries, begun={state("c")}) == (3, b"c", "AB")
    assert chosen(entries, begun={state("e")}) == (4, b"d", "ABC")
    assert chosen([peer("A", v3="c"), peer("B", v4="d")], begun={state("c")}) == (3, b"c", "A")


def test_a_state_of_one_chain_must_not_be_contradicted_by_more() -> None:
    best, other = peer("A", v5="a", v6="b"), peer("B", v5="a")
    assert chosen([best, other], offered_by=best) == (5, b"a", "AB")
    assert chosen([best, other], offered_by=best, above=5) == (6, b"b", "A")
    assert chosen([best, other], offered_by=best, above=6) is None
    liar = peer("L", v5="x")
    assert chosen([best, other, liar], offered_by=liar) is None


# ---- fetching


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    (tmp_path / "hosts").mkdir()
    started = Hosts(tmp_path / "hosts")
    yield started
    await started.close()


class Net:
    """Members of a swarm whose states can be fetched over real hosts."""

    def __init__(self, swarm: Swarm, asker: Host, servers: list[tuple[Host, Member]]) -> None:
        self.swarm = swarm
        self.asker = asker
        self.servers = servers

    def entries(self) -> list[RosterEntry]:
        found = []
        for host, member in self.servers:
            head = member.state.head
            status = pb.NodeStatus(state=pb.TRAINING, version=head.version, digest=head.digest)
            for version, held in member.state.held:
                status.held.add(version=version, state=held)
            found.append(RosterEntry(host.peer_id, status, 0.0, 0.0, member.state.chain))
        return found

    def newcomer(self, name: str) -> Member:
        """A member at version 0."""
        return Member(self.swarm.members[0].folder.parent / name, self.swarm._keys[0], self.swarm)

    async def fetch(self, choice: Choice, folder: Path, options: Options | None = None) -> Path:
        async with asyncio.timeout(DEADLINE_S):
            return await sync.fetch_checkpoint(
                self.asker, choice, self.swarm.manifest, folder, options or Options()
            )


@pytest.fixture
async def net(hosts: Hosts, tmp_path: Path) -> AsyncIterator[Net]:
    """Three members after four rounds, each behind a real host."""
    swarm = Swarm(tmp_path / "swarm", 3)
    for seed in range(1, 5):
        await one_round(swarm, seed)
    asker, _ = await hosts.start("asker")
    servers = []
    for number, member in enumerate(swarm.members):
        await member.driver.on_disk(member.state.save_if_due, True)
        host, _ = await hosts.start(f"host{number}")
        await connect(asker, host)

        def provide(kind: str, version: int, chunk: int, member: Member = member) -> files.ServedFile | None:
            return served_file(DataDir(member.folder), member.state, None, kind, version)

        await FileServer(host, swarm.manifest.swarm_id, provide).listen()
        servers.append((host, member))
    yield Net(swarm, asker, servers)
    await swarm.close()


async def test_an_agreed_state_is_fetched_and_verified(net: Net, tmp_path: Path) -> None:
    choice = choose_state(net.entries())
    assert choice is not None and choice.version == 4 and len(choice.peers) == 3
    folder = tmp_path / "new"
    folder.mkdir()
    for stale in ("incoming-00.safetensors.part", "incoming.safetensors"):
        (folder / stale).write_bytes(b"of an earlier choice")
    path = await net.fetch(choice, folder)
    assert [p.name for p in folder.iterdir()] == [path.name]
    _, member = net.servers[0]
    assert path.read_bytes() == checkpoint.path_of(member.folder / "checkpoints", 4).read_bytes()
    # Who was not shown the votes does not say that it is certified.
    assert not checkpoint.verify(path, net.swarm.manifest.swarm_id).head.certified
    assert member.state.head.certified


async def test_an_older_state_can_be_had(net: Net, tmp_path: Path) -> None:
    older = dict(net.servers[0][1].state.held)[2]
    path = await net.fetch(Choice(2, older, tuple(e.peer for e in net.entries())), tmp_path)
    assert checkpoint.verify(path, net.swarm.manifest.swarm_id).head.version == 2


async def test_one_that_gives_something_else_is_named_and_the_others_are_believed(
    net: Net, tmp_path: Path
) -> None:
    choice = choose_state(net.entries())
    assert choice is not None
    host, liar = net.servers[0]
    path = checkpoint.path_of(liar.folder / "checkpoints", 4)
    parameters = liar.state.parameters + 1
    checkpoint.save(
        path.parent,
        net.swarm.manifest.swarm_id,
        liar.state.head,
        liar.state.schema,
        parameters,
        liar.state.momentum,
        40,
    )
    fetched = await net.fetch(choice, tmp_path)
    assert checkpoint.verify(fetched, net.swarm.manifest.swarm_id).state == choice.state
    with pytest.raises(SyncFailed, match=readable_name(host.peer_id)) as caught:
        await net.fetch(Choice(4, choice.state, (host.peer_id,)), tmp_path / "swarm")
    assert caught.value.liars == (host.peer_id,)
    assert "not the state that was agreed on" in str(caught.value)


async def test_a_state_that_nobody_has_any_more(net: Net, tmp_path: Path) -> None:
    with pytest.raises(SyncFailed, match="not_found"):
        await net.fetch(Choice(9, state("x"), (net.servers[0][0].peer_id,)), tmp_path)
    with pytest.raises(SyncFailed, match="no peer is connected"):
        await net.fetch(Choice(9, state("x"), ()), tmp_path)


async def test_what_came_in_an_earlier_attempt_is_found_by_the_states_name(net: Net, tmp_path: Path) -> None:
    choice = choose_state(net.entries())
    assert choice is not None
    folder = tmp_path / "new"
    folder.mkdir()
    sync.incoming(folder, choice.state).with_suffix(".safetensors.part").write_bytes(b"half")
    (folder / "incoming-nonsense.safetensors.part").write_bytes(b"")
    assert sync.begun(folder) == {choice.state}


async def on_disk(work: Callable[..., object], *arguments: object) -> object:
    return work(*arguments)


def always(entry: RosterEntry) -> bool:
    return True


def ahead_of(member: Member) -> Ahead:
    rounds = member.state.rounds
    return Ahead(rounds.folder / "ahead", member.state.manifest.swarm_id, rounds.payload_bytes)


async def test_missed_commits_come_from_another_one_when_the_first_fails(net: Net) -> None:
    behind, again = net.newcomer("behind"), net.newcomer("again")
    assert behind.state.head.version == 0
    entries = net.entries()
    # The first one has lost its log.
    first = net.servers[0][1]
    for path in first.state.rounds.folder.glob("*.commit"):
        path.unlink()
    applied: sync.Applied = []
    async with asyncio.timeout(DEADLINE_S):
        await sync.catch_up(net.asker, entries, behind.state, on_disk, applied, ahead_of(behind), always)
    assert len(applied) == 4 and behind.bits == first.bits
    assert behind.state.head == first.state.head and applied[-1][1] == first.state.head.digest
    with pytest.raises(SyncFailed, match="not_found"):
        await sync.catch_up(net.asker, entries[:1], again.state, on_disk, [], ahead_of(again), always)
    far = [RosterEntry(b"x", pb.NodeStatus(version=100), 0.0, 0.0)]
    with pytest.raises(SyncFailed, match="longer than the log"):
        await sync.catch_up(net.asker, far, again.state, on_disk, [], ahead_of(again), always)
    for member in (behind, again):
        await member.driver.close()


async def test_commits_without_votes_are_replayed_as_far_as_they_count(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, applied, asked = net.newcomer("behind"), sync.Applied(), list[int]()
    entries, check = net.entries(), behind.state.check

    def seen(record: pb.RoundRecord) -> tuple[pb.Commit, bool]:
        """As if the third commit had been shown without its votes."""
        commit, certified = check(record)
        assert certified
        return commit, commit.version != 3

    def leads(entry: RosterEntry) -> bool:
        assert entry is entries[0]
        asked.append(behind.state.head.version)
        return len(asked) > 1

    monkeypatch.setattr(behind.state, "check", seen)
    for version in (2, 4):
        async with asyncio.timeout(DEADLINE_S):
            await sync.catch_up(net.asker, entries, behind.state, on_disk, applied, ahead_of(behind), leads)
        assert behind.state.head.version == len(applied) == version
    assert asked == [2, 2], "of those with votes nobody asks"
    await behind.driver.close()


async def test_what_peers_forget_while_a_state_comes_was_kept(net: Net) -> None:
    slow = net.newcomer("slow")
    ahead = ahead_of(slow)
    async with asyncio.timeout(DEADLINE_S), ahead.kept(net.asker, net.entries, 0):
        while not ahead.has(4):
            await asyncio.sleep(0)
    assert {path.name for path in ahead.folder.iterdir()} == {
        f"000000000{v}.{kind}" for v in (1, 2, 3, 4) for kind in ("commit", "payload")
    }
    for _, member in net.servers:
        for path in member.state.rounds.folder.glob("*.commit"):
            path.unlink()
    # One that was damaged is asked of peers, who have it no more.
    damaged = ahead.folder / "0000000004.payload"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    applied: sync.Applied = []
    with pytest.raises(SyncFailed, match="commit 4"):
        await sync.catch_up(net.asker, net.entries(), slow.state, on_disk, applied, ahead, always)
    assert len(applied) == 3 and slow.state.head.digest == net.servers[0][1].state.chain[1].digest
    ahead.forget(4)
    assert not list(ahead.folder.iterdir())
    await slow.driver.close()


async def test_what_comes_ahead_is_bounded_in_bytes_and_counts_against_the_cap(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = net.newcomer("slow")
    ahead = ahead_of(slow)
    cap = RateCap(1 << 30)
    ahead.folder.mkdir()
    ahead._room_bytes = 2 * ahead._limits["payload"]
    async with asyncio.timeout(DEADLINE_S):
        await ahead._keep(net.asker, net.entries, 0, cap)
    assert ahead.has(1) and not ahead.has(4)
    assert cap.ready_at() > 0.0
    monkeypatch.setattr("atoll.daemon.rounds.ahead.time.monotonic", lambda: 0.0)
    free = cap._free_at = 0.0
    ahead.forget(9)
    assert await ahead._paced(net.asker, net.entries(), 1, cap)
    assert cap.ready_at() == pytest.approx(free + ahead._size_bytes() / cap.bytes_per_s)
    await slow.driver.close()


async def test_a_full_disk_is_told_and_nobody_else_is_asked(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = net.newcomer("slow")
    asked: list[Path] = []

    def full(file: object, part: Path, target: Path) -> None:
        asked.append(target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "replace_durably", full)
    with pytest.raises(AtollError, match="No space left") as caught:
        await sync.catch_up(net.asker, net.entries(), slow.state, on_disk, [], ahead_of(slow), always)
    assert caught.value.code == "disk_full" and len(asked) == 1
    ahead = ahead_of(slow)
    ahead.folder.mkdir()
    with pytest.raises(AtollError, match="No space left"):
        await ahead._fetch(net.asker, net.entries(), 1)
    assert len(asked) == 2
    await slow.driver.close()


async def test_a_full_disk_while_a_state_comes_is_told(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    choice = choose_state(net.entries())
    assert choice is not None
    monkeypatch.setattr(fetching.os, "pwrite", full)
    with pytest.raises(AtollError) as caught:
        await net.fetch(choice, tmp_path)
    assert caught.value.code == "disk_full" and not sync.begun(tmp_path)


async def test_nobody_is_asked_for_what_all_have_forgotten(net: Net) -> None:
    slow = net.newcomer("slow")
    ahead = ahead_of(slow)
    far = RosterEntry(net.servers[0][0].peer_id, pb.NodeStatus(version=100), 0.0, 0.0)
    (task,) = [asyncio.create_task(ahead._keep(net.asker, lambda: [far], 5, RateCap()))]
    async with asyncio.timeout(DEADLINE_S):
        await task
    assert not ahead.has(6)
    blocked = Ahead(slow.folder / "no" / "where", b"", 0)
    with pytest.raises(AtollError, match="no/where"):
        async with blocked.kept(net.asker, net.entries, 0):
            pass
    await slow.driver.close()
