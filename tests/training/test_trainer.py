"""The built-in trainer as a real process, with a scripted daemon at the other end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.daemon.training import trainer
from atoll.daemon.training.channel import (
    FD_VARIABLE,
    Begin,
    Committed,
    Failed,
    Hello,
    Merged,
    Notice,
    Ready,
    Stop,
    Stopped,
    Threads,
)
from atoll.daemon.training.data import Windows
from atoll.daemon.training.errors import SwarmStopped
from atoll.daemon.training.flat import flatten, load_into, schema_of
from atoll.daemon.training.genesis import builtin_genesis
from atoll.daemon.training.inner import InnerConfig, inner_step, make_optimizer
from atoll.daemon.training.model import GPT, GPTConfig

TINY = GPTConfig(layers=1, width=32, heads=2, context=16)
TEXT = b"the tide comes in, the tide goes out; " * 400
COMMAND = [sys.executable, "-m", "atoll.daemon.training.trainer"]
EXIT_S = 60.0


@pytest.fixture
def daemon(make_daemon):
    """With the genesis of TINY committed."""
    schema, flat = builtin_genesis(TINY, 3)
    model = GPT(TINY)
    load_into(model, schema, flat)
    return make_daemon(model)


@pytest.fixture
def about(tmp_path):
    """The Welcome fields of a small run."""
    text = tmp_path / "text.txt"
    text.write_bytes(TEXT)
    return {
        "model": TINY.to_dict(),
        "data": {"validation": str(text)},
        "inner": {"lr": 1e-2, "warmup_steps": 2, "batch": 4, "micro_batch": 2},
        "state_path": str(tmp_path / "inner.safetensors"),
    }


def text_in(about):
    return about["data"]["validation"]


@pytest.fixture
def start(daemon):
    """Starts the process; it is gone at the end of the test."""
    started = []

    def run():
        fd = daemon.trainer_socket.fileno()
        process = subprocess.Popen(
            COMMAND,
            env={**os.environ, FD_VARIABLE: str(fd)},
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
        daemon.trainer_socket.close()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def direct_loss(flat):
    """Validation loss of flat parameters, computed here."""
    schema, _ = builtin_genesis(TINY, 0)
    model = GPT(TINY)
    load_into(model, schema, flat)
    inputs, targets = Windows.of(TEXT, TINY.context).spread(trainer.VALIDATION_WINDOWS)
    with torch.no_grad():
        return model.loss(inputs, targets).item()


def test_one_phase_of_the_real_process(daemon, about, start):
    process = start()
    daemon.say(daemon.welcome(**about))
    hello = daemon.hear(Hello)
    assert (hello.pid, hello.device) == (process.pid, "cpu")
    assert hello.schema_digest == daemon.schema.digest.hex()
    assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    daemon.say(Begin(0, 30, (0, 2), evaluate=True, text=text_in(about)))
    before = daemon.hear(Merged).val_loss
    assert before == pytest.approx(direct_loss(daemon.memory.committed), abs=1e-4)
    process.send_signal(signal.SIGINT)  # Ctrl-C is the daemon's business
    ready = daemon.hear(Ready)
    assert (ready.steps, ready.tokens) == (30, 30 * 4 * 16)
    assert ready.loss < before
    assert not np.array_equal(daemon.memory.snapshot, daemon.memory.committed)
    daemon.memory.committed[:] = daemon.memory.snapshot
    endless = 10**6  # the next phase is still under way when it is told to stop
    daemon.say(Committed(1, endless, (0, 2), (), True, True, text_in(about)))
    after = daemon.hear(Merged)
    assert after.version == 1
    assert after.val_loss == pytest.approx(direct_loss(daemon.memory.committed), abs=1e-4)
    assert after.val_loss < before - 0.5
    daemon.say(Stop(save=True))
    assert daemon.hear(Stopped) == Stopped(True)
    assert process.wait(EXIT_S) == 0
    assert Path(about["state_path"]).exists()


def test_two_nodes_with_the_same_arguments_make_the_same_snapshot(make_daemon, about):
    """What an audit relies on: batches and steps follow from seed, node id, position and shard alone."""
    snapshots = []
    for node in ("a", "a", "b"):
        model = GPT(TINY)
        schema, flat = builtin_genesis(TINY, 3)
        load_into(model, schema, flat)
        daemon = make_daemon(model)
        daemon.say(daemon.welcome(**about, node_id=node))
        daemon.say(Begin(0, 3, (0, 1), text=text_in(about)))
        fd = daemon.trainer_socket.fileno()
        process = subprocess.Popen(COMMAND, env={**os.environ, FD_VARIABLE: str(fd)}, pass_fds=[fd])
        for kind in (Hello, Merged, Ready):
            daemon.hear(kind)
        snapshots.append(daemon.memory.snapshot.copy())
        daemon.say(Stop(save=False))
        assert process.wait(EXIT_S) == 0
    assert snapshots[0].tobytes() == snapshots[1].tobytes() != snapshots[2].tobytes()


def test_another_text_from_the_next_phase_on(daemon, about, tmp_path, monkeypatch):
    """Each phase reads what the daemon names with it; a text that is not there ends the trainer."""
    seen = []

    def note(loss_of, optimizer, config, batch, position, micro_batch):
        seen.append(set(batch[0].flatten().tolist()))
        return 1.0

    monkeypatch.setattr(trainer, "inner_step", note)
    for name in "xy":
        (tmp_path / name).write_bytes(name.encode() * 100)
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 2, (0, 1), text=str(tmp_path / "x")))
    daemon.say(Committed(1, 2, (0, 1), (), False, False, str(tmp_path / "y")))
    daemon.say(Committed(2, 2, (0, 1), (), False, False, str(tmp_path / "z")))
    with pytest.raises(trainer.TrainingError, match="z can't be read"):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))
    assert seen[0] == {ord("x")} or seen[0] == {ord("y")}
    assert all(letters in ({ord("x")}, {ord("y")}) for letters in seen)


def test_a_daemon_that_names_no_text(daemon, about):
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 2, (0, 1)))
    with pytest.raises(trainer.ConfigError, match="names no text"):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": {"validation": "/nowhere/at/all"}}, "data_missing"),
        ({"data": {}}, "config_invalid"),
        ({"data": {"validation": 1}}, "config_invalid"),
        ({"model": None}, "config_invalid"),
        ({"model": {**TINY.to_dict(), "heads": 3}}, "config_invalid"),
        ({"model": {**TINY.to_dict(), "layers": 2}}, "schema_mismatch"),
        ({"inner": {"lr": -1}}, "config_invalid"),
        ({"device": "abacus"}, "device_unusable"),
        ({"missed": "forget"}, "config_invalid"),
        ({"memory": "/nowhere/memory"}, "memory_invalid"),
        ({"version": 99}, "channel_invalid"),
    ],
)
def test_what_can_not_be_trained_is_named(daemon, about, monkeypatch, change, code):
    """`main` in this process: a new one for each case would take a minute in all."""
    monkeypatch.setattr(trainer, "die_with_parent", lambda: None)
    monkeypatch.setattr(trainer, "lower_priority", lambda: None)
    monkeypatch.setattr(trainer.signal, "signal", lambda *_: None)
    daemon.say(daemon.welcome(**{**about, **change}))
    assert trainer.main({FD_VARIABLE: str(os.dup(daemon.trainer_socket.fileno()))}) == 1
    assert daemon.hear(Failed).code == code


def test_what_takes_long_to_load_is_there_before_the_welcome():
    code = """
