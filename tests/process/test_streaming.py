"""Three real daemons that synchronise a third of the model at a time, and train on meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.ledger import Ledger

from .harness import Daemon, must

pytestmark = pytest.mark.process
NODES, FRAGMENTS, ROUNDS = 3, 3, 7


@pytest.mark.timeout(600)
def test_fragments_take_turns_between_real_nodes(start: Callable[..., Daemon], tmp_path: Path) -> None:
    swarm = ("--mode", "streaming", "--inner-steps", "15", "--batch", "2", "--min-peers", str(NODES))
    must("init", "lab", "--data-dir", str(tmp_path / "n0"), *swarm)
    first = start("n0", "run", "--rounds", str(ROUNDS))
    ticket = first.ticket()
    nodes = [first, *(start(f"n{k}", "join", ticket, "--yes", "--rounds", str(ROUNDS)) for k in (1, 2))]
    for node in nodes:
        node.wait_for_version(ROUNDS)
    statuses = [node.wait_for(lambda s: s["state"] == "paused", "the end") for node in nodes]
    assert len({(s["version"], s["digest"]) for s in statuses}) == 1
    for node in nodes:
        folder = DataDir(node.folder)
        client = client_of(folder)
        assert client is not None
        ended = [r for r in client.picture()["rounds"] if r["outcome"] == "certified"]
        assert len(ended) == ROUNDS and all(len(r["contributed"]) == NODES for r in ended)
        account = Ledger.from_json(json.loads(folder.account.read_text())).account
        assert account.balanced() and not account.orphaned and not account.lost and account.accepted
    touched = []
    for version in range(1, ROUNDS + 1):
        record = pb.RoundRecord.FromString((first.folder / f"rounds/{version:010d}.commit").read_bytes())
        commit = pb.Commit.FromString(record.commit.body)
        assert commit.session.fragment == (version - 1) % FRAGMENTS
        touched.append({chunk for chunk, made in enumerate(commit.chunks) if made.contributors})
    assert touched[:3] == touched[3:6] and touched[6] == touched[0]
    assert not any(a & b for a, b in pairwise(touched))
    assert set().union(*touched) == set(range(len(commit.chunks)))
