"""Session against a scripted daemon: whole phases and everything that may come in between."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from atoll.daemon.training import channel
from atoll.daemon.training.channel import (
    Begin,
    Committed,
    Failed,
    Hello,
    Merged,
    Notice,
    Pause,
    Progress,
    Ready,
    Resume,
    Stop,
    Stopped,
)
from atoll.daemon.training.errors import ChannelClosedError, ChannelError, SchemaMismatchError

SHARD = (0, 1)


def started(make_daemon, make_loop, model, *, steps=2, welcome=None, **options):
    """A loop in its first phase of `steps` steps, and its daemon."""
    daemon = make_daemon(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # Begin must bring the committed values back
    loop = make_loop(daemon, model, **options)
    daemon.say(daemon.welcome(**(welcome or {})))
    daemon.hear(Hello)
    daemon.say(Begin(0, steps, SHARD))
    assert daemon.hear(Merged) == Merged(0, None)
    return daemon, loop


def committed(version, *, steps=2, keep=(), contributed=True, evaluate=False):
    return Committed(version, steps, SHARD, tuple(keep), contributed, evaluate)


def test_two_full_phases(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model)
    start = daemon.memory.committed.copy()
    assert np.array_equal(values(small_model), start)
    for version in (1, 2):
        before = daemon.memory.committed.copy()
        loop.steps(2)
        ready = daemon.hear(Ready)
        assert ready == Ready(2, 20, 2.0)
        moved = daemon.memory.snapshot - before
        real = before != 0
        assert (moved[real] > 1.0).all()
        assert (daemon.memory.snapshot[1000:1024] == 0).all()  # padding
        daemon.memory.committed[:] = before + np.float32(0.25) * moved
        daemon.say(committed(version))
        assert daemon.hear(Merged) == Merged(version, None)
        assert np.array_equal(values(small_model), daemon.memory.committed)
    daemon.say(Stop(save=False))
    loop.steps(1)
    assert daemon.hear(Stopped) == Stopped(False)
    loop.join()
    assert loop.error is None  # SwarmStopped ends the `with` block quietly
    assert not loop.session.running


def test_commit_in_the_middle_of_a_phase_keeps_local_progress(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=3)
    loop.steps(1)
    daemon.memory.committed[:] += 100.0
    daemon.say(committed(1, steps=3, contributed=False))
    loop.steps(1)  # its boundary takes the commit in, if the first one did not
    assert daemon.hear(Merged).version == 1
    loop.steps(1)
    assert daemon.hear(Ready) == Ready(3, 30, 2.0)  # the step count went on
    assert (daemon.memory.snapshot < 50.0).all()  # local stayed as it was
    assert loop.session.version == 1
    loop.end()


def test_missed_parts_are_reset_by_setting_and_a_phase_under_way_is_not(
    make_daemon, make_loop, small_model, values
):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=1, welcome={"missed": "reset"})
    loop.steps(1)
    daemon.hear(Ready)
    daemon.memory.committed[:1000] = 7.0
    daemon.say(committed(1, steps=2, keep=[(256, 512)]))
    daemon.hear(Merged)
    assert (values(small_model)[:1000] == 7.0).all()
    loop.steps(1)
    daemon.memory.committed[:1000] = 9.0
    daemon.say(committed(2, steps=2, contributed=False))
    loop.steps(1)
    daemon.hear(Merged)
    assert (values(small_model)[:1000] != 9.0).all()
    loop.end()


def test_missed_commits_by_setting_are_rebased(make_daemon, make_loop, small_model, values):
    """Progress against the anchor that was is moved onto each commit in turn; a part may be contributed."""
    daemon, loop = started(make_daemon, make_loop, small_model, steps=1, welcome={"missed": "rebase"})
    anchor = daemon.memory.committed[:1000].copy()
    for version, new in ((1, anchor + np.float32(7.0)), (2, anchor - np.float32(3.0)), (3, anchor)):
        loop.steps(1)
        daemon.hear(Ready)
        learned = values(small_model)[:1000] - anchor
        assert (np.abs(learned) > 0.5 * version).all(), "it grows from phase to phase"
        daemon.memory.committed[:1000] = anchor = new
        keep = [(0, 256)] if version == 3 else []
        daemon.say(committed(version, steps=1, contributed=bool(keep), keep=keep))
        daemon.hear(Merged)
        there = slice(0, 256) if keep else slice(None)
        assert np.allclose(values(small_model)[:1000][there], (new + learned)[there], atol=1e-5)
    assert (values(small_model)[256:1000] == anchor[256:]).all()
    loop.end()


def test_late_ready_carries_its_tokens_into_the_next_phase(make_daemon, make_loop, small_model):
    daemon, loop = started(make_daemon, make_loop, small_model)
    loop.steps(2)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    daemon.say(committed(1, contributed=False))
    daemon.hear(Merged)
    loop.steps(2, loss=4.0)
    assert daemon.hear(Ready) == Ready(4, 40, 3.0)
    daemon.say(committed(2))
    daemon.hear(Merged)
    loop.steps(2, loss=4.0)
    assert daemon.hear(Ready) == Ready(2, 20, 4.0)
    loop.end()


def test_keep_spans_stay_local_bit_for_bit(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model)
    loop.steps(2)
    daemon.hear(Ready)
    local = values(small_model)
    daemon.memory.committed[:] = -0.0
    daemon.say(committed(1, keep=[(256, 512), (1024, 1280)]))
    daemon.hear(Merged)
    after = values(small_model)
    for start, stop, kept in [(0, 256, False), (256, 512, True), (512, 1000, False), (1024, 1027, True)]:
        expected = local if kept else daemon.memory.committed
        assert after[start:stop].tobytes() == expected[start:stop].tobytes()
    loop.end()


def test_contribution_counted_after_training_went_on(make_daemon, make_loop, small_model, values):
    """local = new + (now - S): the daemon used the snapshot of an earlier Ready for a later commit."""
    daemon, loop = started(make_daemon, make_loop, small_model, steps=2)
    loop.steps(2)
    daemon.hear(Ready)
    snapshot = daemon.memory.snapshot.copy()
    daemon.say(committed(1, contributed=False))
    daemon.hear(Merged)
    daemon.memory.committed[:1000] = 5.0
    daemon.say(committed(2))
    loop.steps(1)
    daemon.hear(Merged)
    moved = values(small_model)[:1000] - 5.0
    assert (moved > 0.5).all() and (moved < 1.5).all() and (snapshot[:1000] < 4.0).all()
    loop.end()


def test_pause_holds_and_still_takes_commits_in(make_daemon, make_loop, small_model):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=5)
    daemon.say(Pause())
    loop.steps(1)
    daemon.say(committed(1, steps=5, contributed=False))
    assert daemon.hear(Merged).version == 1
    daemon.say(Resume())
    loop.steps(4)
    assert daemon.hear(Ready).steps == 5
    loop.end()


def test_stop_while_waiting_for_the_swarm(make_daemon, make_loop, small_model, tmp_path):
    state = tmp_path / "inner.safetensors"
    daemon, loop = started(make_daemon, make_loop, small_model, welcome={"state_path": str(state)})
    loop.steps(2)
    daemon.hear(Ready)
    daemon.say(Stop(save=True))
    assert daemon.hear(Stopped) == Stopped(True)
    daemon.hear_end()
    loop.join()
    assert state.exists()
    with pytest.raises(ChannelError):
        loop.session.step(1.0)

    _, second = started(make_daemon, make_loop, small_model, welcome={"state_path": str(state)})
    first = next(iter(second.optimizer.state.values()))
    assert float(first["step"]) == 2.0
    second.end()


def test_damaged_state_starts_fresh_and_says_so(make_daemon, make_loop, small_model, tmp_path):
    state = tmp_path / "inner.safetensors"
    state.write_bytes(b"not a safetensors file")
    daemon = make_daemon(small_model)
    loop = make_loop(daemon, small_model)
    daemon.say(daemon.welcome(state_path=str(state)))
    daemon.hear(Hello)
    assert daemon.hear(Notice).code == "inner_state_unusable"
    daemon.say(Begin(0, 1, SHARD))
    daemon.hear(Merged)
    assert not loop.optimizer.state
    loop.end()


@pytest.mark.parametrize("answer", ["begin", "committed"])
def test_loss_not_finite_restarts_from_committed(make_daemon, make_loop, small_model, values, answer):
    daemon, loop = started(make_daemon, make_loop, small_model)
    loop.steps(1)
    loop.steps(1, loss=math.nan)
    failed = daemon.hear(Failed)
    assert failed.code == "loss_not_finite"
    daemon.say(Begin(1, 2, SHARD) if answer == "begin" else committed(1, contributed=False))
    daemon.hear(Merged)
    assert np.array_equal(values(small_model), daemon.memory.committed)
    assert not loop.optimizer.state
    loop.steps(2)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    loop.end()


def test_snapshot_with_nan_is_never_ready(make_daemon, make_loop, small_model):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=1)
    with torch.no_grad():
        next(iter(small_model.parameters()))[0, 0] = math.nan
    loop.steps(1)
    assert daemon.hear(Failed).code == "loss_not_finite"
    daemon.say(Stop(save=True))
    assert daemon.hear(Stopped) == Stopped(False)  # moments of a diverged run are not worth keeping
    loop.join()


def test_validates_the_outer_parameters_and_gives_the_local_ones_back(
    make_daemon, make_loop, small_model, values
):
    seen = []

    def validate(model: nn.Module) -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(values(model).copy())
        return 1.25

    daemon, loop = started(make_daemon, make_loop, small_model, steps=2, validate=validate)
    loop.steps(1)
    daemon.memory.committed[:1000] = 3.0
    daemon.say(committed(1, contributed=False, evaluate=True))
    loop.steps(1)
    # Either boundary may have taken the commit in; both orders end with Merged and Ready.
    assert daemon.hear(Merged) == Merged(1, 1.25)
    daemon.hear(Ready)
    assert np.array_equal(seen[0], daemon.memory.committed)
    assert not np.array_equal(values(small_model), daemon.memory.committed)
    daemon.say(committed(2, evaluate=True))
    assert daemon.hear(Merged) == Merged(2, 1.25)
    assert small_model.training
    loop.end()


def test_begin_can_ask_for_the_loss_before_training(make_daemon, make_loop, small_model):
    daemon = make_daemon(small_model)
    loop = make_loop(daemon, small_model, validate=lambda model: math.inf)
    daemon.say(daemon.welcome())
    daemon.hear(Hello)
    daemon.say(Begin(0, 2, SHARD, evaluate=True))
    assert daemon.hear(Notice).code == "val_loss_not_finite"
    assert daemon.hear(Merged) == Merged(0, None)
    loop.end()


def test_progress_is_thinned_out_by_the_clock(make_daemon, make_loop, small_model):
    ticks = iter(range(1000))
    daemon, loop = started(make_daemon, make_loop, small_model, steps=3, clock=lambda: next(ticks) * 0.25)
    loop.steps(3)
    progress = daemon.hear(Progress)
    assert (progress.step, progress.of, progress.loss, progress.tokens) == (2, 3, 2.0, 20)
    assert progress.tokens_per_s == 40.0
    daemon.hear(Ready)
    loop.end()


def test_daemon_dies(make_daemon, make_loop, small_model):
    daemon, loop = started(make_daemon, make_loop, small_model)
    daemon.socket.shutdown(2)
    loop.steps(1)
    loop.join()
    assert isinstance(loop.error, ChannelClosedError)


def test_another_model_is_refused(make_daemon, make_loop, small_model):
    daemon = make_daemon(small_model)
    loop = make_loop(daemon, nn.Linear(4, 4))
    daemon.say(daemon.welcome())
    loop.join()
    assert isinstance(loop.error, SchemaMismatchError)


@pytest.mark.parametrize(
    "messages",
    [
        [Pause()],
        ["welcome-2"],
        ["welcome", "welcome"],
        ["welcome", Begin(0, 2, SHARD), committed(1)],
        ["welcome", committed(1)],
    ],
)
def test_messages_out_of_order_are_errors(make_daemon, make_loop, small_model, messages):
    daemon = make_daemon(small_model)
    loop = make_loop(daemon, small_model)
    for message in messages:
        if message == "welcome":
            message = daemon.welcome()
        elif message == "welcome-2":
            message = daemon.welcome(version=channel.VERSION + 1)
        daemon.say(message)
    loop.steps(1)
    loop.join()
    assert isinstance(loop.error, ChannelError)


def test_bf16_parameters_are_converted(make_daemon, make_loop, values):
    model = nn.Linear(20, 20, bias=False).bfloat16()
    daemon, loop = started(make_daemon, make_loop, model, steps=1, validate=lambda m: float(m.weight.mean()))
    loop.steps(1)
    daemon.hear(Ready)
    assert np.array_equal(daemon.memory.snapshot, values(model))
    daemon.memory.committed[:400] = 0.5
    daemon.say(committed(1, evaluate=True))
    assert daemon.hear(Merged).val_loss == 0.5
    assert model.weight.dtype is torch.bfloat16
    loop.end()


DUE = (256, 512)


def due(version, *, steps=2, keep=(), contributed=True):
    """A commit about one fragment."""
    return Committed(version, steps, SHARD, tuple(keep), contributed, False, due=(DUE,))


def test_a_commit_about_a_fragment_changes_nothing_else(make_daemon, make_loop, small_model, values):
    daemon, loop = started(make_daemon, make_loop, small_model, welcome={"mix": 0.25})
    loop.steps(2)
    daemon.hear(Ready)
    local = values(small_model)
    daemon.memory.committed[:] = 8.0
    daemon.say(due(1))
    daemon.hear(Merged)
    after = values(small_model)
    expected = local.copy()
    expected[slice(*DUE)] = np.float32(0.25) * local[slice(*DUE)] + np.float32(0.75) * np.float32(8.0)
    assert np.allclose(after, expected, rtol=1e-6) and np.array_equal(after[:256], local[:256])
    assert loop.session.version == 1 and loop.session.position == 2
    loop.end()


@pytest.mark.parametrize(("missed", "kept"), [("keep", True), ("reset", False)])
def test_a_fragment_that_went_without_this_node(make_daemon, make_loop, small_model, values, missed, kept):
    welcome = {"mix": 0.0, "missed": missed}
    daemon, loop = started(make_daemon, make_loop, small_model, welcome=welcome)
    loop.steps(2)
    daemon.hear(Ready)
    local = values(small_model)
    daemon.memory.committed[:] = 8.0
    daemon.say(due(1, keep=[DUE], contributed=False))
    daemon.hear(Merged)
    after = values(small_model)
    assert np.array_equal(
        after[slice(*DUE)], local[slice(*DUE)] if kept else daemon.memory.committed[slice(*DUE)]
    )
    assert np.array_equal(after[512:], local[512:])
    # In the middle of the next phase nothing is given up.
    loop.steps(1)
    local = values(small_model)
    daemon.say(due(2, keep=[DUE], contributed=False))
    loop.steps(1)
    daemon.hear(Merged)
    daemon.hear(Ready)
    assert (np.abs(values(small_model) - local) < 4.0).all()
    loop.end()


def test_training_goes_on_while_a_fragment_is_on_its_way(make_daemon, make_loop, small_model, values):
    welcome = {"mix": 0.0, "overlap": 2}
    clock = itertools.count().__next__  # so each step is told
    daemon, loop = started(make_daemon, make_loop, small_model, steps=3, welcome=welcome, clock=clock)
    loop.steps(5)
    assert daemon.hear(Ready) == Ready(3, 30, 2.0)
    snapshot = daemon.memory.snapshot.copy()
    for _ in range(2):
        daemon.hear(Progress)  # two steps went on, and now it waits
    assert np.array_equal(daemon.memory.snapshot, snapshot)
    daemon.memory.committed[:] = 8.0
    daemon.say(due(1, steps=3))
    assert daemon.hear(Merged).version == 1
    after = values(small_model)
    assert (after[slice(*DUE)] == 8.0).all(), "with a mix of 0 the steps since are given up"
    assert not np.array_equal(after[:256], snapshot[:256]), "of other fragments they stay"
    assert (loop.session.version, loop.session.position) == (1, 5), "the schedule went on"
    loop.steps(1)
    assert daemon.hear(Ready) == Ready(3, 30, 2.0), "what came after the first snapshot"
    loop.end()


def test_the_steps_of_the_overlap_belong_to_the_next_phase(make_daemon, make_loop, small_model):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=3, welcome={"mix": 0.0, "overlap": 1})
    loop.steps(4)
    daemon.hear(Ready)
    daemon.say(Pause())
    daemon.say(Resume())
    daemon.say(due(1, steps=3))
    assert daemon.hear(Merged).version == 1
    loop.steps(2)
    assert daemon.hear(Ready) == Ready(3, 30, 2.0)
    assert loop.session.position == 6
    loop.end()


def test_an_overlap_of_a_whole_phase_offers_when_the_commit_before_is_here(
    make_daemon, make_loop, small_model
):
    daemon, loop = started(make_daemon, make_loop, small_model, steps=2, welcome={"mix": 0.0, "overlap": 2})
    loop.steps(4)
    assert daemon.hear(Ready) == Ready(2, 20, 2.0)
    for version in (1, 2):
        daemon.say(due(version))
        assert daemon.hear(Merged).version == version
        assert daemon.hear(Ready) == Ready(2, 20, 2.0), "at once: that phase is over as well"
        assert loop.session.version == version
        loop.steps(2)
    daemon.say(due(3))
    assert daemon.hear(Merged).version == 3
    daemon.hear(Ready)
    loop.end()
