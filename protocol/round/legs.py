"""How long the legs of the next session may take, scatter, reduce and vote: learned from those that ended."""

from __future__ import annotations

from atoll.protocol.round.pace import Pace
from atoll.protocol.round.session import Session
from atoll.protocol.round.types import RoundConfig

MARGIN = 2.0
DEVIATIONS = 6.0


class Legs:
    """A pace for each leg; the configuration's durations are their caps."""

    def __init__(self, config: RoundConfig) -> None:
        caps = {"scatter": config.scatter_s, "reduce": config.reduce_s, "vote": config.vote_s}
        self._paces = {
            leg: Pace(min(config.leg_floor_s, cap), cap, MARGIN, DEVIATIONS) for leg, cap in caps.items()
        }

    def durations(self) -> tuple[float, float, float]:
        """Seconds for scatter, reduce and vote."""
        scatter, reduce, vote = (pace.patience_s() for pace in self._paces.values())
        return scatter, reduce, vote

    def learn(self, session: Session) -> None:
        """Takes what an ended session shows."""
        assert session.report is not None
        complete = {
            "scatter": not session.exchange.late,
            "reduce": not session.hurried,
            "vote": session.report.outcome != "provisional",
        }
        for leg, pace in self._paces.items():
            pace.saw(session.arrivals[leg], complete[leg])