import socket, sys
from atoll.daemon.training import trainer
from atoll.daemon.training.model import GPT, GPTConfig
def train(endpoint):
    before = set(sys.modules)
    for optimizer in ("adamw", "muon"):
        model = GPT(GPTConfig(layers=1, width=32, heads=2, context=16))
        trainer.make_optimizer(model, trainer.InnerConfig(optimizer=optimizer))
    print(sorted(set(sys.modules) - before))
trainer.train = train
ours, theirs = socket.socketpair()
trainer.main({trainer.FD_VARIABLE: str(theirs.detach())})
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=EXIT_S)
    assert said.stdout.strip() == "[]", said


def test_started_by_hand_it_explains_itself():
    environment = {name: value for name, value in os.environ.items() if name != FD_VARIABLE}
    done = subprocess.run(
        COMMAND, env=environment, capture_output=True, text=True, timeout=EXIT_S, check=False
    )
    assert done.returncode == 2
    assert FD_VARIABLE in done.stderr and "Traceback" not in done.stderr


def test_it_ends_when_the_daemon_closes_the_channel(daemon, about, start):
    process = start()
    daemon.say(daemon.welcome(**about))
    daemon.hear(Hello)
    daemon.socket.shutdown(2)
    assert process.wait(EXIT_S) == 1
    assert "Traceback" not in process.stderr.read()


