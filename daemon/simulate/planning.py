"""What a swarm would reach, in closed form: a question, the lines drawn for it, and the answer. Pure.

A question describes machines that nobody has bought yet. Its uplinks are drawn from a range, evenly on a
logarithmic scale, so that as many are between 10 and 20 Mbit/s as between 100 and 200; a seed has one draw.
The answer follows from three things: how long an all-reduce takes over these lines (timing.py, with the
shares that plans deal out), what of it the mode hides behind further steps, and what is lost with nodes
that come and go. What no closed form has, such as waiting for the last of many messages, or nodes that are
too slow for a round, swarm.py shows with the shipping round machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from atoll.daemon.simulate.timing import Line, all_reduce_s, owned_shares, stall_s, utilisation
from atoll.protocol.modes.period import InnerSteps, choose_inner_steps
from atoll.protocol.round.codec_choice import BITS
from atoll.protocol.round.types import TWO_LEVEL_ABOVE

MODES = ("diloco", "streaming", "eager")
GOODPUT = 0.85
"""Of a line's rate, what TCP makes of it."""
STATE_BITS = 64
"""Of a parameter, in the state that a newcomer fetches: fp32 parameters and outer momentum."""
HOPS = 6
"""Messages that follow each other in a round: ready, plan, contribution, result, commit, vote;"""
TWO_LEVEL_HOPS = 2
"""and with two levels the mean of a group, and the result by way of whoever collected."""
HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True)
class Question:
    """What a planner asks. Rates in bits per second; (lowest, highest) of a range.

    `downlink_bps`: None where each node receives as fast as it sends. `churn_per_h`: the chance of a node to
    be lost within an hour, by a constant rate; as many join. `overlap`: inner steps that go on during an
    exchange, in streaming mode. `inner_steps`: 0 where the mode's cheapest number is chosen.
    """

    peers: int
    uplink_bps: tuple[float, float]
    parameters: float
    codec: str
    mode: str
    step_s: float
    inner_steps: int = 0
    downlink_bps: tuple[float, float] | None = None
    result_codec: str = "int8"
    fragments: int = 3
    overlap: int = 1
    latency_s: float = 0.05
    churn_per_h: float = 0.0
    tokens_per_step: int = 32768
    seed: int = 0

    @property
    def parts(self) -> int:
        """Synchronisations in which the whole model is averaged once."""
        return self.fragments if self.mode == "streaming" else 1

    @property
    def phase_s(self) -> float:
        """Seconds of inner steps between two synchronisations."""
        return self.inner_steps * self.step_s / self.parts

    @property
    def hidden_s(self) -> float:
        """Of a synchronisation, what passes while the trainer goes on."""
        steps = {"diloco": 0.0, "streaming": self.overlap * self.step_s, "eager": self.phase_s}
        return steps[self.mode]

    def bits(self, members: int) -> tuple[float, float]:
        """Of one node's contribution to a synchronisation, and of the result for so many members."""
        values = self.parameters / self.parts
        own, result = BITS[self.codec] * values, BITS[self.result_codec] * values
        # Results are made of contributions where those are shorter (codecs/result.py): sparse ones.
        return own, min(result, members * own) if self.codec == "topk" else result


def draw_lines(question: Question, count: int, chance: random.Random) -> list[Line]:
    """`count` lines from the question's ranges."""
    lines = []
    for _ in range(count):
        up = _log_uniform(question.uplink_bps, chance)
        down = _log_uniform(question.downlink_bps, chance) if question.downlink_bps else up
        lines.append(Line(GOODPUT * up, GOODPUT * down))
    return lines


def _log_uniform(span: tuple[float, float], chance: random.Random) -> float:
    return math.exp(math.log(span[0]) + (math.log(span[1]) - math.log(span[0])) * chance.random())


def lines_of(question: Question) -> list[Line]:
    """The lines of all peers."""
    return draw_lines(question, question.peers, random.Random(question.seed))


def spread(lines: Sequence[Line], count: int) -> list[Line]:
    """`count` of the lines, the slowest, the fastest, and evenly between; all where there are no more."""
    if count >= len(lines):
        return list(lines)
    ordered = sorted(lines, key=lambda line: (line.slower_bps, line.up_bps))
    return [ordered[round(k * (len(lines) - 1) / (count - 1))] for k in range(count)]


@dataclass(frozen=True)
class Answer:
    """What a swarm reaches. Bytes are what a node sends; it receives as many in the mean.

    `round_s`: H inner steps and what they wait for. `sync_s`: one synchronisation, from the last that is
    ready to the commit. `tokens_per_day`: accepted ones, of the whole swarm.
    """

    peers: int
    round_s: float
    sync_s: float
    utilisation: float
    node_bytes_per_day: float
    busiest_bytes_per_day: float
    tokens_per_day: float


def sync_s(question: Question, lines: Sequence[Line]) -> float:
    """Seconds of one synchronisation over these lines."""
    hops = HOPS + (TWO_LEVEL_HOPS if len(lines) > TWO_LEVEL_ABOVE else 0)
    return all_reduce_s(lines, *question.bits(len(lines))) + hops * question.latency_s


def with_inner_steps(question: Question, lines: Sequence[Line]) -> tuple[Question, InnerSteps | None]:
    """The question with a number of inner steps, and how that was chosen; None where it was given."""
    if question.inner_steps:
        return question, None
    takes = sync_s(question, lines)
    if question.mode == "eager":
        # A whole phase hides it: it may take as long as that.
        chosen = choose_inner_steps(takes, question.step_s, 1.0)
    else:
        waits = question.parts * stall_s(takes, question.hidden_s)
        chosen = choose_inner_steps(waits, question.step_s)
    return replace(question, inner_steps=chosen.number), chosen


def closed_form(question: Question, lines: Sequence[Line]) -> Answer:
    """The answer for these lines. `question` has a number of inner steps.

    Who is lost has done half a round in vain, in the mean; who joins fetches the state, and waits for half a
    round until one begins.
    """
    count, takes = len(lines), sync_s(question, lines)
    stall = stall_s(takes, question.hidden_s)
    round_s = question.parts * (question.phase_s + stall)
    used = utilisation(question.phase_s, stall)
    bits, result_bits = question.bits(count)
    sent = [(1 - w) * bits + w * (count - 1) * result_bits for w in owned_shares(lines)]
    per_day = question.parts * DAY_S / round_s / 8
    fetch_s = sum(STATE_BITS * question.parameters / line.down_bps for line in lines) / count
    present = max(0.0, 1 - question.churn_per_h / HOUR_S * (fetch_s + round_s))
    tokens = count * question.tokens_per_step * question.inner_steps * DAY_S / round_s
    return Answer(
        count,
        round_s,
        takes,
        used * present,
        per_day * sum(sent) / count,
        per_day * max(sent),
        tokens * present,
    )
