"""Does a joiner hold up those who are there? Door to commit with newcomers and without, in virtual time.

Four nodes train; in half of the swarms a fifth joins, downloads the whole state from them while rounds go on,
follows with weight 0, and just before it would contribute it is gone and the next newcomer comes. Measured is
the time from the closing of the door to the commit on each of the four. In virtual time, since on one machine
a joiner takes the others' processor as well. Lines are narrow enough for a round to be long beside a round
trip; a state is larger than what a node sends in a round.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, quantiles

from atoll.daemon.simulate.chaos import Swarm
from atoll.daemon.simulate.disk import SimulatedDisk
from atoll.daemon.simulate.node import SimNode, Traits
from atoll.daemon.simulate.scenario import Scenario
from atoll.protocol.round import types as t

MEMBERS = 4
LOOK_S = 0.05
GOAL = 1.05
RESULTS = Path(__file__).parent / "results"


def plan(joiner: bool, upload_bps: float) -> Scenario:
    """Four equal nodes from the start, and one that comes after two seconds."""
    traits = Traits(
        inner_s=(0.9, 1.1),
        work_s=(0.005, 0.02),
        upload_bps=upload_bps,
        download_bps=4 * upload_bps,
        interval=1,
    )
    size = MEMBERS + joiner
    return Scenario(
        traits=(traits,) * size,
        starts=(0.0,) * MEMBERS + (2.0,) * joiner,
        min_peers=MEMBERS,
        latency_s=(0.01, 0.03),
        liar=None,
        lie="payload",
        gone=frozenset(),
        faults=(),
    )


class Measured(Swarm):
    """`durations` of door to commit on the members; `overlapping` those with a download in them."""

    def __init__(self, seed: int, joiner: bool, upload_bps: float) -> None:
        super().__init__(seed, plan=plan(joiner, upload_bps))
        self.durations: list[float] = []
        self.overlapping: list[float] = []
        self.joins = 0
        self._fetching: list[tuple[float, float]] = []
        told = self.oracle.session_ended

        def ended(node: SimNode, report: t.SessionReport) -> None:
            told(node, report)
            if node.index < MEMBERS and report.outcome == "certified":
                self._note(report.phases["end_s"])

        self.oracle.session_ended = ended  # type: ignore[method-assign]
        if joiner:
            self.engine.at(2.0, self._look)

    def _note(self, lasted: float) -> None:
        self.durations.append(lasted)
        began = self.engine.now - lasted
        if any(start < self.engine.now and end > began for start, end in self._fetching):
            self.overlapping.append(lasted)

    def _look(self) -> None:
        """A download under way is noted; a joiner that is about to contribute makes room for the next."""
        node, now = self.nodes[MEMBERS], self.engine.now
        if node.alive and not node.running and node.recovery.fetching:
            last = self._fetching[-1] if self._fetching else (-1.0, -1.0)
            if now - last[1] < 2 * LOOK_S:
                self._fetching[-1] = (last[0], now)
            else:
                self._fetching.append((now - LOOK_S, now))
        if node.training:
            self.joins += 1
            node.kill(power=False)
            node.disk = SimulatedDisk()
            node.start()
        self.engine.after(LOOK_S, self._look)

    def measure(self, until_s: float) -> None:
        """Raises Violation."""
        self.engine.run(lambda: False, until_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a joiner costs those who are there.")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual, of each swarm (60)")
    parser.add_argument("--out", type=Path, default=RESULTS / "joiner_cost.md")
    args = parser.parse_args()
    lines = [
        "# What a joiner costs",
        "",
        f"Door to commit of {MEMBERS} nodes in virtual seconds, {args.seeds} swarms of {args.seconds:.0f} s",
        "each way; made by `benchmarks/joiner_cost.py`. A newcomer is there all the time: it downloads, or",
        "follows with weight 0.",
        "",
        "| upload, kB/s | without: mean, p95 | with: mean, p95 | ratio | in a download | ratio | joins |",
        "|---|---|---|---|---|---|---|",
    ]
    for upload_bps in (10_000.0, 30_000.0, 100_000.0):
        swarms: dict[bool, list[Measured]] = {False: [], True: []}
        for seed in range(1, args.seeds + 1):
            for joiner in swarms:
                swarm = Measured(seed, joiner, upload_bps)
                swarm.measure(args.seconds)
                swarms[joiner].append(swarm)
        alone, joined = ([d for swarm in swarms[way] for d in swarm.durations] for way in (False, True))
        during = [d for swarm in swarms[True] for d in swarm.overlapping]
        base = fmean(alone)
        lines.append(
            f"| {upload_bps / 1000:.0f} | {base:.3f}, {quantiles(alone, n=20)[-1]:.3f} "
            f"| {fmean(joined):.3f}, {quantiles(joined, n=20)[-1]:.3f} | **{fmean(joined) / base:.3f}** "
            f"| {fmean(during):.3f} ({len(during)}) | **{fmean(during) / base:.3f}** "
            f"| {sum(swarm.joins for swarm in swarms[True])} |"
        )
    text = "\n".join([*lines, "", f"Goal: at most {GOAL}.", ""])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
