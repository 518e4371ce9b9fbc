"""The command line without a daemon: parsing, durations, tickets, the consent card, logs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.daemon.cli import build_parser, control, main
from atoll.daemon.cli.api import refused
from atoll.daemon.cli.observe import _validation
from atoll.daemon.cli.organise import seconds_of
from atoll.daemon.cli.running import consent_card, ticket_from
from atoll.daemon.errors import AtollError
from atoll.daemon.genesis import DEFAULTS, NewSwarm, make_swarm
from atoll.daemon.logs import JsonLines, TextLines
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training.model import SIZES
from atoll.web_ui.client import ApiRefused

from .private import ADDRESS, private_swarm


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "0s", "1 week", "9" * 400 + "d"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(AtollError):
        seconds_of(text, "--for")


@pytest.mark.parametrize("text", ["-1h", "400d", "x", "", "-.5h"])
def test_a_pause_that_makes_no_sense_is_refused_as_it_was_typed(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pause", "--data-dir", str(tmp_path), "--for", text]) == 2
    said = capsys.readouterr().err
    assert f"--for is {text!r}; it must be a time such as 90s, 30m, 2h or 7d, at most 30d." in said


@pytest.mark.parametrize(("status", "exit_status"), [(401, 2), (409, 2), (429, 75)])
def test_who_tried_too_often_may_come_again(status: int, exit_status: int) -> None:
    error = refused(ApiRefused("a-code", "No.", "Wait.", status))
    assert (error.exit_status, error.code, error.sentence()) == (exit_status, "a-code", "No. Wait.")


def test_every_command_has_a_handler_that_exists() -> None:
    from importlib import import_module

    def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        """Those that do something: the ones that have no commands of their own."""
        for action in parser._actions:
            if isinstance(action.choices, dict):
                for name, inner in action.choices.items():
                    yield from list(commands(inner)) or [(name, inner)]

    found = dict(commands(build_parser()))
    assert {"run", "chaos", "utilisation"} <= found.keys() and "simulate" not in found
    for name, parser in found.items():
        module, _, function = parser.get_default("handler").partition(":")
        assert callable(getattr(import_module(module), function)), name


def test_a_new_swarm_and_its_ticket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DataDir(tmp_path / "a")
    folder.create()
    manifest = make_swarm(folder, NewSwarm("lab", data=None), 1_700_000_000)
    assert folder.load_manifest().swarm_id == manifest.swarm_id
    assert folder.organiser.stat().st_mode & 0o777 == 0o600
    assert folder.identity.stat().st_mode & 0o777 == 0o600
    card = consent_card(manifest)
    assert "about 726.3 MB, of it 26.3 MB for parameters" in card
    assert "lab" in card and manifest.organiser_fingerprint in card and "820,352" in card

    where = ["--data-dir", str(folder.root)]
    assert main(["ticket", *where]) == 2  # it never ran: no address
    assert "atoll run" in capsys.readouterr().err
    folder.remember(addresses=[ADDRESS])
    assert main(["ticket", *where, "--uses", "2", "--expires", "1h", "--label", "anna"]) == 0
    ticket = capsys.readouterr().out.strip()
    assert ticket.startswith("atoll1") and "\n" not in ticket
    assert main(["ticket", "show", ticket, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["swarm"], shown["uses"], shown["label"]) == ("lab", 2, "anna")
    assert shown["swarm_id"] == manifest.swarm_id.hex()
    assert shown["expires"] in ("in 59m 59s", "in 1h 00m", "in 59m 58s")
    assert main(["manifest", "show", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "lab"
    assert main(["status", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert main(["peers", *where]) == 75
    assert "atoll run" in capsys.readouterr().err


def test_a_ticket_for_a_camera_and_alone_on_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import segno

    folder, _ = private_swarm(tmp_path / "a")
    assert main(["ticket", "--qr", "--data-dir", str(folder.root)]) == 0
    *picture, ticket = capsys.readouterr().out.splitlines()
    # Two rows of modules a line: a full block is light above and below, an empty one dark.
    halves = {"\u2588": (0, 0), " ": (1, 1), "\u2580": (0, 1), "\u2584": (1, 0)}
    rows = [[halves[mark][half] for mark in line] for line in picture for half in (0, 1)]
    code = segno.make_qr(ticket, error="l", boost_error=False)
    width, height = code.symbol_size(border=2)
    expected = [list(row) for row in code.matrix_iter(border=2)]
    assert [row[:width] for row in rows[:height]] == expected
    assert width <= 120, "it fits a usual terminal"
    assert main(["ticket", "show", ticket, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["uses"] == 1 and shown["admits"] == "whoever holds it"
    assert main(["members", "--json", "--data-dir", str(folder.root)]) == 0
    (founder,) = json.loads(capsys.readouterr().out)
    assert founder["role"] == "owner"


def test_a_text_in_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, where, out = tmp_path / "text.txt", ["--data-dir", str(tmp_path / "a")], tmp_path / "web"
    text.write_bytes(bytes(range(256)) * 400)
    urls = ["https://example.org/lab", "https://example.net/"]
    command = ["init", "lab", *where, "--data", str(text), "--shard-mib", "0.04"]
    tiny = ["--shard-mib", "0.00001", "--data-dir", str(tmp_path / "b")]
    for wrong in (["--data-url", "http://example.org"], ["--shard-mib", "0"], tiny):
        assert main([*command, *wrong]) == 2
    assert "https" in capsys.readouterr().err
    assert main([*command, *(word for url in urls for word in ("--data-url", url))]) == 0
    assert "text.txt (102.4 kB in 3 shards)" in capsys.readouterr().out
    assert main(["shards", "--json", *where]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["urls"]) == ("text.txt", urls)
    assert [s["size_bytes"] for s in listed["shards"]] == [32426, 32427, 32427, 5120]
    for _ in range(2):
        assert main(["shards", "--out", str(out), *where]) == 0
    assert b"".join((out / s["sha256"]).read_bytes() for s in listed["shards"]) == text.read_bytes()
    assert main(["shards", *where]) == 0 and main(["manifest", "show", *where]) == 0
    shown = capsys.readouterr().out
    assert shown.count(listed["shards"][0]["sha256"]) == 1 and "validation" in shown
    folder = DataDir(tmp_path / "a")
    card = consent_card(folder.load_manifest())
    assert "example.net" in shown and "102.4 kB for text" in card and urls[0] in card

    folder.shards.joinpath(listed["shards"][1]["sha256"]).write_bytes(b"rotten")
    assert main(["shards", "--out", str(tmp_path / "other"), *where]) == 75
    assert "Shard 1" in capsys.readouterr().err


def test_all_built_in_sizes_have_defaults() -> None:
    assert DEFAULTS.keys() == SIZES.keys()


def test_the_ticket_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    environ = {"ATOLL_TICKET": "atoll1x", "HOME": "/"}
    assert ticket_from(environ) == "atoll1x" and environ == {"HOME": "/"}
    (tmp_path / "ticket").write_text("atoll1y\n")
    environ = {"ATOLL_TICKET_FILE": str(tmp_path / "ticket")}
    assert ticket_from(environ).strip() == "atoll1y" and environ == {}


def test_logs_for_machines_and_for_people() -> None:
    event = {"sequence": 3, "time": 1.0, "kind": "round", "text": "Round 1.", "round": {"version": 1}}
    record = logging.LogRecord("atoll", logging.INFO, "f", 1, "%s", ("Round 1.",), None)
    record.event = event
    said = json.loads(JsonLines().format(record))
    assert said["text"] == "Round 1." and said["kind"] == "round" and said["round"] == {"version": 1}
    assert TextLines().format(record).endswith(" Round 1.")
    try:
        raise ValueError("boom")
    except ValueError:
        failed = logging.LogRecord("atoll", logging.ERROR, "f", 1, "It failed", (), sys.exc_info())
    assert "boom" in json.loads(JsonLines().format(failed))["exception"]
    assert "error: It failed" in TextLines().format(failed) and "boom" in TextLines().format(failed)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--batch", "0", "batch is 0"),
        ("--inner-steps", "0", "inner-steps is 0"),
        ("--lr", "0", "lr is 0.0"),
        ("--lr", "-1", "lr is -1.0"),
        ("--lr", "nan", "lr is nan"),
        ("--total-steps", "0", "total-steps is 0"),
        ("--min-peers", "0", "min-peers is 0"),
        ("--min-peers", "2000", "--min-peers"),
        ("--seed", "-1", "seed is -1"),
        ("--seed", str(2**64), "at most"),
        ("--data", "/nowhere", "/nowhere"),
    ],
)
def test_a_swarm_that_can_not_be_made_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, word: str
) -> None:
    assert main(["init", "lab", "--data-dir", str(tmp_path / "n"), option, value]) == 2
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_swarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path / "n")]
    assert main(["status", *where]) == 0
    said = capsys.readouterr().out
    assert f"there is no swarm in {tmp_path / 'n'}" in said and f"`atoll init NAME {' '.join(where)}`" in said
    assert main(["run", *where]) == 2 and main(["ticket", *where]) == 2
    assert list(tmp_path.iterdir()) == [], "asking makes no folder"


def test_peers_where_no_swarm_is_says_what_status_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path / "n")]
    assert main(["peers", *where]) == 75
    assert f"`atoll init NAME {' '.join(where)}`" in capsys.readouterr().err


def test_resuming_what_is_not_paused_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Running:
        def command(self, name: str, **given: object) -> dict[str, Any]:
            raise ApiRefused(code, "This node is not paused.", "Nothing has to be done.", 409)

    monkeypatch.setattr(control, "running", lambda folder: Running())
    code = "not-paused"
    assert main(["resume", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "This node is not paused. Nothing has to be done.\n"
    code = "another"
    assert main(["resume", "--data-dir", str(tmp_path)]) == 2


def test_the_fingerprint_of_the_organiser_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = DataDir(tmp_path / "a")
    manifest = make_swarm(folder, NewSwarm("lab"), 1_700_000_000)
    address = "/ip4/127.0.0.1/tcp/31337/p2p/12D3KooWPHcNvqvwryLFPph3TU5P4CKuFRxb24NzgrPH9mntovwZ"
    folder.remember(addresses=[address])
    where = ["--data-dir", str(folder.root)]
    assert main(["ticket", *where]) == 0
    ticket = capsys.readouterr().out.strip()
    for command in (["ticket", "show", ticket], ["manifest", *where]):
        assert main([*command, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert next(iter(shown)) == "organiser" and shown["organiser"] == manifest.organiser_fingerprint
        assert shown["organiser_key"] == manifest.body.organiser.hex()
    assert shown["inner"]["schedule"] == "constant" and "total_steps" not in shown["inner"]


def test_hints_repeat_the_data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path / "a")]
    assert main(["init", "lab", *where]) == 0
    assert f"`atoll run {' '.join(where)}`, then `atoll ticket {' '.join(where)}`" in capsys.readouterr().out
    for command in ("ticket", "peers"):
        assert main([command, *where]) != 0
        assert f"`atoll run {' '.join(where)}`" in capsys.readouterr().err
    assert main(["status", *where]) == 0
    assert f"`atoll run {' '.join(where)}` starts it" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--temperature", "-1"],
        ["generate", "--temperature", "nan"],
        ["generate", "--bytes", "-5"],
        ["generate", "--seed", "-1"],
        ["rounds", "-n", "0"],
        ["events", "-n", "-1"],
        ["ticket", "--uses", "-1"],
        ["ticket", "--uses", str(2**32)],
        ["export", "--out", "/nowhere/m.safetensors"],
    ],
)
def test_numbers_and_paths_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    folder = DataDir(tmp_path / "a")
    make_swarm(folder, NewSwarm("lab"), 1_700_000_000)
    assert main([*command, "--data-dir", str(folder.root)]) == 2
    said = capsys.readouterr()
    assert command[1] in said.err and said.out == ""


def test_an_untrained_model_is_called_so(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = DataDir(tmp_path / "a")
    make_swarm(folder, NewSwarm("lab"), 1_700_000_000)
    assert main(["generate", "--bytes", "2", "--prompt", "A", "--data-dir", str(folder.root)]) == 0
    said = capfdbinary.readouterr()
    assert b"version 0" in said.err and said.out.startswith(b"A") and len(said.out) == 4


def test_a_data_dir_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", "lab", "--data-dir", str(tmp_path / "file")]) == 12
    assert "--data-dir" in capsys.readouterr().err


def test_a_loss_is_shown_beside_its_own_version() -> None:
    assert _validation({"version": 2, "val_loss": 1.5, "val_loss_version": 2}) == ", validation loss 1.5000"
    assert "of version 1" in _validation({"version": 2, "val_loss": 1.5, "val_loss_version": 1})
    assert "no validation loss" in _validation({"version": 0, "val_loss": None, "val_loss_version": None})


@pytest.mark.parametrize(
    "name", ["connections", "data_cap", "device", "gb_per_week", "threads", "up", "down"]
)
def test_each_cap_is_an_option_too(name: str) -> None:
    value = {"up": "20Mbit", "down": "50Mbit", "device": "cpu"}.get(name, "40")
    arguments = build_parser().parse_args(["run", f"--{name.replace('_', '-')}", value])
    assert str(getattr(arguments, name)).removesuffix(".0") == value


def test_settings_for_the_next_start_are_written_while_a_node_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    class Running:
        def command(self, name: str, **given: str) -> dict[str, Any]:
            asked.append(given)
            return {"done": name, "changed": given, "sentence": "Set up = 20Mbit."}

    monkeypatch.setattr(control, "client_of", lambda folder: Running())
    where = ["--data-dir", str(tmp_path)]
    assert main(["config", "set", "label=anna", "up=20Mbit", *where]) == 0
    said = capsys.readouterr().out
    assert "Set up = 20Mbit. Written to config.toml: label; the node reads that at its next start." in said
    assert asked == [{"up": "20Mbit"}] and 'label = "anna"' in (tmp_path / "config.toml").read_text()
    assert main(["config", "set", "port=x", "up=5Mbit", *where]) == 2
    assert "Setting port (given) is 'x'; it must be a whole number." in capsys.readouterr().err
    assert len(asked) == 1, "of several settings none is changed where one is refused"


def test_settings_can_be_shown_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path)]
    assert main(["config", "show", "up", "public-port", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == {"up": "", "public_port": 0}
    assert main(["config", *where]) == 0 and "\nthreads = " in capsys.readouterr().out
    assert main(["config", "show", "prot", *where]) == 2 and "'port'" in capsys.readouterr().err
    assert main(["config", "show", "up=1", *where]) == 2 and "config set" in capsys.readouterr().err
