"""The papers' tables of bandwidth: how many cells the closed form gives, and that the bound is one."""

from __future__ import annotations

import json
import math

import pytest

from atoll.daemon.cli import main
from atoll.daemon.simulate import timing
from atoll.daemon.simulate import utilisation as u
from atoll.daemon.simulate.timing import Line


def test_streaming_diloco_is_reproduced_within_one_step():
    table = u.streaming_table()
    assert len(table.rows) == 15 and table.cells == 75
    assert (table.within(0), table.within(1)) == (65, 75)


def test_the_scaling_laws_are_reproduced_within_two_steps():
    table = u.scaling_table()
    assert len(table.rows) == 15 and table.cells == 75
    assert (table.within(0), table.within(1), table.within(2)) == (32, 70, 75)


def test_what_papers_print_is_on_the_grid():
    """A figure that was copied wrongly would be far from every point."""
    for table in (u.streaming_table(), u.scaling_table(), u.eager_table()):
        for row in table.rows:
            assert list(row.paper) == sorted(row.paper), row.name
            assert all(min(abs(gbps - point) for point in u.GRID) <= 0.06 for gbps in row.paper), row.name


def test_runs_over_the_internet_follow_from_what_they_publish():
    runs = u.runs()
    assert [round(100 * run.paper, 1) for run in runs] == [95.7, 85.6, 83.0, 94.5, 36.0]
    assert all(abs(run.points) < 1 for run in runs)


def test_eager_is_bounded_by_the_bits_that_have_to_move():
    model = u.STREAMING_MODELS[0]
    assert u.eager(model, 100, model.gbit(u.FP4) / 10.0) == 1.0, "as long as the phase: all of it is hidden"
    assert u.eager(model, 100, model.gbit(u.FP4) / 20.0) == pytest.approx(0.5)
    assert "bound" in u.eager_table().note


@pytest.mark.parametrize("model", u.STREAMING_MODELS)
def test_more_bandwidth_and_more_steps_never_hurt(model: u.Model):
    for steps in (30, 100):
        curve = [u.blocking(model, steps, gbps) for gbps in u.GRID]
        assert curve == sorted(curve) and 0 < curve[0] < curve[-1] <= 1
    assert u.blocking(model, 30, 5.0) < u.blocking(model, 100, 5.0)


def test_a_target_beyond_the_grid_is_said_to_be():
    assert u.needed(lambda gbps: 0.4, 0.5) == math.inf
    assert u.Row("slow", (1000.0,), (math.inf,)).steps == (1,)


def test_an_all_reduce_takes_what_a_butterfly_can():
    """T = S · max(1 / slowest, 2 (N - 1) / sum), where one leg is as wide as the other."""
    for speeds in ((10, 20, 50, 200), (10, 12, 15, 18), (10, 20, 50, 200) * 4):
        lines = [Line(1e6 * speed, 1e6 * speed) for speed in speeds]
        least = 1e3 * max(1 / min(speeds), 2 * (len(speeds) - 1) / sum(speeds))
        assert timing.all_reduce_s(lines, 1e9, 1e9) == pytest.approx(least)
    assert timing.all_reduce_s([Line(1e6, 2e6)] * 2, 1e6, 3e6) == pytest.approx(2.0)


def test_the_command(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "utilisation"]) == 0
    out = capsys.readouterr().out
    assert out.count("Fitted to this table, not the paper's") == 1 and "A fluid bound, not a model" in out
    last = out.splitlines()[-1]
    assert last.startswith("Streaming DiLoCo: 65 of 75 cells on the paper's grid point, 75 within one step.")
    assert "Runs: 5 of 5 within one point." in last
    assert main(["simulate", "utilisation", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [table["cells"] for table in said["tables"]] == [75, 75, 30]
    assert said["fitted"]["volume"] == u.FIT_VOLUME
