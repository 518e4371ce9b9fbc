"""What dies below a node is started again, and the node goes on: its trainer, its libp2p process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.daemon.storage.data_dir import DataDir

from .harness import Daemon, descendants, must, wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def pair(start: Callable[..., Daemon], tmp_path: Path) -> tuple[Daemon, Daemon]:
    """Two nodes that have contributed to a round together."""
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "15", "--min-peers", "2")
    a = start("a", "run")
    b = start("b", "join", a.ticket(), "--yes")
    for daemon in (a, b):
        daemon.wait_for(lambda s: s["accepted_tokens"] > 0, "an accepted update")
    return a, b


def child(daemon: Daemon, what: str, other_than: int = 0) -> int:
    """The process below a daemon whose command line holds this word."""

    def look() -> int | None:
        for pid in descendants(daemon.process.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if what in words and pid != other_than:
                return pid
        return None

    found: int = wait_until(look, f"{what} below the daemon")
    return found


def events(daemon: Daemon) -> str:
    return DataDir(daemon.folder).events.read_text()


def both_contribute(pair: tuple[Daemon, Daemon]) -> None:
    """Each node's update is accepted in a round that is still to come."""
    before = [daemon.wait_for(lambda s: True, "a status") for daemon in pair]
    for daemon, then in zip(pair, before, strict=True):
        daemon.wait_for(
            lambda s, then=then: s["accepted_tokens"] > then["accepted_tokens"] and s["peers"] == 1,
            "a later update that is accepted",
        )


def test_p2pd_is_started_again_and_training_goes_on(pair: tuple[Daemon, Daemon]) -> None:
    victim = pair[1]
    trainer, p2pd = child(victim, "training.trainer"), child(victim, "hivemind_cli/p2pd")
    os.kill(p2pd, signal.SIGKILL)
    child(victim, "hivemind_cli/p2pd", other_than=p2pd)
    both_contribute(pair)
    assert child(victim, "training.trainer") == trainer
    victim.wait_for(lambda s: not [a for a in s["alerts"] if a["code"] == "p2pd_ended"], "the alert is over")
    assert "p2pd_ended" in events(victim) and "The libp2p process runs again." in events(victim)


def test_a_trainer_that_is_killed_is_started_again_and_the_node_stays(pair: tuple[Daemon, Daemon]) -> None:
    victim = pair[0]
    trainer, p2pd = child(victim, "training.trainer"), child(victim, "hivemind_cli/p2pd")
    os.kill(trainer, signal.SIGKILL)
    assert child(victim, "training.trainer", other_than=trainer) != trainer
    both_contribute(pair)
    assert child(victim, "hivemind_cli/p2pd") == p2pd
    assert "signal 9" in events(victim)
    account = victim.wait_for(lambda s: True, "a status")["token_account"]
    parts = sum(account[name] for name in ("accepted", "carried", "orphaned", "expired", "lost"))
    assert abs(account["produced"] - parts) <= 5


def test_every_line_of_a_json_log_is_json(start: Callable[..., Daemon], tmp_path: Path) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "5")
    node = start("a", "run", "--rounds", "2", "--log-format", "json")
    node.wait_for(lambda s: s["state"] == "paused", "two rounds")
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert all({"time", "level", "kind", "text"} <= set(line) for line in lines)
    assert {"greeting", "progress", "start", "round", "validation", "stop"} <= {
        line["kind"] for line in lines
    }
