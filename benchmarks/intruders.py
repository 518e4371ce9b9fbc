"""What intruders cost a private swarm of real daemons: each attack of tests/process/intruders.py.

    python -m benchmarks.intruders            about a quarter of an hour with nothing else running

Two members train, on one core of this machine; the intruder has another to itself, as it would have a
machine of its own: so what makes rounds longer is what its victim has to do. The members are left alone for
some rounds, attacked for as many, left alone again, and so on through all attacks, twice: memory that has
grown by the first time shows by the second whether it goes on. CPU time and memory (resident) are those of
the victim's daemon and its p2pd together, over the same rounds.

Rounds are longer by no more than what the victim's daemon takes more of the members' core, and that is what
the goal is held against: the lengths of a few rounds vary by a tenth, also beside an intruder that dials
nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.process.harness import Daemon
from tests.process.intruders import ATTACKS, insiders, intruder, refused_of

from atoll.daemon.machine import resident_bytes
from benchmarks.daemons import a_swarm, cpu_s, daemon_of, options_of

ROUNDS, FIRST, PASSES = 3, 8, 2
RESULTS = Path(__file__).parent / "results" / "intruders.md"
GOAL = 0.05


def resident_mb(node: Daemon) -> float:
    """Of the daemon and its p2pd; not of its trainer, which no intruder reaches."""
    found = resident_bytes([str(pid) for pid in daemon_of(node)])
    assert found is not None, "the system does not tell"
    return found / 1e6


@dataclass(frozen=True)
class Stretch:
    """Some rounds: seconds of each, and what the victim took for them."""

    rounds: list[float]
    cpu: float
    grown_mb: float

    @property
    def load(self) -> float:
        """CPU seconds in a second."""
        return self.cpu / sum(self.rounds)


async def stretch(node: Daemon, count: int) -> Stretch:
    """The next rounds, from one new version to the next."""
    version = (await asyncio.to_thread(node.wait_for_version, 1))["version"]
    ends, cpu, memory = list[float](), 0.0, 0.0
    for k in range(count + 1):
        await asyncio.to_thread(node.wait_for_version, version + 1 + k)
        if not ends:
            cpu, memory = cpu_s(daemon_of(node)), resident_mb(node)
        ends.append(time.monotonic())
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    return Stretch(lengths, cpu_s(daemon_of(node)) - cpu, resident_mb(node) - memory)


async def attacked(node: Daemon, name: str, folder: Path) -> tuple[Stretch, int]:
    """The same while this attack is repeated; how often it was."""
    attack, _ = ATTACKS[name]
    watching = asyncio.create_task(stretch(node, ROUNDS))
    done = 0
    while not watching.done():
        async with intruder(node, folder / f"{name} {done}") as who:
            work = asyncio.create_task(attack(who))
            await asyncio.wait([work, watching], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await asyncio.gather(work, return_exceptions=watching.done())
        done += 1
    return await watching, done


@dataclass
class Found:
    """What was seen of one attack, each time that its turn came."""

    times: int = 0
    quiet: list[Stretch] = field(default_factory=list)
    under: list[Stretch] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def loads(self) -> tuple[float, float]:
        """Parts of the members' core that the victim takes: left alone, and attacked."""
        quiet, under = (statistics.mean(one.load for one in found) for found in (self.quiet, self.under))
        return quiet, under

    @property
    def more(self) -> float:
        """What it takes more of the core while it is attacked."""
        quiet, under = self.loads
        return under - quiet

    def row(self, name: str) -> str:
        both = self.quiet, self.under
        quiet, under = (statistics.median(s for one in found for s in one.rounds) for found in both)
        cells = (
            name,
            str(self.times),
            f"{under / quiet:.3f}",
            *(f"{load:.1%}" for load in self.loads),
            ", ".join(f"{one.grown_mb:+.1f}" for one in self.under),
            ", ".join(f"{reason} {n}" for reason, n in self.refused.items()) or "nothing to refuse",
        )
        return f"| {' | '.join(cells)} |"


async def measure(first: Daemon, folder: Path, names: list[str]) -> tuple[dict[str, Found], list[float]]:
    """What each attack did, and the victim's memory in MB: before all, and after each pass."""
    found = {name: Found() for name in names}
    memory = [resident_mb(first)]
    inside = insiders(first)
    quiet = await stretch(first, ROUNDS)
    for turn in range(PASSES):
        for name, one in found.items():
            before = refused_of(first)
            under, times = await attacked(first, name, folder / f"pass {turn}")
            before_it, quiet = quiet, await stretch(first, ROUNDS)
            one.quiet += [before_it, quiet]
            one.under.append(under)
            one.times += times
            after = refused_of(first)
            one.refused.update({r: round(after[r] - before.get(r, 0)) for r in ATTACKS[name][1]})
            status = first.status()
            assert status is not None and status["peers"] == 1, "somebody is in"
            assert [node for node in insiders(first) if node in inside] == inside
            print(one.row(name), flush=True)
        memory.append(resident_mb(first))
    return found, memory


def main() -> None:
    parser = options_of(__doc__, RESULTS)
    parser.add_argument("--attacks", nargs="*", choices=sorted(ATTACKS), default=list(ATTACKS))
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("the members and the intruder need a core each")
    os.sched_setaffinity(0, cores[:1])
    with a_swarm(2, "--private", "--inner-steps", "20", "--batch", "4", "--min-peers", "2") as (first, _):
        first.wait_for(lambda s: s["peers"] == 1, "both are there")
        first.wait_for_version(FIRST)
        os.sched_setaffinity(0, cores[1:])
        found, memory = asyncio.run(measure(first, first.folder.parent, arguments.attacks))
    text = [
        "# Intruders",
        "",
        "Made by `python -m benchmarks.intruders`: a private swarm of two real daemons on one core, the",
        f"intruder on another; {PASSES} times through all attacks, each repeated over {ROUNDS} rounds",
        "between as many quiet ones. CPU is that of the victim's daemon and p2pd, in parts of a core.",
        "Nothing was accepted: the members are the same and no link of a stranger stayed.",
        "",
        "Rounds are longer by no more than what the victim takes more of the members' core: at most",
        f"{max(one.more for one in found.values()):.1%}; the goal is {GOAL:.0%}.",
        "Lengths of so few rounds vary by a tenth, also beside an intruder that dials nobody.",
        "Memory is to stay what it is: daemon and p2pd had",
        f"{' MB, '.join(f'{mb:.0f}' for mb in memory)} MB before all attacks and after each time through.",
        "",
        "| attack | times | round, ratio | CPU quiet | attacked | MB grown, each time | refused, by reason |",
        "|---|---|---|---|---|---|---|",
        *(one.row(name) for name, one in found.items()),
        "",
    ]
    arguments.out.write_text("\n".join(text))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
