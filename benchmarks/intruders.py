"""What intruders cost a private swarm of real daemons: each attack of tests/process/intruders.py.

    python -m benchmarks.intruders            about twenty minutes with nothing else running

Two members train, on one core of this machine; the intruder has another to itself, as it would have a
machine of its own: so what makes rounds longer is what its victim has to do. The members are left alone for
some rounds, attacked for as many, left alone again, and so on through all attacks, several times: memory that
has grown by the first time shows by the others whether it goes on. One of the attacks is none: an intruder
that starts and ends like the others and dials nobody. What its row shows is this machine's, not the victim's.

CPU time and memory (resident) are those of the victim's daemon and its p2pd together. A shared core's speed
changes by tenths within a minute, so lengths of rounds are compared in the core's own time as well: the
members' trainers do the same steps in each round, and what CPU time that takes them is the measure.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.process.harness import Daemon
from tests.process.intruders import ATTACKS, a_machine, insiders, intruder, refused_of

from atoll.daemon.cli.api import client_of
from atoll.daemon.machine import resident_bytes
from atoll.daemon.storage.data_dir import DataDir
from benchmarks.daemons import a_swarm, cpu_s, daemon_of, options_of, trainers_of

ROUNDS, FIRST, PASSES = 3, 8, 3
AFTER_S = 180.0
"""Go gives memory back to the system with its collection every two minutes."""
NONE = "none"
RESULTS = Path(__file__).parent / "results" / "intruders.md"
GOAL = 0.05


def resident_mb(node: Daemon) -> float:
    """Of the daemon and its p2pd; not of its trainer, which no intruder reaches."""
    found = resident_bytes([str(pid) for pid in daemon_of(node)])
    assert found is not None, "the system does not tell"
    return found / 1e6


@dataclass(frozen=True)
class Stretch:
    """Some rounds: seconds that they took, of the victim's CPU time, and of the trainers'."""

    wall: float
    cpu: float
    training: float
    grown_mb: float

    @property
    def load(self) -> float:
        """The victim's CPU seconds in a second."""
        return self.cpu / self.wall

    @property
    def length(self) -> float:
        """Of a round, in the core's own time."""
        return self.wall / self.training


def stretch(members: list[Daemon], count: int) -> Stretch:
    """The next rounds, from the end of one to the end of the last; as the first member tells of them."""
    node = members[0]
    victim = daemon_of(node)
    trainers = [pid for one in members for pid in trainers_of(one)]
    client = client_of(DataDir(node.folder))
    assert client is not None, "the node has ended"
    with closing(client.events()) as events:  # type: ignore[type-var]
        ends = (event for event in events if event["kind"] == "round")
        next(ends)
        began, cpu, training, memory = time.monotonic(), cpu_s(victim), cpu_s(trainers), resident_mb(node)
        for _ in range(count):
            next(ends)
        wall = time.monotonic() - began
        return Stretch(wall, cpu_s(victim) - cpu, cpu_s(trainers) - training, resident_mb(node) - memory)


