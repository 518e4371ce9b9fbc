"""From a ticket to a contribution: how long `atoll join TICKET` takes on loopback, cold.

    python -m benchmarks.cold_join                 five joins (about five minutes with nothing else running)

Two members of a private swarm train the default model (0.8 M parameters). Newcomers with an empty data dir
join one after another, each with a ticket of its own. Times are from the start of the command, which is that
of a new process: until the page answers; until every verdict on the way to others is known; until a round
accepts its update. Rounds are counted from the version of the swarm when the newcomer had its state.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.process.harness import Daemon, wait_until

from benchmarks.daemons import a_swarm, a_ticket, options_of

RESULTS = Path(__file__).parent / "results" / "cold_join.md"


@dataclass(frozen=True)
class Joined:
    """One join. Seconds, and rounds."""

    page: float
    verdicts: float
    state: float
    accepted: float
    rounds: float


def join(first: Daemon, folder: Path) -> Joined:
    ticket = a_ticket(first)
    began = time.monotonic()
    node = Daemon(folder, "join", ticket, "--yes")

    def since(condition: Any, what: str) -> tuple[float, dict[str, Any]]:
        status = wait_until(lambda: (s := node.status()) and condition(s) and s, what)
        return time.monotonic() - began, status

    try:
        page, _ = since(lambda s: True, "the page answers")
        verdicts, _ = since(
            lambda s: s["connection"] and all(v["verdict"] != "unknown" for v in s["connection"]),
            "all verdicts",
        )
        state, status = since(lambda s: s["parameters"] and s["digest"], "its state")
        held = first.status()
        assert held is not None
        accepted, status = since(lambda s: s["token_account"]["accepted"] > 0, "an accepted update")
        return Joined(page, verdicts, state, accepted, status["version"] - held["version"])
    finally:
        node.kill()


def main() -> None:
    parser = options_of(__doc__, RESULTS)
    parser.add_argument("--joins", type=int, default=5)
    arguments = parser.parse_args()
    made = ("--private", "--inner-steps", "50", "--batch", "4", "--min-peers", "2")
    with a_swarm(2, *made) as (first, _):
        first.wait_for_version(2)
        found = []
        for k in range(arguments.joins):
            found.append(join(first, first.folder.parent / f"new{k}"))
            print(found[-1], flush=True)
            version = (first.status() or {"version": 0})["version"]
            first.wait_for_version(version + 1)
    rows = []
    for name, goal in (
        ("page", "3 s"),
        ("verdicts", "20 s"),
        ("state", ""),
        ("accepted", ""),
        ("rounds", "2"),
    ):
        values = [getattr(one, name) for one in found]
        unit = "" if name == "rounds" else " s"
        rows.append(f"| {name} | {statistics.median(values):.1f}{unit} | {max(values):.1f}{unit} | {goal} |")
    text = [
        "# From a ticket to a contribution",
        "",
        f"Made by `python -m benchmarks.cold_join`: {arguments.joins} newcomers to a private swarm of two,",
        "one after another, on one machine.",
        "",
        "| until | median | slowest | goal |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    arguments.out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