PARENT = """
import subprocess, sys
fd = int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-m", "atoll.daemon.training.trainer"], pass_fds=[fd])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_it_dies_with_its_parent_even_if_the_channel_stays_open(daemon, about):
    fd = daemon.trainer_socket.fileno()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fd)],
        env={**os.environ, FD_VARIABLE: str(fd)},
        pass_fds=[fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        pid = int(parent.stdout.readline())
        daemon.say(daemon.welcome(**about))
        daemon.hear(Hello)  # it runs, so the signal is armed; our end of the channel stays open
        watcher = os.pidfd_open(pid)
        parent.kill()
    try:
        poller = select.poll()
        poller.register(watcher, select.POLLIN)
        assert poller.poll(EXIT_S * 1000), "the trainer outlived its parent"
    finally:
        os.close(watcher)


def allocator_refuses():
    torch.empty(1 << 60)  # torch's CPU allocator has no exception of its own


def device_refuses():
    raise torch.OutOfMemoryError("no more")


@pytest.mark.parametrize("refuses", [allocator_refuses, device_refuses])
def test_out_of_memory_halves_the_micro_batch_once_and_says_so(daemon, about, monkeypatch, refuses):
    sizes = []

    def scarce(loss_of, optimizer, config, batch, position, micro_batch):
        sizes.append(micro_batch)
        if micro_batch > 2:
            refuses()
        return inner_step(loss_of, optimizer, config, batch, position, micro_batch)

    monkeypatch.setattr(trainer, "inner_step", scarce)
    about["inner"]["micro_batch"] = 4
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 2, (0, 1), text=text_in(about)))
    daemon.say(Committed(1, 2, (0, 1), (), False, False, text_in(about)))
    daemon.say(Stop(save=False))
    with pytest.raises(SwarmStopped):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))
    assert sizes[0] == 4 and set(sizes[1:]) == {2}
    daemon.hear(Hello)
    daemon.hear(Merged)
    assert daemon.hear(Notice).code == "micro_batch_halved"
    daemon.hear(Merged)
    daemon.hear(Stopped)


def test_it_takes_other_threads_from_the_next_step_on(daemon, about, monkeypatch):
    chosen, used = [], []
    says = iter([Threads(3), Threads(0), Stop(save=False)])

    def step(*arguments):
        used.append(chosen[-1])
        daemon.say(next(says))
        return inner_step(*arguments)

    monkeypatch.setattr(trainer, "inner_step", step)
    monkeypatch.setattr(trainer.torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(trainer.torch, "get_num_threads", lambda: 8)
    daemon.say(daemon.welcome(**about, threads=1))
    daemon.say(Begin(0, 10, (0, 1), text=text_in(about)))
    with pytest.raises(SwarmStopped):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))
    assert used == [1, 3, 8], "0 is all cores"


def test_it_goes_by_an_amended_schedule_from_the_next_step_on(daemon, about, monkeypatch):
    """And by the Welcome's again, where a phase says nothing of it."""
    used = []
    slow = {"lr": 0.125, "warmup_steps": 0, "total_steps": 7}
    says = iter(
        [Begin(1, 10, (0, 1), text=text_in(about), inner=slow), Begin(2, 10, (0, 1), text=text_in(about))]
    )

    def step(loss_of, optimizer, config, *more):
        used.append((config.lr, config.total_steps, config.batch))
        daemon.say(next(says, Stop(save=False)))
        return inner_step(loss_of, optimizer, config, *more)

    monkeypatch.setattr(trainer, "inner_step", step)
    welcome = trainer.InnerConfig.from_dict(about["inner"])
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 10, (0, 1), text=text_in(about)))
    with pytest.raises(SwarmStopped):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))
    first = (welcome.lr, welcome.total_steps, welcome.batch)
    assert used == [first, (0.125, 7, welcome.batch), first]


