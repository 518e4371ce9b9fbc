"""How many inner steps a swarm should have: chosen for a new one, and looked at while one runs.

The rule is protocol/modes/period.py's. For a new swarm a synchronisation is the closed form's, over lines
that the organiser describes, and an inner step is measured here, on the organiser's machine, unless it is
given. A running node takes both from what it sees.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.simulate import planning
from atoll.daemon.simulate.timing import stall_s
from atoll.daemon.welcome import SMALL_MODEL
from atoll.protocol.manifest import STREAMING, SwarmManifest
from atoll.protocol.modes.eager import DELAYED, EAGER
from atoll.protocol.modes.period import InnerSteps, choose_inner_steps

if TYPE_CHECKING:
    from atoll.daemon.genesis import NewSwarm

MEASURED_STEPS = 3
"""Inner steps whose median is taken for one, after one that warms up."""
LOOKED_AT = 8
ENOUGH = 3
"""Rounds: the last ones whose median is taken, and the fewest that say something."""


def for_new_swarm(
    wanted: NewSwarm, peers: int, uplink_bps: tuple[float, float], step_s: float | None
) -> tuple[NewSwarm, InnerSteps]:
    """The swarm with a number of inner steps for lines from this range, and how it was chosen.

    `step_s`: of an inner step; None: it is measured. Raises AtollError.
    """
    from atoll.daemon.genesis import of_mode, parameters_of

    swarm = of_mode(wanted)
    streaming = swarm.mode == STREAMING
    question = planning.Question(
        peers=peers,
        uplink_bps=uplink_bps,
        parameters=parameters_of(swarm),
        # Where plans choose the codec they take the narrower one when the line is slow.
        codec="int4" if swarm.codec == "auto" else swarm.codec or "int8",
        result_codec=swarm.result_codec,
        mode=_planned_mode(swarm.mode),
        step_s=step_s or measured_step_s(swarm),
        fragments=(swarm.fragments or 1) if streaming else 1,
        overlap=(swarm.overlap or 0) if streaming else 0,
    )
    _, chosen = planning.with_inner_steps(question, planning.lines_of(question))
    assert chosen is not None
    # As many more as it takes for the fragments to share them evenly.
    shared = swarm.fragments or 1
    return replace(wanted, inner_steps=-(-chosen.number // shared) * shared), chosen


def _planned_mode(mode: str) -> str:
    if mode in (EAGER, DELAYED):
        return "eager"
    return STREAMING if mode == STREAMING else "diloco"


def measured_step_s(wanted: NewSwarm) -> float:
    """Seconds of an inner step of a built-in model on this machine's processors: the median of a few.

    Raises AtollError for a model of one's own, whose steps only its script knows.
    """
    import torch

    from atoll.daemon.genesis import DEFAULTS
    from atoll.daemon.training.model import GPT, SIZES, initialise

    if wanted.genesis is not None:
        text = "A model of your own is measured by its script, not here."
        raise AtollError(Exit.USAGE, "no_step_time", text, "Say --step-s SECONDS.")
    config = SIZES[wanted.model]
    model = GPT(config)
    initialise(model, wanted.seed)
    tokens = torch.zeros(wanted.batch or DEFAULTS[wanted.model].batch, config.context, dtype=torch.int64)
    if sum(p.numel() for p in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)  # as its trainer
    took = []
    for _ in range(MEASURED_STEPS + 1):
        began = time.perf_counter()
        model.loss(tokens, tokens).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def for_running(manifest: SwarmManifest, rounds: Sequence[Mapping[str, Any]], step_s: float | None) -> str:
    """A sentence on whether the manifest's inner steps suit what this node sees; empty: not known yet.

    `rounds`: reports of sessions, as in history.py; `step_s`: of an inner step here.
    """
    certified = [entry["duration_s"] for entry in rounds if entry["outcome"] == "certified"][-LOOKED_AT:]
    if not step_s or len(certified) < ENOUGH:
        return ""
    body, parts = manifest.body, len(manifest.chunks.fragments)
    steps, takes = int(body.inner.steps), statistics.median(certified)
    # Rounds are one after the other, so more than a phase is hidden now and then, not in the mean.
    hidden = min(body.sync.overlap_steps, steps // parts) * step_s
    if body.sync.mode in (EAGER, DELAYED):
        chosen = choose_inner_steps(takes, step_s, 1.0)
    else:
        chosen = choose_inner_steps(parts * stall_s(takes, hidden), step_s)
    waits = parts * stall_s(takes, hidden)
    part = waits / (waits + steps * step_s)
    return (
        f"Averaging takes {takes:.3g} s and stops this node for {part:.0%} of its time; "
        f"by these figures a round should have {chosen.sentence} It has {steps}."
    )
