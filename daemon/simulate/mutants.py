"""Ten faults planted in the shipping code, each alone: the simulator is worth what it finds of them.

Each is a context manager that patches one thing and takes it back. MUTANTS says by which kinds of
violation it is to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from atoll.daemon.simulate.driver import Driver
from atoll.daemon.storage.round_log import RoundLog
from atoll.daemon.training import rebase
from atoll.protocol import forks
from atoll.protocol import messages_pb2 as pb
from atoll.protocol.round import exchange
from atoll.protocol.round import plan as plans
from atoll.protocol.round import types as t
from atoll.protocol.round.exchange import Exchange

Patched = Iterator[None]


@contextmanager
def vote_before_fsync() -> Patched:
    """The vote's record is durable, the results that it promises are not."""
    vote = RoundLog.vote

    def hasty(self: RoundLog, version: int, commit: pb.Signed) -> None:
        with patch.object(self._disk, "fsync", lambda path: None):
            vote(self, version, commit)

    with patch.object(RoundLog, "vote", hasty):
        yield


@contextmanager
def world_size_before_retry() -> Patched:
    """The learning rate is that for the members of the first attempt."""
    make: Callable[..., pb.Plan] = plans.make_plan
    check: Callable[..., None] = plans.check_plan
    sizes: dict[tuple[bytes, bytes], int] = {}

    def stale(config: t.RoundConfig, *arguments: Any, **named: Any) -> pb.Plan:
        plan = make(config, *arguments, **named)
        key = (bytes(plan.session.leader), bytes(plan.session.parent))
        plan.outer_lr = config.outer_lr(sizes.setdefault(key, len(plan.contributors)))
        return plan

    def lenient(config: t.RoundConfig, *arguments: Any, **named: Any) -> None:
        right = pb.Plan()
        right.CopyFrom(arguments[-1])
        right.outer_lr = config.outer_lr(len(right.contributors))
        check(config, *arguments[:-1], right, **named)

    with patch.object(plans, "make_plan", stale), patch.object(plans, "check_plan", lenient):
        yield


@contextmanager
def no_parent_in_session() -> Patched:
    """Sessions are told apart by leader and view alone."""

    def short(session: pb.SessionId) -> tuple[object, ...]:
        return session.view, session.leader, session.life

    with patch.object(exchange, "session_key", short):
        yield


@contextmanager
def abort_clears_progress() -> Patched:
    """What a node carries is gone when a session is aborted."""

    effect = Driver.effect

    def forgetful(self: Driver, what: t.Effect) -> None:
        effect(self, what)
        if isinstance(what, t.Ended) and what.report.outcome == "aborted":
            island = self._node.island
            island.local.copy_(island._new)

    with patch.object(Driver, "effect", forgetful):
        yield


@contextmanager
def rebase_twice() -> Patched:
    """Local progress since the snapshot is applied twice."""
    once = rebase.rebase_

    def twice(*arguments: Any, **named: Any) -> None:
        once(*arguments, **named)
        once(*arguments, **named)

    with patch.object(rebase, "rebase_", twice):
        yield


@contextmanager
def owner_by_original_rank() -> Patched:
    """A chunk's owner is looked up among all members, not among the contributors."""

    def owner_of(plan: pb.Plan, chunk: int) -> bytes:
        return sorted(plans.members_of(plan))[plan.owners[chunk]]

    with patch.object(plans, "owner_of", owner_of):
        yield


@contextmanager
def lower_view() -> Patched:
    """A plan of a past view is followed."""
    check = plans.check_plan

    def lenient(
        config: t.RoundConfig, head: Any, me: bytes, tokens: Any, next_view: int, plan: pb.Plan
    ) -> None:
        check(config, head, me, tokens, min(next_view, plan.session.view), plan)

    with patch.object(plans, "check_plan", lenient):
        yield


@contextmanager
def counted_twice() -> Patched:
    """After a session that did not end well, a contribution is in the sum twice."""
    due = Exchange.due

    def generous(self: Exchange) -> list[t.Reduce]:
        found = due(self)
        if not self.plan.session.view:
            return found
        return [replace(reduce, parts=tuple(_twice(part) for part in reduce.parts)) for reduce in found]

    with patch.object(Exchange, "due", generous):
        yield


def _twice(part: t.Part) -> t.Part:
    return replace(part, payload=bytes((2 * np.frombuffer(part.payload, np.float32)).tobytes()))


@contextmanager
def provisional_beats_certified() -> Patched:
    """Fork choice has it the wrong way round."""
    rank: Callable[..., tuple[Any, ...]] = forks._rank

    def poor(*arguments: Any) -> tuple[Any, ...]:
        certified, *rest = rank(*arguments)
        return not certified, *rest

    with patch.object(forks, "_rank", poor):
        yield


@contextmanager
def unbounded_log() -> Patched:
    """The replay log forgets nothing."""
    with patch.object(RoundLog, "_forget", lambda self, condition: None):
        yield


MUTANTS: dict[str, tuple[Callable[[], AbstractContextManager[None]], set[str]]] = {
    "a vote sent before fsync": (vote_before_fsync, {"durable votes"}),
    "world size read before the retry": (world_size_before_retry, {"learning rate"}),
    "missing parent digest in the session": (no_parent_in_session, {"another parent", "conservation"}),
    "error feedback cleared on abort": (abort_clears_progress, {"local progress"}),
    "rebase applied twice": (rebase_twice, {"local progress"}),
    "owner index by original rank": (owner_by_original_rank, {"mutual understanding", "convergence"}),
    "a lower view accepted": (lower_view, {"sessions"}),
    "contributions double-counted after succession": (counted_twice, {"conservation"}),
    "provisional beating certified": (provisional_beats_certified, {"fork choice"}),
    "unbounded replay log": (unbounded_log, {"bounded memory"}),
}
"""Mutant and the kinds of violation that find it, by ROUND's name."""