def test_a_device_that_is_too_small_is_an_error(daemon, about, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(trainer, "inner_step", never)
    about["inner"]["micro_batch"] = 1
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 2, (0, 1), text=text_in(about)))
    with pytest.raises(trainer.ConfigError, match="too small"):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))


def test_another_error_is_not_taken_for_one_of_memory(daemon, about, monkeypatch):
    def wrong(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(trainer, "inner_step", wrong)
    daemon.say(daemon.welcome(**about))
    daemon.say(Begin(0, 2, (0, 1), text=text_in(about)))
    with pytest.raises(RuntimeError, match="do not fit"):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))


def test_a_silent_daemon_has_a_deadline(daemon, monkeypatch):
    monkeypatch.setattr(trainer, "WELCOME_TIMEOUT_S", 0)
    with pytest.raises(trainer.ChannelError, match="said nothing"):
        trainer.train(trainer.Endpoint(daemon.trainer_socket))


def test_a_compiled_loss_is_the_same_step():
    """`aot_eager` traces forwards and backwards as the default does, without a C++ compiler."""
    _, flat = builtin_genesis(TINY, 3)
    results, said = [], []
    for backend in (None, "aot_eager"):
        model = GPT(TINY)
        load_into(model, schema_of(model), flat)
        optimizer = make_optimizer(model, InnerConfig(batch=2, micro_batch=2))
        loss_of = model.loss
        if backend is not None:
            loss_of = trainer.Compiled(model.loss, lambda code, text: said.append(code), backend=backend)
        for step in range(3):
            batch = Windows.of(TEXT, TINY.context).batch(1, "a", step, (0, 1), 2)
            loss = inner_step(loss_of, optimizer, InnerConfig(batch=2, micro_batch=2), batch, step)
        results.append((loss, flatten(model)[1]))
    assert not said
    assert np.isclose(results[0][0], results[1][0], rtol=1e-5)
    assert np.allclose(results[0][1], results[1][1], atol=1e-5)


def test_what_can_not_be_compiled_trains_without_and_says_so_once():
    said: list[tuple[str, str]] = []
    model = GPT(TINY)

    def broken(graph, inputs):
        raise ValueError("no compiler here")

    loss_of = trainer.Compiled(model.loss, lambda *notice: said.append(notice), backend=broken)
    inputs = torch.zeros(1, TINY.context, dtype=torch.int64)
    losses = [loss_of(inputs, inputs).item() for _ in range(2)]
    assert losses == [model.loss(inputs, inputs).item()] * 2
    assert [code for code, _ in said] == ["compile_failed"] and "broken" in said[0][1]


def test_a_compiled_model_that_is_out_of_memory_is_no_failure_of_the_compiler():
    def full(inputs, targets):
        raise torch.OutOfMemoryError("full")

    loss_of = trainer.Compiled(full, lambda *notice: pytest.fail("nothing to say"), backend="eager")
    inputs = torch.zeros(1, TINY.context, dtype=torch.int64)
    with pytest.raises(torch.OutOfMemoryError):
        loss_of(inputs, inputs)
