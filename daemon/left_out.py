"""Why a commit holds nothing of this node, in a sentence, and what became of its work.

Pure: what the node saw of the round's session and of its own phase comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.daemon.status import duration
from atoll.protocol.round.types import SessionReport


@dataclass(frozen=True)
class Seen:
    """The newest session that ended here. `began`: on the clock of `ready_at`; `planned`: we were to give."""

    version: int
    began: float
    planned: bool

    @classmethod
    def of(cls, report: SessionReport, me: bytes, now: float) -> Seen:
        """From its report, made `now`."""
        return cls(report.version, now - report.phases.get("end_s", 0.0), me in report.planned)


@dataclass(frozen=True)
class Work:
    """What a commit found here. `ready_at`: when a phase that is over was, None in the middle of one."""

    step: int
    steps: int
    ready_at: float | None
    expired: bool


def sentence(version: int, seen: Seen | None, work: Work) -> str:
    """For the log and the page."""
    fate = "it has expired by the rule reset" if work.expired else "it goes into the next"
    return f"Your update is not in round {version}, because {_why(version, seen, work)}; {fate}."


def _why(version: int, seen: Seen | None, work: Work) -> str:
    if seen is None or seen.version != version:
        return "this node learned of that round afterwards"
    if seen.planned:
        return "nothing of it reached the others in time"
    if work.ready_at is None:
        return f"this node was still training (inner step {work.step} of {work.steps})"
    late = work.ready_at - seen.began
    return (
        f"it came {duration(max(1.0, late))} late"
        if late > 0
        else "the round began without having heard of it"
    )
