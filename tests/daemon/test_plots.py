"""`atoll plot`: from the file of a node that has stopped, in the terminal, as JSON and as a picture."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from atoll.daemon.cli import main
from atoll.daemon.plot import band
from atoll.daemon.storage.series import Series


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A data dir with an hour of history."""
    series, now = Series(tmp_path / "history.sqlite"), time.time()
    series.add([(now - 3600 + 10 * k, {"loss": 4.0 - k / 100, "peers": 3.0}) for k in range(360)])
    series.close()
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    return main(["plot", "--data-dir", str(folder), *arguments])


def test_without_a_name_it_says_which_there_are(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stopped) == 0 and capsys.readouterr().out.split() == ["loss", "peers"]
    assert run(stopped, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"names": ["loss", "peers"]}


def test_a_line_in_the_terminal_falls_as_the_loss_does(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stopped, "loss", "--for", "1h") == 0
    drawn, axis, said = capsys.readouterr().out.splitlines()
    assert len(axis) == len(drawn) == 72 and len(axis.split()) == 3
    heights = [c for c in drawn if c != " "]
    assert len(heights) > 60 and heights == sorted(heights, reverse=True) and len(set(heights)) == 8
    assert said.startswith("loss: 0.4") and said.endswith("to 4")


def test_as_many_stretches_as_a_person_asks_for(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stopped, "loss", "--for", "1h", "--points", "10", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["buckets"]) <= 10
    assert run(stopped, "loss", "--points", "0") == 2


def test_the_line_of_a_young_node_begins_with_its_figures(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stopped, "loss", "--for", "30d") == 0
    drawn, _, _ = capsys.readouterr().out.splitlines()
    assert len([c for c in drawn if c != " "]) > 50 and not drawn.startswith(" ")


def test_a_flat_figure_is_a_flat_line(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(stopped, "peers", "--for", "1h") == 0
    assert "peers: 3 now, 3 to 3" in capsys.readouterr().out


def test_a_picture_and_json_of_the_same(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = stopped / "loss.svg"
    assert run(stopped, "loss", "--for", "1h", "--out", str(out), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "loss" and 0 < len(found["buckets"]) <= 300
    assert sum(bucket["count"] for bucket in found["buckets"]) >= 358
    svg = ElementTree.fromstring(out.read_text())
    (line,) = svg.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) == len(found["buckets"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nothing",), "no history of nothing"), (("loss", "--for", "soon"), "must be a time")],
)
def test_what_can_not_be_plotted_is_said(
    stopped: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(stopped, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_data_dir_without_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "loss") == 2
    assert "No node has left any history" in capsys.readouterr().err


def test_where_nothing_was_written_there_is_a_gap() -> None:
    points = [(0.0, 1.0, 2.0, 3.0), (10.0, 1.0, 2.0, 3.0), (500.0, 5.0, 5.0, 5.0)]
    svg = ElementTree.fromstring(band("<loss>", points, 0.0, 1000.0, 10.0))
    lines = list(svg.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2 and len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 1
