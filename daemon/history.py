"""What the rounds of this run were like: the newest KEEP, for page, CLI and summaries."""

from __future__ import annotations

from collections import Counter, deque
from itertools import takewhile
from typing import Any

from atoll.peers.identity import readable_name
from atoll.protocol.chain import Head
from atoll.protocol.round.types import SessionReport
from atoll.protocol.signing import peer_text

KEEP = 200
_PHASES = {"scatter_s": "reduce_s", "reduce_s": "propose_s", "commit_s": "persist_s", "apply_s": "end_s"}


class History:
    """Round reports as JSON; the commit's digest joins its report when it was applied."""

    def __init__(self) -> None:
        self.rounds: deque[dict[str, Any]] = deque(maxlen=KEEP)
        self.outcomes: Counter[str] = Counter()

    def ended(
        self, report: SessionReport, now: float, sent: int, received: int, loss: float | None
    ) -> dict[str, Any]:
        """Notes a session's end and returns its report."""
        entry = {
            "version": report.version,
            "view": int(report.session.view),
            "time": round(now, 3),
            "outcome": report.outcome,
            "reason": "" if report.outcome == "certified" else report.reason,
            "leader": readable_name(bytes(report.session.leader)),
            "planned": _texts(report.planned),
            "contributed": _texts(report.contributed),
            "received": _texts(report.followers),
            "late": _texts(report.late),
            "rejected": [{"peer": peer_text(p), "reason": why} for p, why in report.rejected],
            "missing": _texts(report.missing),
            "tokens": report.tokens,
            "bytes_sent": sent,
            "bytes_received": received,
            "duration_s": round(report.phases.get("end_s", 0.0), 3),
            "phases": _durations(report),
            "loss": loss,
            "val_loss": None,
            "digest": "",
            "outer_lr": report.outer_lr,
            "codec": report.codec,
            "codec_reason": report.codec_reason,
            "groups": report.groups,
        }
        self.rounds.append(entry)
        self.outcomes[report.outcome] += 1
        return entry

    @property
    def fruitless(self) -> int:
        """Sessions since the last one that brought a commit."""
        outcomes = (entry["outcome"] for entry in reversed(self.rounds))
        return sum(1 for _ in takewhile(lambda o: o not in ("certified", "provisional"), outcomes))

    def applied(self, head: Head) -> None:
        """Joins the digest to the report of the round that made it."""
        for entry in reversed(self.rounds):
            if entry["version"] == head.version and entry["outcome"] in ("certified", "provisional"):
                entry["digest"] = head.digest.hex()
                break


def _texts(peers: tuple[bytes, ...]) -> list[str]:
    return [peer_text(peer) for peer in peers]


def _durations(report: SessionReport) -> dict[str, float]:
    """Seconds of each leg, from the marks that the session left (0 for a leg it did not reach)."""
    previous, legs = 0.0, {}
    for leg, mark in _PHASES.items():
        at = report.phases.get(mark, previous)
        legs[leg] = round(max(0.0, at - previous), 3)
        previous = max(previous, at)
    return legs
