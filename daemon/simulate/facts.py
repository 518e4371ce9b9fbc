"""What all nodes of a simulated swarm agree on: sizes, learning rates, what a contribution looks like.

A contribution proves what it is. In each chunk of 256 values, node k only ever moves value k, by one for each
token it trained on; value TAG counts the contributors, and value PARENT sums up a number that follows from
the parent that each measured against. All are small integers and every learning rate is a power of two, so
fp32 sums are exact, and the state of a swarm says how often each token of each node is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from atoll.protocol import chain
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.chain import Head
from atoll.protocol.modes.doors import ALL, WINDOW
from atoll.protocol.outer import Float32
from atoll.protocol.round import RoundConfig
from atoll.protocol.schema import ChunkTable

SWARM = hashlib.sha256(b"a simulated swarm").digest()
CODEC = "fp32"
VALUES = 256
COUNT = 4
PARENT, TAG = 254, 255
MOMENTUM = 0.0
WINDOW_S = 0.5
"""With small commits, those who are ready within it are taken in together."""


def outer_lr(contributors: int) -> float:
    """Another one for nearly every number of contributors, and never 1: a wrong one is seen in the state."""
    return float(0.5 ** (1 + contributors % 4))


def lr_of(commit: pb.Commit) -> float:
    """That of a commit, by those who train where small commits follow each other."""
    return outer_lr(len(commit.voters) or len(commit.contributors))


def mark(parent: bytes) -> int:
    """A small number that follows from a chain digest."""
    return 1 + int.from_bytes(parent[:2], "big") % 1023


def chunks(fragments: int) -> ChunkTable:
    """COUNT chunks, which the fragments have in turns."""
    runs = tuple((chunk * VALUES, chunk % fragments) for chunk in range(COUNT))
    return ChunkTable(COUNT * VALUES, VALUES, runs=runs)


def digest(payload: bytes) -> bytes:
    """SHA-256, as results are named."""
    return hashlib.sha256(payload).digest()


def own(vector: Float32, slot: int) -> Float32:
    """A view of the values of one slot: one per chunk."""
    return vector[slot::VALUES]


def genesis(node: bytes) -> Head:
    """Version 0: only this node may vote on the first commit."""
    parameters = hashlib.sha256(np.zeros(COUNT * VALUES, np.float32).tobytes()).digest()
    return Head(0, chain.genesis_digest(SWARM, parameters), (node,))


def round_config(
    genesis_node: bytes,
    min_peers: int,
    two_level_above: int,
    chunks: ChunkTable,
    small_commits: bool = False,
) -> RoundConfig:
    """Short waits: a simulated second costs as much as a real one would."""
    return RoundConfig(
        swarm_id=SWARM,
        chunks=COUNT,
        fragments=chunks.fragments,
        codec=CODEC,
        result_codec=CODEC,
        outer_lr=outer_lr,
        genesis_node=genesis_node,
        two_level_above=two_level_above,
        door=WINDOW if small_commits else ALL,
        door_s=WINDOW_S if small_commits else 0.0,
        small_commits=small_commits,
        holds=True,
        min_peers_to_start=min_peers,
        grace_floor_s=0.3,
        grace_cap_s=3.0,
        scatter_s=3.0,
        reduce_s=3.0,
        vote_s=2.0,
        repeat_s=1.0,
        stash_events=2048,
        stash_bytes=4 << 20,
    )


def name_of(peers: Iterable[bytes]) -> str:
    """Short names for a trace."""
    return " ".join(peer[-4:].hex() for peer in peers)
