"""Runs one seed: builds its swarm, lets its faults happen, and waits until all is well again.

While faults last anything may be slow or away, but no invariant may break. Then they stop, and within
CONVERGE_S all honest nodes must hold one digest with new certified rounds in it, and their books must agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from atoll.daemon.simulate import facts, scenario
from atoll.daemon.simulate.engine import Engine, Violation
from atoll.daemon.simulate.invariants import Oracle
from atoll.daemon.simulate.island import AheadIsland, ArrivalIsland, Island
from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.daemon.simulate.liar import Liar
from atoll.daemon.simulate.network import Network
from atoll.daemon.simulate.node import MakeIsland, SimNode
from atoll.daemon.simulate.payloads import Payloads
from atoll.daemon.simulate.scenario import Fault, Scenario

CONVERGE_S = 150.0
SETTLED_S = 4.0
"""So long after the last fault its messages are gone."""
ROUNDS_AFTER = 2
"""Commits certified after the faults that the common head has to end with."""


@dataclass(frozen=True)
class Outcome:
    """What a seed did. `delivered`: frames and files; `cpu_s`: of this process."""

    seed: int
    nodes: int
    rounds: int
    certified: int
    delivered: int
    faults: int
    converged_s: float
    virtual_s: float
    cpu_s: float
    outcomes: dict[str, int]


class Swarm:
    """A scenario on its way."""

    def __init__(
        self,
        seed: int,
        tell: Callable[[str], None] | None = None,
        kinds: tuple[str, ...] | None = None,
        plan: Scenario | None = None,
    ) -> None:
        self.engine = Engine(seed, tell)
        self.plan = plan or scenario.draw(self.engine.random, kinds)
        first = FakeKeyring(f"{seed}/0").peer_id
        genesis = facts.genesis(first)
        chunks = facts.chunks(self.plan.fragments)
        config = facts.round_config(
            first, self.plan.min_peers, self.plan.two_level_above, chunks, self.plan.arrivals
        )
        self.oracle = Oracle(genesis.digest)
        make: MakeIsland = partial(Island, missed=self.plan.missed)
        if self.plan.ahead or self.plan.arrivals:
            make = AheadIsland if self.plan.ahead else ArrivalIsland
        payloads = Payloads(self.plan.gathers)
        self.nodes = [
            SimNode(
                k,
                f"{seed}/{k}",
                self.engine,
                self.oracle,
                config,
                genesis,
                traits,
                make,
                payloads,
                chunks,
                self.plan.refusing,
            )
            for k, traits in enumerate(self.plan.traits)
        ]
        self.network = Network(self.engine, self.nodes, self.plan.latency_s)
        for node in self.nodes:
            node.network = self.network
            node.others = {other.id: other for other in self.nodes}
            if node.index == self.plan.liar:
                node.liar = Liar(self.plan.lie, node.keyring, node.index, self.engine.random, payloads)
            else:
                self.oracle.honest[node.id] = node.index
            start = self.plan.starts[node.index]
            if not start:
                node.store.save()
            self.engine.at(start, node.start)
        for fault in self.plan.faults:
            self.engine.at(fault.at_s, self._befall, fault)
        self.network.start()

    # ---- faults

    def _befall(self, fault: Fault) -> None:
        """A fault happens; what ends it is asked for at once."""
        victim, other = self.nodes[fault.nodes[0]], self.nodes[fault.nodes[1]]
        self.engine.say("-- {} ({} {}) for {:.1f} s", fault.kind, victim.name, other.name, fault.for_s)
        getattr(self, f"_{fault.kind}")(fault, victim, other)

    def _kill(self, fault: Fault, victim: SimNode, other: SimNode, power: bool = False) -> None:
        if victim.alive:
            victim.kill(power)
            if victim.index not in self.plan.gone:
                self.engine.after(fault.for_s, self._restart, victim)

    def _power(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        self._kill(fault, victim, other, power=True)

    def _torn(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        victim.disk.cut_after = 1 + int(12 * fault.amount)
        self.engine.after(fault.for_s, self._restart, victim)

    def _restart(self, node: SimNode) -> None:
        if not node.alive:
            node.start()

    def _stall(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        if victim.awake:
            victim.stall(fault.for_s)

    def _hang_up(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        pair = {victim, other}
        only = fault.amount < 0.5
        self.network.break_links(lambda a, b: {a, b} == pair if only else victim in (a, b), 0.3)

    def _partition(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        split = 1 + int(fault.amount * (self.plan.size - 1))
        self.network.groups = {index: 1 for index in fault.nodes[:split]}
        groups = self.network.groups
        self.network.break_links(lambda a, b: not self.network.reachable(a, b), fault.amount)
        self.engine.after(fault.for_s, self._merge, groups)

    def _merge(self, groups: dict[int, int]) -> None:
        if self.network.groups is groups:
            self.network.groups = {}

    def _unreachable(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        pair = (min(fault.nodes[:2]), max(fault.nodes[:2]))
        self.network.cut_pairs.add(pair)
        self.network.break_links(lambda a, b: {a, b} == {victim, other}, 0.2)
        self.engine.after(fault.for_s, self.network.cut_pairs.discard, pair)

    def _slow(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        victim.slowness = 2 + 8 * fault.amount
        self.engine.after(fault.for_s, self._mend, victim)

    def _narrow(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        victim.upload_bps = victim.traits.upload_bps / (5 + 20 * fault.amount)
        victim.download_bps = victim.traits.download_bps / (5 + 20 * fault.amount)
        self.engine.after(fault.for_s, self._mend, victim)

    def _full(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        victim.disk.full = True
        self.engine.after(fault.for_s, self._mend, victim)

    def _flip(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        """A checkpoint, or a commit that a checkpoint covers, is damaged while the node is away."""
        if not victim.alive:
            return
        self._kill(fault, victim, other)
        saved = victim.store.saved
        if len(saved) > 1:
            version = sorted(saved)[int(fault.amount * len(saved))]
            log = victim.store.log.path(min(saved), "payload" if fault.amount < 0.5 else "commit")
            for path in (victim.store.path(version), log):
                victim.disk.flip(path, self.engine.random)

    def _trainer(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        if victim.awake and victim.running:
            victim.driver.trainer_died()

    def _duplicates(self, fault: Fault, victim: SimNode, other: SimNode) -> None:
        self.network.duplicates = 0.6 * fault.amount
        self.engine.after(fault.for_s, self._calm)

    def _calm(self) -> None:
        self.network.duplicates = 0.0

    def _mend(self, node: SimNode) -> None:
        node.slowness, node.disk.full = 1.0, False
        node.upload_bps, node.download_bps = node.traits.upload_bps, node.traits.download_bps

    def _heal(self) -> None:
        """The faults are over: everything works, and everyone comes back who will."""
        self.engine.say("-- all faults are over")
        self.network.groups = {}
        self.network.cut_pairs.clear()
        self._calm()
        for node in self.nodes:
            self._mend(node)
            node.disk.cut_after = None
            if node.liar is not None:
                node.liar.active = False
            if not node.alive and node.index not in self.plan.gone:
                node.start()

    # ---- the whole run

    def run(self) -> Outcome:
        """Raises Violation."""
        began = time.process_time()
        engine, oracle = self.engine, self.oracle
        engine.run(lambda: False, scenario.QUIET_AT_S)
        engine.now = max(engine.now, scenario.QUIET_AT_S)
        for node in self.nodes:
            node.refusing = 0.0
        self._heal()
        quiet = engine.now
        engine.at(quiet + SETTLED_S, self._settled)
        before = set(oracle.certified.values())
        if not engine.run(lambda: self._agree(before), quiet + CONVERGE_S):
            raise Violation("convergence", self.describe())
        live = [node for node in self.nodes if node.alive and node.liar is None]
        for node in live:
            oracle.look(node, engine.now)
            oracle.reconcile(node)
        return Outcome(
            seed=0,
            nodes=self.plan.size,
            rounds=max(node.store.head.version for node in live),
            certified=len(oracle.certified),
            delivered=self.network.delivered,
            faults=len(self.plan.faults),
            converged_s=engine.now - quiet,
            virtual_s=engine.now,
            cpu_s=time.process_time() - began,
            outcomes=dict(oracle.outcomes),
        )

    def _settled(self) -> None:
        self.oracle.quiet = True

    def _agree(self, before: set[bytes]) -> bool:
        """All live honest nodes are at one head that ends with commits certified since the faults.

        In the middle of a download a node may have that head by chance, and its books follow only at the end.
        """
        head = None
        for node in self.nodes:
            if node.alive and node.liar is None:
                settled = node.running and not node.recovery.fetching
                if not settled or head not in (None, node.store.head.digest):
                    return False
                head = node.store.head.digest
        for _ in range(ROUNDS_AFTER):
            known = self.oracle.commits.get(head) if head else None
            if known is None or head in before or self.oracle.certified.get(known.parent) != head:
                return False
            head = known.parent
        return True

    def describe(self) -> str:
        """Where everyone is, for a violation."""
        parts = []
        for node in self.nodes:
            what = "dead" if not node.alive else "joining" if not node.running else ""
            situation = node.machine.situation(self.engine.now)
            what = what or f"{situation.phase} ({situation.because})"
            head = node.store.head
            parts.append(f"{node.name} v{head.version} {head.digest[:3].hex()} {what}")
        return "the nodes do not agree: " + "; ".join(parts)


def run(
    seed: int,
    tell: Callable[[str], None] | None = None,
    kinds: tuple[str, ...] | None = None,
    plan: Scenario | None = None,
) -> Outcome:
    """One seed to its end. Raises Violation, with seed, time and the end of the trace in it.

    `plan`: instead of what the seed draws.
    """
    swarm = Swarm(seed, tell, kinds, plan)
    try:
        outcome = swarm.run()
    except Violation as violation:
        violation.seed, violation.at = seed, swarm.engine.now
        violation.trace = swarm.engine.trace()
        raise
    return Outcome(**{**vars(outcome), "seed": seed})
