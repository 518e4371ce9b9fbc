"""Every `atoll` command in README and docs: run here, or by the test that is named here.

The tutorials' are in test_tutorials.py; docs/reference.md is made from the code. What comes after `#` in a
line is for people. `atoll1…` and `TICKET` stand for a ticket, `NODE` for a member, `12D3KooW…` and `FILE …`
for what a reader has.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.daemon.cli import build_parser

from .harness import Daemon, atoll, must
from .test_tutorials import works

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
Start = Callable[..., Daemon]
ELSEWHERE = {
    # The beginning of a command: the file whose tests run it.
    "run --mdns": "tests/process/test_lan.py",
    "ticket --lan": "tests/process/test_lan.py",
    "join TICKET --mdns": "tests/process/test_lan.py",
    "audit leak": "tests/process/test_leak.py",
    "simulate chaos": "tests/simulate/test_chaos.py",
    "simulate swarm": "tests/simulate/test_swarm.py",
    "simulate utilisation": "tests/simulate/test_utilisation.py",
}
SMALL = ("--inner-steps", "4", "--batch", "2")


def commands() -> dict[str, str]:
    """The words after `atoll`, and where they are."""
    found: dict[str, str] = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name == "reference.md":
            continue
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```$", path.read_text(), re.M | re.S)
        for line in (line for block in blocks for line in block.splitlines()):
            match = re.fullmatch(r"(?:\$ )?atoll ([a-z].*?)\s*(?: # .*| #.*)?", line)
            if match and "─" not in line:
                words = re.sub(r"atoll1(…|\.\.\.)", "TICKET", match[1])
                found.setdefault(" ".join(words.split()), path.name)
    return found


COMMANDS = commands()


def elsewhere(command: str) -> str | None:
    return next((path for begin, path in ELSEWHERE.items() if command.startswith(begin)), None)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_a_command(command: str) -> None:
    build_parser().parse_args(shlex.split(command))


def test_what_is_run_elsewhere_is_run_there() -> None:
    assert len(COMMANDS) > 20
    for begin, path in ELSEWHERE.items():
        assert any(command.startswith(begin) for command in COMMANDS), (
            f"nobody writes `atoll {begin}` any more"
        )
        text = (ROOT / path).read_text()
        words = [word for word in begin.split() if word != "TICKET"]
        assert all(f'"{word}"' in text for word in words), (begin, path)


@pytest.mark.timeout(600)
def test_the_others_work(start: Start, tmp_path: Path) -> None:
    left = {command: where for command, where in COMMANDS.items() if elsewhere(command) is None}

    def take(begin: str) -> list[list[str]]:
        """Those that begin so, which are then done."""
        taken = [command for command in left if command == begin or command.startswith(f"{begin} ")]
        assert taken, f"nobody writes `atoll {begin}` any more"
        for command in taken:
            del left[command]
        return [shlex.split(command) for command in taken]

    for number, words in enumerate(take("init")):
        must(*words, "--data-dir", str(tmp_path / f"init{number}"))
    must("init", "lab", "--private", "--untrusted", "--data-dir", str(tmp_path / "org"), *SMALL)
    (run,) = take("run")
    organiser = start("org", *run)
    organiser.ticket()
    tickets = [works(organiser.folder, words).strip().splitlines()[-1] for words in take("ticket")]
    assert len(tickets) > 1 and all(ticket.startswith("atoll1") for ticket in tickets)

    guest = None
    for number, words in enumerate(take("join")):
        words = [tickets[0] if word == "TICKET" else word for word in words]
        if "--yes" in words and guest is None:
            guest = start("guest", *words)
            guest.wait_for(lambda s: s["token_account"]["accepted"] > 0, "a contribution that was accepted")
        elif "--dry-run" in words:
            folder = tmp_path / f"look{number}"
            ticket = must("ticket", "--data-dir", str(organiser.folder)).strip().splitlines()[-1]
            words = [ticket if word == tickets[0] else word for word in words]
            assert "Organiser" in must(*words, "--data-dir", str(folder), "--host", "127.0.0.1")
        else:
            done = atoll(*words, "--data-dir", str(tmp_path / f"join{number}"))
            assert done.returncode == 2 and "--yes" in done.stderr, "it asks, and nobody is there"
    assert guest is not None
    me = str(json.loads((guest.folder / "node.json").read_text())["node_id"])

    for words in take("receipts"):
        if "--node" in words:
            kept = sorted((guest.folder / "receipts").glob("*.receipt"))
            words = [*words[: words.index("--node")], "--node", me, str(kept[-1])]
        assert works(guest.folder, words).strip()
    for begin in ("config", "status", "doctor"):
        for words in take(begin):
            assert works(guest.folder, words).strip()
    for words in take("manifest"):
        assert "is signed" in works(organiser.folder, [*words, "--yes"])
    for words in sorted(take("members"), key=len):
        words = [me if word == "NODE" else word for word in words]
        assert works(organiser.folder, words).strip()
    assert not left, f"run these as well: {left}"
