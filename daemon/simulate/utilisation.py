"""What bandwidth a compute utilisation needs, beside what papers print. Pure functions, the papers' numbers.

Streaming DiLoCo (2501.18512, table 4) and the scaling laws of DiLoCo (2503.09799, table 6) give the Gbit/s
at which 50, 80, 90, 95 and 99 % are reached, on a grid of 50 bandwidths, but not the simulator behind them.
The closed form here follows the first table with three constants, FIT_*, that are fitted to it and are not
the paper's: do not quote them as such. For eager updates (2502.12996, table 5) there is only a bound. The
utilisation of real runs follows from what they publish, with nothing fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from atoll.daemon.simulate.timing import stall_s, utilisation

GRID = tuple(float(gbps) for gbps in np.logspace(-1, 3, 50))
"""Gbit/s."""
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
FIT_VOLUME = 0.85
"""Fitted: of the bits of all parameters, what one synchronisation moves over the line."""
FIT_BACKWARD = 2 / 3
"""Fitted: of a step, what data parallelism and DiLoCo hide behind the backward pass."""
FIT_STREAMED = 0.55
"""Fitted: of a step, what streaming hides without overlap."""
BF16, FP4 = 16, 4
LAYERS_PER_FRAGMENT = 3

Curve = Callable[[float], float]
"""Compute utilisation at a bandwidth in Gbit/s."""


@dataclass(frozen=True)
class Model:
    """A model of a paper's table; `billions` of parameters, `step_s` seconds for one inner step."""

    name: str
    billions: float
    layers: int
    step_s: float

    def gbit(self, bits: int) -> float:
        """What a synchronisation of the whole model moves."""
        return FIT_VOLUME * bits * self.billions


STREAMING_MODELS = (Model("1 B", 1, 24, 0.1), Model("10 B", 10, 48, 0.8), Model("100 B", 100, 108, 4.9))
SCALING_MODELS = (Model("10 B", 10, 48, 0.8), Model("405 B", 405, 126, 26.0), Model("671 B", 671, 61, 20.0))
"""The paper prints sizes and step times; layers are those of public models of these sizes."""


def blocking(model: Model, inner_steps: int, gbps: float) -> float:
    """Data parallelism (one inner step) or DiLoCo, in bf16: the last layer's part is never hidden."""
    moved_s = model.gbit(BF16) / gbps
    stall = max(stall_s(moved_s, FIT_BACKWARD * model.step_s), moved_s / model.layers)
    return utilisation(inner_steps * model.step_s, stall)


def streaming(model: Model, inner_steps: int, overlap: int, bits: int, gbps: float) -> float:
    """Streaming DiLoCo: fragments of three layers, each hidden behind `overlap` steps and part of one."""
    fragments = model.layers / LAYERS_PER_FRAGMENT
    stall = stall_s(model.gbit(bits) / fragments / gbps, (FIT_STREAMED + overlap) * model.step_s)
    return utilisation(inner_steps / fragments * model.step_s, stall)


def eager(model: Model, inner_steps: int, gbps: float) -> float:
    """An upper bound for eager updates in 4 bits: the line is never idle, and a whole phase hides it."""
    phase_s = inner_steps * model.step_s
    return utilisation(phase_s, stall_s(model.gbit(FP4) / gbps, phase_s))


@dataclass(frozen=True)
class Row:
    """Gbit/s for each of TARGETS: `paper` as it is printed, `ours` by the closed form; inf: beyond GRID."""

    name: str
    paper: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Grid points between ours and the paper's; positive: ours asks for more."""
        return tuple(_point(ours) - _point(paper) for ours, paper in zip(self.ours, self.paper, strict=True))


@dataclass(frozen=True)
class Table:
    """`note`: what is to be known before one believes it."""

    title: str
    note: str
    rows: tuple[Row, ...]

    def within(self, steps: int) -> int:
        """Cells that are at most so many grid points from the paper's."""
        return sum(abs(n) <= steps for row in self.rows for n in row.steps)

    @property
    def cells(self) -> int:
        return sum(len(row.paper) for row in self.rows)


def needed(curve: Curve, target: float) -> float:
    """The first bandwidth of the grid that reaches a utilisation; infinity where none does."""
    return next((gbps for gbps in GRID if curve(gbps) >= target), math.inf)


def _point(gbps: float) -> int:
    """The nearest point of the grid, for printed figures are rounded; the one after the last for infinity."""
    if math.isinf(gbps):
        return len(GRID)
    return min(range(len(GRID)), key=lambda k: abs(math.log(GRID[k] / gbps)))


def _rows(
    model: Model, curves: Sequence[tuple[str, Curve]], printed: Sequence[Sequence[float]]
) -> tuple[Row, ...]:
    return tuple(
        Row(f"{model.name}, {name}", tuple(paper), tuple(needed(curve, target) for target in TARGETS))
        for (name, curve), paper in zip(curves, printed, strict=True)
    )


