"""Eager and delayed trainers against a scripted daemon: they go on before the commit, and lose nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from atoll.daemon.training.channel import Begin, Committed, Failed, Hello, Merged, Progress, Ready
from atoll.daemon.training.errors import ConfigError, SharedMemoryError
from atoll.protocol.modes.eager import eager_start

SHARD, BETA, LR = (0, 1), 0.5, 0.25


def started(make_daemon, make_loop, model, mode, *, steps=2, overlap=2, **options):
    """A loop in its first phase, and its daemon."""
    daemon = make_daemon(model, ahead=True)
    loop = make_loop(daemon, model, **options)
    welcome = daemon.welcome(ahead=mode, overlap=overlap, outer_momentum=BETA, missed="keep")
    daemon.say(welcome)
    daemon.hear(Hello)
    daemon.say(Begin(0, steps, SHARD, outer_lr=LR))
    assert daemon.hear(Merged) == Merged(0, None)
    return daemon, loop


def committed(version, *, steps=2, keep=(), contributed=True):
    return Committed(version, steps, SHARD, tuple(keep), contributed, False, outer_lr=LR)


def the_start(daemon, fresh):
    out = np.empty_like(fresh)
    eager_start(daemon.memory.committed, daemon.memory.momentum, fresh, LR, BETA, out)
    return out


def test_what_is_offered_is_what_the_phase_changed(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model, "eager")
    begin = daemon.memory.committed.copy()
    daemon.memory.momentum[:1000] = 3.0
    loop.steps(2)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    fresh = daemon.memory.snapshot.copy()
    assert (fresh[:1000] < -1.0).all(), "each step adds one and more, and a pseudo-gradient is old minus new"
    assert (fresh[1000:1024] == 0).all()
    start = the_start(daemon, fresh)
    assert np.array_equal(values(small_model), start), "it went on at once"
    loop.steps(2)  # the next phase, of which nobody knows yet
    daemon.memory.committed[:1000] = 8.0
    daemon.say(committed(1))
    assert daemon.hear(Merged) == Merged(1, None)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0), "at once: that phase is over as well"
    second = daemon.memory.snapshot.copy()
    moved = second[:1000]
    assert (moved < -1.0).all() and (moved > -8.0).all(), (
        "against its own start, not against what is committed"
    )
    assert not np.array_equal(begin, daemon.memory.committed)
    assert np.array_equal(values(small_model)[:1000], the_start(daemon, second)[:1000])
    loop.end()


def test_it_waits_where_the_overlap_ends(make_daemon, make_loop, small_model):
    clock = itertools.count().__next__  # so each step is told
    daemon, loop = started(make_daemon, make_loop, small_model, "eager", steps=3, overlap=1, clock=clock)
    loop.steps(6)
    daemon.hear(Ready)
    daemon.hear(Progress)  # one more step, and no other until the commit
    daemon.say(committed(1, steps=3))
    assert daemon.hear(Merged).version == 1
    assert daemon.hear(Ready) == Ready(3, 30, 2.0)
    loop.end()


def test_a_commit_may_take_two_phases(make_daemon, make_loop, small_model, values):
    clock = itertools.count().__next__  # so each step is told
    daemon, loop = started(make_daemon, make_loop, small_model, "eager", steps=2, overlap=4, clock=clock)
    loop.steps(5)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    first = daemon.memory.snapshot.copy()
    while daemon.hear(Progress).steps < 5:
        pass  # a phase and more since then: nobody waits, and nothing is offered
    assert np.array_equal(daemon.memory.snapshot, first), "which a round reads"
    daemon.say(committed(1))
    loop.steps(1)
    assert daemon.hear(Merged) == Merged(1, None)
    late = daemon.hear(Ready)
    assert late.steps in (3, 4), "all since the offer before, whichever step heard of the commit"
    assert late.tokens == 10 * late.steps
    assert (daemon.memory.snapshot[:1000] < first[:1000]).all(), "of more steps than two"
    loop.end()


def test_it_waits_after_two_phases(make_daemon, make_loop, small_model):
    clock = itertools.count().__next__
    daemon, loop = started(make_daemon, make_loop, small_model, "delayed", steps=2, overlap=4, clock=clock)
    loop.steps(7)
    daemon.hear(Ready)
    while daemon.hear(Progress).steps < 6:
        pass  # and not the seventh before the commit
    daemon.say(committed(1))
    assert daemon.hear(Merged).version == 1
    assert daemon.hear(Ready) == Ready(4, 40, 2.0)
    loop.end()


def test_delayed_starts_from_what_is_committed(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model, "delayed")
    daemon.memory.momentum[:1000] = 3.0
    loop.steps(2)
    daemon.hear(Ready)
    assert np.array_equal(values(small_model), daemon.memory.committed)
    loop.end()


@pytest.mark.parametrize("keep", [(), ((256, 512),)])
def test_what_a_commit_left_out_is_offered_again(make_daemon, make_loop, small_model, keep):
    daemon, loop = started(make_daemon, make_loop, small_model, "delayed")
    loop.steps(2)
    daemon.hear(Ready)
    first = daemon.memory.snapshot.copy()
    daemon.say(committed(1, keep=keep, contributed=bool(keep)))
    loop.steps(2)
    daemon.hear(Merged)
    assert daemon.hear(Ready).tokens == (20 if keep else 40)
    both = daemon.memory.snapshot
    kept = np.zeros(first.size, dtype=bool)
    kept[slice(*keep[0]) if keep else slice(None)] = True
    assert np.allclose(both[:1000][kept[:1000]], 2 * first[:1000][kept[:1000]], rtol=0.2)
    assert (np.abs(both[:1000][~kept[:1000]]) < 1.5 * np.abs(first[:1000][~kept[:1000]])).all()
    loop.end()


def test_begin_and_a_loss_that_is_not_finite_give_up_what_was_not_taken(
    make_daemon, make_loop, small_model, values
):
    daemon, loop = started(make_daemon, make_loop, small_model, "eager")
    loop.steps(2)
    daemon.hear(Ready)
    loop.steps(1, loss=math.nan)
    assert daemon.hear(Failed).code == "loss_not_finite"
    daemon.say(Begin(1, 2, SHARD, outer_lr=LR))
    daemon.hear(Merged)
    assert np.array_equal(values(small_model), daemon.memory.committed)
    assert not daemon.memory.snapshot.any()
    loop.end()


def test_a_narrow_parameter_begins_where_it_is_rounded_to(make_daemon, make_loop, values):
    """Half of a bf16 step between start and parameter is not offered as progress."""
    model = nn.Linear(20, 20, bias=False).bfloat16()
    daemon, loop = started(make_daemon, make_loop, model, "delayed", steps=1, overlap=1)
    daemon.memory.committed[:400] = 1.001  # no bf16 number
    loop.steps(1)
    daemon.hear(Ready)
    begun = values(model)
    daemon.say(committed(1, steps=1))
    loop.steps(1)
    daemon.hear(Merged)
    daemon.hear(Ready)
    moved = torch.from_numpy(begun - daemon.memory.snapshot)[:400]
    assert torch.equal(moved, moved.bfloat16().float())
    loop.end()


def test_unknown_ways_are_refused(make_daemon, make_loop, small_model):
    for ahead, shared, error in (("sideways", True, ConfigError), ("eager", False, SharedMemoryError)):
        daemon = make_daemon(small_model, ahead=shared)
        loop = make_loop(daemon, small_model)
        daemon.say(daemon.welcome(ahead=ahead))
        loop.join()
        assert isinstance(loop.error, error)


def test_an_asynchronous_phase_begins_with_the_commit_that_holds_the_last(
    make_daemon, make_loop, small_model, values
):
    daemon, loop = started(make_daemon, make_loop, small_model, "async", overlap=0)
    daemon.memory.committed[:1000] = 5.0  # others' commits move it while the phase is under way
    daemon.say(committed(1, contributed=False))
    loop.steps(1)
    assert daemon.hear(Merged) == Merged(1, None)
    loop.steps(1)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    offered = daemon.memory.snapshot.copy()
    assert (offered[:1000] < -1.0).all() and (offered[:1000] > -4.0).all(), "against where it began, not 5"
    local = values(small_model).copy()
    loop.steps(1)  # waits: nothing of it happens before the commit
    assert np.array_equal(values(small_model), local)
    daemon.memory.committed[:1000] = 7.0
    daemon.say(Committed(2, 3, SHARD, ((0, 256),), True, False, outer_lr=LR, origin=40))
    assert daemon.hear(Merged) == Merged(2, None)
    kept = daemon.memory.snapshot
    assert np.array_equal(kept[:256], offered[:256]), "which the commit went without"
    assert not kept[256:1000].any()
    loop.steps(2)
    assert daemon.hear(Ready).steps == 3 and loop.session.position == 43
    fresh = daemon.memory.snapshot.copy()
    assert (fresh[256:1000] < -1.0).all() and (fresh[256:1000] > -6.0).all(), "since 7"
    assert (fresh[:256] < offered[:256]).all(), "what was carried, and the phase"
    loop.end()


def test_only_a_phase_in_which_others_were_committed_is_braked(make_daemon, make_loop, small_model):
    daemon = make_daemon(small_model, ahead=True)
    loop = make_loop(daemon, small_model)
    daemon.say(daemon.welcome(ahead="async", outer_momentum=BETA, missed="keep", braking=0.5))
    daemon.hear(Hello)
    daemon.say(Begin(0, 1, SHARD, outer_lr=LR))
    daemon.hear(Merged)
    daemon.memory.momentum[:] = 1.0
    loop.steps(1)
    daemon.hear(Ready)
    fresh = daemon.memory.snapshot[:1000].copy()
    daemon.memory.momentum[:] = -1.0  # what is offered goes there too
    daemon.say(committed(1, steps=2))
    daemon.hear(Merged)
    daemon.say(committed(2, steps=2, contributed=False))  # said first: the next step is sure to read it
    loop.steps(1)
    daemon.hear(Merged)
    loop.steps(1)
    daemon.hear(Ready)
    braked = daemon.memory.snapshot[:1000]
    assert (braked < 0).all() and (braked > 1.6 * fresh).all(), "two steps, and half of that"
    loop.end()
