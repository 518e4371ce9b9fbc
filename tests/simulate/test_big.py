"""Many nodes in rounds with two levels; `atoll simulate big` does the same with a thousand."""

from __future__ import annotations

import pytest

from atoll.daemon.cli import main
from atoll.daemon.simulate import big
from atoll.daemon.simulate.engine import Violation
from atoll.protocol.round.exchange import Exchange


def test_a_hundred_nodes_average_in_groups_of_ten():
    outcome = big.Big(100, seed=1).run(2)
    assert outcome.groups == 10 and outcome.outcomes == {"certified": 200}
    assert outcome.partners == 9 + 9, "its group and its row"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nodes_that_die_in_a_round_stop_nobody(seed: int):
    outcome = big.Big(64, seed, losses=3).run(4)
    assert outcome.lost == 9 and outcome.outcomes["certified"] >= 4 * 55


def test_a_wrong_sum_and_a_round_without_an_end_are_found(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as wrong:
        wrong.setattr(big, "_payload", lambda number: (number & ~1).to_bytes(big.NUMBER_BYTES, "big"))
        with pytest.raises(Violation, match="conservation"):
            big.Big(36, 1).run(1)
    with monkeypatch.context() as empty:
        averaged = Exchange.averaged
        empty.setattr(Exchange, "averaged", lambda self, chunk, *_: averaged(self, chunk, (), b""))
        with pytest.raises(Violation, match="everybody"):
            big.Big(36, 1).run(1)
    with monkeypatch.context() as lost:
        lost.setattr(big.Big, "_reduce", lambda *_: None)
        with pytest.raises(Violation, match="progress"):
            big.Big(36, 1).run(1)


def test_the_command(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "big", "--nodes", "40", "--losses", "1", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert "40 nodes in 6 groups" in out and out.splitlines()[-1].startswith("Passed: ")
    assert main(["simulate", "big", "--nodes", "1"]) == 2
    assert main(["simulate", "big", "--nodes", "40", "--losses", "40", "--rounds", "2"]) == 2
