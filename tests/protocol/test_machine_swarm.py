"""Whole swarms on the shipping round machine: who dies when, what is lost, and how each session ends.

The invariants are checked by swarm.py after every step; the tests say what has to come of it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.protocol import messages_pb2 as pb

from .swarm import Delays, Node, Swarm, genesis


def reached(swarm: Swarm, version: int):
    return lambda: all(n.head.version >= version for n in swarm.nodes if n.alive)


def test_one_node_alone_is_a_swarm():
    swarm = Swarm(1)
    swarm.run(reached(swarm, 3))
    assert swarm.nodes[0].outcomes() == ["certified"] * 3


def test_three_nodes_certify_with_equal_bits():
    swarm = Swarm(3)
    swarm.run(reached(swarm, 5))
    for node in swarm.nodes:
        assert set(node.outcomes()) == {"certified"}
        assert not node.dropped
    commits = [c for c in swarm.commits.values() if c.version <= 5]
    assert all(len(c.contributors) == 3 for c in commits)
