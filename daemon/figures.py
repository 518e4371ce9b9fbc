"""The figures of a node that its history keeps, taken from its snapshots. Nothing here can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT_AS_THEY_ARE = (
    "loss",
    "val_loss",
    "tokens_per_s",
    "swarm_tokens_per_s",
    "version",
    "accepted_tokens",
    "memory_bytes",
    "loop_lag_s",
)


class Figures:
    """Of one node, snapshot after snapshot: rates are means since the one before."""

    def __init__(self) -> None:
        self._moved: tuple[float, int, int] | None = None

    def of(self, state: Mapping[str, Any], now: float) -> dict[str, float]:
        """Figures by name; one that is not known is left out. `now`: seconds, of whatever clock."""
        traffic = state["traffic"]
        moved = traffic["sent_bytes"], traffic["received_bytes"]
        before, self._moved = self._moved, (now, *moved)
        found = {name: state[name] for name in KEPT_AS_THEY_ARE} | {"peers": len(state["peers"])}
        if before is not None and now > before[0]:
            # A daemon that was started again counts from 0.
            found["sent_bps"], found["received_bps"] = (
                8 * max(0, is_now - was) / (now - before[0])
                for is_now, was in zip(moved, before[1:], strict=True)
            )
        return {name: float(value) for name, value in found.items() if value is not None}
