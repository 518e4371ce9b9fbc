"""What the rounds were like: the newest KEEP, for page, CLI and summaries.

A report is JSON in which peers are numbers, places in one list of ids, so that hundreds of rounds of hundreds
of peers stay small. Each change of a report gives it a new revision: whoever knows one asks for what came
after. The log of events keeps reports with ids; from there they come back after a restart.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from atoll.peers.identity import readable_name
from atoll.protocol.chain import Head
from atoll.protocol.round.types import SessionReport
from atoll.protocol.signing import peer_text
from atoll.web_ui.rounds import LISTS, with_ids
from atoll.web_ui.shapes import finite

KEEP = 500
COMMITTED = ("certified", "provisional")
"""Outcomes that made a version."""
MAX_LOSS = 100.0
"""Nats per byte that a member may say; a model that knows nothing has 5.5."""
MAX_IDS = 4096
"""Of peers that the reports name; with more of them, those that none names any more are forgotten."""
_PHASES = {"scatter_s": "reduce_s", "reduce_s": "propose_s", "commit_s": "persist_s", "apply_s": "end_s"}


@dataclass(frozen=True)
class Said:
    """What a member said of its last phase; None: nothing. `loss` in nats per byte, `cosine` -1 to 1."""

    loss: float | None = None
    cosine: float | None = None


class History:
    """Round reports; digest and validation loss join a report later. `run`: when the daemon started."""

    def __init__(self, run: float = 0.0) -> None:
        self.rounds: deque[dict[str, Any]] = deque(maxlen=KEEP)
        self.outcomes: Counter[str] = Counter()
        self.revision = 0
        self._run = run
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

    def ended(
        self,
        report: SessionReport,
        now: float,
        sent: int,
        received: int,
        loss: float | None,
        said: Iterable[Said] = (),
    ) -> dict[str, Any]:
        """Notes a session's end and returns its report, with ids. `said`: by its members."""
        members = [*said, Said(loss)]
        # What peers say: one that is no loss would hide all others in a chart.
        losses = [x.loss for x in members if x.loss is not None and 0 <= x.loss <= MAX_LOSS]
        cosines = [x.cosine for x in members if x.cosine is not None and -1 <= x.cosine <= 1]
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
            "loss_min": min(losses, default=None),
            "loss_max": max(losses, default=None),
            "val_loss": None,
            "cosine": sum(cosines) / len(cosines) if cosines else None,
            "digest": "",
            "outer_lr": report.outer_lr,
            "codec": report.codec,
            "codec_reason": report.codec_reason,
            "groups": report.groups,
        }
        self._add(entry)
        self.outcomes[report.outcome] += 1
        return entry

    def restore(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Takes reports and validation losses back from a log of events; what is damaged is left out."""
        for event in events:
            entry = event.get("round")
            if event.get("kind") == "round" and isinstance(entry, dict) and _is_report(entry):
                self._add(entry)
            elif event.get("kind") == "validation" and isinstance(event.get("version"), int):
                self.measured(event["version"], finite(event.get("val_loss")))

    def _add(self, entry: Mapping[str, Any]) -> None:
        """Takes a report with ids, and forgets ids when there are too many."""
        self._take(entry)
        if len(self._ids) > MAX_IDS:
            self._forget_ids()

    def _take(self, entry: Mapping[str, Any]) -> None:
        places = {name: [self._place(id) for id in entry[name]] for name in LISTS}
        rejected = [{**each, "peer": self._place(each["peer"])} for each in entry["rejected"]]
        self.revision += 1
        self.rounds.append({**entry, **places, "rejected": rejected, "revision": self.revision})

    def _place(self, id: str) -> int:
        if id not in self._places:
            self._places[id] = len(self._ids)
            self._ids.append(id)
        return self._places[id]

    def _forget_ids(self) -> None:
        """Keeps the newest reports whose ids find room, and one in any case."""
        kept: list[dict[str, Any]] = []
        named: set[int] = set()
        for entry in reversed(self.rounds):
            named.update(_places(entry))
            if kept and len(named) > MAX_IDS:
                break
            kept.append(with_ids(entry, self._ids))
        self.rounds.clear()
        self._ids, self._places = [], {}
        for entry in reversed(kept):
            self._take(entry)

    @property
    def fruitless(self) -> int:
        """Sessions since the last one that brought a commit."""
        outcomes = (entry["outcome"] for entry in reversed(self.rounds))
        return sum(1 for _ in takewhile(lambda o: o not in COMMITTED, outcomes))

    def applied(self, head: Head) -> None:
        """Joins the digest to the report of the round that made it."""
        self.made(head.version, head.digest.hex())

    def made(self, version: int, digest: str) -> None:
        """The same, of a digest in hex."""
        self._join(version, "digest", digest)

    def measured(self, version: int, val_loss: float | None) -> None:
        """Joins a validation loss to the report of the round that made the version."""
        self._join(version, "val_loss", finite(val_loss))

    def _join(self, version: int, field: str, value: Any) -> None:
        for entry in reversed(self.rounds):
            if entry["version"] == version and entry["outcome"] in COMMITTED:
                if entry[field] != value:
                    self.revision += 1
                    entry[field], entry["revision"] = value, self.revision
                break

    # ---- for readers

    def named(self) -> list[dict[str, Any]]:
        """All reports, oldest first, with ids."""
        return [with_ids(entry, self._ids) for entry in self.rounds]

    def page(self, after: int, limit: int) -> dict[str, Any]:
        """What changed after a revision, oldest change first, at most `limit` reports: `Rounds`."""
        changed = [entry for entry in self.rounds if entry["revision"] > after]
        found = sorted(changed, key=lambda entry: int(entry["revision"]))[:limit]
        # Only the ids that these reports name, in the order of a list of their own.
        used = sorted({place for entry in found for place in _places(entry)})
        places = {place: index for index, place in enumerate(used)}
        return {
            "run": self._run,
            "revision": found[-1]["revision"] if found else after,
            "peers": [self._ids[place] for place in used],
            "rounds": [_renumbered(entry, places) for entry in found],
        }


def _places(entry: Mapping[str, Any]) -> list[int]:
    listed = [place for name in LISTS for place in entry[name]]
    return listed + [each["peer"] for each in entry["rejected"]]


def _renumbered(entry: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, Any]:
    lists = {name: [places[place] for place in entry[name]] for name in LISTS}
    return {
        **entry,
        **lists,
        "rejected": [{**each, "peer": places[each["peer"]]} for each in entry["rejected"]],
    }


def _texts(peers: Sequence[bytes]) -> list[str]:
    return [peer_text(peer) for peer in peers]


def _durations(report: SessionReport) -> dict[str, float]:
    """Seconds of each leg, from the marks that the session left (0 for a leg it did not reach)."""
    previous, legs = 0.0, {}
    for leg, mark in _PHASES.items():
        at = report.phases.get(mark, previous)
        legs[leg] = round(max(0.0, at - previous), 3)
        previous = max(previous, at)
    return legs


_TYPES: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "view": int,
    "time": (int, float),
    "outcome": str,
    "reason": str,
    "leader": str,
    "tokens": int,
    "bytes_sent": int,
    "bytes_received": int,
    "duration_s": (int, float),
    "phases": dict,
    "loss": (int, float, type(None)),
    "loss_min": (int, float, type(None)),
    "loss_max": (int, float, type(None)),
    "val_loss": (int, float, type(None)),
    "cosine": (int, float, type(None)),
    "digest": str,
    "outer_lr": (int, float),
    "codec": str,
    "codec_reason": str,
    "groups": int,
}


def _is_report(entry: Mapping[str, Any]) -> bool:
    """Whether a record of the log has what a report must have: another release may have written it."""
    lists = all(
        isinstance(entry.get(name), list) and all(isinstance(id, str) for id in entry[name]) for name in LISTS
    )
    rejected = entry.get("rejected")
    return (
        lists
        and all(isinstance(entry.get(name, ...), kind) for name, kind in _TYPES.items())
        and set(entry["phases"]) == set(_PHASES)
        and all(isinstance(seconds, int | float) for seconds in entry["phases"].values())
        and isinstance(rejected, list)
        and all(
            isinstance(x, dict) and isinstance(x.get("peer"), str) and isinstance(x.get("reason"), str)
            for x in rejected
        )
    )
