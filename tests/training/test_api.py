"""atoll.join and atoll.create with a stand-in for the `atoll` command; the package's public face."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import atoll
from atoll.daemon.training import api
from atoll.daemon.training.errors import DaemonStartError, SchemaMismatchError
from atoll.daemon.training.flat import flatten

ROOT = Path(__file__).parents[2]

STAND_IN = '''
"""Plays the daemon of an own training loop; the data dir's name says which part."""
import json, pathlib, socket, sys
from atoll.daemon.training import channel
from atoll.daemon.training.memory import SharedMemory
from atoll.protocol.schema import ParameterSchema

arguments = sys.argv[1:]
home = pathlib.Path(arguments[arguments.index("--data-dir") + 1])
home.mkdir(parents=True, exist_ok=True)
(home / "arguments.json").write_text(json.dumps(arguments))
if home.name == "refused":
    print("The ticket expired on Monday.", file=sys.stderr)
    sys.exit(11)
if arguments[0] == "init":
    genesis = pathlib.Path(arguments[arguments.index("--genesis") + 1])
    (home / "genesis").write_bytes(genesis.read_bytes())
    sys.exit(0)

sock = socket.socket(fileno=int(arguments[arguments.index("--trainer-fd") + 1]))
lines = sock.makefile("rb")
def say(message):
    sock.sendall(channel.encode(message))
def hear(kind):
    while not isinstance(message := channel.decode_from_trainer(lines.readline()), kind):
        assert isinstance(message, channel.Progress), message

print("Training alone.", flush=True)
if home.name == "silent":
    lines.read()
    sys.exit(0)
schema = ParameterSchema.of([("weight", (1, 2)), ("bias", (1,))])
memory = SharedMemory.create(schema.total, home)
memory.committed[[0, 1, 256]] = [1.0, 2.0, 3.0]
version, digest = channel.VERSION, schema.digest.hex()
own = (None, {}, {}, "n", 0, 1, None, "auto", "keep")
say(channel.Welcome(version, memory.path, schema.total, schema.block, digest, *own))
if home.name == "other-model":
    print(channel.decode_from_trainer(lines.readline()).code, flush=True)
    sys.exit(0)
hear(channel.Hello)
if home.name == "dies":
    sys.exit(70)
say(channel.Begin(0, 2, (0, 1)))
hear(channel.Merged)
hear(channel.Ready)
memory.committed[:] = -memory.snapshot
say(channel.Committed(1, 2, (0, 1), (), True, False))
hear(channel.Merged)
if home.name == "stops":
    say(channel.Stop(False))
    while not isinstance(channel.decode_from_trainer(lines.readline()), channel.Stopped):
        pass  # a Ready may have been on its way
    (home / "goodbye").write_text("done")
    sys.exit(0)
lines.read()  # until the script lets go
(home / "goodbye").write_text("done")
'''


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr(api, "atoll_command", lambda *arguments: [sys.executable, str(program), *arguments])


def loop(swarm, model, optimizer, steps):
    for _ in range(steps):
        loss = (model(torch.ones(1, 2)) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        swarm.step(loss, tokens=1)


def pair():
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_loop_joins_trains_and_leaves(tmp_path):
    model, optimizer = pair()
    output = io.StringIO()
    home = tmp_path / "node"
    with atoll.join(
        "atoll1abc", model, optimizer, data_dir=home, options=["--up", "1Mbit"], output=output
    ) as swarm:
        assert model.weight.tolist() == [[1.0, 2.0]] and model.bias.tolist() == [3.0]
        loop(swarm, model, optimizer, 1)
        assert swarm.version == 0
        loop(swarm, model, optimizer, 1)
        assert swarm.version == 1 and swarm.running
        assert (model.bias < 0).all()
    assert not swarm.running
    arguments = json.loads((home / "arguments.json").read_text())
    assert arguments[:5] == ["join", "atoll1abc", "--yes", "--data-dir", str(home)]
    assert arguments[-2:] == ["--up", "1Mbit"]
    assert output.getvalue() == "Training alone.\n"


def test_a_stop_ends_the_loop_quietly_and_lets_the_daemon_finish(tmp_path):
    model, optimizer = pair()
    home = tmp_path / "stops"
    with atoll.join(None, model, optimizer, data_dir=home, output=None) as swarm:
        loop(swarm, model, optimizer, 100)
        raise AssertionError("the loop should have ended")
    assert not swarm.running
    assert (home / "goodbye").exists()
    assert json.loads((home / "arguments.json").read_text())[0] == "run"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("refused", 11, "The ticket expired on Monday."), ("dies", 70, "Training alone.")],
)
def test_a_daemon_that_ends_says_why(tmp_path, name, code, words):
    with pytest.raises(DaemonStartError) as caught:
        atoll.join("atoll1abc", *pair(), data_dir=tmp_path / name, output=None)
    assert caught.value.exit_code == code
    assert words in str(caught.value) and str(code) in str(caught.value)


def test_a_daemon_that_is_not_ready_in_time(tmp_path):
    with pytest.raises(DaemonStartError, match="not ready"):
        atoll.join("atoll1abc", *pair(), data_dir=tmp_path / "silent", timeout_s=0, output=None)


def test_another_model_is_an_error_on_both_sides(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = io.StringIO()
    with pytest.raises(SchemaMismatchError):
        atoll.join("atoll1abc", model, optimizer, data_dir=tmp_path / "other-model", output=output)


def test_a_missing_program(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "atoll_command", lambda *arguments: [str(tmp_path / "nothing"), *arguments])
    with pytest.raises(DaemonStartError):
        atoll.join(None, *pair(), data_dir=tmp_path / "node")
    with pytest.raises(DaemonStartError):
        atoll.create("x", pair()[0], data_dir=tmp_path / "node")


def test_create_hands_the_parameters_over_in_order(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    home = tmp_path / "node"
    atoll.create("spirals", model, data_dir=home, inner_steps=7, options=["--private"])
    arguments = json.loads((home / "arguments.json").read_text())
    assert arguments[:4] == ["init", "spirals", "--data-dir", str(home)]
    assert arguments[-3:] == ["--inner-steps", "7", "--private"]
    schema, flat = flatten(model)
    with safe_open(home / "genesis", framework="np") as file:
        order = json.loads(file.metadata()["order"])
        assert order == [t.name for t in schema.tensors]
        for spec in schema.tensors:
            assert np.array_equal(file.get_tensor(spec.name).ravel(), flat[spec.offset : spec.end])
    with pytest.raises(DaemonStartError, match="expired") as caught:
        atoll.create("spirals", model, data_dir=tmp_path / "refused")
    assert caught.value.exit_code == 11


def test_importing_atoll_is_light():
    program = "import sys, atoll; assert not {'torch', 'hivemind', 'numpy'} & set(sys.modules); atoll.join"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert set(dir(atoll)) == {"Session", "SwarmStopped", "TrainingError", "__version__", "create", "join"}
    with pytest.raises(AttributeError):
        _ = atoll.nothing


def test_the_version_is_the_package_version():
    assert atoll.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_example_adds_about_five_lines():
    lines = (ROOT / "examples" / "own_training_loop.py").read_text().splitlines()
    added = [line for line in lines if "# added" in line]
    assert len(added) <= 5
    assert all(
        word in "\n".join(added) for word in ("import atoll", "atoll.create", "atoll.join", "swarm.step")
    )
