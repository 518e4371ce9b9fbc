"""How long survivors take after a kill -9 in mid-round, on loopback.

    python -m tests.process.kill_nine --trials 8

Nodes as in `atoll demo`. In each trial one of them is killed while pseudo-gradients are being averaged: the
session's leader, or another member (which sends and reduces, as all do). Measured from the kill, by the
survivors' own event logs: until they notice that its connection ended, and until the round under way is
committed. Prints one line for each trial and a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage.data_dir import DataDir
from atoll.web_ui.client import ApiError

from .harness import Daemon, must, wait_until

NODES = 4
ROLES = ("leader", "member")


@dataclass(frozen=True)
class Trial:
    """Seconds from the kill: the last survivor's notice, and the last survivor's commit."""

    role: str
    noticed_s: float
    committed_s: float
    outcome: str
    continued: bool
    """Whether the session had to go on without the one that was killed; else it was almost over."""


def state(daemon: Daemon) -> dict[str, Any] | None:
    try:
        client = client_of(DataDir(daemon.folder))
        return client.state() if client else None
    except ApiError:
        return None


def events(daemon: Daemon, since: float) -> list[dict[str, Any]]:
    lines = DataDir(daemon.folder).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["time"] >= since]


def in_exchange(daemon: Daemon) -> dict[str, Any] | None:
    """The node's state while its session is in the exchange."""
    now = state(daemon)
    return now if now and now["session"] and now["session"]["phase"] == "exchange" else None


def _commit_of(log: list[dict[str, Any]], version: int) -> dict[str, Any] | None:
    """The event that tells of the commit that makes a version."""
    found = (e for e in log if e["kind"] == "round" and e["round"]["version"] == version)
    return next((e for e in found if e["round"]["outcome"] in ("certified", "provisional")), None)


def _lost(log: list[dict[str, Any]]) -> list[float]:
    """When peers went down."""
    return [event["time"] for event in log if event["kind"] == "peer-down"]


def trial(daemons: list[Daemon], role: str) -> tuple[Trial | None, Daemon]:
    """Waits for a session, kills, and reads what the survivors wrote down. Also who was killed.

    None where the round was over before the kill: then the next one was hit between two rounds.
    """
    watched = daemons[0]
    # Before the session: an exchange takes less time than to ask everybody who they are.
    ids = {state_of["node_id"]: d for d in daemons if (state_of := state(d))}

    def session() -> tuple[dict[str, Any], Daemon] | None:
        found = in_exchange(watched)
        if found is None:
            return None
        leader = ids.get(found["session"]["leader"])
        others = [d for d in daemons if d is not leader]
        victim = leader if role == "leader" else others[-1]
        return (found, victim) if victim is not None else None

    found, victim = wait_until(session, "a session in the exchange", 120.0)
    version = found["version"] + 1
    killed = time.time()
    victim.kill()
    survivors = [d for d in daemons if d is not victim]

    def committed() -> list[list[dict[str, Any]]] | None:
        # A commit may be there before the loss of the connection is: both are waited for.
        logs = [events(d, killed) for d in survivors]
        return logs if all(_commit_of(log, version) and _lost(log) for log in logs) else None

    began = killed - 10.0
    if any((over := _commit_of(events(d, began), version)) and over["time"] < killed for d in survivors):
        return None, victim
    logs = wait_until(committed, "the survivors' commit", 60.0)
    noticed, ends = [], []
    for log in logs:
        noticed.append(_lost(log)[0] - killed)
        commit = _commit_of(log, version)
        assert commit is not None
        ends.append((commit["time"] - killed, str(commit["round"]["outcome"])))
    last = max(ends)
    continued = any(e["kind"] == "round" and e["round"]["outcome"] == "aborted" for log in logs for e in log)
    return Trial(role, max(noticed), last[0], last[1], continued), victim


def _takes_part(status: dict[str, Any]) -> bool:
    ready = status["phase"]["name"] != "joining" and status["accepted_tokens"] > 0
    return bool(status["peers"] == NODES - 1 and ready and status["certified"])


def measure(root: Path, trials: int) -> list[Trial]:
    """All trials; each victim comes back before the next."""
    must("init", "lab", "--data-dir", str(root / "0"), "--inner-steps", "20", "--min-peers", str(NODES))
    daemons = [Daemon(root / "0", "run")]
    made: list[Trial] = []
    try:
        ticket = daemons[0].ticket()
        daemons += [Daemon(root / str(k), "join", ticket, "--yes") for k in range(1, NODES)]
        for number, role in itertools.product(range(trials), ROLES):
            one: Trial | None = None
            while one is None:
                for daemon in daemons:
                    daemon.wait_for(_takes_part, "everybody in the rounds")
                one, victim = trial(daemons, role)
                daemons[daemons.index(victim)] = Daemon(victim.folder, "run")
            made.append(one)
            print(f"{number + 1} {one}", file=sys.stderr, flush=True)
    finally:
        for daemon in daemons:
            daemon.stop()
    return made


def table(made: list[Trial]) -> str:
    lines = [
        "| killed | trials | session continued | noticed: median, worst | committed: median, worst |",
        "|---|---|---|---|---|",
    ]
    for role in ROLES:
        mine = [one for one in made if one.role == role]
        columns = []
        for name in ("noticed_s", "committed_s"):
            values = [getattr(one, name) for one in mine]
            columns.append(f"{statistics.median(values):.2f} s, {max(values):.2f} s")
        lines.append(f"| {role} | {len(mine)} | {sum(o.continued for o in mine)} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 in mid-round: notice and commit of the survivors.")
    parser.add_argument("--trials", type=int, default=5, help="for each role (5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-kill-") as folder:
        print(table(measure(Path(folder), args.trials)))


if __name__ == "__main__":
    main()
