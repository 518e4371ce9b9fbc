"""`atoll simulate swarm`: what a swarm would reach, in closed form and simulated."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.daemon.errors import AtollError, Exit, check_range

if TYPE_CHECKING:
    from atoll.daemon.simulate.planning import Answer, Question
    from atoll.daemon.simulate.swarm import Run
    from atoll.protocol.modes.period import InnerSteps

MAX_PEERS = 10_000
LEAST_SIMULATED = 8
MOST_COMMITS = 500
ROUNDS = 3
"""Simulated after the first, which has nothing before it to compare with."""
BUDGET = 20_000_000
"""For commits · N² · (N + 64), measured to take one to two microseconds each: by profile, each of N nodes
checks who is in each chunk of a commit, counts N votes, and ranks all others when one comes or goes."""
MAX_EVENTS = 1_500_000
"""For commits · N · (N + 256): N² votes, and some frames with payloads for each of 64 chunks."""
HOURS = 10_000.0
"""Virtual: a swarm that has not committed a few rounds by then does not."""


SHORTER, NEARLY_ALL = 0.8, 0.97
"""Of the closed form's synchronisation, and of all nodes: below both it is said why."""


def swarm(arguments: argparse.Namespace) -> int:
    """`atoll simulate swarm`"""
    from atoll.daemon.simulate import planning
    from atoll.daemon.simulate.engine import Violation
    from atoll.daemon.simulate.swarm import Swarm

    question = _question(arguments)
    chart = Path(arguments.plot) if arguments.plot else None
    if chart is not None and not chart.parent.is_dir():  # better said before the minute than after it
        raise _no_plot(chart, "its folder does not exist")
    lines = planning.lines_of(question)
    question, chosen = planning.with_inner_steps(question, lines)
    _check_overlap(question)
    answer = planning.closed_form(question, lines)
    commits = _commits(question, answer, arguments.hours)
    few = planning.spread(lines, _affordable(commits))
    simulating = f"Simulating {len(few)} of {question.peers:,} peers; this may take a minute."
    print(simulating, file=sys.stderr, flush=True)
    try:
        run = Swarm(question, few).run(commits, arguments.hours or HOURS)
    except Violation as violation:
        print(f"Failed: violation of {violation.kind!r}: {violation.message}", flush=True)
        return int(Exit.BUG)
    answers = {f"closed form, {question.peers:,}": answer}
    if len(few) < question.peers:
        answers[f"closed form, {len(few)}"] = planning.closed_form(question, few)
    if chart is not None:
        _plot(chart, question, answers, run)
    if arguments.json:
        print(json.dumps(_json(question, chosen, answers, run)))
    else:
        _print(question, chosen, answers, run)
    return int(Exit.OK)


# ---- the question


def _question(arguments: argparse.Namespace) -> Question:
    from atoll.daemon.simulate.planning import Question
    from atoll.protocol.round.codec_choice import BITS

    check_range("--peers", arguments.peers, 2, MAX_PEERS)
    check_range("--params", arguments.params, 1e4, 1e13)
    check_range("--step-s", arguments.step_s, 1e-3, 1e5)
    check_range("--latency-ms", arguments.latency_ms, 0, 10_000)
    check_range("--tokens-per-step", arguments.tokens_per_step, 1, 1 << 30)
    check_range("--seed", arguments.seed, 0, 1 << 62)
    for name, value in (("--inner-steps", arguments.inner_steps), ("--hours", arguments.hours)):
        if value is not None:
            check_range(name, value, 1, 100_000)
    for name, codec in (("--codec", arguments.codec), ("--result-codec", arguments.result_codec)):
        if codec not in BITS or (name == "--result-codec" and codec == "topk"):
            known = ", ".join(known for known in BITS if name == "--codec" or known != "topk")
            raise _usage(f"{name} is {codec!r}; it must be one of {known}.")
    streaming: dict[str, int] = {}
    for name, value in (("fragments", arguments.fragments), ("overlap", arguments.overlap)):
        if value is not None:
            if arguments.mode != "streaming":
                raise _usage(f"--{name} is for --mode streaming.")
            check_range(f"--{name}", value, 2 if name == "fragments" else 0, 64)
            streaming[name] = value
    return Question(
        peers=arguments.peers,
        uplink_bps=rates("--uplink", arguments.uplink),
        downlink_bps=rates("--downlink", arguments.downlink) if arguments.downlink else None,
        parameters=arguments.params,
        codec=arguments.codec,
        result_codec=arguments.result_codec,
        mode=arguments.mode,
        step_s=arguments.step_s,
        inner_steps=arguments.inner_steps or 0,
        latency_s=arguments.latency_ms / 1e3,
        churn_per_h=_churn(arguments.churn),
        tokens_per_step=arguments.tokens_per_step,
        seed=arguments.seed,
        **streaming,
    )


