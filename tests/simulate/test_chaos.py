"""Seeds of the simulator: no violation, the same history every time, and violations that can be replayed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from atoll.daemon.cli import main
from atoll.daemon.errors import AtollError
from atoll.daemon.simulate import campaign, chaos, mutants, scenario
from atoll.daemon.simulate.download import Download
from atoll.daemon.simulate.engine import Engine, Violation
from atoll.daemon.simulate.island import AheadIsland
from atoll.peers import transfer as tr
from atoll.protocol import messages_pb2 as pb

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = 300
"""How many seeds each run of the tests tries; `make sim` tries 10,000."""
SLICE = 30


@pytest.mark.parametrize("first", range(1, 1 + SEEDS, SLICE))
def test_no_seed_violates_an_invariant(first: int):
    for seed in range(first, first + SLICE):
        chaos.run(seed)


@pytest.mark.parametrize("seed", [1247, 3181, 4189, 7381, 9224, 9983])
def test_seeds_that_once_did(seed: int):
    chaos.run(seed)


def _ahead(count: int) -> list[int]:
    """The first seeds whose trainers go on before the commit."""
    drawn = ((seed, scenario.draw(Engine(seed).random)) for seed in range(1, 1000))
    return list(itertools.islice((seed for seed, plan in drawn if plan.ahead), count))


def test_progress_ahead_of_a_commit_that_is_offered_twice_is_found(monkeypatch: pytest.MonkeyPatch):
    """The mutant: what a commit has taken stays in the snapshot."""

    def forgetful(self: AheadIsland, commits: Sequence[tuple[pb.Commit, bytes]]) -> None:
        for commit, digest in commits:
            self._book(commit, digest)
        self._snapshot = None

    seeds = _ahead(3)
    for seed in seeds:
        chaos.run(seed)
    monkeypatch.setattr(AheadIsland, "committed", forgetful)
    for seed in seeds:
        with pytest.raises(Violation, match="local progress"):
            chaos.run(seed)


def test_a_swarm_without_faults_certifies_every_round():
    """Joiners aside: what they miss before they are linked to everyone is another matter."""
    swarms = (chaos.Swarm(seed, kinds=()) for seed in range(100))
    whole = [swarm for swarm in swarms if not any(swarm.plan.starts)][:3]
    for swarm in whole:
        outcome = swarm.run()
        assert set(outcome.outcomes) == {"certified"} and outcome.certified == outcome.rounds >= 10
    assert len(whole) == 3


@pytest.mark.parametrize("kind", scenario.KINDS)
def test_each_fault_alone(kind: str):
    for seed in range(3):
        chaos.run(seed, kinds=(kind,))


def test_a_state_is_fetched_from_several_holders_at_once(monkeypatch: pytest.MonkeyPatch):
    """The shipping transfer machine is what downloads: somewhere in these seeds it asks more than one."""
    asked: dict[int, set[bytes]] = {}
    ask = Download._ask

    def noted(self: Download, effect: tr.Ask) -> None:
        asked.setdefault(id(self), set()).add(effect.holder)
        ask(self, effect)

    monkeypatch.setattr(Download, "_ask", noted)
    for seed in range(1, 9):
        chaos.run(seed)
    assert max(len(holders) for holders in asked.values()) > 1


def history(seed: int) -> list[str]:
    lines: list[str] = []
    chaos.run(seed, lines.append)
    return lines


def test_a_seed_has_one_history():
    assert history(5) == history(5) != history(6)


def test_hash_seeds_change_nothing():
    """Sets of bytes have another order in each process, unless somebody sorts them."""
    code = (
        "import hashlib; from atoll.daemon.simulate import chaos; h = hashlib.sha256()\n"
        "for seed in range(8): chaos.run(seed, lambda line: h.update(line.encode()))\n"
        "print(h.hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65


def test_a_violation_says_how_to_replay_it():
    with mutants.vote_before_fsync(), pytest.raises(Violation) as caught:
        chaos.run(1)
    text = str(caught.value)
    assert "atoll simulate chaos --seed 1 --trace" in text
    assert "'durable votes'" in text and len(caught.value.trace) >= 5


def test_a_swarm_that_never_ends_is_a_violation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("atoll.daemon.simulate.engine.MAX_EVENTS", 100)
    engine = Engine(1)

    def again() -> None:
        engine.at(engine.now, again)

    again()
    with pytest.raises(Violation, match="no end"):
        engine.run(lambda: False)


def test_a_campaign_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "state.json"
    progress = campaign.load(path, 1, 4)
    progress.add(chaos.run(1))
    campaign._save(progress, path)
    assert campaign.load(path, 1, 4) == progress
    with pytest.raises(AtollError, match="of seeds 1"):
        campaign.load(path, 2, 4)
    command = ["simulate", "chaos", "--seed", "1", "--seeds", "4", "--jobs", "1", "--resume", str(path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "4 of 4 seeds, 0 violations" in out and out.splitlines()[-1].startswith("Passed: ")
    assert campaign.load(path, 1, 4).done == 4


def test_a_campaign_notes_violations_and_goes_on(capsys: pytest.CaptureFixture[str]):
    with mutants.rebase_twice():
        assert main(["simulate", "chaos", "--seed", "1", "--seeds", "2", "--jobs", "1"]) == 70
    out = capsys.readouterr().out
    assert "2 violations" in out
    assert out.splitlines()[-1].startswith("Failed: ") and "chaos --seed 2 --trace" in out.splitlines()[-1]


def test_the_command_for_one_seed(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "chaos", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "per CPU-second" in out and out.splitlines()[-1].startswith("Passed: ")
    assert main(["simulate", "chaos", "--seed", "3", "--trace"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 300
    with mutants.rebase_twice():
        assert main(["simulate", "chaos", "--seed", "1"]) == 70
    said = capsys.readouterr()
    assert "replay it with" in said.err and said.out == (
        "Failed: to see it again, atoll simulate chaos --seed 1 --trace\n"
    )
    assert main(["simulate", "chaos", "--seeds", "0"]) == 2
    assert main(["simulate", "chaos", "--seeds", "2", "--trace"]) == 2
