"""How far this node trusts each of the others' contributions: falls fast, rises slowly. Pure.

A standing is between 0 and 1 and begins at 1. What a node does wrong multiplies it, each commit after that
adds a little. Below QUARANTINE a node is left out: its weight is 0, in the plans that this node makes and in
the chunks that it owns, until its standing has risen to RELEASE. It goes on to follow, and statuses say why.
Nobody is thrown out of a swarm by this: that is a ban, and a person's decision.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

QUARANTINE, RELEASE = 0.5, 0.8
RECOVERY = 0.01
"""A commit's worth of good conduct."""
MAX_PEERS = 4096

LIED, TWO_PLEDGES, NO_RECORD, UNPLEDGED, MALFORMED, HUGE, DISAGREES, FALSE_ALARM, VOTED_DOWN = (
    "lied",
    "two_pledges",
    "no_record",
    "unpledged",
    "malformed",
    "huge",
    "disagrees",
    "false_alarm",
    "voted_down",
)
FACTORS: Mapping[str, float] = {
    LIED: 0.0,
    TWO_PLEDGES: 0.0,
    NO_RECORD: 0.6,
    UNPLEDGED: 0.7,
    MALFORMED: 0.7,
    HUGE: 0.6,
    DISAGREES: 0.85,
    FALSE_ALARM: 0.6,
    VOTED_DOWN: 0.6,
}
WORDS: Mapping[str, str] = {
    LIED: "an audit proved that a result it made was not what its contributions make",
    TWO_PLEDGES: "it pledged two different contributions in one round",
    NO_RECORD: "it did not show what it had been sent when it was audited",
    UNPLEDGED: "it sent what it had not pledged",
    MALFORMED: "it sent contributions that no codec takes",
    HUGE: "it sent contributions many times longer than is usual",
    DISAGREES: "its contributions point elsewhere than most of the others'",
    FALSE_ALARM: "it accused a node of a lie, and the audit showed none",
    VOTED_DOWN: "it made results that voters refused, for they pointed against what this node had learned",
}
PROVEN = (LIED, TWO_PLEDGES)


@dataclass
class _Record:
    score: float = 1.0
    quarantined: bool = False
    reason: str = ""
    """Of the last strike."""


class Standings:
    """Of one node, about the others."""

    def __init__(self) -> None:
        self._of: dict[bytes, _Record] = {}
        self.strikes: dict[str, int] = dict.fromkeys(FACTORS, 0)
        """Since the process began, by reason."""

    def strike(self, peer: bytes, reason: str) -> bool:
        """Notes a wrong of `peer`. Whether it is in quarantine from now on, and was not before."""
        self.strikes[reason] += 1
        if peer not in self._of and len(self._of) >= MAX_PEERS:
            # Whoever stands best has the least to remember.
            del self._of[max(self._of, key=lambda known: self._of[known].score)]
        record = self._of.setdefault(peer, _Record())
        record.score *= FACTORS[reason]
        if record.reason not in PROVEN or reason in PROVEN:
            record.reason = reason
        begins = not record.quarantined and record.score < QUARANTINE
        record.quarantined = record.quarantined or begins
        return begins

    def commit(self) -> list[bytes]:
        """A commit was applied: everybody rises. Who is out of quarantine by it."""
        released = []
        for peer, record in list(self._of.items()):
            record.score = min(1.0, record.score + RECOVERY)
            if record.quarantined and record.score >= RELEASE:
                record.quarantined = False
                released.append(peer)
            if record.score == 1.0:
                del self._of[peer]
        return released

    def score(self, peer: bytes) -> float:
        return self._of[peer].score if peer in self._of else 1.0

    def quarantined(self, peer: bytes) -> str | None:
        """Why a node is in quarantine (a key of WORDS); None: it is not."""
        record = self._of.get(peer)
        return record.reason if record is not None and record.quarantined else None

    def proven(self, peer: bytes) -> bool:
        """Whether it is in quarantine for something that anybody can check."""
        return self.quarantined(peer) in PROVEN

    @property
    def all_quarantined(self) -> dict[bytes, str]:
        """Everyone in quarantine and why."""
        return {peer: record.reason for peer, record in self._of.items() if record.quarantined}

    # ---- as it is kept

    def saved(self) -> str:
        """JSON, as `load` takes it."""
        rows = [[p.hex(), r.score, r.quarantined, r.reason] for p, r in self._of.items()]
        return json.dumps({"standings": rows})

    def load(self, text: str) -> None:
        """Takes over what `saved` made. Raises ValueError where it is not that; then nothing changes."""
        found: dict[bytes, _Record] = {}
        try:
            for peer, score, quarantined, reason in json.loads(text)["standings"][:MAX_PEERS]:
                if not 0 <= float(score) <= 1 or not math.isfinite(score) or reason not in FACTORS:
                    raise ValueError("a standing that is impossible")
                found[bytes.fromhex(peer)] = _Record(float(score), bool(quarantined), reason)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a table of standings") from error
        self._of = found