def _check_overlap(question: Question) -> None:
    if question.hidden_s > question.phase_s:
        each = question.inner_steps / question.parts
        message = f"--overlap is {question.overlap}, more than the {each:g} inner steps from one fragment"
        raise _usage(f"{message} to the next.")


def rates(name: str, text: str) -> tuple[float, float]:
    """Bits per second of 10..200 or 50, in Mbit/s."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\.\.(\d+(?:\.\d+)?))?", text)
    low = float(found[1]) if found else math.nan
    high = float(found[2] or found[1]) if found else math.nan
    if not 0.5 <= low <= high <= 1e6:
        raise _usage(f"{name} is {text!r}; it must be Mbit/s from 0.5 on, as 50 or 10..200.")
    return 1e6 * low, 1e6 * high


def _churn(text: str) -> float:
    """The part of the nodes that is lost in an hour: of 5%/h, 20 %/d or 0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%/([hd])", text)
    part = float(found[1]) / 100 / (24 if found[2] == "d" else 1) if found else math.nan
    if text == "0":
        part = 0.0
    if not 0 <= part <= 1:
        raise _usage(
            f"--churn is {text!r}; it must be 0, or nodes lost in an hour or a day, as 5%/h or 20%/d."
        )
    return part


def _usage(message: str) -> AtollError:
    return AtollError(Exit.USAGE, "usage", message)


# ---- how much is simulated


def _commits(question: Question, answer: Answer, hours: float | None) -> int:
    """So many synchronisations: a few rounds, or what goes into these hours."""
    if hours is None:
        return 1 + ROUNDS * question.parts
    return max(2, min(MOST_COMMITS, math.ceil(3600 * hours / answer.round_s * question.parts)))


def _affordable(commits: int) -> int:
    """How many peers can be simulated in about a minute."""
    few = LEAST_SIMULATED
    while _cheap(commits, few + 1):
        few += 1
    return few


def _cheap(commits: int, peers: int) -> bool:
    return commits * peers**2 * (peers + 64) <= BUDGET and commits * peers * (peers + 256) <= MAX_EVENTS


# ---- the answers


def _print(question: Question, chosen: InnerSteps | None, answers: dict[str, Answer], run: Run) -> None:
    print(_said(question))
    if chosen is not None:
        print(f"Chosen: {chosen.sentence}")
    columns: dict[str, Answer | None] = {**answers, f"simulated, {run.peers}": run.answer}
    print(f"\n{'':<30}{''.join(f'{name:>22}' for name in columns)}")
    for name, cell in ROWS:
        cells = (cell(answer) if answer is not None else "–" for answer in columns.values())
        print(f"{name:<30}{''.join(f'{text:>22}' for text in cells)}")
    ends = ", ".join(f"{count} {name}" for name, count in sorted(run.outcomes.items()))
    print(
        f"\nSimulated: {run.peers} of {question.peers:,} peers (the slowest, the fastest, evenly between), "
        f"{run.commits} commits of {run.chunks} chunks in {run.virtual_s:,.0f} virtual seconds, "
        f"{run.lost} lost, {run.joined} joined; {run.events:,} events, {run.cpu_s:.0f} CPU-seconds."
    )
    print(f"How synchronisations ended, counted by every node: {ends or 'none did'}.")
    if run.answer is None:
        print("The simulated swarm did not commit two rounds in that time.")
    elif why := _who_is_left_out(question, next(reversed(answers.values())), run.answer):
        print(why)
    for warning in _warnings(question):
        print(warning)


