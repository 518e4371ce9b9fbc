"""`atoll simulate`: whole swarms in virtual time. chaos: everything that can go wrong; big: many nodes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from atoll.daemon.errors import AtollError, Exit


def chaos(arguments: argparse.Namespace) -> int:
    """`atoll simulate chaos`"""
    if arguments.seeds < 1 or arguments.jobs < 0 or arguments.seed < 0:
        raise AtollError(Exit.USAGE, "usage", "Seeds, their number and jobs are positive numbers.")
    if arguments.seeds == 1 and not arguments.resume:
        return _one(arguments.seed, arguments.trace)
    if arguments.trace:
        raise AtollError(Exit.USAGE, "usage", "A trace is of one seed: leave out --seeds and --resume.")
    return _many(arguments)


def _one(seed: int, trace: bool) -> int:
    import torch

    from atoll.daemon.simulate import chaos as seeds
    from atoll.daemon.simulate.engine import Violation

    torch.set_num_threads(1)
    try:
        outcome = seeds.run(seed, print if trace else None)
    except Violation as violation:
        # With --trace all lines have been printed.
        print(str(violation).splitlines()[0] if trace else violation, file=sys.stderr)
        print(f"Failed: to see it again, atoll simulate chaos --seed {seed} --trace", flush=True)
        return int(Exit.BUG)
    ends = ", ".join(f"{count} {name}" for name, count in sorted(outcome.outcomes.items()))
    print(
        f"Seed {seed}: {outcome.nodes} nodes, {outcome.faults} faults, {outcome.rounds} rounds in "
        f"{outcome.virtual_s:.0f} virtual seconds; all nodes held the same version "
        f"{outcome.converged_s:.1f} s after the last fault."
    )
    print(f"How rounds ended, counted by every node: {ends}.")
    rate = outcome.delivered / outcome.cpu_s
    print(f"{outcome.delivered} messages in {outcome.cpu_s:.2f} CPU-seconds: {rate:,.0f} per CPU-second.")
    print("Passed: no rule of the protocol was broken.")
    return int(Exit.OK)


def big(arguments: argparse.Namespace) -> int:
    """`atoll simulate big`"""
    from atoll.daemon.simulate.big import Big
    from atoll.daemon.simulate.engine import Violation
    from atoll.protocol.round.plan import MAX_MEMBERS

    if arguments.seed < 0:
        raise AtollError(Exit.USAGE, "usage", "A seed is not negative.")
    nodes, rounds, losses = arguments.nodes, arguments.rounds, arguments.losses
    if not (2 <= nodes <= MAX_MEMBERS and rounds >= 1 and losses >= 0 and losses * (rounds - 1) < nodes - 1):
        most = f"2 to {MAX_MEMBERS} nodes, and some are left after the last round"
        raise AtollError(Exit.USAGE, "usage", f"A big swarm has {most}.")
    try:
        outcome = Big(nodes, arguments.seed, losses).run(rounds)
    except Violation as violation:
        print(f"Failed: violation of {violation.kind!r}: {violation.message}", flush=True)
        return int(Exit.BUG)
    ends = ", ".join(f"{count} {name}" for name, count in sorted(outcome.outcomes.items()))
    groups = f"in {outcome.groups} groups" if outcome.groups else "on one level"
    print(
        f"Seed {arguments.seed}: {nodes} nodes {groups}, {outcome.lost} lost, {rounds} rounds of "
        f"{outcome.chunks} chunks; {outcome.events} events, {outcome.cpu_s:.0f} CPU-seconds."
    )
    print(f"The busiest node exchanged payloads with {outcome.partners} others, and sent {outcome.payloads}.")
    print(f"How rounds ended, counted by every node: {ends}.")
    print("Passed: all that live have the same bits, and every contribution is in each chunk once.")
    return int(Exit.OK)


def _many(arguments: argparse.Namespace) -> int:
    from atoll.daemon.simulate import campaign

    path = Path(arguments.resume) if arguments.resume else None
    progress = campaign.load(path, arguments.seed, arguments.seeds)
    jobs = arguments.jobs or os.cpu_count() or 1
    try:
        campaign.run(progress, jobs, path, lambda p: print(f"\r{p.summary()}", end="", file=sys.stderr))
    finally:
        print(file=sys.stderr)
    print(f"{progress.summary()}.")
    for found in progress.violations:
        print(f"Violation of {found['kind']!r} at {found['at_s']} s: {found['message']}")
    if not progress.violations:
        print("Passed: no rule of the protocol was broken.")
        return int(Exit.OK)
    again = "; ".join(f"atoll simulate chaos --seed {found['seed']} --trace" for found in progress.violations)
    print(f"Failed: to see it again, {again}")
    return int(Exit.BUG)
