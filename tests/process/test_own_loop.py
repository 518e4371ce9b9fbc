"""The example of a training loop of one's own, as its reader runs it: two scripts, one swarm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .harness import atoll, descendants, is_alive, must, wait_until

pytestmark = pytest.mark.process
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_training_loop.py"


def script(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_scripts_train_one_model(tmp_path: Path) -> None:
    first = script("--create", "own", "--data-dir", str(tmp_path / "a"), "--steps", "100000")
    second = None
    try:
        ticket = wait_until(
            lambda: (
                (d := atoll("ticket", "--data-dir", str(tmp_path / "a"))).returncode == 0 and d.stdout.strip()
            ),
            "a ticket",
        ).splitlines()[-1]
        second = script("--ticket", ticket, "--data-dir", str(tmp_path / "b"), "--steps", "100000")

        def accepted() -> bool:
            said = atoll("status", "--json", "--data-dir", str(tmp_path / "b")).stdout
            return '"accepted_tokens": 0' not in said and '"accepted_tokens"' in said and '"peers": 1' in said

        wait_until(accepted, "an accepted update of the second script")
        below = descendants(first.pid) + descendants(second.pid)
        for process in (first, second):
            process.terminate()
            process.wait(30)
        wait_until(
            lambda: not any(is_alive(pid) for pid in below), "the daemons end with their scripts", 30.0
        )
        must("export", "--data-dir", str(tmp_path / "b"), "--out", str(tmp_path / "own.safetensors"))
    finally:
        for started in (first, second):
            if started is not None and started.poll() is None:
                started.kill()
                started.wait()


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    for arguments in (["--ticket", "atoll1nonsense"], ["--create", ""], []):
        process = script(*arguments, "--data-dir", str(tmp_path / "a"), "--steps", "1")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" not in said and "UserWarning" not in said
        assert said.splitlines()[-1].startswith("own_training_loop: ")
