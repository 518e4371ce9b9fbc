"""Who reads which shard: everyone something, each shard alike, and few changes when a node comes or goes."""

from __future__ import annotations

import hashlib
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb
from atoll.protocol import shards
from atoll.protocol.shards import Reading


def peer(number: int) -> bytes:
    return b"peer" + number.to_bytes(4, "big")


cases = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(0, 1 << 40), min_size=count, max_size=count),
        st.lists(st.integers(1, 1 << 20), min_size=count, max_size=count),
        st.sets(st.integers(0, 100), min_size=1, max_size=20).map(lambda ids: [peer(i) for i in ids]),
        st.integers(0, (1 << 64) - 1),
    )
)


@given(cases, st.randoms(use_true_random=False))
def test_everyone_reads_and_nothing_is_read_twice(
    case: tuple[list[int], list[int], list[bytes], int], shuffle: random.Random
) -> None:
    read, sizes, nodes, seed = case
    plan = shards.assign(read, sizes, nodes, seed)
    assert plan.keys() == set(nodes)
    by_shard: dict[int, list[Reading]] = {}
    for reading in plan.values():
        by_shard.setdefault(reading.shard, []).append(reading)
    for shard, readings in by_shard.items():
        count = len(readings)
        assert sorted(r.part for r in readings) == list(range(count)) and 0 <= shard < len(sizes)
        assert all(r.parts == count for r in readings)
    sharing = [len(readings) for readings in by_shard.values()]
    assert max(sharing) - min(sharing) <= 1
    laps = [r // s for r, s in zip(read, sizes, strict=True)]
    due = [shard for shard, lap in enumerate(laps) if lap <= min(laps) + shards.SLACK_LAPS]
    assert len(by_shard) == min(len(due), len(nodes)) and by_shard.keys() <= set(due)
    behind = max(laps[shard] for shard in by_shard)
    assert all(shard in by_shard for shard in due if laps[shard] < behind), "under-read shards first"
    shuffled = list(nodes)
    shuffle.shuffle(shuffled)
    assert shards.assign(read, sizes, shuffled, seed) == plan, "a function of its arguments alone"
    assert 0 <= shards.upcoming(read, sizes, plan, seed, nodes[0]) < len(sizes)


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_a_node_told_its_place_reads_its_part(count: int, nodes: int, seed: int) -> None:
    """INDEX of COUNT: the nodes of one such table cover all shards, none of them twice."""
    read, sizes = [0] * count, [100] * count
    readings = [shards.fixed(read, sizes, seed, index, nodes) for index in range(nodes)]
    assert len(set(readings)) == nodes
    if nodes >= count:
        assert {(r.shard, r.part) for r in readings} == {
            (s, p) for s in range(count) for p in range(len(range(s, nodes, count)))
        }
        assert all(0 <= r.part < r.parts for r in readings)
    else:
        for index in range(nodes):
            cursor, visited = list(read), set()
            for _ in range(2 * count):
                shard = shards.fixed(cursor, sizes, seed, index, nodes).shard
                visited.add(shard)
                cursor[shard] += 50
            assert visited == set(range(index, count, nodes))


def test_one_shard_is_split_by_the_order_of_the_nodes() -> None:
    nodes = [peer(i) for i in (3, 1, 2)]
    assert shards.assign([7], [5], nodes, 1) == {peer(i): Reading(0, i - 1, 3) for i in (1, 2, 3)}
    assert shards.fixed([7], [5], 1, 2, 3) == Reading(0, 2, 3)


@pytest.mark.parametrize("count", [1, 3, 10, 40])
def test_reads_stay_balanced_while_nodes_of_all_speeds_come_and_go(count: int) -> None:
    rng = random.Random(count)
    sizes = [rng.randrange(900, 1100) for _ in range(count)]
    read, speeds = [0] * count, {peer(i): rng.randrange(10, 100) for i in range(8)}
    widest = 0.0
    for version in range(4000):
        if version % 50 == 49:
            speeds.pop(rng.choice(sorted(speeds)))
            speeds[peer(version)] = rng.randrange(10, 100)
        for node, reading in shards.assign(read, sizes, list(speeds), 1).items():
            read[reading.shard] += speeds[node]
        laps = [r / s for r, s in zip(read, sizes, strict=True)]
        widest = max(widest, max(laps) - min(laps))
    # The slack, the lap that was under way, and a last phase of as many nodes as there may be at one shard.
    assert widest <= shards.SLACK_LAPS + 2
    assert min(laps) > 0.9 * mean(laps) - shards.SLACK_LAPS - 1 and (count > 10 or min(laps) > 5)


def test_nodes_keep_their_shard_for_a_lap() -> None:
    sizes, nodes = [1000] * 50, [peer(i) for i in range(8)]
    read, changes = [0] * 50, 0
    before = shards.assign(read, sizes, nodes, 5)
    for _ in range(500):
        for reading in before.values():
            read[reading.shard] += 10
        now = shards.assign(read, sizes, nodes, 5)
        changes += sum(now[node].shard != before[node].shard for node in nodes)
        before = now
    assert sum(read) // 1000 == 40
    assert changes <= 2 * 40 + len(nodes), "about one change for each lap that was read"


def test_few_nodes_change_when_one_comes_or_goes() -> None:
    moved = []
    for seed in range(100):
        nodes = [peer(i) for i in range(seed, seed + 20)]
        whole = shards.assign([0] * 64, [10] * 64, nodes, seed)
        less = shards.assign([0] * 64, [10] * 64, nodes[:7] + nodes[8:], seed)
        moved.append(sum(whole[node].shard != reading.shard for node, reading in less.items()))
    assert mean(moved) < 4, "of 19; by place in a sorted list it would be half of them"


def test_what_comes_next_is_guessed_right_more_often_than_not() -> None:
    sizes, nodes = [1000] * 40, [peer(i) for i in range(4)]
    read, right, wrong = [0] * 40, 0, 0
    for _ in range(300):
        before = shards.assign(read, sizes, nodes, 3)
        guesses = {node: shards.upcoming(read, sizes, before, 3, node) for node in nodes}
        for node, reading in before.items():
            read[reading.shard] += 50 + nodes.index(node)
        for node, reading in shards.assign(read, sizes, nodes, 3).items():
            if reading.shard != before[node].shard:
                right += reading.shard == guesses[node]
                wrong += reading.shard != guesses[node]
    assert right > wrong > 0


def commit(*contributors: tuple[int, int], chunks: list[list[int]]) -> pb.Commit:
    return pb.Commit(
        contributors=[pb.Contributor(tokens=tokens, shard=shard) for tokens, shard in contributors],
        chunks=[pb.CommittedChunk(contributors=members) for members in chunks],
    )


def test_the_cursor_counts_what_was_accepted() -> None:
    both = [[0, 1, 2]] * 4
    assert shards.advance((0, 5), commit((100, 0), (50, 1), (30, 1), chunks=both)) == (100, 85)
    part = [[0], [0, 1], [], [1]]
    assert shards.advance((0, 0), commit((100, 0), (51, 1), (9, 0), chunks=part)) == (50, 25)
    assert shards.advance((1, 2), commit((100, 7), chunks=[[0]])) == (1, 2), "no such shard"
    assert shards.advance((), commit((100, 0), chunks=[[0]])) == (), "data of each node's own"


def test_the_digest_of_the_table() -> None:
    table = [pb.DataShard(digest=bytes([n]) * 32, size_bytes=n) for n in (1, 2)]
    raw = b"atoll/1/data\0" + b"\1" * 32 + (1).to_bytes(8, "big") + b"\2" * 32 + (2).to_bytes(8, "big")
    assert shards.table_digest(table) == hashlib.sha256(raw).digest()
    assert shards.training_sizes(pb.Data(shards=table)) == (1,)
    assert shards.training_sizes(pb.Data()) == ()
