"""What intruders cost a private swarm of real daemons: each attack of tests/process/intruders.py.

    python -m benchmarks.intruders            about ten minutes with nothing else running

Two members train. By turns they are left alone for some rounds and attacked for as many, again and again; the
attacker runs at the lowest priority, so what is measured is what its victim has to do. Memory is that of the
victim's daemon and its p2pd together (resident), before the first attack of a kind and after the last.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from pathlib import Path

from tests.process.harness import Daemon, descendants
from tests.process.intruders import ATTACKS, insiders, intruder, refused_of

from benchmarks.daemons import a_swarm, options_of

ROUNDS = 4
RESULTS = Path(__file__).parent / "results" / "intruders.md"
GOAL = 1.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(node: Daemon) -> float:
    """Of the daemon and its p2pd; not of its trainer, which no intruder reaches."""
    total = 0
    for pid in (node.process.pid, *descendants(node.process.pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid == node.process.pid or b"p2pd" in command:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return total / 1e6


async def rounds(node: Daemon, count: int) -> list[float]:
    """Seconds of the next rounds, from one new version to the next."""
    version = (await asyncio.to_thread(node.wait_for_version, 1))["version"]
    ends = []
    for k in range(count + 1):
        await asyncio.to_thread(node.wait_for_version, version + 1 + k)
        ends.append(time.monotonic())
    return [b - a for a, b in itertools.pairwise(ends)]


async def attacked(node: Daemon, name: str, folder: Path) -> tuple[list[float], int]:
    """The same while this attack is repeated; how often it was."""
    attack, _ = ATTACKS[name]
    watching = asyncio.create_task(rounds(node, ROUNDS))
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


async def measure(first: Daemon, folder: Path) -> list[str]:
    lines = []
    inside = insiders(first)
    for name, (_, reasons) in ATTACKS.items():
        before, memory = refused_of(first), resident_mb(first)
        quiet = await rounds(first, ROUNDS)
        under, times = await attacked(first, name, folder)
        quiet += await rounds(first, ROUNDS)
        ratio = statistics.median(under) / statistics.median(quiet)
        grown, after = resident_mb(first) - memory, refused_of(first)
        counted = ", ".join(f"{r} {after[r] - before.get(r, 0):.0f}" for r in reasons) or "nothing to refuse"
        status = first.status()
        assert status is not None and status["peers"] == 1, "somebody is in"
        assert [node for node in insiders(first) if node in inside] == inside
        lines.append(f"| {name} | {times} | {ratio:.3f} | {memory:.0f} | {grown:+.1f} | {counted} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    arguments = options_of(__doc__, RESULTS).parse_args()
    with a_swarm(2, "--private", "--inner-steps", "40", "--batch", "4", "--min-peers", "2") as (first, _):
        first.wait_for(lambda s: s["peers"] == 1, "both are there")
        first.wait_for_version(2)
        os.nice(19)
        lines = asyncio.run(measure(first, first.folder.parent))
    text = [
        "# Intruders",
        "",
        "Made by `python -m benchmarks.intruders`: a private swarm of two real daemons on one machine, each",
        f"attack repeated over {ROUNDS} rounds, between as many quiet ones before and after. The goal is a",
        f"ratio of {GOAL} at most.",
        "Nothing was accepted: the members are the same and no link of a stranger stayed.",
        "",
        "| attack | times | round, ratio | memory, MB | grown by | refused, by reason |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ]
    arguments.out.write_text("\n".join(text))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
