"""Planning a swarm: the closed form, the shipping machine over lines that have a speed, and the command."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.daemon.cli import main
from atoll.daemon.cli.swarm import _who_is_left_out
from atoll.daemon.simulate import planning
from atoll.daemon.simulate.planning import GOODPUT, Answer, Question
from atoll.daemon.simulate.swarm import Swarm
from atoll.daemon.simulate.timing import Line
from atoll.protocol.modes.period import FEWEST, MOST

EVEN = Question(
    peers=10,
    uplink_bps=(50e6, 50e6),
    parameters=1e7,
    codec="int4",
    mode="diloco",
    step_s=1.0,
    inner_steps=30,
    fragments=3,
    overlap=1,
    latency_s=0.02,
)


@pytest.mark.parametrize("mode", planning.MODES)
def test_both_answers_agree_where_nothing_but_bandwidth_counts(mode: str):
    question = replace(EVEN, mode=mode)
    lines = planning.lines_of(question)
    expected, run = planning.closed_form(question, lines), Swarm(question, lines).run(7, 10)
    assert run.outcomes == {"certified": 10 * 7} and run.commits == 7
    assert run.answer is not None
    assert run.answer.round_s == pytest.approx(expected.round_s, rel=0.03)
    assert run.answer.utilisation == pytest.approx(expected.utilisation, abs=0.03)
    assert run.answer.tokens_per_day == pytest.approx(expected.tokens_per_day, rel=0.03)
    assert run.answer.node_bytes_per_day == pytest.approx(expected.node_bytes_per_day, rel=0.03)


def test_a_mode_hides_what_it_says():
    """The same line, and a synchronisation of about 5 s: blocking, behind a step in three, behind a phase."""
    found = {}
    for mode in planning.MODES:
        question = replace(EVEN, mode=mode, parameters=2e7)
        lines = planning.lines_of(question)
        found[mode] = planning.closed_form(question, lines).utilisation
        takes = planning.sync_s(question, lines)
        waits = question.parts * max(0.0, takes - question.hidden_s)
        assert found[mode] == pytest.approx(30 / (30 + waits))
    assert found["diloco"] < found["streaming"] < found["eager"] == 1.0


def test_the_slowest_line_decides_and_bytes_follow_the_shares():
    question = replace(EVEN, uplink_bps=(10e6, 100e6))
    lines = [Line(10e6, 10e6), *[Line(100e6, 100e6)] * 9]
    bits, result_bits = question.bits(10)
    both = planning.sync_s(question, lines) - planning.HOPS * question.latency_s
    assert both == pytest.approx(max(bits, result_bits) / 10e6, rel=0.05), "it owns nothing"
    assert both > 2 * planning.sync_s(question, lines[1:])
    answer = planning.closed_form(question, lines)
    run = Swarm(question, lines).run(4, 10)
    assert run.answer is not None
    assert run.answer.node_bytes_per_day * run.answer.round_s == pytest.approx(
        answer.node_bytes_per_day * answer.round_s, rel=0.05
    )
    assert run.answer.busiest_bytes_per_day * run.answer.round_s == pytest.approx(
        answer.busiest_bytes_per_day * answer.round_s, rel=0.15
    )


def test_a_frame_takes_as_long_as_the_slower_of_two_lines(monkeypatch: pytest.MonkeyPatch):
    question = replace(EVEN, latency_s=0.5)
    came: list[float] = []
    for up, down in ((1e6, 1e9), (1e9, 1e6), (1e6, 1e6)):
        swarm = Swarm(question, [Line(up, 1e9), Line(1e9, down)])
        monkeypatch.setattr(swarm, "_feed", lambda *_, engine=swarm._engine: came.append(engine.now))
        swarm._transfer(*swarm.nodes, 1e7, None)  # type: ignore[arg-type]
        swarm._engine.run(lambda: False, 100)
    assert came == [pytest.approx(10.5, rel=1e-2)] * 3


def test_nodes_come_and_go():
    question = replace(EVEN, churn_per_h=1.0, peers=12, inner_steps=300)
    lines = planning.lines_of(question)
    run = Swarm(question, lines).run(8, 10)
    assert run.lost >= 2 and run.joined >= 2 and run.commits == 8
    assert run.answer is not None and run.answer.peers == 12 - run.lost + run.joined
    calm = Swarm(replace(question, churn_per_h=0.0), lines).run(8, 10).answer
    assert calm is not None and run.answer.tokens_per_day < calm.tokens_per_day
    assert (
        planning.closed_form(question, lines).utilisation
        < planning.closed_form(replace(question, churn_per_h=0.0), lines).utilisation
    )


def test_a_node_that_misses_a_commit_fetches_it_and_goes_on():
    """One receives so slowly that the vote is over before it has the results."""
    question = replace(EVEN, inner_steps=60)
    lines = [*[Line(100e6, 100e6)] * 9, Line(20e6, 3e6)]
    run = Swarm(question, lines).run(5, 10)
    assert run.outcomes["missed"] >= 1 and run.outcomes["certified"] >= 5 * 9
    assert run.answer is not None and run.answer.peers == 10


def test_a_seed_is_one_run():
    question = replace(EVEN, uplink_bps=(20e6, 200e6), churn_per_h=0.5, inner_steps=100)
    runs = [
        Swarm(question, planning.lines_of(question)).run(4, 10),
        Swarm(question, planning.lines_of(question)).run(4, 10),
    ]
    assert replace(runs[0], cpu_s=0.0) == replace(runs[1], cpu_s=0.0)
    other = replace(question, seed=1)
    assert planning.lines_of(other) != planning.lines_of(question)


def test_no_answer_where_no_second_round_ended():
    run = Swarm(EVEN, planning.lines_of(EVEN)).run(4, 0.01)
    assert run.answer is None and run.commits == 1


def test_lines_are_drawn_evenly_on_a_logarithmic_scale():
    question = replace(EVEN, uplink_bps=(10e6, 1000e6), downlink_bps=(500e6, 500e6))
    lines = planning.draw_lines(question, 4000, random.Random(1))
    ups = sorted(line.up_bps / GOODPUT for line in lines)
    assert ups[0] >= 10e6 and ups[-1] <= 1000e6
    assert ups[len(ups) // 2] == pytest.approx(100e6, rel=0.1), "the geometric mean is the median"
    assert all(line.down_bps == pytest.approx(GOODPUT * 500e6) for line in lines)
    few = planning.spread(lines, 5)
    assert few[0].up_bps / GOODPUT == ups[0] and few[-1].up_bps / GOODPUT == ups[-1]
    assert planning.spread(lines[:3], 5) == lines[:3]


def test_inner_steps_are_chosen_where_none_are_given():
    question = replace(EVEN, inner_steps=0, parameters=1e8)
    lines = planning.lines_of(question)
    assert planning.with_inner_steps(EVEN, lines) == (EVEN, None)
    diloco, why = planning.with_inner_steps(question, lines)
    takes = planning.sync_s(question, lines)
    assert why is not None and why.number == diloco.inner_steps and FEWEST < diloco.inner_steps < MOST
    assert takes <= 0.1 * diloco.inner_steps < takes + 0.1
    streaming, _ = planning.with_inner_steps(replace(question, mode="streaming"), lines)
    eager, _ = planning.with_inner_steps(replace(question, mode="eager"), lines)
    assert eager.inner_steps < streaming.inner_steps < diloco.inner_steps
    assert planning.closed_form(eager, lines).utilisation == 1.0


def test_sparse_results_are_the_contributions_while_those_are_shorter():
    sparse = replace(EVEN, codec="topk")
    own, few = sparse.bits(8)
    assert few == pytest.approx(8 * own)
    assert sparse.bits(1000)[1] == EVEN.bits(1000)[1]


PLAN = ["simulate", "swarm", "--peers", "10", "--uplink", "50..100", "--params", "1e7", "--step-s", "1"]


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    chart = tmp_path / "plan.svg"
    assert main([*PLAN, "--churn", "5%/h", "--plot", str(chart)]) == 0
    out = capsys.readouterr().out
    assert "Chosen: 30 inner steps" in out and "closed form, 10" in out and "simulated, 10" in out
    assert "Simulated: 10 of 10 peers" in out and "Not yet" not in out
    assert chart.read_text().startswith("<svg") and "simulated, 10 peers" in chart.read_text()
    assert main([*PLAN, "--mode", "streaming", "--fragments", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["simulated"]["answer"]["peers"] == 10 and said["question"]["fragments"] == 2
    assert said["simulated"]["answer"]["utilisation"] == pytest.approx(
        said["closed_form"]["utilisation"], abs=0.05
    )
    assert main([*PLAN, "--hours", "1", "--inner-steps", "500", "--downlink", "200", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inner_steps"] == {"number": 500, "chosen": None}
    assert said["simulated"]["virtual_s"] == pytest.approx(3600, rel=0.2)


def test_why_slow_lines_make_a_difference_is_said():
    question = Question(4, (1e7, 2e8), 1e9, "int4", "diloco", 1.0, inner_steps=500)
    closed = Answer(4, 1446.0, 946.0, 0.35, 1.0, 1.0, 1.0)
    tokens = 0.79 * 4 * 500 * question.tokens_per_step * 86400 / 818
    simulated = replace(closed, round_s=818.0, sync_s=403.0, tokens_per_day=tokens)
    assert "79% of the nodes are in a commit" in _who_is_left_out(question, closed, simulated)
    assert not _who_is_left_out(question, closed, replace(simulated, sync_s=940.0))
    assert not _who_is_left_out(question, closed, replace(simulated, tokens_per_day=tokens / 0.79))


def test_few_of_many_are_simulated_and_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("atoll.daemon.cli.swarm.BUDGET", 25_000)
    assert main(["simulate", "swarm", "--peers", "300", "--params", "1e7", "--uplink", "100"]) == 0
    out = capsys.readouterr().out
    assert "Simulated: 9 of 300 peers" in out and "closed form, 300" in out and "closed form, 9" in out
    assert "a node has at most 96 links" in out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--peers", "1"], "--peers is 1; it must be at least 2."),
        (["--uplink", "200..10"], "--uplink is '200..10'"),
        (["--uplink", "fast"], "as 50 or 10..200"),
        (["--downlink", "0"], "--downlink is '0'"),
        (["--churn", "5"], "as 5%/h or 20%/d"),
        (["--churn", "101%/h"], "--churn is '101%/h'"),
        (["--codec", "auto"], "--codec is 'auto'; it must be one of"),
        (["--result-codec", "topk"], "--result-codec is 'topk'"),
        (["--params", "nan"], "--params is nan; it must be a number."),
        (["--step-s", "0"], "--step-s is 0.0"),
        (["--inner-steps", "0"], "--inner-steps is 0"),
        (["--hours", "-1"], "--hours is -1.0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--overlap", "1"], "--overlap is for --mode streaming"),
        (["--mode", "streaming", "--fragments", "1"], "--fragments is 1; it must be at least 2."),
        (["--mode", "streaming", "--inner-steps", "6", "--overlap", "3"], "more than the 2 inner steps"),
        (["--plot", "/nowhere/plan.svg"], "/nowhere/plan.svg can't be written: its folder"),
        (["--plot", "/"], "/ can't be written: "),
    ],
)
def test_bad_arguments_get_a_sentence(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main([*PLAN, *wrong]) == 2
    assert said in capsys.readouterr().err
