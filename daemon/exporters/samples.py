"""What exporters are told: a few numbers by name, of a version of the model or of a moment. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OF_ROUND = (
    "loss",
    "loss_min",
    "loss_max",
    "cosine",
    "tokens",
    "duration_s",
    "bytes_sent",
    "bytes_received",
    "outer_lr",
    "groups",
)


@dataclass(frozen=True)
class Sample:
    """`values` by name, as group/name. `version`: what they are of; None: of the moment `time_s` (Unix)."""

    time_s: float
    version: int | None
    values: Mapping[str, float]


def of_round(report: Mapping[str, Any]) -> Sample:
    """A round's report, as the history keeps it."""
    values = {f"round/{name}": report.get(name) for name in _OF_ROUND}
    values |= {f"round/{name}": len(report[name]) for name in ("planned", "contributed")}
    values |= {f"round/phase_{name}": seconds for name, seconds in report["phases"].items()}
    values["round/committed"] = int(report["outcome"] in ("certified", "provisional"))
    return Sample(report["time"], report["version"], _numbers(values))


def of_validation(time_s: float, version: int, loss: float) -> Sample:
    return Sample(time_s, version, _numbers({"round/val_loss": loss}))


def of_moment(time_s: float, figures: Mapping[str, float]) -> Sample:
    """A node's figures, as its history has them."""
    return Sample(time_s, None, _numbers({f"node/{name}": value for name, value in figures.items()}))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers: no program can draw the others."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
