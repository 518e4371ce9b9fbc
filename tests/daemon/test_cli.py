"""The command line without a daemon: parsing, durations, tickets, the consent card, logs."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from atoll.daemon.cli import build_parser, main
from atoll.daemon.cli.organise import seconds_of
from atoll.daemon.cli.running import consent_card, ticket_from
from atoll.daemon.errors import AtollError
from atoll.daemon.genesis import DEFAULTS, NewSwarm, make_swarm
from atoll.daemon.logs import JsonLines, TextLines
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.training.model import SIZES


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "0s", "1 week"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(AtollError):
        seconds_of(text)


def test_every_command_has_a_handler_that_exists() -> None:
    from importlib import import_module

    action = next(a for a in build_parser()._actions if isinstance(a.choices, dict))
    assert isinstance(action.choices, dict)
    for name, parser in action.choices.items():
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
    assert "lab" in card and manifest.organiser_fingerprint in card and "820,352" in card

    where = ["--data-dir", str(folder.root)]
    assert main(["ticket", *where]) == 2  # it never ran: no address
    assert "atoll run" in capsys.readouterr().err
    folder.remember(
        addresses=["/ip4/127.0.0.1/tcp/31337/p2p/12D3KooWPHcNvqvwryLFPph3TU5P4CKuFRxb24NzgrPH9mntovwZ"]
    )
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
