"""`atoll config set` without a daemon, and what `atoll status` says of rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atoll.daemon.cli import main
from atoll.daemon.cli.control import pairs_of
from atoll.daemon.cli.observe import rule_lines
from atoll.daemon.errors import AtollError
from tests.web.fake_node import make_controls


def test_it_is_written_for_the_next_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--data-dir", str(tmp_path / "new")]
    assert main(["config", "set", "up=20Mbit", "train-hours=mon-fri 22:00-07:00, sat-sun", *where]) == 0
    assert "a daemon that starts reads it" in capsys.readouterr().out
    assert main(["config", "show", "--origin", "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["up"] == {"value": "20Mbit", "origin": "config.toml"}
    assert shown["train_hours"]["value"] == "mon-fri 22:00-07:00, sat-sun"
    monkeypatch.setenv("ATOLL_THREADS", "4")
    assert main(["config", "set", "threads=2", "port=4001", *where, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["changed"] == {"threads": 2, "port": 4001}
    assert "The environment gives threads, too, and wins." in answer["sentence"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["set"], "Which settings"),
        (["set", "up"], "NAME=VALUE"),
        (["set", "=3"], "NAME=VALUE"),
        (["set", "up=1Mbit", "up=2Mbit"], "twice"),
        (["set", "upp=1Mbit"], "'up'"),
        (["set", "up=1kbit"], "500kbit"),
        (["set", "train_hours=mon 1-1"], "whole day"),
        (["show", "up=1Mbit"], "config set"),
    ],
)
def test_what_is_refused_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert main(["config", *arguments, "--data-dir", str(tmp_path / "new")]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_values_may_hold_anything() -> None:
    assert pairs_of(["label=a=b", "train-hours= mon 1-2 ", "up="]) == {
        "label": "a=b",
        "train_hours": "mon 1-2",
        "up": "",
    }
    with pytest.raises(AtollError):
        pairs_of(["no"])


def test_status_has_the_rules_that_are_set_up() -> None:
    controls = make_controls()
    assert rule_lines(controls) == ["Rule battery does not pause: It pauses on battery."]
    rule = next(rule for rule in controls["rules"] if rule["code"] == "battery")
    rule["active"], rule["text"] = True, "This machine runs on battery."
    assert rule_lines(controls) == ["Rule battery pauses: This machine runs on battery."]
    rule["overridden"] = True
    assert rule_lines(controls) == ["Rule battery is overridden: This machine runs on battery."]
