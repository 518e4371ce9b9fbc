"""`atoll doctor`: a real micro-step, and verdicts that follow from facts."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon import doctor, preflight
from atoll.daemon.cli import main
from atoll.daemon.machine import available_bytes
from atoll.daemon.preflight import DAEMON_BYTES, MicroStep
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.verdicts import CHECKS

GIB = 1 << 30
STEP = MicroStep("cpu", GIB, 0.5, 8, 8)


def asked(**changes: Any) -> dict[str, Any]:
    return {"device": "cpu", "threads": 1, **changes}


def test_a_step_of_the_smallest_model_is_measured() -> None:
    step = doctor.take_step(asked())
    assert not step.failed and step.device == "cpu" and step.micro_batch == step.wanted == 4
    assert 50 << 20 < step.peak_bytes < 8 * GIB and step.step_s > 0


def test_a_device_that_is_not_there_is_blocked_with_the_fix() -> None:
    step = doctor.take_step(asked(device="cuda:99"))
    found = preflight.device(step, "cuda:99")
    assert found["verdict"] == "blocked" and "cuda:99" in found["text"] and "--device" in found["fix"]
    assert preflight.memory(step, 0, GIB)["verdict"] == "unknown"


def test_a_step_that_can_not_be_taken_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    step = doctor.take_step(asked(model={"layers": 4, "width": 127, "heads": 4, "context": 128}))
    assert step.failed and step.text
    assert preflight.memory(step, 0, GIB)["verdict"] == "blocked"
    assert preflight.device(step, "auto")["verdict"] == "unknown"
    assert doctor.take_step(asked(), timeout_s=0.01).failed == "slow"


def test_a_step_that_was_killed_ran_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(program))
    step = doctor.take_step(asked())
    assert step.failed == "killed" and "memory ran out" in step.text


@pytest.mark.parametrize(
    ("step", "available", "verdict"),
    [
        (STEP, 8 * GIB, "ok"),
        (STEP, None, "ok"),
        (STEP, GIB + DAEMON_BYTES + 16 * 1000 + 1, "degraded"),
        (STEP, GIB, "blocked"),
        (MicroStep("cpu", GIB, 0.5, 2, 8), 8 * GIB, "degraded"),
        (MicroStep("cuda:0", 40 * GIB, 0.5, 8, 8), 2 * GIB, "ok"),
    ],
)
def test_memory(step: MicroStep, available: int | None, verdict: str) -> None:
    found = preflight.memory(step, 1000, available)
    assert found["verdict"] == verdict and bool(found["fix"]) == (verdict != "ok")


@pytest.mark.parametrize(
    ("free", "verdict"), [(100, "blocked"), (1100, "degraded"), (1300, "ok"), (None, "unknown")]
)
def test_disk(free: int | None, verdict: str) -> None:
    assert preflight.disk(free, 1000)["verdict"] == verdict


@pytest.mark.parametrize(
    ("skew", "now", "last", "verdict"),
    [
        (0.1, 100.0, 99.0, "ok"),
        (3.0, 100.0, 99.0, "ok"),
        (-31.0, 100.0, 99.0, "degraded"),
        (None, 100.0, 99.0, "unknown"),
        (None, 100.0, 200.0, "degraded"),
    ],
)
def test_clock(skew: float | None, now: float, last: float, verdict: str) -> None:
    assert preflight.clock(skew, now, last)["verdict"] == verdict


@pytest.mark.parametrize(
    ("bps", "verdict"), [(0, "unknown"), (400_000, "degraded"), (1_000_000, "degraded"), (50e6, "ok")]
)
def test_upload_speed(bps: float, verdict: str) -> None:
    assert preflight.upload(int(bps), 20_000_000)["verdict"] == verdict


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        number = holder.getsockname()[1]
        taken = doctor.port_taken("127.0.0.1", number)
        assert "another process has it" in taken
        assert preflight.port(number, taken, True)["verdict"] == "blocked"
        assert preflight.port(number, taken, False)["verdict"] == "degraded"
    assert not doctor.port_taken("127.0.0.1", number)
    assert doctor.port_taken("192.0.2.77", number)


def test_memory_that_is_free_is_that_of_the_container(tmp_path: Path) -> None:
    meminfo, limit, used = tmp_path / "meminfo", tmp_path / "max", tmp_path / "current"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    limit.write_text("max\n")
    used.write_text("1000\n")
    assert available_bytes(meminfo, [(limit, used)]) == 50 * 1024
    limit.write_text("4000\n")
    assert available_bytes(meminfo, [(limit, used)]) == 3000
    assert available_bytes(tmp_path / "none", []) is None


def test_the_command_where_no_node_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path / "node")]
    assert main(["init", "lab", *where]) == 0
    DataDir(tmp_path / "node").remember(reach={"verdict": "hidden", "proven": {}})
    capsys.readouterr()
    assert main(["doctor", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {each["check"]: each for each in told["verdicts"]}
    assert not told["running"] and not told["blocked"] and set(found) <= set(CHECKS)
    assert found["device"]["verdict"] == found["disk"]["verdict"] == "ok"
    assert "one step took" in found["memory"]["text"]
    assert "when one did: hidden" in found["reachable by others"]["text"]


def test_what_is_blocked_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a swarm the smallest model is tried; a setting names a port that somebody has."""
    with socket.create_server(("0.0.0.0", 0)) as holder:
        monkeypatch.setenv("ATOLL_PORT", str(holder.getsockname()[1]))
        assert main(["doctor", "--data-dir", str(tmp_path)]) == 12
    said = capsys.readouterr().out
    assert "blocked   port: " in said and "give another --port" in said and "ok        device: cpu" in said