async def once(node: Daemon, name: str, folder: Path, watching: asyncio.Task[Stretch]) -> None:
    """One intruder and what it does; given up when the rounds have ended, else it has to come out right."""
    if name == NONE:
        async with a_machine(folder):
            return
    attack, _ = ATTACKS[name]
    async with intruder(node, folder) as who:
        work = asyncio.create_task(attack(who))
        await asyncio.wait([work, watching], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        await asyncio.gather(work, return_exceptions=watching.done())


async def attacked(members: list[Daemon], name: str, folder: Path) -> tuple[Stretch, int]:
    """The next rounds while this attack is repeated; how often it was."""
    watching = asyncio.create_task(asyncio.to_thread(stretch, members, ROUNDS))
    done = 0
    while not watching.done():
        await once(members[0], name, folder / f"{name} {done}", watching)
        done += 1
    return await watching, done


@dataclass
class Found:
    """What was seen of one attack, each time that its turn came."""

    times: int = 0
    quiet: list[Stretch] = field(default_factory=list)
    """Before and after each of `under`."""
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

    def ratio(self, of: Callable[[Stretch], float]) -> float:
        """Attacked to left alone, means of both."""
        return statistics.mean(map(of, self.under)) / statistics.mean(map(of, self.quiet))

    def row(self, name: str) -> str:
        cells = (
            name,
            str(self.times),
            f"{self.ratio(lambda one: one.wall):.3f}",
            f"{self.ratio(lambda one: one.length):.3f}",
            *(f"{load:.1%}" for load in self.loads),
            ", ".join(f"{one.grown_mb:+.1f}" for one in self.under),
            ", ".join(f"{reason} {n}" for reason, n in self.refused.items()) or "nothing to refuse",
        )
        return f"| {' | '.join(cells)} |"


async def measure(
    members: list[Daemon], folder: Path, names: list[str]
) -> tuple[dict[str, Found], list[float]]:
    """What each attack did, and the victim's memory in MB: before all, after each pass, and later."""
    first = members[0]
    found = {name: Found() for name in names}
    memory = [resident_mb(first)]
    inside = insiders(first)
    quiet = await asyncio.to_thread(stretch, members, ROUNDS)
    for turn in range(PASSES):
        for name, one in found.items():
            before = refused_of(first)
            under, times = await attacked(members, name, folder / f"pass {turn}")
            before_it, quiet = quiet, await asyncio.to_thread(stretch, members, ROUNDS)
            one.quiet += [before_it, quiet]
            one.under.append(under)
            one.times += times
            after = refused_of(first)
            if name != NONE:
                one.refused.update({r: round(after[r] - before.get(r, 0)) for r in ATTACKS[name][1]})
            status = first.status()
            assert status is not None and status["peers"] == 1, "somebody is in"
            assert [node for node in insiders(first) if node in inside] == inside
            print(one.row(name), flush=True)
        memory.append(resident_mb(first))
    await asyncio.sleep(AFTER_S)
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
    with a_swarm(2, "--private", "--inner-steps", "20", "--batch", "4", "--min-peers", "2") as members:
        members[0].wait_for(lambda s: s["peers"] == 1, "both are there")
        members[0].wait_for_version(FIRST)
        os.sched_setaffinity(0, cores[1:])
        names = [NONE, *arguments.attacks]
        found, memory = asyncio.run(measure(members, members[0].folder.parent, names))
    more = max(found[name].more for name in arguments.attacks)
    longer = max(found[name].ratio(lambda one: one.length) for name in arguments.attacks) - 1
    text = [
        "# Intruders",
        "",
        "Made by `python -m benchmarks.intruders`: a private swarm of two real daemons on one core, the",
        f"intruder on another; {PASSES} times through all attacks, each repeated over {ROUNDS} rounds",
        "between as many quiet ones. Rounds: attacked to quiet, by the clock and in the core's own time,",
        "which is per CPU second of the trainers: they do the same in each round, and this machine's cores",
        "change their speed. CPU is that of the victim's daemon and p2pd, in parts of a core. The first row",
        "is an intruder that dials nobody: what it differs from 1 by is the machine's. Nothing was accepted:",
        "the members are the same and no link of a stranger stayed.",
        "",
        f"The goal is rounds at most {GOAL:.0%} longer. In the core's own time they are at most {longer:.1%}",
        f"longer, and the victim takes at most {more:.1%} more of the members' core.",
        "Memory is to stay what it is: it was",
        f"{', '.join(f'{mb:.0f}' for mb in memory[:-1])} MB before all attacks and after each time through,",
        f"and {memory[-1]:.0f} MB {AFTER_S / 60:.0f} minutes later.",
        "",
        "| attack | times | round, clock | core's time | CPU quiet | attacked | MB grown, each time "
        "| refused, by reason |",
        "|---|---|---|---|---|---|---|---|",
        *(one.row(name) for name, one in found.items()),
        "",
    ]
    arguments.out.write_text("\n".join(text))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
