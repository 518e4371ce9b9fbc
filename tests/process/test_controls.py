"""The owner's controls on a real daemon: a cap that holds at once, and hours that close and open."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.events import read_log
from atoll.daemon.hours import DAY_NAMES
from atoll.daemon.storage.data_dir import DataDir

from .harness import Daemon, atoll, must

pytestmark = pytest.mark.process


def test_caps_and_hours_change_while_it_runs(start: Callable[..., Daemon], tmp_path: Path) -> None:
    folder = str(tmp_path / "a")
    where = ["--data-dir", folder]
    must("init", "lab", *where, "--inner-steps", "5")
    (tmp_path / "a" / "config.toml").write_text('# my machine\nlabel = "tide"\n')
    a = start("a", "run", "--down", "80Mbit")
    a.wait_for_version(1)

    said = must("config", "set", "up=20Mbit", "down=40Mbit", "threads=2", "gb_per_week=500", *where)
    assert "The command line gives down, too" in said
    caps = a.wait_for(lambda s: s["controls"]["caps"]["up"]["value"] == "20Mbit", "the cap")["controls"][
        "caps"
    ]
    assert (caps["down"]["value"], caps["down"]["origin"], caps["threads"]["value"]) == (
        "40Mbit",
        "command line",
        2,
    )
    written = (tmp_path / "a" / "config.toml").read_text()
    assert written.startswith('# my machine\nlabel = "tide"\n') and 'up = "20Mbit"' in written
    refused = atoll("config", "set", "up=fast", *where)
    assert refused.returncode == 2 and "20Mbit" in refused.stderr
    assert (tmp_path / "a" / "config.toml").read_text() == written

    another_day = DAY_NAMES[(datetime.now().weekday() + 3) % 7]
    must("config", "set", f"train_hours={another_day}", *where)
    paused = a.wait_for(lambda s: s["state"] == "paused", "the hours close")
    assert [entry["code"] for entry in paused["paused_by"]] == ["schedule"]
    assert paused["because"] == f"it is outside your training hours ({another_day})"
    assert "Rule schedule pauses: It is outside" in must("status", *where)

    must("resume", *where)
    a.wait_for_version(paused["version"] + 1)
    over = a.wait_for(lambda s: s["state"] != "paused", "the rule is overridden")
    assert over["paused_by"] == [] and any(rule["overridden"] for rule in over["controls"]["rules"])

    must("config", "set", f"network_hours={another_day}", *where)
    a.wait_for(lambda s: [e["code"] for e in s["paused_by"]] == ["network_schedule"], "the network closes")
    must("config", "set", "train_hours=", "network_hours=", *where)
    going = a.wait_for(lambda s: s["state"] != "paused", "the hours open")
    a.wait_for_version(going["version"] + 1)
    assert json.loads(must("status", "--json", *where))["paused_by"] == []
    assert a.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can cap another process")
def test_a_trainer_keeps_below_its_memory_or_says_that_it_can_not(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    folder = DataDir(tmp_path / "a")
    where = ["--data-dir", str(folder.root)]
    must("init", "lab", *where, "--inner-steps", "2", "--batch", "64")
    a = start("a", "run", "--device", "cpu", "--memory", "500MB")
    a.wait_for_version(1)
    notices = [e for e in read_log(folder.events, 1 << 20) if e.get("code") == "micro_batch_halved"]
    assert notices and "sequences at a time now" in notices[0]["text"]
    trained = [e["round"] for e in read_log(folder.events, 1 << 20) if e["kind"] == "round"]
    assert trained[0]["tokens"] == 2 * 64 * 128, "the effective batch is the same"

    must("config", "set", "memory=128MiB", *where)
    blocked = a.wait_for(lambda s: s["state"] == "blocked" and "cap" in s["because"], "no room at all")
    assert (
        "the memory cap of 134.2 MB, even with one sequence at a time: raise the cap" in blocked["sentence"]
    )
    must("config", "set", "memory=", *where)
    a.wait_for_version(blocked["version"] + 1)
    assert a.stop() == 0


def test_a_network_that_closes_is_left_alone_and_the_node_catches_up(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    must("init", "lab", "--data-dir", str(tmp_path / "a"), "--inner-steps", "5")
    a = start("a", "run")
    b = start("b", "join", a.ticket(), "--yes")
    b.wait_for_version(2)
    another_day = DAY_NAMES[(datetime.now().weekday() + 3) % 7]
    where = ["--data-dir", str(tmp_path / "b")]
    must("config", "set", f"network_hours={another_day}", *where)
    rests = b.wait_for(lambda s: s["paused_by"], "it rests")
    began = a.wait_for_version(rests["version"] + 2)["version"]  # what was under way has ended
    before = b.wait_for(lambda s: s["state"] == "paused", "it still rests")
    a.wait_for_version(began + 2)
    after = b.wait_for(lambda s: s["state"] == "paused", "it rests on")

    def moved(status: dict[str, Any]) -> list[int]:
        rows = [status["traffic"]["classes"][kind] for kind in ("rounds", "state")]
        return [row[way] for row in rows for way in ("sent_bytes", "received_bytes")]

    assert moved(after) == moved(before) and after["version"] == before["version"]
    assert after["peers"] == 1, "and the link stays"
    must("config", "set", "network_hours=", *where)
    b.wait_for_version(began + 2)
    b.wait_for(lambda s: s["state"] != "paused", "it takes part again")
    assert b.stop() == 0 and a.stop() == 0


def test_a_pause_outlives_kill_nine(start: Callable[..., Daemon], tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path / "a")]
    must("init", "lab", *where, "--inner-steps", "5")
    a = start("a", "run")
    a.wait_for_version(1)
    assert "It resumes in" in must("pause", "--for", "8h", *where)
    end = json.loads((tmp_path / "a" / "node.json").read_text())["pause"]["until"]
    a.kill()
    again = start("a", "run")
    rests = again.wait_for(lambda s: s["device"], "its trainer runs")
    assert rests["paused"] and rests["state"] == "paused" and "It resumes in" in rests["next"]
    assert json.loads((tmp_path / "a" / "node.json").read_text())["pause"]["until"] == end
    must("resume", *where)
    again.wait_for_version(rests["version"] + 1)
    again.kill()
    third = start("a", "run")
    third.wait_for(lambda s: s["state"] == "training", "nothing pauses it")
    assert third.stop() == 0