_STREAMING = (
    (
        (86.8, 152.6, 184.2, 222.3, 569),
        (1.4, 6.2, 13.3, 23.3, 86.8),
        (1.4, 5.2, 9.1, 16, 28.1),
        (1.4, 4.3, 6.2, 9.1, 11),
        (0.4, 0.9, 1.7, 2, 3),
    ),
    (
        (104.8, 222.3, 222.3, 268.3, 471.5),
        (1.7, 7.5, 16, 33.9, 104.8),
        (1.7, 5.2, 9.1, 13.3, 19.3),
        (1.7, 3.6, 5.2, 6.2, 7.5),
        (0.4, 0.9, 1.4, 1.4, 1.7),
    ),
    (
        (184.2, 323.8, 390.7, 390.7, 471.5),
        (3, 11, 23.3, 49.4, 184.2),
        (2.4, 6.2, 9.1, 11, 19.3),
        (1.7, 3.6, 4.3, 5.2, 5.2),
        (0.5, 0.9, 1.1, 1.1, 1.4),
    ),
)
"""2501.18512, table 4: by model, the rows in the order of `streaming_table`."""
_SCALING_STEPS = (1, 10, 50, 100, 300)
_SCALING = (
    (
        (104.8, 184.2, 222.3, 222.3, 390.7),
        (16, 49.4, 86.8, 152.6, 222.3),
        (3, 11, 23.3, 41, 126.5),
        (1.4, 6.2, 13.3, 23.3, 86.8),
        (0.5, 2, 4.3, 9.1, 41),
    ),
    (
        (126.5, 222.3, 268.3, 323.8, 323.8),
        (19.3, 72, 126.5, 184.2, 268.3),
        (3.6, 13.3, 28.1, 59.6, 184.2),
        (2, 7.5, 16, 33.9, 126.5),
        (0.7, 3, 6.2, 13.3, 59.6),
    ),
    (
        (323.8, 569, 686.6, 686.6, 1000),
        (49.4, 152.6, 268.3, 390.7, 686.6),
        (7.5, 33.9, 72, 126.5, 390.7),
        (4.3, 16, 41, 72, 268.3),
        (1.7, 6.2, 13.3, 28.1, 126.5),
    ),
)
"""2503.09799, table 6, by model; "1000+" counts as the last point of the grid."""
_EAGER_STEPS = (100, 30)
_EAGER = (
    ((0.1, 0.2, 0.2, 0.2, 0.2), (1.1, 2, 2, 2, 2.4)),
    ((0.1, 0.2, 0.2, 0.3, 0.3), (0.7, 1.1, 1.4, 1.4, 1.4)),
    ((0.2, 0.3, 0.3, 0.3, 0.4), (0.5, 0.8, 0.9, 0.9, 0.9)),
)
"""2502.12996, table 5, by model."""


def streaming_table() -> Table:
    """Streaming DiLoCo's table 4: H = 100."""
    rows: tuple[Row, ...] = ()
    for model, printed in zip(STREAMING_MODELS, _STREAMING, strict=True):
        curves = (
            ("data parallel", partial(blocking, model, 1)),
            ("DiLoCo", partial(blocking, model, 100)),
            ("streaming", partial(streaming, model, 100, 0, BF16)),
            ("streaming, overlap 1", partial(streaming, model, 100, 1, BF16)),
            ("the same in 4 bits", partial(streaming, model, 100, 1, FP4)),
        )
        rows += _rows(model, curves, printed)
    note = (
        f"Fitted to this table, not the paper's: {FIT_VOLUME} of a model's bits move, {FIT_BACKWARD:.2f} of "
        f"a step hides them, {FIT_STREAMED} with streaming."
    )
    return Table("Streaming DiLoCo (2501.18512), table 4: Gbit/s, H = 100", note, rows)


def scaling_table() -> Table:
    """The scaling laws' table 6, with what was fitted to the other one."""
    rows: tuple[Row, ...] = ()
    for model, printed in zip(SCALING_MODELS, _SCALING, strict=True):
        curves = [(f"H = {steps}", partial(blocking, model, steps)) for steps in _SCALING_STEPS]
        rows += _rows(model, curves, printed)
    note = 'The constants are those fitted above; nothing is fitted here. "1000+" is the grid\'s last point.'
    return Table("Scaling laws of DiLoCo (2503.09799), table 6: Gbit/s", note, rows)


def eager_table() -> Table:
    """Eager updates' table 5 beside a bound."""
    rows: tuple[Row, ...] = ()
    for model, printed in zip(STREAMING_MODELS, _EAGER, strict=True):
        curves = [(f"H = {steps}", partial(eager, model, steps)) for steps in _EAGER_STEPS]
        rows += _rows(model, curves, printed)
    note = (
        "A fluid bound, not a model: the line is never idle, with the volume fitted above. Printed figures "
        "below it leave out that what is under way shares the line; nothing can reproduce them."
    )
    return Table("Eager updates (2502.12996), table 5: Gbit/s in 4 bits", note, rows)


@dataclass(frozen=True)
class Run:
    """A published run: seconds of computing and of synchronisation in a round; `paper`: its utilisation."""

    name: str
    compute_s: float
    sync_s: float
    paper: float

    @property
    def ours(self) -> float:
        return utilisation(self.compute_s, self.sync_s)

    @property
    def points(self) -> float:
        """Percentage points between ours and the paper's."""
        return 100 * (self.ours - self.paper)


def runs() -> tuple[Run, ...]:
    """Runs over the internet, by what was published of them."""
    phase_s = 38 * 60.0
    # The published cell at 200 Mbit/s says what a synchronisation costs; at half of that, twice as much.
    waits = 1 / 0.53 - 1
    return (
        Run("INTELLECT-1 (2412.01152), United States", phase_s, 103, 0.957),
        Run("INTELLECT-1, United States and Europe", phase_s, 382, 0.856),
        Run("INTELLECT-1, global", phase_s, 469, 0.83),
        Run("Covenant-72B (2603.08163)", 20 * 60.0, 70, 0.945),
        Run("DiLoCo in Factored Gossip (2606.22768), 100 Mbit/s from 200", 1.0, 2 * waits, 0.36),
    )
