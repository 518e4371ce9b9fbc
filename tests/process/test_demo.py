"""`atoll demo` as machines call it and as people end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from atoll.daemon.cli.api import program

from .harness import atoll, descendants, is_alive, must, wait_until

pytestmark = pytest.mark.process


def test_the_contract_of_the_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = atoll(
        "demo",
        "--peers",
        "2",
        "--rounds",
        "2",
        "--no-browser",
        "--json",
        "--keep",
        str(folder),
        timeout_s=200,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["peers"] == 2 and said["rounds_committed"] == 2
    assert said["versions"] == [2, 2] and len(set(said["digests"])) == 1
    assert len(said["val_loss"]) == 2 and said["val_loss"][-1] < said["val_loss_before"]
    assert said["tokens"] > 0 and all(count > 0 for count in said["bytes_sent"]) and said["wall_s"] > 0
    assert bytes.fromhex(said["swarm_id"]) and bytes.fromhex(said["digests"][0])
    assert "Traceback" not in done.stderr
    shown = f"{program()} status --data-dir {folder / 'node-0'}` (shows a new link, too; the other: node-1)"
    assert "(works once)" in done.stderr and shown in done.stderr
    assert f"The nodes stay in {folder}." in done.stderr
    past = json.loads(must("rounds", "--json", "--data-dir", str(folder / "node-0")))
    assert [r["version"] for r in past] == [1, 2], "they are read from the log of a node that has ended"
    exports = []
    for node in ("node-0", "node-1"):
        out = tmp_path / f"{node}.safetensors"
        must("export", "--data-dir", str(folder / node), "--out", str(out))
        exports.append(out.read_bytes())
    assert exports[0] == exports[1]
    assert (
        len(must("generate", "--data-dir", str(folder / "node-0"), "--prompt", "KING", "--bytes", "20")) > 20
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "atoll", "demo", "--peers", "2", "--rounds", "500", "--no-browser"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # Whoever runs the tests in the background may have had Ctrl-C ignored, which is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    # Two daemons, each with p2pd and a trainer.
    wait_until(lambda: len(descendants(process.pid)) >= 6, "all processes of the demo")
    below = descendants(process.pid)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=25)
    assert process.returncode == 0
    assert "Traceback" not in stderr
    wait_until(lambda: not any(is_alive(pid) for pid in below), "no child left", 5.0)
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_makes_no_sense() -> None:
    for arguments in (["--peers", "0"], ["--peers", "99"], ["--rounds", "0"]):
        done = atoll("demo", *arguments)
        assert done.returncode == 2 and "demo" in done.stderr
