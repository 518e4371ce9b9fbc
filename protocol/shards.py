"""The data in shards: their digest, how far each was read, and which node reads which. Pure functions.

The cursor counts the tokens that commits accepted from each training shard, so it follows from the chain and
is the same on every node. Whoever knows it and the training nodes knows who reads what: shards are read lap
by lap (a lap: as many tokens as the shard has bytes), the ones with fewest laps first.

A node keeps its shard for a whole lap. To take the least-read shard anew each round would balance no better
in the long run, and would have every node fetch another shard every round.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from atoll.protocol import messages_pb2 as pb

MAX_SHARDS = 4096
MAX_SHARD_BYTES = 1 << 30
SLACK_LAPS = 1
"""No shard is read that is further ahead of the least read one: its nodes help with that one."""


@dataclass(frozen=True)
class Reading:
    """What a node reads: windows of `shard` that belong to `part` of `parts`."""

    shard: int
    part: int = 0
    parts: int = 1


def table_digest(shards: Iterable[pb.DataShard]) -> bytes:
    """What names the data: SHA-256 over digest and size of each shard, in order."""
    total = hashlib.sha256(b"atoll/1/data\0")
    for shard in shards:
        total.update(bytes(shard.digest) + int(shard.size_bytes).to_bytes(8, "big"))
    return total.digest()


def training_sizes(data: pb.Data) -> tuple[int, ...]:
    """Bytes of each shard that is trained on: all but the last, which is for validation."""
    return tuple(int(shard.size_bytes) for shard in data.shards[:-1])


def advance(read: Sequence[int], commit: pb.Commit) -> tuple[int, ...]:
    """The cursor after a commit: each contributor's tokens, for the part of the chunks that hold them.

    Tokens of a shard that does not exist count nowhere.
    """
    after, chunks = list(read), [0] * len(commit.contributors)
    for chunk in commit.chunks:
        for index in chunk.contributors:
            chunks[index] += 1
    for contributor, count in zip(commit.contributors, chunks, strict=True):
        if contributor.shard < len(after):
            after[contributor.shard] += contributor.tokens * count // max(1, len(commit.chunks))
    return tuple(after)


def _draw(seed: int, *parts: bytes) -> bytes:
    """What decides between equals: a hash of the seed and whatever it is about."""
    return hashlib.sha256(b"atoll/1/shard\0" + seed.to_bytes(8, "big") + b"".join(parts)).digest()


def _number(value: int) -> bytes:
    return value.to_bytes(16, "big")


def _due(read: Sequence[int], sizes: Sequence[int], seed: int, among: Iterable[int], count: int) -> list[int]:
    """At most `count` of the shards `among`, in the order in which they are to be read."""
    laps = {shard: read[shard] // sizes[shard] for shard in among}
    least = min(laps.values())
    order = [
        (lap, _draw(seed, _number(lap), _number(shard)), shard)
        for shard, lap in laps.items()
        if lap <= least + SLACK_LAPS
    ]
    return [shard for _, _, shard in heapq.nsmallest(count, order)]


def assign(
    read: Sequence[int], sizes: Sequence[int], nodes: Collection[bytes], seed: int
) -> dict[bytes, Reading]:
    """What each of the training `nodes` reads at a head whose cursor is `read`; `sizes` in bytes.

    One node a shard while there are enough shards that are due; else several nodes split one, by window.
    Each shard draws the node that a hash prefers, so that few nodes change when one comes or goes.
    """
    due = _due(read, sizes, seed, range(len(sizes)), len(nodes))
    readers: dict[int, list[bytes]] = {shard: [] for shard in due}
    free = sorted(nodes)
    for turn in range(len(free)):
        shard = due[turn % len(due)]
        chosen = max(free, key=lambda node: _draw(seed, _number(shard), node))
        free.remove(chosen)
        readers[shard].append(chosen)
    return {
        node: Reading(shard, part, len(members))
        for shard, members in readers.items()
        for part, node in enumerate(sorted(members))
    }


def upcoming(
    read: Sequence[int], sizes: Sequence[int], now: Mapping[bytes, Reading], seed: int, me: bytes
) -> int:
    """The shard that `me` is likely to read next, as far as one can know: for fetching it in time.

    `now`: what `assign` says. Shards that have less of their lap left than that of `me` are done by then.
    """
    left = {r.shard: sizes[r.shard] - read[r.shard] % sizes[r.shard] for r in now.values()}
    mine = left[now[me].shard]
    then = [count + left[s] if left.get(s, mine + 1) <= mine else count for s, count in enumerate(read)]
    return assign(then, sizes, now, seed)[me].shard


def fixed(read: Sequence[int], sizes: Sequence[int], seed: int, index: int, count: int) -> Reading:
    """What a node reads that is told to be number `index` of `count`, whoever else is there."""
    shards = len(sizes)
    if count <= shards:
        return Reading(_due(read, sizes, seed, range(index, shards, count), 1)[0])
    shard = index % shards
    return Reading(shard, index // shards, len(range(shard, count, shards)))