def _who_is_left_out(question: Question, closed: Answer, simulated: Answer) -> str:
    """Why simulated synchronisations are shorter than the closed form; empty where they are not."""
    from atoll.daemon.simulate.planning import DAY_S

    whole = question.inner_steps * question.tokens_per_step * simulated.peers
    part = simulated.tokens_per_day * simulated.round_s / DAY_S / whole
    if simulated.sync_s > SHORTER * closed.sync_s or part > NEARLY_ALL:
        return ""
    return (
        "The closed form waits for the slowest line. The simulated swarm does not, nor does a real one: a "
        "commit needs a majority, and the next round begins while slow lines still receive this one. "
        f"In the mean {part:.0%} of the nodes are in a commit."
    )


def _said(question: Question) -> str:
    """The question in words."""
    down = f"down {_span(question.downlink_bps)}" if question.downlink_bps else "down the same"
    mode = question.mode
    if mode == "streaming":
        mode += f" with {question.fragments} fragments and an overlap of {question.overlap}"
    return (
        f"{question.peers:,} peers, up {_span(question.uplink_bps)}, {down}, latency "
        f"{1e3 * question.latency_s:g} ms, {100 * question.churn_per_h:g} % lost in an hour; "
        f"{question.parameters:.3g} parameters, {question.codec} and back as {question.result_codec}; "
        f"{mode}, {question.inner_steps} inner steps of {question.step_s:g} s and "
        f"{question.tokens_per_step:,} tokens."
    )


def _warnings(question: Question) -> list[str]:
    from atoll.peers.links import MAX_LINKS

    if question.peers <= MAX_LINKS + 1:
        return []
    return [f"Not yet: a node has at most {MAX_LINKS} links, so a swarm ends at {MAX_LINKS + 1} nodes."]


def _span(rates_bps: tuple[float, float]) -> str:
    low, high = (rate / 1e6 for rate in rates_bps)
    return f"{low:g} Mbit/s" if low == high else f"{low:g}..{high:g} Mbit/s"


def _amount(value: float) -> str:
    for size, name in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:,.0f} "


ROWS: tuple[tuple[str, Callable[[Answer], str]], ...] = (
    ("peers", lambda a: f"{a.peers:,}"),
    ("round", lambda a: f"{a.round_s:,.0f} s"),
    ("one synchronisation", lambda a: f"{a.sync_s:,.1f} s"),
    ("compute utilisation", lambda a: f"{100 * a.utilisation:.1f} %"),
    ("sent per node and day", lambda a: f"{_amount(a.node_bytes_per_day)}B"),
    ("by the busiest node", lambda a: f"{_amount(a.busiest_bytes_per_day)}B"),
    ("tokens accepted per day", lambda a: _amount(a.tokens_per_day)),
)


def _json(
    question: Question, chosen: InnerSteps | None, answers: dict[str, Answer], run: Run
) -> dict[str, Any]:
    closed = list(answers.values())
    return {
        "question": dataclasses.asdict(question),
        "inner_steps": {"number": question.inner_steps, "chosen": chosen.sentence if chosen else None},
        "closed_form": dataclasses.asdict(closed[0]),
        "closed_form_of_simulated": dataclasses.asdict(closed[-1]),
        "simulated": dataclasses.asdict(run),
        "warnings": _warnings(question),
    }


def _plot(path: Path, question: Question, answers: dict[str, Answer], run: Run) -> None:
    """Bars of utilisation. Raises AtollError where the file can't be written."""
    from atoll.daemon.plot import bars

    rows = [(f"{name} peers", answer.utilisation, None) for name, answer in answers.items()]
    if run.answer is not None:
        rows.append((f"simulated, {run.peers} peers", run.answer.utilisation, None))
    title = f"Compute utilisation: {question.mode}, {question.codec}, up {_span(question.uplink_bps)}"
    try:
        path.write_text(bars(title, rows), encoding="utf-8")
    except OSError as error:
        raise _no_plot(path, error.strerror or str(error)) from error


def _no_plot(path: Path, why: str) -> AtollError:
    return AtollError(Exit.USAGE, "no_plot", f"{path} can't be written: {why}.", "Name another file.")
