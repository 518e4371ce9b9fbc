"""What a demo prints where there is no terminal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from atoll.daemon.cli import api, demo
from atoll.daemon.cli.demo import Member
from atoll.daemon.cli.demo_view import PlainView
from atoll.daemon.storage.data_dir import DataDir


def _members(folder: Path, count: int) -> list[Member]:
    return [Member(i, DataDir(folder / f"node-{i}")) for i in range(count)]


def test_all_nodes_are_named_though_only_the_first_has_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = _members(tmp_path, 3)
    members[0].login = "http://127.0.0.1:1/login"
    monkeypatch.setattr(Member, "poll", lambda member: None)
    monkeypatch.setattr(demo.time, "sleep", lambda seconds: None)
    answers = iter([False, True])
    demo._wait(members, lambda: next(answers), "node 0 starts", PlainView())
    assert "node-1 to node-2" in capsys.readouterr().err


def test_a_command_that_is_shown_is_one_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "atoll"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    assert api.program() == "atoll"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    assert api.program() == str(script)
    monkeypatch.chdir(tmp_path)
    assert api.program() == "bin/atoll"
    script.unlink()
    assert api.program().endswith("/bin/python -m atoll")


@pytest.mark.parametrize(("kept", "said"), [(True, "stay in"), (False, "`--keep DIR`")])
def test_it_says_what_becomes_of_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool, said: str
) -> None:
    demo._say_what_stays(_members(tmp_path, 1)[0], kept)
    assert said in capsys.readouterr().err
